"""`Event` and the grammar of its names."""

from __future__ import annotations

import msgspec
import pytest

from zupa.errors import InvalidEventError
from zupa.event import MAX_TOPIC_LENGTH, Event, check_names, split_topic


def test_a_draft_needs_a_channel_and_a_name_only():
    event = Event("engine", "node_started")
    assert event.topic == "engine:node_started"
    assert (event.payload, event.metadata, event.seq, event.timestamp, event.trace_id) == ({}, {}, 0, 0, 0)


def test_drafts_do_not_share_their_payload():
    first, second = Event("a", "b"), Event("a", "b")
    assert first.payload is not second.payload


def test_events_are_immutable_and_compare_by_value():
    event = Event("a", "b", {"x": 1})
    with pytest.raises(AttributeError):
        event.name = "c"
    assert event == Event("a", "b", {"x": 1})
    assert event != Event("a", "b", {"x": 2})


def test_replace_makes_a_changed_copy():
    event = Event("a", "b", {"x": 1}, seq=7)
    changed = event.replace(name="c", payload={})
    assert changed == Event("a", "c", {}, seq=7)
    assert event == Event("a", "b", {"x": 1}, seq=7)
    with pytest.raises(TypeError):
        event.replace(colour="red")


def test_the_id_names_bus_process_and_position():
    assert Event("a", "b", seq=3, boot_id="00ff00ff00ff00ff", pid=42).id == "00ff00ff00ff00ff-42-3"


def test_events_survive_msgpack():
    event = Event("a", "b", {"x": [1, "ü", b"z"]}, {"m": None}, seq=1, timestamp=2, occurred_at=3, span_id=2**64 - 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Event) == event


@pytest.mark.parametrize(
    ("topic", "parts"),
    [("agent:log:info", ("agent", "log:info")), ("agent", ("agent", "")), (":x", ("", "x")), ("a:", ("a", ""))],
)
def test_a_topic_is_split_at_its_first_colon(topic, parts):
    assert split_topic(topic) == parts


@pytest.mark.parametrize(
    ("channel", "name"), [("a", "b"), ("my-service/v1.2", "log:info:x_y"), ("0", "9"), ("a", "b" * 253)]
)
def test_names_within_the_grammar_pass(channel, name):
    check_names(channel, name)


@pytest.mark.parametrize(
    ("channel", "name", "says"),
    [
        ("", "b", "channel ''"),
        ("a:b", "c", "channel 'a:b'"),
        ("a b", "c", "channel 'a b'"),
        ("é", "c", "channel"),
        ("a\n", "c", "channel"),
        ("a", "", "name ''"),
        ("a", ":b", "name ':b'"),
        ("a", "b:", "name 'b:'"),
        ("a", "b::c", "name 'b::c'"),
        ("a", "b\n", "name"),
        ("a", "*", "name"),
        (1, "b", "got int and str"),
        ("a", None, "got str and NoneType"),
        ("a", "b" * (MAX_TOPIC_LENGTH - 1), "longer than 255"),
    ],
)
def test_names_outside_the_grammar_are_refused_by_name(channel, name, says):
    with pytest.raises(InvalidEventError, match=says):
        check_names(channel, name)
