"""`Capture`: a bus for one test, with everything that is emitted on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan

from zupa.bus import ReducerEventBus
from zupa.config import BusConfig
from zupa.default import replace_default_bus
from zupa.event import Event
from zupa.otel import build_trees, render_tree
from zupa.ports import EventBus
from zupa.statistics import BusStatistics
from zupa.testing._deterministic import IncrementalIds, ManualClock
from zupa.testing._exporter import InMemoryEventExporter
from zupa.testing._instruments import instrument
from zupa.testing._path import PathElement, assert_path, path_of

DEFAULT_TIMEOUT_MILLIS: Final = 5_000.0

_CONFIG: Final = BusConfig(
    strict=True,
    linger_millis=0,
    max_queue_size=16_384,
    # The clock is the test's: neither delay nor timeout of a batch may depend on it.
    schedule_delay_millis=0,
    export_timeout_millis=1e15,
)


class Capture:
    """A strict `ReducerEventBus` of its own, with fixed ids and time, and the events that come out of it.

    Events pass the real queue, worker and reducers. As a context manager it also puts zupa's instrumentations on its
    bus, makes it what `zupa.get_bus` returns, and restores both at the end; the pytest fixture ``zupa_capture`` is one.
    All that shows what was captured flushes the bus first, so nothing that was emitted before is missing.

    Args:
        config: Settings of the bus, instead of those for tests.

    Attributes:
        bus: Where to emit, and where to register the reducers under test.
        clock: Stands still until the test moves it: ``capture.clock.advance(5_000_000)``.
        ids: Count from 1.
        exporter: Holds the events.
    """

    def __init__(self, *, config: BusConfig | None = None) -> None:
        self.clock: ManualClock = ManualClock()
        self.ids: IncrementalIds = IncrementalIds()
        self.exporter: InMemoryEventExporter = InMemoryEventExporter()
        self.bus: ReducerEventBus = ReducerEventBus(config or _CONFIG, exporters=[self.exporter], clock=self.clock)
        self._restore: Callable[[], None] | None = None
        self._default: EventBus | None = None

    def __enter__(self) -> Capture:
        self._restore = instrument(bus=self.bus, clock=self.clock, id_generator=self.ids)
        self._default = replace_default_bus(self.bus)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()
            replace_default_bus(self._default)
        self.bus.shutdown()

    # -- what was captured ---------------------------------------------------------------------------------------

    def drain(self, timeout_millis: float = DEFAULT_TIMEOUT_MILLIS) -> tuple[Event, ...]:
        """Wait until all that was emitted has passed reducers, subscribers and exporters; return all events so far.

        Raises:
            AssertionError: that took longer than *timeout_millis*, or an async subscriber on this thread's event loop
                has still to run, which `adrain` lets it.
        """
        __tracebackhide__ = True
        if not self.exporter.is_shut_down:
            started = time.monotonic()
            flushed = self.bus.force_flush(timeout_millis)
            self._check_drained(flushed, "force_flush", timeout_millis, started)
        return self.exporter.events

    async def adrain(self, timeout_millis: float = DEFAULT_TIMEOUT_MILLIS) -> tuple[Event, ...]:
        """`drain` that awaits instead of blocking the event loop, for tests with async subscribers."""
        __tracebackhide__ = True
        if not self.exporter.is_shut_down:
            started = time.monotonic()
            flushed = await self.bus.aflush(timeout_millis)
            self._check_drained(flushed, "aflush", timeout_millis, started)
        return self.exporter.events

    def _check_drained(self, flushed: bool, call: str, timeout_millis: float, started: float) -> None:
        __tracebackhide__ = True
        if flushed:
            return
        # A flush also answers False, and early, for those who will never do better: an exporter that fails, an async
        # subscriber whose event loop was closed (asyncio.run has ended). Nothing waits then.
        statistics = self.statistics()
        in_time = time.monotonic() - started < timeout_millis / 1e3
        if not in_time or _waiting(statistics):
            raise AssertionError(_not_drained(call, timeout_millis, statistics))

    @property
    def events(self) -> tuple[Event, ...]:
        """All events, in order."""
        return self.drain()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that the events become, through the mapping that is used in production."""
        self.drain()
        return self.exporter.get_finished_spans()

    @property
    def logs(self) -> tuple[ReadableLogRecord, ...]:
        """The log records that the events become, through the mapping that is used in production."""
        self.drain()
        return self.exporter.get_finished_logs()

    def tree(self) -> str:
        """Return all runs as text, a line per run, step and node; "" when there was none."""
        return "\n".join(render_tree(tree) for tree in build_trees(self.drain()))

    def path(self, *, run: int | None = None) -> list[str]:
        """Return the names of the nodes in the order in which they started; see `zupa.testing.path_of`."""
        return path_of(self.drain(), run=run)

    def statistics(self) -> BusStatistics:
        """Return the bus's statistics. Does not flush."""
        return self.bus.statistics()

    def clear(self) -> None:
        """Forget what was captured so far; ids, clock and statistics go on."""
        self.drain()
        self.exporter.clear()

    # -- assertions ----------------------------------------------------------------------------------------------

    def assert_path(self, expected: Sequence[PathElement], *, run: int | None = None) -> None:
        """Assert that the nodes were executed in exactly this order; see `zupa.testing.assert_path`."""
        __tracebackhide__ = True
        assert_path(self.drain(), expected, run=run)

    def assert_no_loss(self) -> None:
        """Assert that nothing was dropped, missed, rejected or failed, and that the bus's books balance.

        Raises:
            AssertionError: naming every count that is not 0.
        """
        __tracebackhide__ = True
        self.drain()
        losses = _losses(self.statistics())
        if losses:
            raise AssertionError("events were lost: " + ", ".join(losses))


def _losses(statistics: BusStatistics) -> list[str]:
    losses = [f"dropped[{reason}]={count}" for reason, count in statistics.dropped.items()]
    if statistics.imbalance:
        losses.append(f"imbalance={statistics.imbalance}")
    for name, subscriber in statistics.subscribers.items():
        losses += [f"{name}.missed={subscriber.missed}"] if subscriber.missed else []
    for name, exporter in statistics.exported.items():
        losses += [f"{name}.dropped[{reason}]={count}" for reason, count in exporter.dropped.items()]
        losses += [f"{name}.{what}={n}" for what in ("failed", "rejected") if (n := getattr(exporter, what))]
    return losses


def _waiting(statistics: BusStatistics) -> dict[str, int]:
    """Who still holds how many events."""
    waiting = {"the bus": statistics.queued + statistics.in_flight}
    waiting |= {name: item.queued for name, item in statistics.subscribers.items()}
    waiting |= {name: item.queued + item.in_flight for name, item in statistics.exported.items()}
    return {name: count for name, count in waiting.items() if count}


def _not_drained(call: str, timeout_millis: float, statistics: BusStatistics) -> str:
    asleep = any(item.queued for item in statistics.subscribers.values())
    return (
        f"the bus could not be drained: {call}({timeout_millis:g}) answered False; events wait for: "
        + (", ".join(f"{name} ({count})" for name, count in _waiting(statistics).items()) or "none")
        + ("; in an async test with async subscribers write `await capture.adrain()` first" if asleep else "")
    )
