"""Emit from finalisers at every collection, and from a signal handler 10,000 times a second, inside emit itself.

``python -m tests.stress.reentrancy``; ZUPA_STRESS_EVENTS events of the main thread (60,000).
"""

from __future__ import annotations

import gc
import signal
import threading

from tests.stress.kit import Calls, Recorder, check_ledgers, quick, report, setting, watchdog

from zupa import ReducerEventBus


class Garbage:
    """A cycle whose finaliser emits."""

    calls: Calls
    finalised = 0

    def __init__(self):
        self.me = self

    def __del__(self):
        Garbage.finalised += 1
        self.calls.emit("gc", "collected", {"n": Garbage.finalised, "list": [1, 2]})


def storm(bus, calls, events):
    """Emit, make garbage and read statistics, while signals arrive; return how many did."""
    signals = 0

    def on_alarm(number, frame):
        nonlocal signals
        signals += 1
        calls.emit("signal", "alarm", {"n": signals})
        if signals % 50 == 0:
            check_ledgers(bus.statistics())

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        for number in range(events):
            calls.emit("main", "said", {"n": number, "text": "x" * 20})
            if number % 3 == 0:
                Garbage()
            if number % 50 == 0:
                check_ledgers(bus.statistics())
            if number % 1_000 == 0:
                calls.emit("main", "big", {"text": "x" * 100_000})
                bus.subscribe("*", lambda event: None)()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return signals


def main():
    watchdog(setting("ZUPA_STRESS_SECONDS", 60))
    recorder = Recorder()
    bus = ReducerEventBus(quick(max_queue_size=1024, max_queue_bytes=128 * 1024), exporters=[recorder])
    bus.use(lambda event: event)
    bus.subscribe("*", lambda event: None)
    calls = Garbage.calls = Calls(bus)
    gc.set_threshold(1)
    stop = threading.Event()

    def other():
        number = 0
        while not stop.is_set():
            number += 1
            calls.emit("thread", "said", {"n": number})
            Garbage()
            if number % 100 == 0:
                stop.wait(0.001)

    thread = threading.Thread(target=other)
    thread.start()
    signals = storm(bus, calls, setting("ZUPA_STRESS_EVENTS", 60_000))
    stop.set()
    thread.join()
    gc.set_threshold(700, 10, 10)
    gc.collect()
    flushed = bus.force_flush(20_000)
    bus.shutdown()
    statistics = bus.statistics()
    check_ledgers(statistics)
    ledger = statistics.exported["Recorder"]
    report(
        flushed=flushed,
        signals=signals,
        finalised=Garbage.finalised,
        calls=calls.total,
        emitted=statistics.emitted,
        left=statistics.queued + statistics.in_flight,
        dropped=statistics.dropped,
        restarts=statistics.worker_restarts,
        exported=ledger.exported,
        received=len(recorder.events),
    )


if __name__ == "__main__":
    main()
