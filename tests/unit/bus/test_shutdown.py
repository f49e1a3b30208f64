"""Shutdown: from the inside, with emits that overlap it, with flushes that wait; and the lifecycle around it."""

from __future__ import annotations

import threading
import time
from collections import UserDict

from tests.stress.kit import Calls, Gate, Recorder, check_ledgers, in_threads, wait_until

from zupa import ReducerEventBus


def test_a_shutdown_from_the_inside_ends_within_its_deadline(make_bus):
    bus = make_bus(shutdown_timeout_millis=200)
    answers = []
    bus.subscribe("*", lambda event: answers.append(bus.shutdown()))
    bus.emit("a", "b")
    wait_until(lambda: answers)
    assert answers == [False]
    check_ledgers(bus.statistics())
    assert bus.statistics().dropped == {"shutdown_timeout": 1}


def test_emits_that_overlap_a_shutdown_are_all_explained(make_bus):
    """Kills: events that got past the door while it closed and then wait in a queue that nobody reads."""
    for _ in range(10):
        recorder = Recorder()
        bus = make_bus(recorder)
        calls = Calls(bus)
        calls.emit("a", "b")

        def run(index, bus=bus, calls=calls):
            if index == 0:
                bus.shutdown(5_000)
            else:
                for _ in range(200):
                    calls.emit("a", "b")

        in_threads(4, run)
        statistics = bus.statistics()
        check_ledgers(statistics)
        assert statistics.emitted == calls.total
        assert (statistics.queued, statistics.in_flight) == (0, 0), statistics
        assert set(statistics.dropped) <= {"already_shutdown", "shutdown_timeout"}
        ledger = statistics.exported["Recorder"]
        assert ledger.exported == len(recorder.events)
        assert statistics.delivered == ledger.exported + sum(ledger.dropped.values())


class ShutsDown(UserDict):
    """A payload that shuts the bus down while emit looks at it."""

    def values(self):
        self.bus.shutdown(5_000)
        return []


def test_an_event_that_comes_in_while_the_bus_shuts_down_is_counted(make_bus):
    bus = make_bus()
    payload = ShutsDown()
    payload.bus = bus
    bus.emit("a", "b", payload)
    statistics = bus.statistics()
    assert (statistics.emitted, statistics.queued, statistics.dropped) == (1, 0, {"already_shutdown": 1})


def test_a_flush_that_waits_is_answered_when_the_bus_shuts_down(make_bus):
    gate = Gate()
    bus = make_bus()
    bus.use(gate)
    bus.emit("a", "b")
    assert gate.held.wait(10)
    answers = []

    def flush():
        started = time.monotonic()
        answers.append((bus.force_flush(15_000), time.monotonic() - started < 10))

    thread = threading.Thread(target=flush)
    thread.start()
    wait_until(lambda: bus._queue._items.qsize() == 1)
    assert bus.shutdown(50) is False
    thread.join(20)
    assert answers == [(False, True)]
    gate.open()


def test_lifecycle(make_bus):
    bus = make_bus()
    bus.start()
    bus.start()
    bus.emit("a", "b")
    assert bus.shutdown()
    assert bus.shutdown()
    bus.start()
    bus.emit("a", "b")
    assert bus.statistics().dropped == {"already_shutdown": 1}
    assert bus.force_flush(1_000) is False
    assert "shut down" in repr(bus)
    with ReducerEventBus() as other:
        other.emit("a", "b")
    assert other.statistics().delivered == 1
    assert repr(make_bus()) == "<ReducerEventBus 0/2048 queued>"
