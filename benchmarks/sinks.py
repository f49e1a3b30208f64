"""What 100 subscribers and 100 reducers cost the thread that emits, against one of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from _harness import CONTROL, PAYLOADS, Report, interleave, nanoseconds, times
from _receiver import Receiver
from _rigs import FLUSH_MILLIS, Rig, Setup, count_losses
from _variants import PLAIN, BusLedger, Opener, Variant, instrumented, open_plain
from emit import measure_idle
from engine import Case, measure, smaller, tabulate

from zupa import BusConfig, Event, ReducerEventBus

FEW: Final = "zupa, 1 subscriber + 1 reducer"
MANY: Final = "zupa, 100 subscribers + 100 reducers"
SINKS: Final = {FEW: 1, MANY: 100, FEW + CONTROL: 1}


def run(report: Report, _receiver: Receiver, *, quick: bool) -> None:
    """Run both comparisons and write their tables."""
    rounds, calls = (2, 1_200) if quick else (9, 20_000)
    report.section(
        "sinks: 100 against 1",
        "Reducers return the event as it is, subscribers count; all match every event. The engine thread must not "
        "notice how many there are; the worker does, and its time is in the process CPU.",
    )
    contestants = {
        name: partial(measure_idle, partial(_open_rig, sinks=sinks), Setup(PAYLOADS["1 key"]), calls)
        for name, sinks in SINKS.items()
    }
    results = interleave(contestants, rounds, label="sinks, emit")
    report.section(
        "Emit", "Chunks of 400 calls, flushed in between (not timed), as in the first table of emit.", level=3
    )
    report.table(
        ("bus", "ns a call", f"to {FEW}", "CPU ns a call", "lost"),
        [
            (
                name,
                results.spread(name, "ns").text(nanoseconds),
                results.ratio(name, FEW, "ns").text(times),
                nanoseconds(results.spread(name, "cpu").median),
                results.loss(name),
            )
            for name in results.samples
        ],
    )
    report.target("P3", "emit, 100 + 100 sinks to 1 + 1", 1.05, results.ratio(MANY, FEW, "ns"))

    cases = [Case(200), Case(200, "wall")]
    for case in [smaller(case) for case in cases] if quick else cases:
        variants: dict[str, Opener] = {PLAIN: open_plain}
        variants.update((name, partial(_open_variant, sinks)) for name, sinks in SINKS.items())
        results = interleave(
            {name: partial(measure, opener, case) for name, opener in variants.items()},
            rounds,
            label=f"sinks, {case.title}",
        )
        tabulate(report, case.title, results, base=FEW)
        what = f"100 + 100 sinks to 1 + 1, 200 us nodes, {case.clock} time"
        report.target("P3", f"mean node, {what}", 1.05, results.ratio(MANY, FEW, "mean"))
        report.target("P3", f"engine thread's CPU, {what}", 1.05, results.ratio(MANY, FEW, "thread"))


class _Counter:
    """A subscriber."""

    def __init__(self) -> None:
        self.received = 0

    def __call__(self, _event: Event) -> None:
        self.received += 1


class _Identity:
    """A reducer; a class, so that each of the hundred is its own object."""

    def __call__(self, event: Event) -> Event:
        return event


@contextlib.contextmanager
def _open_bus(sinks: int) -> Iterator[tuple[ReducerEventBus, _Counter]]:
    with ReducerEventBus(BusConfig(shutdown_timeout_millis=10_000)) as bus:
        counters = [_Counter() for _ in range(sinks)]
        for counter in counters:
            bus.use(_Identity())
            bus.subscribe("*", counter)
        yield bus, counters[-1]


@contextlib.contextmanager
def _open_rig(setup: Setup, *, sinks: int) -> Iterator[Rig]:
    with _open_bus(sinks) as (bus, last):
        names: dict[str, Any] = {"emit": bus.emit, "payload": setup.payload}
        statement = 'emit("agent", "node_started", payload)'
        counted = partial(count_losses, bus)
        yield Rig(statement, names, lambda: bus.force_flush(FLUSH_MILLIS), lambda: last.received, counted)


@contextlib.contextmanager
def _open_variant(sinks: int) -> Iterator[Variant]:
    with _open_bus(sinks) as (bus, _), instrumented(bus):
        yield Variant(settle=BusLedger(bus).settle)
