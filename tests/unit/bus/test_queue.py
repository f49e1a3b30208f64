"""The bounds of the ingest queue, exact under threads, and the statistics against an outside count."""

from __future__ import annotations

import gc
import threading

import pytest
from tests.stress.kit import Calls, Gate, Recorder, check_ledgers, check_monotonic, in_threads

from zupa import Event
from zupa.bus._queue import CHUNK, estimate_bytes

THREADS = 8


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("capacity", [1, 7, 256, 1000])
def test_the_bound_on_events_is_exact(make_bus, capacity):
    recorder, gate = Recorder(), Gate()
    bus = make_bus(recorder, max_queue_size=capacity, linger_millis=0, slice_size=1)
    bus.use(gate)
    calls = Calls(bus)
    calls.emit("a", "held")
    assert gate.held.wait(10)  # one event is in flight, the queue is empty

    def emit(index):
        for number in range(400):
            calls.emit("a", "b", {"thread": index, "number": number})
            assert len(bus._queue) <= capacity

    in_threads(THREADS, emit)
    statistics = bus.statistics()
    check_ledgers(statistics)
    assert (statistics.queued, statistics.in_flight, statistics.high_watermark) == (capacity, 1, capacity)
    assert statistics.dropped == {"queue_full": THREADS * 400 - capacity}
    assert statistics.emitted == calls.total
    gate.open()
    assert bus.force_flush(10_000)
    assert bus.statistics().delivered == capacity + 1
    assert len(recorder.events) + bus.statistics().exported["Recorder"].dropped.get("queue_full", 0) == capacity + 1


def test_the_bound_on_bytes(make_bus):
    gate = Gate()
    bus = make_bus(max_queue_bytes=64 * 1024, linger_millis=0, slice_size=1)
    bus.use(gate)
    bus.emit("a", "held")
    assert gate.held.wait(10)
    for _ in range(20):
        bus.emit("a", "big", {"text": "x" * 10 * 1024})
    assert bus.statistics().dropped == {"bytes_full": 14}
    assert bus.statistics().queued == 6
    bus.emit("a", "small", {"text": "x"})  # small events pass all the same
    assert bus.statistics().queued == 7
    gate.open()
    assert bus.force_flush(10_000)
    for _ in range(6):  # all byte permits have come back
        bus.emit("a", "big", {"text": "x" * 10 * 1024})
    assert bus.force_flush(10_000)
    assert bus.statistics().dropped == {"bytes_full": 14}
    assert bus.statistics().emitted == 28


@pytest.mark.parametrize("payload", [Event("a", "b", {"text": "x" * 90_000}), {"nested": [["x" * 90_000]]}])
def test_bytes_are_estimated_inside_drafts_and_nested_data(make_bus, payload):
    bus = make_bus(max_queue_bytes=64 * 1024)
    if isinstance(payload, Event):
        bus.emit(payload)
    else:
        bus.emit("a", "b", payload)
    assert bus.statistics().dropped == {"bytes_full": 1}


def test_the_estimate_is_bounded_and_never_raises():
    class Hostile(dict):
        def values(self):
            raise ValueError

    assert estimate_bytes({"a": "x" * 5_000}) > 5_000
    assert estimate_bytes([["y" * 100] * 10] * 1_000) > 100_000  # extrapolated: 10,000 strings are not visited
    assert estimate_bytes(Hostile(a=1)) == CHUNK
    endless = []
    endless.append(endless)
    assert estimate_bytes(endless) < 1_000_000


@pytest.mark.usefixtures("restless")
def test_snapshots_never_go_back_while_events_are_refused(make_bus):
    """Kills: a refused event that is counted twice, or not at all, between its permit and its drop."""
    bus = make_bus(max_queue_bytes=1024, max_queue_size=64)
    calls = Calls(bus)
    stop = threading.Event()
    problems = []

    def poll():
        before = bus.statistics()
        while not stop.is_set():
            after = bus.statistics()
            try:
                check_ledgers(after)
                check_monotonic(before, after)
            except AssertionError as error:
                problems.append(error)
                return
            before = after

    poller = threading.Thread(target=poll)
    poller.start()
    in_threads(4, lambda index: [calls.emit("a", "b", {"x": "y" * 5_000}) for _ in range(3_000)])
    stop.set()
    poller.join(10)
    assert not problems, problems[0]
    assert bus.statistics().dropped["bytes_full"] > 0
    assert bus.statistics().emitted == calls.total


def test_emit_is_reentrant_from_finalisers(make_bus):
    bus = make_bus(max_queue_size=4096)
    calls = Calls(bus)

    class Garbage:
        def __init__(self):
            self.me = self

        def __del__(self):
            calls.emit("gc", "collected", {"x": [1, 2]})

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            Garbage()
            calls.emit("a", "b", {"text": "y" * 2_000})
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert bus.force_flush(10_000)
    assert bus.statistics().emitted == bus.statistics().delivered == calls.total == 600
