"""Emits from within reducers and subscribers, and the guard against loops of them."""

from __future__ import annotations

import threading

import pytest
from tests.stress.kit import Recorder, check_ledgers

from zupa.bus._ingest import MAX_DEPTH


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def bus(make_bus, recorder):
    return make_bus(recorder, max_queue_size=20_000)


def topics(recorder):
    return [event.topic for event in recorder.events]


def test_emits_inside_reducers_and_subscribers_are_queued(bus, recorder):
    def reducer(event):
        bus.emit("from", "reducer")
        return event

    bus.use(reducer, "a:*")
    bus.subscribe("from:reducer", lambda event: bus.emit("from", "subscriber"))
    bus.emit("a", "b")
    wait = [bus.force_flush() for _ in range(4)]
    assert all(wait)
    assert topics(recorder) == ["a:b", "from:reducer", "from:subscriber"]


@pytest.mark.parametrize("where", ["reducer", "subscriber"])
def test_a_feedback_loop_ends(bus, recorder, where):
    def feed_back(event):
        bus.emit("loop", "again", {"depth": event.payload["depth"] + 1})
        return event

    if where == "reducer":
        bus.use(feed_back)
    else:
        bus.subscribe("*", feed_back)
    bus.emit("loop", "again", {"depth": 0})
    for _ in range(MAX_DEPTH + 2):
        assert bus.force_flush(10_000)
    assert [event.payload["depth"] for event in recorder.events] == list(range(MAX_DEPTH + 1))
    statistics = bus.statistics()
    assert statistics.dropped == {"reentrant": 1}
    assert statistics.emitted == MAX_DEPTH + 2
    check_ledgers(statistics)


def test_other_threads_are_not_taken_for_the_loop(bus, recorder):
    inside, done = threading.Event(), threading.Event()

    def holds(event):
        inside.set()
        assert done.wait(10)
        return event

    bus.use(holds, "hold:*")
    bus.emit("hold", "it")
    assert inside.wait(10)
    for _ in range(50):
        bus.emit("other", "thread")
    done.set()
    bus.force_flush()
    assert len(recorder.events) == 51
    assert bus.statistics().dropped == {}
