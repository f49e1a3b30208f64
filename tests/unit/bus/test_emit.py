"""`emit`: its forms, what it refuses, what it captures, and that it never hurts its caller."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import UserDict

import msgspec
import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from tests.stress.kit import FakeClock, Gate, Recorder

from zupa import Event, InvalidEventError
from zupa.transition import Transition


class Point(msgspec.Struct):
    x: int
    y: str = "north"


def transition(**changes):
    settings = {"engine": "zupa", "kind": "node", "phase": "completed", "run_id": "r", "exec_id": "e"}
    return Transition(**settings | changes)


def one(bus, recorder):
    assert bus.force_flush(10_000)
    (event,) = recorder.events
    return event


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        (("agent", "log:info", {"a": 1}), {"a": 1}),
        (("agent:log:info", {"a": 1}), {"a": 1}),
        (("agent:log:info", None, {"a": 1}), {"a": 1}),
        (("agent:log:info",), {}),
        (("agent", "log:info"), {}),
        ((Event("agent", "log:info", {"a": 1}),), {"a": 1}),
        (("agent", "log:info", Point(3)), {"x": 3, "y": "north"}),
        (("agent:log:info", Point(3)), {"x": 3, "y": "north"}),
        (("agent", "log:info", UserDict(a=1)), {"a": 1}),
        ((Event("agent", "log:info", Point(3)),), {"x": 3, "y": "north"}),
    ],
)
def test_the_forms_of_emit(make_bus, args, payload):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus.emit(*args)
    event = one(bus, recorder)
    assert (event.channel, event.name, event.topic) == ("agent", "log:info", "agent:log:info")
    assert event.payload == payload
    assert event.metadata == {}


def test_keywords(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus.emit(channel="agent", name="said", payload={"a": 1}, metadata={"route": "x"})
    event = one(bus, recorder)
    assert (event.topic, event.payload, event.metadata) == ("agent:said", {"a": 1}, {"route": "x"})


def test_the_bus_fills_in_what_a_draft_lacks(make_bus):
    recorder, clock = Recorder(), FakeClock(now=777)
    bus = make_bus(recorder, clock=clock)
    bus.emit("a", "b")
    bus.emit(Event("a", "b", {}, {"m": 1}, occurred_at=42, trace_id=7, span_id=8, trace_flags=1))
    bus.force_flush()
    first, second = recorder.events
    statistics = bus.statistics()
    assert (first.seq, first.timestamp, first.occurred_at, first.trace_id) == (1, 777, 777, 0)
    assert (second.seq, second.occurred_at, second.metadata) == (2, 42, {"m": 1})
    assert (second.trace_id, second.span_id, second.trace_flags) == (7, 8, 1)
    assert first.boot_id == statistics.boot_id
    assert first.id == f"{statistics.boot_id}-{statistics.pid}-1"


def test_a_transition_brings_its_own_trace(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder)
    with trace.use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False))):
        bus.emit("engine", "node_completed", transition(node="plan", trace_id=11, span_id=12, parent_span_id=255))
    event = one(bus, recorder)
    assert (event.trace_id, event.span_id) == (11, 12)
    assert event.payload["node"] == "plan"
    assert event.payload["parent_span_id"] == "00000000000000ff"


def test_the_current_span_goes_with_the_event_by_value(make_bus):
    recorder, gate = Recorder(), Gate()
    bus = make_bus(recorder)
    bus.use(gate)
    span = NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    with trace.use_span(span):
        bus.emit("a", "inside")
    bus.emit("a", "outside")
    gate.open()
    bus.force_flush()
    inside, outside = recorder.events
    assert (inside.trace_id, inside.span_id, inside.trace_flags) == (0xA, 0xB, 1)
    assert (outside.trace_id, outside.span_id, outside.trace_flags) == (0, 0, 0)


def test_user_code_on_the_bus_s_threads_sees_no_span_of_the_emitter(make_bus):
    seen = []
    recorder = Recorder(lambda batch: seen.append(trace.get_current_span()) or None)
    bus = make_bus(recorder)
    bus.use(lambda event: seen.append(trace.get_current_span()) or event)
    bus.subscribe("*", lambda event: seen.append(trace.get_current_span()))
    with trace.use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False))):
        bus.emit("a", "b")
        bus.force_flush()
    assert len(seen) == 3
    assert {span.get_span_context().is_valid for span in seen} == {False}


def test_exporters_run_with_instrumentation_suppressed(make_bus):
    seen = []
    bus = make_bus(Recorder(lambda batch: seen.append(context_api.get_value("suppress_instrumentation")) or None))
    bus.emit("a", "b")
    bus.force_flush()
    assert seen == [True]


def test_the_caller_may_change_its_dict_after_emit(make_bus):
    recorder, gate = Recorder(), Gate()
    bus = make_bus(recorder)
    bus.use(gate)
    payload, metadata = {"a": 1}, {"m": 1}
    bus.emit("a", "b", payload, metadata=metadata)
    payload["a"], metadata["m"] = 2, 2
    payload["late"] = True
    gate.open()
    event = one(bus, recorder)
    assert event.payload == {"a": 1}
    assert event.metadata == {"m": 1}


BAD = {
    "channel with a space": ("my channel", "b"),
    "empty channel": ("", "b"),
    "empty name": ("a", ""),
    "no name": ("a",),
    "double colon": ("a", "b::c"),
    "name ends with a colon": ("a:b:",),
    "channel with a colon": ("a:b", "c"),
    "channel is no str": (5, "b"),
    "channel is unhashable": ([], "b"),
    "name is no str": ("a", 5),
    "nothing": (None,),
    "topic too long": ("a" * 200, "b" * 200),
    "line feed": ("a", "b\n"),
    "payload is a list": ("a", "b", [1]),
    "payload is a str": ("a", "b", "text"),
    "payload is a set": ("a:b", {1}),
    "metadata with a draft's name": (Event("a", "b"), "c"),
    "draft with a payload beside it": (Event("a", "b"), None, {"x": 1}),
    "draft with a bad name": (Event("a b", "c"),),
    "draft with a bad payload": (Event("a", "b", [1]),),
    "draft with bad metadata": (Event("a", "b", {}, 5),),
}


@pytest.mark.parametrize("args", BAD.values(), ids=BAD.keys())
def test_what_is_no_event_is_counted(make_bus, args):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus.emit(*args)
    bus.emit("good", "one")
    event = one(bus, recorder)
    assert event.topic == "good:one"
    assert event.seq == 1
    assert bus.statistics().dropped == {"invalid_event": 1}
    assert bus.statistics().emitted == 2


@pytest.mark.parametrize("args", BAD.values(), ids=BAD.keys())
def test_a_strict_bus_says_what_is_wrong_with_it(make_bus, args):
    bus = make_bus(strict=True)
    with pytest.raises(InvalidEventError, match=r"channel|name|payload|metadata|topic|emit\("):
        bus.emit(*args)
    assert bus.statistics().emitted == 0


def test_bad_metadata(make_bus):
    bus = make_bus()
    for metadata in (5, [("a", 1, 2)], "text"):
        bus.emit("a", "b", metadata=metadata)
    bus.force_flush()
    assert bus.statistics().dropped == {"invalid_event": 3}
    with pytest.raises(InvalidEventError, match="metadata"):
        make_bus(strict=True).emit("a", "b", metadata=5)


def test_a_strict_bus_takes_what_is_right_every_time(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder, strict=True)
    for _ in range(3):
        bus.emit("a:b", {"x": 1})
        bus.emit(Event("a", "b"))
    with pytest.raises(InvalidEventError):
        bus.emit("a b", "c")
    bus.force_flush()
    assert len(recorder.events) == 6


def test_bad_events_are_warned_of_once(make_bus, caplog):
    caplog.set_level(logging.WARNING, "zupa.bus")
    bus = make_bus()
    for index in range(20):
        bus.emit(f"bad name {index}", "x")
    bus.force_flush()
    warnings = [x for x in caplog.records if "an event was dropped" in x.getMessage()]
    assert len(warnings) == 1
    assert "bad name 0" in warnings[0].getMessage()
    assert bus.statistics().dropped == {"invalid_event": 20}


class Loud:
    def __init__(self, error):
        self.error = error

    def __str__(self):
        raise self.error

    __repr__ = __str__


class LoudMapping(UserDict):
    def items(self):
        raise SystemExit("no items for you")

    values = items


class LoudKeys(dict):
    def __iter__(self):
        raise RuntimeError("no keys for you")

    keys = values = items = __iter__


class Endless(UserDict):
    def items(self):
        return zip(itertools.count(), itertools.repeat(0))

    def values(self):
        return itertools.repeat(0)


class EndlessList(list):
    def __iter__(self):
        return itertools.repeat(0)


def deep():
    value = {}
    for _ in range(10_000):
        value = {"deeper": value}
    return value


def cycle():
    value = {"list": []}
    value["list"].append(value)
    return value


HOSTILE = {
    "raising __str__": lambda: {"x": Loud(ValueError("no"))},
    "exiting __str__": lambda: {"x": Loud(SystemExit(3))},
    "cycle": cycle,
    "10,000 deep": deep,
    "integer of 401 digits": lambda: {"x": 10**400},
    "integer of 5001 digits": lambda: {"x": 10**5000},
    "surrogates": lambda: {"x": "\ud800 lone", "\udfff": 1},
    "object": lambda: {"x": object()},
    "lock": lambda: {"x": threading.Lock()},
    "exiting mapping": LoudMapping,
    "endless mapping": Endless,
    "endless list": lambda: {"x": EndlessList([0])},
    "raising dict": lambda: LoudKeys(a=1),
    "keys that are no str": lambda: {(1, 2): 3},
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_one_hostile_event_among_511_good_ones(make_bus, hostile):
    recorder = Recorder()
    bus = make_bus(recorder)
    for index in range(512):
        if index == 200:
            bus.emit("bad", "one", hostile())
        else:
            bus.emit("good", "one", {"index": index, "text": "x" * 10})
    assert bus.force_flush(20_000)
    good = [event for event in recorder.events if event.channel == "good"]
    assert [event.payload["index"] for event in good] == [index for index in range(512) if index != 200]
    assert all(event.metadata == {} for event in good)
    (bad,) = [event for event in recorder.events if event.channel == "bad"]
    assert bad.metadata["degraded"]
    assert bus.statistics().degraded == 1
    assert bus.statistics().emitted == 512
    assert bus.statistics().exported["Recorder"].exported == 512


def test_nan_and_infinity_pass_whole(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder)
    bus.emit("a", "b", {"nan": float("nan"), "inf": float("inf")})
    event = one(bus, recorder)
    assert event.payload["nan"] != event.payload["nan"]
    assert event.payload["inf"] == float("inf")
    assert event.metadata == {}


class LoudSpan(NonRecordingSpan):
    def get_span_context(self):
        raise RuntimeError("no context for you")


def test_a_broken_span_costs_its_event_and_nothing_else(make_bus):
    bus = make_bus()
    token = context_api.attach(trace.set_span_in_context(LoudSpan(SpanContext(1, 2, is_remote=False))))
    try:
        bus.emit("a", "b", {"big": "x" * 5_000})
    finally:
        context_api.detach(token)
    bus.force_flush()
    statistics = bus.statistics()
    assert (statistics.emitted, statistics.dropped, statistics.queued) == (1, {"invalid_event": 1}, 0)
