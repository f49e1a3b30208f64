"""What one `emit` costs its caller, next to what the same costs with OpenTelemetry's SDK and the standard library."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from _harness import (
    CONTROL,
    PAYLOADS,
    Report,
    Results,
    Sample,
    compile_loop,
    interleave,
    nanoseconds,
    times,
)
from _receiver import Receiver
from _rigs import (
    DEFAULT_QUEUE,
    Opener,
    Rig,
    Setup,
    open_bare_loop,
    open_empty_call,
    open_event_floor,
    open_otel_log,
    open_otel_span,
    open_queue_handler,
    open_simple_queue,
    open_zupa,
)
from opentelemetry.sdk.trace import TracerProvider

BARE: Final = "bare loop"
PUT: Final = "SimpleQueue.put"
ZUPA: Final = "zupa emit"
OTEL_LOG: Final = "OTel Logger.emit + batch processor"
OTEL_SPAN: Final = "OTel start_span/end + batch processor"
STDLIB: Final = "logging QueueHandler"

CHUNK: Final = 400
"""Calls between two flushes in the idle cases: less than OTel's batch of 512, which would wake its exporting thread."""
THREADS: Final = 8

_FLOORS: Final[Mapping[str, Opener]] = {
    BARE: open_bare_loop,
    "empty Python call": open_empty_call,
    PUT: open_simple_queue,
    "SimpleQueue.put of (time, payload copy)": open_event_floor,
}
_OTEL: Final[Mapping[str, Opener]] = {OTEL_LOG: open_otel_log, OTEL_SPAN: open_otel_span}
_ALL: Final[Mapping[str, Opener]] = {
    **_FLOORS,
    ZUPA: open_zupa,
    **_OTEL,
    STDLIB: open_queue_handler,
    ZUPA + CONTROL: open_zupa,
}
_BATCHED: Final[Mapping[str, Opener]] = {**_FLOORS, ZUPA: open_zupa, **_OTEL, ZUPA + CONTROL: open_zupa}

Method = Callable[[Opener, Setup, int], Sample]


def run(report: Report, receiver: Receiver, *, quick: bool) -> None:
    """Run all cases and write their tables."""
    rounds, calls = (3, 1_200) if quick else (9, 20_000)
    report.section(
        "emit: the caller's cost",
        "Ratios are of net costs (the bare loop of the same round taken off), pair by pair within a round, then the "
        "median; in brackets the range. CPU is that of the whole process until everything has arrived.",
    )
    for title, payload in PAYLOADS.items():
        results = _compare(f"accepted, background idle, {title}", _ALL, measure_idle, Setup(payload), calls, rounds)
        _tabulate(
            report,
            f"Accepted; the background is idle; payload of {title}",
            f"Default queues, {CHUNK} calls at a time, flushed in between (not timed), exporters that only count.",
            results,
        )
        _judge(report, results, title)

    burst = calls if quick else 16_384
    for title, payload in PAYLOADS.items():
        setup = Setup(payload, queue_size=4 * burst, receiver=receiver)
        results = _compare(f"accepted, exporting, {title}", _BATCHED, measure_burst, setup, burst, rounds)
        _tabulate(
            report,
            f"Accepted; the background exports; payload of {title}",
            f"Bursts of {burst:,} calls while a first burst of the same length is exported by OTLP/gRPC to another "
            "process; queues large enough for both bursts.",
            results,
        )

    payload = PAYLOADS["1 key"]
    results = _compare("in a span", _ALL, _in_span(measure_idle), Setup(payload), calls, rounds)
    _tabulate(report, "Accepted; a recording span is current; payload of 1 key", "Otherwise as the first.", results)

    setup = Setup(payload, queue_size=4 * calls)
    results = _compare(f"{THREADS} threads", _ALL, measure_threads, setup, calls, rounds)
    _tabulate(
        report,
        f"Accepted; from {THREADS} threads at once; payload of 1 key",
        f"Wall time of all {THREADS} threads by the sum of their calls; queues large enough. Ratios are of gross "
        "costs: the bare loop's own noise is too large here to be taken off.",
        results,
        less=None,
    )

    results = _compare("dropped", _BATCHED, measure_drop, Setup(payload, blocked=True), calls, rounds)
    _tabulate(
        report,
        "Dropped: the queue is full and the consumer blocked; payload of 1 key",
        "The timed calls are all dropped (or, in OTel's case, push an older item out). SimpleQueue.put, which has no "
        "bound, is there as the floor. OTel formats a warning per drop, which is filtered before it is written.",
        results,
    )


