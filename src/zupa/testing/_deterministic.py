"""What makes telemetry the same in every run of a test: a clock that stands still, and ids that count."""

from __future__ import annotations

import itertools
import threading
from typing import Final

from opentelemetry.sdk.trace.id_generator import IdGenerator

DEFAULT_START_NS: Final = 1_700_000_000_000_000_000
"""2023-11-14T22:13:20Z."""

_MONOTONIC_START_NS: Final = 1_000_000_000


class ManualClock:
    """A `zupa.ports.Clock` that moves only when it is told to.

    Args:
        start_ns: Unix time in ns to start with.
        step_ns: Every reading moves the clock on by so much afterwards. A bus reads its clock on its worker's thread
            too, so only code that has the clock for itself can rely on the readings it gets.

    Raises:
        ValueError: a time is negative.

    Concurrency: any thread.
    """

    def __init__(self, start_ns: int = DEFAULT_START_NS, step_ns: int = 0) -> None:
        _check("start_ns", start_ns)
        _check("step_ns", step_ns)
        self._lock = threading.RLock()
        self._time_ns = start_ns
        self._monotonic_ns = _MONOTONIC_START_NS
        self._step_ns = step_ns

    def time_ns(self) -> int:
        with self._lock:
            now = self._time_ns
            self.advance(self._step_ns)
            return now

    def monotonic_ns(self) -> int:
        with self._lock:
            now = self._monotonic_ns
            self.advance(self._step_ns)
            return now

    def advance(self, duration_ns: int) -> None:
        """Let *duration_ns* pass, on both clocks.

        Raises:
            ValueError: it is negative: monotonic time does not step back. See `set_time`.
        """
        _check("duration_ns", duration_ns)
        with self._lock:
            self._time_ns += duration_ns
            self._monotonic_ns += duration_ns

    def set_time(self, time_ns: int) -> None:
        """Set the wall clock, backwards too, as an operator or NTP does; no monotonic time passes."""
        _check("time_ns", time_ns)
        with self._lock:
            self._time_ns = time_ns


class IncrementalIds(IdGenerator):
    """Trace and span ids that count from 1. Also an `IdGenerator` for OpenTelemetry's SDK.

    Concurrency: any thread.
    """

    def __init__(self) -> None:
        self._trace_ids = itertools.count(1)
        self._span_ids = itertools.count(1)

    def generate_trace_id(self) -> int:
        return next(self._trace_ids)

    def generate_span_id(self) -> int:
        return next(self._span_ids)


def _check(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name}={value} is unusable: it must be 0 or more nanoseconds")
