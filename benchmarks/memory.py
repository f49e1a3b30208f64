"""Bytes of a queued item, and the growth of the process under overload."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from _harness import PAYLOADS, Report, Spread, compile_loop, times
from _receiver import Receiver
from _rigs import DEFAULT_QUEUE, Opener, Setup, open_otel_log, open_otel_span, open_simple_queue, open_zupa

_QUEUES: Final[Mapping[str, Opener]] = {
    "SimpleQueue (the payload is shared)": open_simple_queue,
    "zupa": open_zupa,
    "OTel log record": open_otel_log,
    "OTel span": open_otel_span,
}


def run(report: Report, _receiver: Receiver, *, quick: bool) -> None:  # noqa: ARG001 - it is quick as it is
    """Run both measurements and write their tables."""
    report.section("memory: what waits in a queue")
    _run_bytes(report)
    _run_overload(report)


def _run_bytes(report: Report) -> None:
    report.section(
        "Bytes of a queued item",
        "By tracemalloc: what 1,000 items hold that wait in the queue of a blocked consumer, the caller's own payload "
        "left out.",
        level=3,
    )
    report.table(
        ("queue", *PAYLOADS),
        [
            (name, *(f"{_queued_bytes(opener, payload):,.0f}" for payload in PAYLOADS.values()))
            for name, opener in _QUEUES.items()
        ],
    )


def _queued_bytes(opener: Opener, payload: dict[str, Any], count: int = 1000) -> float:
    with opener(Setup(payload, blocked=True)) as rig:
        loop = compile_loop(rig.statement, **rig.names)
        loop(rig.prime)
        if not rig.gate.opened.is_set():
            rig.gate.entered.wait(60)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            loop(count)
            gc.collect()
            return (tracemalloc.get_traced_memory()[0] - before) / count
        finally:
            tracemalloc.stop()


def _run_overload(report: Report) -> None:
    report.section(
        "The process under overload",
        "Growth of the resident set with the consumer blocked: when the queue has filled once, and after ten times as "
        "many calls as it takes. The goal is at most 10 % more than when full. KiB; pages are counted, so a few are "
        "noise.",
        level=3,
    )
    if _resident_kib() is None:
        report.add("Not measured: this platform has no /proc/self/statm.")
        return
    rows = []
    for name, opener in _QUEUES.items():
        if opener is open_simple_queue:  # unbounded: it has no cap to keep
            continue
        full, overloaded, growth = _overload(opener)
        rows.append((name, f"{full:,.0f}", f"{overloaded:,.0f}", growth.text(times)))
        if opener is open_zupa:
            report.target("P5", "resident growth at 10x overload, to that of a full queue", 1.1, growth)
    report.table(("queue", "full", "after 10x", "ratio"), rows)


def _overload(opener: Opener) -> tuple[float, float, Spread]:
    payload = PAYLOADS["10 keys"]
    with opener(Setup(payload, queue_size=8 * DEFAULT_QUEUE, blocked=True)) as rig:
        loop = compile_loop(rig.statement, **rig.names)
        loop(rig.prime)
        rig.gate.entered.wait(60)
        gc.collect()
        start = _resident_kib() or 0.0
        loop(8 * DEFAULT_QUEUE)
        full = (_resident_kib() or 0.0) - start
        loop(9 * 8 * DEFAULT_QUEUE)
        overloaded = (_resident_kib() or 0.0) - start
    return full, overloaded, Spread.of([overloaded / max(full, 1.0)])


def _resident_kib() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024
