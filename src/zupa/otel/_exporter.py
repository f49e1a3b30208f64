"""`OtelEventExporter`: events to any OpenTelemetry span and log record exporter, without the SDK's processors."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.normalize import error_type
from zupa.otel._environment import SignalExporters
from zupa.otel._mapping import Mapped, map_event
from zupa.otel._partial import RejectionCounter
from zupa.otel._resource import HashedResource
from zupa.otel._table import DEFAULT_MAPPING, Mapping
from zupa.otel._values import Limits
from zupa.ports import ExportResult

_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item", ReadableSpan, ReadableLogRecord)

MAX_REQUEST_BYTES: Final = 3 * 1024 * 1024
"""Estimated bytes of one request: gRPC receivers refuse messages of more than 4 MiB, whole."""

YIELD_EVERY: Final = 16
YIELD_S: Final = 20e-6
_CUT_LENGTH: Final = 1024


class OtelEventExporter:
    """Maps each event to a span or a log record and hands them to OpenTelemetry exporters.

    The bus is the batch processor: there is no second queue and no second thread. One event that cannot be carried
    is rejected alone. Batches larger than a receiver takes are split; a single event that is larger has its long
    strings cut, and is marked in ``zupa.event.degraded``.

    Concurrency: `export` must not be called concurrently (the bus does not); the other methods: any thread.
    """

    def __init__(
        self,
        span_exporter: SpanExporter | Sequence[SpanExporter] | None = None,
        log_exporter: LogRecordExporter | Sequence[LogRecordExporter] | None = None,
        *,
        resource: Resource,
        mapping: Mapping = DEFAULT_MAPPING,
        limits: Limits | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        rebuild: Callable[[], SignalExporters] | None = None,
    ) -> None:
        """Take ownership of the exporters: `shutdown` shuts them down.

        Args:
            span_exporter: Where spans go; without one they are discarded.
            log_exporter: Where log records go; without one they are discarded.
            resource: Who sends; see `build_resource`.
            mapping: Which event becomes what.
            limits: None reads OpenTelemetry's variables.
            max_request_bytes: Estimated encoded bytes of one call of an exporter.
            rebuild: Makes new exporters in a forked child, whose copies of the parent's connections must not be used.
                Without it a child goes on with the copies.

        Raises:
            ConfigurationError: there is no exporter at all, or `max_request_bytes` is too small.
        """
        self._spans = _as_tuple(span_exporter)
        self._logs = _as_tuple(log_exporter)
        if not self._spans and not self._logs:
            raise ConfigurationError("OtelEventExporter has neither a span exporter nor a log exporter: give it one")
        if max_request_bytes < 64 * 1024:
            raise ConfigurationError(f"max_request_bytes={max_request_bytes} is unusable: it must be at least 65536")
        self._resource = HashedResource(resource)
        self._mapping = mapping
        self._limits = Limits.from_env() if limits is None else limits
        self._max_request_bytes = max_request_bytes
        self._rejections = RejectionCounter([*self._spans, *self._logs])
        self._closed = False
        self._rebuild = rebuild
        self._rebuild_wanted = False
        self._inherited: list[SpanExporter | LogRecordExporter] = []

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        """Send *batch*. Never raises, whatever the events hold and the exporters do."""
        if self._closed:
            return ExportResult(success=False, error_type="already_shutdown")
        if self._rebuild_wanted:
            self._replace_inherited()
        mapped, unmappable = self._map(batch)
        outcome = _Outcome()
        self._rejections.take()
        with suppress_instrumentation():
            spans = [(index, item.span, item.size) for index, item in mapped if item.span is not None]
            logs = [(index, item.log, item.size) for index, item in mapped if item.log is not None]
            for span_exporter in self._spans:
                self._send(span_exporter.export, spans, outcome)
            for log_exporter in self._logs:
                self._send(log_exporter.export, logs, outcome)
        refused, _ = self._rejections.take()
        if outcome.failed and not outcome.delivered:
            return ExportResult(success=False, error_type=outcome.error)
        rejected = min(len(batch), unmappable + len(outcome.failed) + refused)
        reason = outcome.error or ("rejected" if refused else "") or ("invalid_event" if unmappable else "")
        return ExportResult(rejected=rejected, error_type=reason)

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Flush all exporters within *timeout_millis*; exporters that buffer nothing return at once."""
        deadline = time.monotonic() + timeout_millis / 1000
        flushed = True
        with suppress_instrumentation():
            for exporter in (*self._spans, *self._logs):
                try:
                    flushed = exporter.force_flush(_left_millis(deadline)) is not False and flushed
                except Exception as error:  # noqa: BLE001 - somebody else's exporter
                    flushed = False
                    _logger.warning("%s failed to flush: %s", type(exporter).__qualname__, error_type(error))
        return flushed and time.monotonic() <= deadline

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Shut down all exporters, giving each that takes a timeout what is left of *timeout_millis*."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + timeout_millis / 1000
        with suppress_instrumentation():
            for exporter in (*self._spans, *self._logs):
                try:
                    shut_down(exporter.shutdown, _left_millis(deadline))
                except Exception as error:  # noqa: BLE001 - somebody else's exporter
                    _logger.warning("%s failed to shut down: %s", type(exporter).__qualname__, error_type(error))

    def reset_after_fork(self) -> None:
        """Make new exporters at the next export. Called in a forked child, by the bus."""
        self._rebuild_wanted = self._rebuild is not None

    def _replace_inherited(self) -> None:
        assert self._rebuild is not None
        self._rebuild_wanted = False
        # Kept, not closed: closing a TLS connection would tell the collector that the parent's is over.
        self._inherited += [*self._spans, *self._logs]
        exporters = self._rebuild()
        self._spans, self._logs = exporters.spans, exporters.logs
        self._rejections = RejectionCounter([*self._spans, *self._logs])

    def _map(self, batch: Sequence[Event]) -> tuple[list[tuple[int, Mapped]], int]:
        mapped: list[tuple[int, Mapped]] = []
        unmappable = 0
        # Offer the GIL to the engine now and then (see zupa.bus._worker), less often the more there is to do: a busy
        # engine gives it back only at the interpreter's switch interval.
        stride = max(YIELD_EVERY, len(batch) // YIELD_EVERY)
        for index, event in enumerate(batch):
            if not index % stride:
                time.sleep(YIELD_S)
            try:
                mapped.append((index, self._map_one(event)))
            except Exception as error:  # noqa: BLE001 - a user's row or a hostile value may raise anything
                unmappable += 1
                _logger.debug("an event of %s cannot be exported: %s", _topic(event), error_type(error))
        return mapped, unmappable

    def _map_one(self, event: Event) -> Mapped:
        item = self._map_with(event, self._limits)
        if item.size <= self._max_request_bytes:
            return item
        limits = cut_limits(self._limits)
        degraded = [*_reasons(event.metadata.get("degraded")), "values_cut"]
        marked = event.replace(metadata={**event.metadata, "degraded": degraded})
        item = self._map_with(marked, limits)
        if item.size > self._max_request_bytes:
            raise ValueError("the event is larger than a request may be")
        return item

    def _map_with(self, event: Event, limits: Limits) -> Mapped:
        return map_event(
            event,
            self._resource,
            mapping=self._mapping,
            limits=limits,
            spans=bool(self._spans),
            logs=bool(self._logs),
        )

    def _send(self, export: Callable[[list[Any]], Any], items: list[tuple[int, _Item, int]], outcome: _Outcome) -> None:
        for chunk in _chunks(items, self._max_request_bytes):
            indexes = [index for index, _, _ in chunk]
            try:
                result = export([item for _, item, _ in chunk])
            except Exception as error:  # noqa: BLE001 - somebody else's exporter
                outcome.fail(indexes, error_type(error))
                _logger.warning("an exporter raised %s; %d items are lost", error_type(error), len(chunk))
            else:
                if getattr(result, "name", "") == "SUCCESS":
                    outcome.delivered.update(indexes)
                else:
                    outcome.fail(indexes, "export_failed")


class _Outcome:
    """Which events of a batch arrived and which did not, by index; an event may be in both (span and log record)."""

    __slots__ = ("delivered", "error", "failed")

    def __init__(self) -> None:
        self.delivered: set[int] = set()
        self.failed: set[int] = set()
        self.error = ""

    def fail(self, indexes: Sequence[int], error: str) -> None:
        self.failed.update(indexes)
        self.error = error


def shut_down(shutdown: Callable[..., Any], timeout_millis: int) -> None:
    """Call *shutdown*, with the timeout if its signature takes one: in the SDK some do and some do not."""
    try:
        takes = "timeout_millis" in inspect.signature(shutdown).parameters
    except (TypeError, ValueError):
        takes = False
    if takes:
        shutdown(timeout_millis=timeout_millis)
    else:
        shutdown()


def cut_limits(limits: Limits) -> Limits:
    """*limits* with strings cut short, for an event that would not fit into any request."""
    lengths = [length for length in (limits.span_value_length, limits.log_value_length) if length is not None]
    length = min([_CUT_LENGTH, *lengths])
    fields = {name: getattr(limits, name) for name in limits.__struct_fields__}
    return Limits(**{**fields, "span_value_length": length, "log_value_length": length})


def _chunks(items: list[tuple[int, _Item, int]], maximum: int) -> Iterator[list[tuple[int, _Item, int]]]:
    chunk: list[tuple[int, _Item, int]] = []
    size = 0
    for item in items:
        if chunk and size + item[2] > maximum:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item[2]
    if chunk:
        yield chunk


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _left_millis(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))


def _reasons(degraded: Any) -> list[Any]:
    return list(degraded) if isinstance(degraded, list | tuple) else [degraded] if degraded else []


def _topic(event: object) -> str:
    return event.topic if isinstance(event, Event) else type(event).__qualname__
