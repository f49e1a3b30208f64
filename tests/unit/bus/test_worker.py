"""The worker: started once, survives what kills threads, is replaced where user code blocks it."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time

import pytest
from tests.stress.kit import Calls, FakeClock, Gate, Recorder, check_ledgers, check_seqs, in_threads, wait_until

from zupa.bus import _worker


def kill(thread, error=SystemExit):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("attempt", range(15))
def test_first_events_of_many_threads_start_one_worker(make_bus, attempt):
    """Kills: two starters of which one takes the other's worker for a dead one, so that events go out twice."""
    recorder = Recorder()
    bus = make_bus(recorder)
    in_threads(8, lambda index: [bus.emit("a", "b", {"thread": index, "n": n}) for n in range(20)])
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    assert statistics.worker_restarts == 0
    assert statistics.delivered == len(recorder.events) == 160
    check_seqs(recorder.events)
    assert [event.seq for event in recorder.events] == list(range(1, 161))


class Rendezvous:
    """A lock whose first two takers have both arrived before one of them gets it."""

    def __init__(self, lock):
        self.lock = lock
        self.barrier = threading.Barrier(2)

    def acquire(self, *args, **kwargs):
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(1)
        return self.lock.acquire()

    def release(self):
        self.lock.release()


def test_two_starters_start_one_worker(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus._worker._lock = Rendezvous(bus._worker._lock)
    in_threads(2, lambda index: bus.emit("a", "b"))
    assert bus.force_flush(10_000)
    assert bus.statistics().worker_restarts == 0
    assert len(recorder.events) == 2


def test_an_emit_does_not_wait_for_whoever_starts_the_worker(make_bus):
    bus = make_bus()
    with bus._worker._lock:
        in_threads(1, lambda index: bus.emit("a", "b"))
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert bus.statistics().delivered == 2


@pytest.mark.parametrize("busy", [False, True])
def test_an_asynchronous_exception_costs_nothing_that_is_not_counted(make_bus, busy):
    recorder = Recorder()
    bus = make_bus(recorder)
    calls = Calls(bus)
    calls.emit("a", "b")
    assert bus.force_flush(10_000)
    if busy:
        gate = Gate()
        remove = bus.use(gate)
        for _ in range(10):
            calls.emit("a", "b")
        assert gate.held.wait(10)
        kill(bus._worker._thread)
        gate.open()
        remove()
    else:
        kill(bus._worker._thread)
    for _ in range(20):
        calls.emit("a", "b")
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    check_ledgers(statistics)
    total = calls.total
    assert statistics.emitted == total
    assert statistics.in_flight == 0
    assert statistics.queued == 0
    assert statistics.delivered == len(recorder.events) == total - statistics.dropped_total
    assert statistics.dropped_total <= busy
    check_seqs(recorder.events)


def test_a_dead_worker_is_replaced(make_bus, monkeypatch):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    dead = bus._worker._thread
    bus._queue.put(None)  # a stop marker, with `stopped` set, ends the thread as nothing else does
    monkeypatch.setattr(bus._worker, "stopped", True)
    dead.join(10)
    monkeypatch.setattr(bus._worker, "stopped", False)
    if dead.is_alive():
        pytest.fail("the worker did not end")
    for _ in range(3):
        bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert len(recorder.events) == 4
    assert bus.statistics().worker_restarts == 1


def block(bus, monkeypatch, *, reducer, fill=0):
    """Block the worker in user code, emit *fill* events, and let it count as stuck at once from then on."""
    entered, release = threading.Event(), threading.Event()

    def blocks(event):
        if event.name == "block":
            entered.set()
            release.wait(30)
        return event

    if reducer:
        bus.use(blocks)
    else:
        bus.subscribe("*", blocks, name="blocks")
    bus.emit("a", "block")
    assert entered.wait(10)
    for _ in range(fill):
        bus.emit("a", "b")
    monkeypatch.setattr(_worker, "STUCK_NS", 1_000_000)
    started = time.monotonic()
    wait_until(lambda: time.monotonic() - started > 0.01)
    return release


def test_a_subscriber_that_blocks_for_ever_is_taken_over_behind(make_bus, monkeypatch):
    recorder, seen = Recorder(), []
    bus = make_bus(recorder, max_queue_size=1000)
    release = block(bus, monkeypatch, reducer=False)
    bus.subscribe("*", seen.append, name="other")
    for index in range(300):
        bus.emit("a", "b", {"index": index})
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    assert statistics.worker_restarts == 1
    assert "blocks" not in statistics.subscribers
    assert [event.payload["index"] for event in seen if event.name == "b"] == list(range(300))
    assert len(recorder.events) == statistics.delivered == 301
    monkeypatch.undo()
    release.set()
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert len(recorder.events) == 302
    check_seqs(recorder.events)
    check_ledgers(bus.statistics())


def test_a_reducer_that_blocks_for_ever_costs_its_event_which_is_counted(make_bus, monkeypatch):
    recorder = Recorder()
    bus = make_bus(recorder)
    release = block(bus, monkeypatch, reducer=True)
    for _ in range(10):
        bus.emit("a", "b")
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    check_ledgers(statistics)
    assert (statistics.emitted, statistics.delivered, statistics.dropped) == (11, 10, {"internal_error": 1})
    monkeypatch.undo()
    release.set()
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert bus.statistics().delivered == len(recorder.events) == 11


@pytest.mark.parametrize("capacity", [4, 300])
def test_a_full_queue_behind_a_stuck_subscriber_gets_going_again(make_bus, monkeypatch, capacity):
    """Kills: supervision that only the takers of permits do, so that a full queue stays full for ever."""
    recorder = Recorder()
    bus = make_bus(recorder, max_queue_size=capacity)
    bus.use(lambda event: event)
    release = block(bus, monkeypatch, reducer=False, fill=capacity * 2)
    assert bus.statistics().queued == capacity
    calls = 0
    while bus.statistics().worker_restarts == 0:
        bus.emit("a", "b")
        calls += 1
        assert calls < 2_000, "nobody looked after the worker"
    wait_until(lambda: bus.statistics().queued == 0)
    monkeypatch.undo()
    release.set()
    assert bus.force_flush(10_000)
    assert bus.statistics().emitted == calls + capacity * 2 + 1


def test_a_predecessor_that_comes_back_does_not_touch_its_successor(make_bus, monkeypatch):
    """Kills: an old thread that resets the depth, so that the guards against feedback no longer see the loop."""
    bus = make_bus()
    second = Gate()
    bus.subscribe("*", lambda event: second(event) if event.name == "second" else None)
    release = block(bus, monkeypatch, reducer=False)
    old = bus._worker._thread
    bus.emit("a", "second")
    threading.Thread(target=bus.force_flush, args=(10_000,)).start()
    assert second.held.wait(10)
    monkeypatch.undo()
    assert bus._worker._thread is not old
    release.set()
    old.join(10)
    assert not old.is_alive()
    assert bus._stage.depth == 1
    second.open()
    assert bus.force_flush(10_000)


@pytest.mark.parametrize("where", ["reducer", "subscriber"])
def test_a_flush_from_the_inside_says_no_at_once(make_bus, where):
    bus = make_bus()
    answers = []

    def flushes(event):
        started = time.monotonic()
        answers.append((bus.force_flush(20_000), time.monotonic() - started < 1))
        return event

    if where == "reducer":
        bus.use(flushes)
    else:
        bus.subscribe("*", flushes)
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert answers == [(False, True)]


def test_time_does_not_go_back_with_the_wall_clock(make_bus):
    recorder, clock = Recorder(), FakeClock(now=1_000)
    bus = make_bus(recorder, clock=clock)
    for now in (1_000, 400, 2_000, 1_999):
        clock.now = now
        bus.emit("a", "b")
        assert bus.force_flush(10_000)
    assert [event.occurred_at for event in recorder.events] == [1_000, 400, 2_000, 1_999]
    assert [event.timestamp for event in recorder.events] == [1_000, 1_000, 2_000, 2_000]


def test_a_burst_is_not_kept_waiting_for_its_linger_by_a_flush(make_bus):
    bus = make_bus(linger_millis=10_000)
    started = time.monotonic()
    bus.emit("a", "b")
    assert bus.force_flush(8_000)
    assert time.monotonic() - started < 5


def test_a_queue_that_fills_cuts_the_linger_short(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder, linger_millis=10_000, max_queue_size=20, max_export_batch_size=5)
    for _ in range(25):
        bus.emit("a", "b")
    recorder.wait_for(10)
