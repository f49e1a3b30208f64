"""The reducer pipeline: order, scopes, results of every kind, failures, fan-out, and the guard against feedback."""

from __future__ import annotations

import threading

import pytest
from tests.stress.kit import FakeClock, Recorder, check_ledgers, check_seqs

from zupa import ConfigurationError, Event, PatternError
from zupa.bus._reducers import MAX_FAN_OUT


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def bus(make_bus, recorder):
    return make_bus(recorder, max_queue_size=20_000)


def topics(recorder):
    return [event.topic for event in recorder.events]


def mark(name):
    return lambda event: event.replace(payload={**event.payload, "path": [*event.payload.get("path", []), name]})


def test_reducers_run_in_order_of_registration_scoped_and_global(bus, recorder):
    bus.use(mark("first"))
    bus.use(mark("engine only"), "engine:*")
    bus.use(mark("third"), pattern="*")
    bus.use(mark("exact"), "agent:said")
    for topic in ("engine:x", "agent:said", "agent:did"):
        bus.emit(topic)
    bus.force_flush()
    assert [event.payload["path"] for event in recorder.events] == [
        ["first", "engine only", "third"],
        ["first", "third", "exact"],
        ["first", "third"],
    ]


def test_none_and_empty_lists_filter(bus, recorder):
    bus.use(lambda event: {"none": None, "list": [], "tuple": ()}.get(event.name, event), name="filter")
    for name in ("none", "list", "tuple", "other"):
        bus.emit("a", name)
    bus.force_flush()
    statistics = bus.statistics()
    assert topics(recorder) == ["a:other"]
    assert (statistics.filtered, statistics.delivered, statistics.emitted) == (3, 1, 4)
    assert statistics.reducers["filter"].filtered == 3
    assert statistics.reducers["filter"].calls == 4
    assert statistics.reducers["filter"].errors == 0


def test_a_filtered_event_reaches_no_later_reducer(bus):
    seen = []
    bus.use(lambda event: None)
    bus.use(seen.append)
    bus.emit("a", "b")
    bus.force_flush()
    assert seen == []


@pytest.mark.parametrize("result", [5, "text", {"a": 1}, [1], [Event("x", "y"), None], object(), iter([])])
def test_a_wrong_result_is_an_error_and_the_event_passes_on(bus, recorder, result):
    bus.use(lambda event: result, name="wrong")
    bus.use(mark("later"))
    bus.emit("a", "b")
    bus.force_flush()
    assert topics(recorder) == ["a:b"]
    assert recorder.events[0].payload == {"path": ["later"]}
    assert bus.statistics().reducers["wrong"].errors == 1


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError]
)
def test_a_reducer_that_raises_is_isolated(bus, recorder, error):
    def broken(event):
        raise error("broken")

    bus.use(broken)
    bus.use(mark("later"))
    for _ in range(3):
        bus.emit("a", "b")
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    assert [event.payload for event in recorder.events] == [{"path": ["later"]}] * 3
    assert statistics.reducers["broken"].errors == 3
    assert statistics.delivered == 3
    assert statistics.worker_restarts == 0


def test_a_reducer_that_fails_closed_takes_the_event_with_it(bus, recorder):
    class Redactor:
        fails_closed = True
        name = "redactor"

        def __call__(self, event):
            if event.name == "secret":
                raise ValueError
            return [event] if event.name == "wrong" else event

    class Wrong(Redactor):
        name = "wrong"

        def __call__(self, event):
            return 5 if event.name == "wrong" else event

    bus.use(Redactor())
    bus.use(Wrong())
    for name in ("open", "secret", "wrong"):
        bus.emit("a", name)
    bus.force_flush()
    statistics = bus.statistics()
    assert topics(recorder) == ["a:open"]
    assert statistics.dropped == {"reducer_error": 2}
    assert statistics.filtered == 0
    assert statistics.reducers["redactor"].errors == statistics.reducers["wrong"].errors == 1
    check_ledgers(statistics)