def measure_idle(opener: Opener, setup: Setup, calls: int) -> Sample:
    """Time *calls* in chunks; the background works between them."""
    with opener(setup) as rig:
        loop = _warm(rig)
        cpu, elapsed = time.process_time_ns(), 0
        for _ in range(calls // CHUNK):
            elapsed += loop(CHUNK)
            rig.flush()
        cpu = time.process_time_ns() - cpu
        return _sample(rig, elapsed, cpu, calls // CHUNK * CHUNK, warm=CHUNK)


def measure_burst(opener: Opener, setup: Setup, calls: int) -> Sample:
    """Time *calls* that follow upon just as many, which keep the background busy."""
    with opener(setup) as rig:
        loop = _warm(rig)
        cpu = time.process_time_ns()
        loop(calls)
        elapsed = loop(calls)
        rig.flush()
        cpu = (time.process_time_ns() - cpu) // 2
        return _sample(rig, elapsed, cpu, calls, warm=CHUNK + calls)


def measure_threads(opener: Opener, setup: Setup, calls: int) -> Sample:
    """Time *calls*, shared out among threads that start together."""
    with opener(setup) as rig:
        loop = _warm(rig)
        share = calls // THREADS
        barrier = threading.Barrier(THREADS + 1)

        def work() -> None:
            barrier.wait()
            loop(share)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        cpu, start = time.process_time_ns(), time.perf_counter_ns()
        barrier.wait()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter_ns() - start
        rig.flush()
        cpu = time.process_time_ns() - cpu
        return _sample(rig, elapsed, cpu, share * THREADS, warm=CHUNK)


def measure_drop(opener: Opener, setup: Setup, calls: int) -> Sample:
    """Time *calls* to a full queue; those before them just fill it."""
    with opener(setup) as rig:
        loop = compile_loop(rig.statement, **rig.names)
        filling = 0
        if rig.received is not None and not rig.gate.opened.is_set():
            loop(rig.prime)
            if not rig.gate.entered.wait(60):
                raise RuntimeError("the consumer did not come to the gate, so the queue would not fill")
            filling = rig.prime + DEFAULT_QUEUE
            loop(DEFAULT_QUEUE)
        cpu = time.process_time_ns()
        elapsed = loop(calls)
        cpu = time.process_time_ns() - cpu
        rig.gate.opened.set()
        rig.flush()
        return _sample(rig, elapsed, cpu, calls, warm=filling)


def _warm(rig: Rig) -> Callable[[int], int]:
    loop = compile_loop(rig.statement, **rig.names)
    loop(CHUNK)
    rig.flush()
    return loop


def _sample(rig: Rig, elapsed: int, cpu: int, calls: int, *, warm: int) -> Sample:
    values = {"ns": elapsed / calls, "cpu": cpu / calls}
    if rig.received is None:
        return Sample(values)
    counted = None if rig.counted is None else rig.counted()
    # What went before the timed calls must have arrived, or else it shows as a loss of theirs.
    return Sample(values, {"calls": calls}, {"calls": rig.received() - warm}, counted)


def _in_span(measure: Method) -> Method:
    def measured(opener: Opener, setup: Setup, calls: int) -> Sample:
        with _current_span():
            return measure(opener, setup, calls)

    return measured


@contextlib.contextmanager
def _current_span() -> Iterator[Any]:
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer(__name__).start_as_current_span("outer") as span:
        yield span


def _compare(
    label: str, openers: Mapping[str, Opener], measure: Method, setup: Setup, calls: int, rounds: int
) -> Results:
    contestants = {name: partial(measure, opener, setup, calls) for name, opener in openers.items()}
    return interleave(contestants, rounds, label=f"emit, {label}")


def _tabulate(report: Report, title: str, text: str, results: Results, *, less: str | None = BARE) -> None:
    report.section(title, text, level=3)
    report.table(
        ("contestant", "ns a call", f"to {PUT}", f"to {ZUPA}", "CPU ns a call", "lost"),
        [
            (
                name,
                results.spread(name, "ns").text(nanoseconds),
                "-" if name == BARE else results.ratio(name, PUT, "ns", less=less).text(times),
                "-" if name == BARE else results.ratio(name, ZUPA, "ns", less=less).text(times),
                nanoseconds(results.spread(name, "cpu").median),
                results.loss(name),
            )
            for name in results.samples
        ],
    )


def _judge(report: Report, results: Results, title: str) -> None:
    for rival in (OTEL_LOG, OTEL_SPAN):
        measured = results.ratio(rival, ZUPA, "ns", less=BARE)
        report.target("P1", f"{rival}, to zupa emit; {title}", 50, measured, at_least=True)
    measured = results.ratio(ZUPA, PUT, "ns", less=BARE)
    report.target("P1", f"zupa emit, to {PUT}; {title}", 8, measured)
