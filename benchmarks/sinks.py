"""What 100 subscribers and 100 reducers cost the thread that emits, against one of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from _harness import CONTROL, PAYLOADS, Report, Sample, interleave, nanoseconds, times
from _receiver import Receiver
from _rigs import DEFAULT_QUEUE, FLUSH_MILLIS, Rig, Setup, count_losses
from emit import measure_idle, measure_threads
from engine import PLAIN, BusLedger, Case, Variant, instrumented, measure, open_plain, tabulate

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

    size = {"nodes": 100, "runs": 3} if quick else {"nodes": 200, "runs": 25}
    for case in (Case(200, **size), Case(200, "wall", **size)):
        variants = {
            PLAIN: open_plain,
            **{name: partial(_open_variant, sinks) for name, sinks in SINKS.items()},
        }
        results = interleave(
            {name: partial(measure, opener, case) for name, opener in variants.items()},
            rounds,
            label=f"sinks, {case.title}",
        )
        tabulate(report, case.title, results, base=FEW)
        what = f"100 + 100 sinks to 1 + 1, 200 us nodes, {case.clock} time"
        report.target("P3", f"mean node, {what}", 1.05, results.ratio(MANY, FEW, "mean"))
        report.target("P3", f"engine thread's CPU, {what}", 1.05, results.ratio(MANY, FEW, "thread"))