def test_fan_out_items_get_their_own_seq_and_inherit_time_and_trace(make_bus, recorder):
    bus = make_bus(recorder, clock=FakeClock(now=500))
    bus.use(lambda event: [event, Event("made", "here", {"n": 1}), Event("made", "there", occurred_at=9)], "a:*")
    bus.emit(Event("a", "b", occurred_at=42, trace_id=7, span_id=8, trace_flags=1))
    bus.emit("x", "y")
    bus.force_flush()
    original, here, there, last = recorder.events
    assert [event.seq for event in recorder.events] == [1, 2, 3, 4]
    assert (here.trace_id, here.span_id, here.trace_flags) == (7, 8, 1)
    assert (original.occurred_at, here.occurred_at, there.occurred_at) == (42, 42, 9)
    assert {event.timestamp for event in recorder.events} == {500}
    assert (here.boot_id, here.pid) == (last.boot_id, last.pid)
    statistics = bus.statistics()
    assert (statistics.emitted, statistics.delivered, statistics.fanned_out, statistics.seq) == (2, 2, 2, 4)


def test_the_same_event_twice_is_two_events(bus, recorder):
    bus.use(lambda event: (event, event))
    bus.use(lambda event: [event, event])
    bus.emit("a", "b", {"x": 1})
    bus.emit("a", "c")
    bus.force_flush()
    assert topics(recorder) == ["a:b"] * 4 + ["a:c"] * 4
    assert [event.seq for event in recorder.events] == list(range(1, 9))
    assert bus.statistics().fanned_out == 6


def test_a_reducer_cannot_choose_seq_or_identity(bus, recorder):
    bus.use(lambda event: event.replace(seq=99, boot_id="forged", pid=-1, timestamp=1))
    bus.emit("a", "b")
    bus.emit("a", "b")
    bus.force_flush()
    assert [event.seq for event in recorder.events] == [1, 2]
    assert {event.boot_id for event in recorder.events} == {bus.statistics().boot_id}
    assert min(event.timestamp for event in recorder.events) > 1


def test_a_changed_topic_is_matched_by_later_scopes_and_subscribers(bus, recorder):
    bus.use(lambda event: event.replace(channel="new"), "old:*")
    bus.use(mark("new"), "new:*")
    bus.use(mark("old"), "old:*")
    seen = []
    bus.subscribe("new:*", seen.append)
    bus.subscribe("old:*", seen.append)
    bus.emit("old", "b")
    bus.force_flush()
    assert topics(recorder) == ["new:b"]
    assert recorder.events[0].payload["path"] == ["new"]
    assert seen == recorder.events


def test_items_of_a_fan_out_go_through_later_reducers_only(bus, recorder):
    calls = []
    bus.use(lambda event: calls.append("split") or [event.replace(name="left"), event.replace(name="right")])
    bus.use(lambda event: calls.append(event.name) or (None if event.name == "left" else event))
    bus.emit("a", "b")
    bus.force_flush()
    assert calls == ["split", "left", "right"]
    assert topics(recorder) == ["a:right"]
    statistics = bus.statistics()
    assert (statistics.delivered, statistics.filtered, statistics.fanned_out) == (1, 0, 0)


def test_a_runaway_fan_out_is_cut(bus, recorder):
    bus.use(lambda event: [event] * (MAX_FAN_OUT + 5), name="runaway")
    bus.emit("a", "b")
    assert bus.force_flush(20_000)
    assert len(recorder.events) == MAX_FAN_OUT
    assert bus.statistics().fanned_out == MAX_FAN_OUT - 1


def test_what_reducers_put_into_payloads_is_normalised(bus, recorder):
    cycle = []
    cycle.append(cycle)
    bus.use(lambda event: event.replace(payload={"o": object(), "big": 10**400, "cycle": cycle, 5: "\ud800"}), "a:1")
    bus.use(lambda event: event.replace(payload=[1, 2]), "a:2")
    bus.use(lambda event: event.replace(payload=None, metadata={"x": {1, 2}}), "a:3")
    for name in "123":
        bus.emit("a", name, {"x": 1})
    assert bus.force_flush(10_000)
    odd, listed, empty = recorder.events
    assert set(odd.payload) == {"o", "big", "cycle", "5"}
    assert odd.metadata["degraded"]
    assert listed.payload == {"value": [1, 2]}
    assert empty.payload == {}
    assert bus.statistics().exported["Recorder"].exported == 3


