"""The end of exporters: what their flushes and shutdowns raise, and threads that come back after they were given up."""

from __future__ import annotations

import threading

import pytest
from tests.stress.kit import FakeClock, Recorder, elapsed, emit, hanging, ledger, wait_until

HOUR = 3_600_000


def test_an_exporter_can_be_detached(make_bus):
    recorder = Recorder()
    bus = make_bus(schedule_delay_millis=HOUR)
    detach = bus.add_exporter(recorder)
    emit(bus, 3)
    wait_until(lambda: ledger(bus).queued == 3)
    detach()
    detach()
    assert len(recorder.events) == 3
    assert recorder.shutdowns == 1
    assert bus.statistics().exported == {}
    emit(bus, 3)
    assert bus.force_flush(10_000)
    assert len(recorder.events) == 3


def test_detaching_a_hanging_exporter_keeps_the_deadline(make_bus):
    recorder = hanging()
    bus = make_bus(recorder, shutdown_timeout_millis=200)
    detach = bus.add_exporter(hanging(), name="other")
    emit(bus, 3)
    _, seconds = elapsed(detach)
    assert seconds < 1
    recorder.gate.set()


def test_an_exporter_s_flush_decides_and_gets_the_time_that_is_left(make_bus):
    recorder = Recorder()
    recorder.force_flush = lambda timeout_millis: recorder.flush_timeouts.append(timeout_millis) or False
    bus = make_bus(recorder, clock=FakeClock())
    assert bus.force_flush(5_000) is False
    assert 0 < recorder.flush_timeouts[0] <= 5_000
    assert bus.shutdown(4_000) is False
    assert recorder.flush_timeouts[-1] <= 4_000
    assert recorder.shutdowns == 1


class Moody(Recorder):
    """Raises in whichever methods are named."""

    def __init__(self, *moods, **settings):
        super().__init__(**settings)
        self.moods = moods

    def force_flush(self, timeout_millis=30_000):
        super().force_flush(timeout_millis)
        if "force_flush" in self.moods:
            raise SystemExit("no flush")
        return True

    def shutdown(self, timeout_millis=30_000):
        super().shutdown(timeout_millis)
        if "shutdown" in self.moods:
            raise KeyError("no shutdown")


@pytest.mark.parametrize("moods", [("force_flush",), ("shutdown",), ("force_flush", "shutdown")])
def test_an_exporter_that_raises_at_the_end_is_shut_down_once_all_the_same(make_bus, moods):
    recorder = Moody(*moods)
    bus = make_bus(recorder)
    emit(bus, 3)
    ok, seconds = elapsed(lambda: bus.shutdown(5_000))
    assert ok is False
    assert seconds < 2
    assert recorder.shutdowns == 1
    assert ledger(bus, "Moody").exported == 3


def test_every_flush_is_answered_when_the_exporter_s_flush_raises(make_bus):
    recorder = Moody("force_flush", gate=threading.Event())
    bus = make_bus(recorder)
    emit(bus, 3)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(elapsed(lambda: bus.force_flush(8_000)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert recorder.entered.wait(10)
    wait_until(lambda: len(bus._dispatcher.processors[0]._flushes) >= 2)
    recorder.gate.set()
    for thread in threads:
        thread.join(20)
    assert [ok for ok, _ in answers] == [False] * 3
    assert max(seconds for _, seconds in answers) < 5
    assert bus.shutdown(5_000) is False
    assert recorder.shutdowns == 1


@pytest.mark.parametrize("moods", [(), ("shutdown",)])
def test_the_thread_of_an_exporter_that_was_given_up_ends_when_it_comes_back(make_bus, moods):
    """Kills: a flush that is never answered, or a shutdown that raises, keeping the thread spinning for ever."""
    recorder = Moody(*moods, gate=threading.Event())
    bus = make_bus(recorder, max_export_batch_size=2)
    emit(bus, 6)
    assert bus.force_flush(50) is False
    assert bus.shutdown(100) is False
    thread = bus._dispatcher.processors[0]._thread
    recorder.gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert recorder.shutdowns == 1


def test_events_after_the_exporter_was_closed_are_counted_there(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus._dispatcher.processors[0].abandon()
    emit(bus, 3)
    bus.force_flush(1_000)
    assert ledger(bus).dropped == {"already_shutdown": 3}


def test_where_no_thread_can_be_started_a_flush_does_the_work(make_bus, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    recorder = Recorder()
    bus = make_bus(recorder)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = []
    bus.subscribe("*", seen.append)
    emit(bus, 300)
    assert bus.force_flush(5_000)
    emit(bus, 3)
    assert bus.force_flush(5_000)
    assert len(recorder.events) == len(seen) == 303
    assert bus.shutdown(5_000)
    assert recorder.shutdowns == 1
    assert ledger(bus).exported == 303
