"""Normalisation of anything hypothesis can think of: plain, bounded, encodable, idempotent."""

from __future__ import annotations

import datetime as dt
import decimal
import enum

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal import _encode_value
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from zupa.normalize import MAX_DEPTH, normalize


class Colour(enum.Enum):
    RED = "red"
    NESTED = (1, ("two", [3.0]))


class Record(msgspec.Struct):
    a: object = None
    b: object = None


class Loud:
    def __init__(self, error):
        self.error = error

    def __str__(self):
        raise self.error


any_text = st.text(
    st.characters(categories=None) | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=("Cs",))
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | any_text
    | st.binary()
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.decimals()
    | st.complex_numbers()
    | st.sampled_from([Colour.RED, Colour.NESTED, Ellipsis, object, dt.time.max, decimal.Decimal("sNaN")])
    | any_text.map(ValueError)
    | any_text.map(lambda text: Loud(KeyError(text)))
    | st.integers(400, 5000).map(lambda digits: 10**digits)
    | st.just(Loud(SystemExit()))
)
keys = any_text | st.integers() | st.none() | st.floats() | st.tuples(st.integers())
things = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.tuples(inner, inner)
        | st.builds(Record, inner, inner)
        | st.lists(inner, max_size=3).map(lambda args: RuntimeError(*args))
    ),
    max_leaves=30,
)


def depth_of(value):
    children = value.values() if type(value) is dict else value if type(value) is list else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def is_plain(value):
    cls = type(value)
    if cls is int:
        return -(2**63) <= value < 2**63
    if cls is str:
        return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if cls is list:
        return all(map(is_plain, value))
    if cls is dict:
        return all(type(key) is str and is_plain(key) and is_plain(item) for key, item in value.items())
    return cls in (type(None), bool, float, bytes)


def from_otlp(value):
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [from_otlp(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: from_otlp(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind)


def encoded(value):
    return msgspec.msgpack.encode(value)  # bytes compare equal for NaN too


@settings(max_examples=400, deadline=None)
@given(things)
def test_any_object_becomes_plain_data_that_survives_the_wire(thing):
    result, reasons = normalize(thing)
    assert type(result) is dict
    assert is_plain(result)
    assert depth_of(result) <= MAX_DEPTH
    assert all(type(reason) is str and reason for reason in reasons)
    assert encoded(msgspec.msgpack.decode(encoded(result))) == encoded(result)
    received = AnyValue.FromString(_encode_value(result).SerializeToString())
    assert encoded(from_otlp(received)) == encoded(result)


@settings(max_examples=400, deadline=None)
@given(things)
def test_a_second_pass_changes_nothing_and_finds_nothing(thing):
    once, _ = normalize(thing)
    twice, reasons = normalize(once)
    assert encoded(twice) == encoded(once)
    assert reasons == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), plain, max_size=5))
def test_plain_data_is_copied_unchanged(payload):
    before = encoded(payload)
    result, reasons = normalize(payload)
    assert encoded(result) == before == encoded(payload)
    assert reasons == []
    assert result is not payload


@settings(deadline=None)
@given(st.integers(0, 60), st.sampled_from(["list", "dict", "record", "mixed"]), plain)
def test_any_depth_is_cut_to_the_limit(levels, kind, leaf):
    deep = leaf
    for level in range(levels):
        wrap = {"list": 0, "dict": 1, "record": 2, "mixed": level % 3}[kind]
        deep = [[deep], {"k": deep}, Record(deep)][wrap]
    result, reasons = normalize({"x": deep})
    assert depth_of(result) <= MAX_DEPTH
    assert ("too_deep" in reasons) == (levels + depth_of(leaf) + 1 > MAX_DEPTH)