@pytest.mark.parametrize("junk", [5, None, "text", [1]])
def test_junk_metadata_of_a_reducer_does_not_cost_the_event(bus, recorder, junk):
    bus.use(lambda event: event.replace(metadata=junk, payload={"o": object()}))
    bus.emit("a", "b")
    assert bus.force_flush(10_000)
    assert topics(recorder) == ["a:b"]
    assert recorder.events[0].metadata["degraded"]
    assert bus.statistics().dropped == {}


def test_a_bad_name_from_a_reducer_is_dropped_and_counted(bus, recorder):
    bus.use(lambda event: event.replace(name="not a name"), "a:1")
    bus.use(lambda event: [event.replace(channel=5), event.replace(name="kept")], "a:2")
    for name in "123":
        bus.emit("a", name)
    bus.force_flush()
    statistics = bus.statistics()
    assert topics(recorder) == ["a:kept", "a:3"]
    assert statistics.dropped == {"invalid_event": 1}
    check_seqs(recorder.events)
    check_ledgers(statistics)


def test_reducers_see_the_seq_and_time_of_their_event(bus):
    seen = []
    bus.use(lambda event: seen.append((event.seq, event.timestamp > 0, event.boot_id)) or event)
    bus.emit("a", "b")
    bus.force_flush()
    assert seen == [(1, True, bus.statistics().boot_id)]


def test_unregister_is_idempotent_and_exact(bus, recorder):
    reducer = mark("x")
    remove, _ = bus.use(reducer), bus.use(reducer)
    remove()
    remove()
    bus.emit("a", "b")
    bus.force_flush()
    assert recorder.events[0].payload["path"] == ["x"]


def test_a_reducer_may_remove_itself(bus, recorder):
    def once(event):
        remove()
        return event.replace(payload={"seen": True})

    remove = bus.use(once)
    bus.emit("a", "b")
    bus.force_flush()
    bus.emit("a", "b")
    bus.force_flush()
    assert [event.payload for event in recorder.events] == [{"seen": True}, {}]


def test_decorators(bus, recorder):
    @bus.use
    def everything(event):
        return mark("everything")(event)

    @bus.use(pattern="engine:*", name="scoped")
    def some(event):
        return mark("some")(event)

    @bus.use("agent:*")
    def others(event):
        return mark("others")(event)

    for topic in ("engine:x", "agent:x"):
        bus.emit(topic)
    bus.force_flush()
    assert [event.payload["path"] for event in recorder.events] == [["everything", "some"], ["everything", "others"]]
    assert set(bus.statistics().reducers) == {"everything", "scoped", "others"}
    assert callable(everything)
    assert callable(some)
    assert callable(others)


def test_equal_names_are_numbered(bus):
    for _ in range(3):
        bus.use(lambda event: event, name="same")
    assert list(bus.statistics().reducers) == ["same", "same#2", "same#3"]


def test_what_cannot_be_a_reducer_is_refused_at_once(bus):
    async def waits(event):
        return event

    with pytest.raises(ConfigurationError, match="async"):
        bus.use(waits)
    with pytest.raises(ConfigurationError, match="callable"):
        bus.use(5)
    with pytest.raises(PatternError):
        bus.use(lambda event: event, "no colon")


def test_a_reducer_registered_or_removed_while_events_flow_costs_none(bus, recorder):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            bus.use(lambda event: event, "a:*")()

    thread = threading.Thread(target=churn)
    thread.start()
    for _ in range(2_000):
        bus.emit("a", "b")
    assert bus.force_flush(10_000)
    stop.set()
    thread.join(10)
    assert len(recorder.events) == 2_000
