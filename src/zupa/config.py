"""Frozen configurations. Bad settings raise at construction; bad environment variables warn and are ignored."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from zupa.errors import ConfigurationError

_logger = logging.getLogger(__name__)


class DropPolicy(str, enum.Enum):
    """What a full ingest queue does. RFC section 6: telemetry is not critical, so the new event gives way."""

    DROP_NEWEST = "drop_newest"


class BusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `ReducerEventBus`. Names, units and (but for two) defaults are those of OpenTelemetry's BSP.

    Attributes:
        max_queue_size: Events that may wait in the ingest queue, and again in each exporter's queue.
        max_queue_bytes: Estimated payload bytes that may wait in the ingest queue in events larger than 1 KiB;
            smaller ones are bounded by `max_queue_size` alone.
        max_export_batch_size: Events in one call of `EventExporter.export`; at most `max_queue_size`. 512 when not
            given, or `max_queue_size` where that is smaller.
        schedule_delay_millis: Longest time that an event waits for its batch to fill. 1000, as for OpenTelemetry's
            log records, because the bus carries both signals and people watch it live (spans alone: 5000).
        export_timeout_millis: Longest time that one `export` may take before the bus counts the batch as failed.
        shutdown_timeout_millis: The one deadline for a `shutdown()` without argument and for the exit of the process.
        linger_millis: How long the worker lets a burst collect after its first event, so that the burst costs one
            wake-up. A flush, or a queue that fills, cuts it short.
        slice_size: Events that the worker handles before it yields the GIL: about 0.3 ms of work. A backlog makes
            slices larger, up to a quarter of what is queued.
        slow_subscriber_millis: A sync subscriber that takes longer than this for one event is moved to a queue and a
            thread of its own.
        drop_policy: What a full queue does.
        strict: For tests: `emit` raises `InvalidEventError` for a bad name or payload instead of counting it.
    """

    max_queue_size: int = 2048
    max_queue_bytes: int = 64 * 1024 * 1024
    max_export_batch_size: int = -(2**63)  # not given: see __post_init__
    schedule_delay_millis: float = 1_000
    export_timeout_millis: float = 30_000
    shutdown_timeout_millis: float = 2_000
    linger_millis: float = 20
    slice_size: int = 32
    slow_subscriber_millis: float = 100
    drop_policy: DropPolicy = DropPolicy.DROP_NEWEST
    strict: bool = False

    def __post_init__(self) -> None:
        if self.max_export_batch_size == -(2**63) and isinstance(self.max_queue_size, int):
            msgspec.structs.force_setattr(self, "max_export_batch_size", min(_BATCH_SIZE, self.max_queue_size))
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < float("inf"):
                raise ConfigurationError(f"BusConfig.{name}={value!r} is unusable: it must be a number >= {minimum}")
            if name in _INTEGERS and not isinstance(value, int):
                raise ConfigurationError(f"BusConfig.{name}={value!r} is unusable: it must be a whole number")
        if self.max_export_batch_size > self.max_queue_size:
            raise ConfigurationError(
                f"BusConfig.max_export_batch_size={self.max_export_batch_size} is larger than "
                f"max_queue_size={self.max_queue_size}: a batch could never fill"
            )
        if not isinstance(self.drop_policy, DropPolicy):
            allowed = ", ".join(f"DropPolicy.{policy.name}" for policy in DropPolicy)
            raise ConfigurationError(f"BusConfig.drop_policy={self.drop_policy!r} is unusable: use {allowed}")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> BusConfig:
        """Build a configuration from `OTEL_BSP_*` and `ZUPA_BUS_*` variables; *overrides* win.

        An empty variable counts as unset, and one that cannot be read is warned of and ignored, as the
        OpenTelemetry specification asks. A combination that cannot work raises `ConfigurationError`.
        Source: OTel spec, configuration/sdk-environment-variables.md.
        """
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {}
        for variable, (name, parse) in _ENVIRONMENT.items():
            text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                value = parse(text)
                if name in _MINIMUM and not _MINIMUM[name] <= value < float("inf"):
                    raise ValueError(text)  # noqa: TRY301 - same answer as to a text that is no number
            except ValueError:
                _logger.warning("%s=%r cannot be used for %s; the default stays in force", variable, text, name)
            else:
                settings[name] = value
        settings.update(overrides)
        return cls(**settings)


def parse_boolean(text: str) -> bool:
    """Only a case-insensitive "true" is true, as the OpenTelemetry specification says."""
    return text.strip().lower() == "true"


_BATCH_SIZE: Final = 512
_INTEGERS: Final = frozenset({"max_queue_size", "max_queue_bytes", "max_export_batch_size", "slice_size"})

_MINIMUM: Final[dict[str, float]] = {
    "max_queue_size": 1,
    "max_queue_bytes": 1024,
    "max_export_batch_size": 1,
    "schedule_delay_millis": 0,
    "export_timeout_millis": 1,
    "shutdown_timeout_millis": 0,
    "linger_millis": 0,
    "slice_size": 1,
    "slow_subscriber_millis": 1,
}

_ENVIRONMENT: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "OTEL_BSP_MAX_QUEUE_SIZE": ("max_queue_size", int),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("max_export_batch_size", int),
    "OTEL_BSP_SCHEDULE_DELAY": ("schedule_delay_millis", float),
    "OTEL_BSP_EXPORT_TIMEOUT": ("export_timeout_millis", float),
    "ZUPA_BUS_MAX_QUEUE_BYTES": ("max_queue_bytes", int),
    "ZUPA_BUS_LINGER": ("linger_millis", float),
    "ZUPA_BUS_SHUTDOWN_TIMEOUT": ("shutdown_timeout_millis", float),
}
