"""`sample`: keep a share of the events, whole traces at a time."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Literal

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.reducers._settings import check_callable

_LOW_64_BITS: Final = 2**64 - 1


class Sample:
    """What `sample` returns. `sampled_out` counts the events that were not kept."""

    name = "sample"

    def __init__(self, ratio: float, *, by: str, keep: Callable[[Event], object] | None) -> None:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ConfigurationError(f"sample(ratio={ratio!r}) is unusable: it must be a number from 0 to 1")
        if by not in ("trace", "event"):
            raise ConfigurationError(f'sample(by={by!r}) is unusable: use "trace" or "event"')
        check_callable("sample(keep)", keep, optional=True)
        self.sampled_out: int = 0
        self._ratio = ratio
        self._by_trace = by == "trace"
        self._keep = keep
        self._bound = round(ratio * 2**64)  # the arithmetic of the SDK's TraceIdRatioBased: same ids, same decisions
        self._drafts = 0

    def __call__(self, event: Event) -> Event | None:
        number = event.trace_id if self._by_trace else 0
        if not number:
            number = self._number(event)
        if number & _LOW_64_BITS < self._bound or (self._keep is not None and self._keep(event)):
            return event
        self.sampled_out += 1
        return None

    def _number(self, event: Event) -> int:
        """Spread event ids evenly over 64 bits; an event without sequence number counts as the next one."""
        identity = event.id
        if not event.seq:
            self._drafts += 1
            identity = f"{identity}/{self._drafts}"
        return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big")

    def __repr__(self) -> str:
        return f"sample({self._ratio}, by={'trace' if self._by_trace else 'event'!r}, sampled_out={self.sampled_out})"


def sample(
    ratio: float, *, by: Literal["trace", "event"] = "trace", keep: Callable[[Event], Any] | None = None
) -> Sample:
    """Keep about *ratio* of the events.

    Args:
        ratio: From 0 (none) to 1 (all).
        by: ``"trace"`` keeps or drops all events of a trace together, and decides from the trace id exactly as
            OpenTelemetry's ``TraceIdRatioBased`` sampler does, so both can be combined; events without a trace are
            decided one by one. ``"event"`` decides every event by its id.
        keep: Events for which it returns something true are kept whatever the ratio, e.g. failures.

    Raises:
        ConfigurationError: a setting is unusable.
    """
    return Sample(ratio, by=by, keep=keep)
