"""Normalisation, one hostile object at a time. The oracle is `assert_plain`."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import numbers
import pathlib
import sys
import threading
import types
import uuid
from collections.abc import Mapping, Sequence
from unittest import mock

import msgspec
import pytest
from opentelemetry.exporter.otlp.proto.common._internal import _encode_value
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from zupa.normalize import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_STACKTRACE,
    MAX_STRING,
    MAX_TEXT,
    clean_text,
    error_type,
    normalize,
    safe_str,
)


def depth_of(value):
    if type(value) is dict:
        return 1 + max(map(depth_of, value.values()), default=0)
    if type(value) is list:
        return 1 + max(map(depth_of, value), default=0)
    return 0


def assert_exact_types(value):
    cls = type(value)
    assert cls in (type(None), bool, int, float, str, bytes, list, dict)
    if cls is int:
        assert -(2**63) <= value < 2**63
    elif cls is str:
        value.encode("utf-8")
    elif cls is list:
        for item in value:
            assert_exact_types(item)
    elif cls is dict:
        for key, item in value.items():
            assert type(key) is str
            key.encode("utf-8")
            assert_exact_types(item)


def assert_plain(payload):
    """Normalise *payload*, check everything that is promised of any result, and return the result."""
    result, reasons = normalize(payload)
    assert type(result) is dict
    assert_exact_types(result)
    assert depth_of(result) <= MAX_DEPTH
    encoded = msgspec.msgpack.encode(result)
    AnyValue.FromString(_encode_value(result).SerializeToString())
    again, none = normalize(result)
    assert msgspec.msgpack.encode(again) == encoded
    assert none == []
    return result, reasons


def value_of(thing):
    result, reasons = assert_plain({"x": thing, "neighbour": 1})
    assert result["neighbour"] == 1, "a bad value must not cost its neighbours"
    return result["x"], reasons


def test_plain_payloads_come_back_equal_with_nothing_to_report():
    payload = {"a": 1, "b": "text", "c": [1.5, None, True, {"d": b"x"}], "é": "ü", "empty": {}, "": []}
    assert assert_plain(payload) == (payload, [])


def test_none_is_the_empty_payload_and_other_scalars_get_a_key():
    assert assert_plain(None) == ({}, [])
    assert assert_plain("text") == ({"value": "text"}, [])
    assert assert_plain([1, [2]]) == ({"value": [1, [2]]}, [])


def test_the_result_is_a_copy_and_the_original_is_not_changed():
    inner = {"b": [1, "\ud800"]}
    payload = {"a": inner, 3: "c"}
    before = copy.deepcopy(payload)
    result, _ = assert_plain(payload)
    assert payload == before
    assert result["a"] is not inner
    inner["b"].append(2)
    assert len(result["a"]["b"]) == 2


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (-(2**63), -(2**63)),
        (2**63 - 1, 2**63 - 1),
        (float("inf"), float("inf")),
        (enum.IntEnum("Number", {"ONE": 1}).ONE, 1),
        (enum.Enum("Colour", {"RED": "red"}).RED, "red"),
        ((1, 2), [1, 2]),
        (frozenset({7}), [7]),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserString("text"), "text"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), "2024-01-02T03:04:05+00:00"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.timedelta(milliseconds=1500), 1.5),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (fractions.Fraction(1, 2), 0.5),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
    ],
    ids=repr,
)
def test_what_has_an_obvious_plain_form_gets_it(thing, expected):
    assert value_of(thing) == (expected, [])


def test_not_a_number_stays_a_float():
    value, reasons = value_of(float("nan"))
    assert value != value  # noqa: PLR0124
    assert reasons == []


@pytest.mark.parametrize(
    ("number", "text"), [(2**63, str(2**63)), (-(2**63) - 1, str(-(2**63) - 1)), (10**400, "1" + "0" * 400)]
)
def test_integers_beyond_64_bits_become_text(number, text):
    assert value_of(number) == (text, ["integer_over_64_bits"])


def test_integers_that_python_refuses_to_print_are_described():
    value, reasons = value_of(10**5000)
    limited = getattr(sys, "get_int_max_str_digits", int)() > 0
    assert value == (f"<integer of {(10**5000).bit_length()} bits>" if limited else str(10**5000))
    assert reasons == ["integer_over_64_bits"]


def test_lone_surrogates_are_replaced_in_values_and_keys():
    result, reasons = assert_plain({"a": "x\ud800y", "k\udfff": "ok", "pair": "\U0001f600"})
    assert result == {"a": "x\ufffdy", "k\ufffd": "ok", "pair": "\U0001f600"}
    assert reasons == ["surrogates"]


def test_keys_that_are_no_strings_are_printed():
    result, reasons = assert_plain({1: "a", None: "b", (1, 2): "c"})
    assert result == {"1": "a", "None": "b", "(1, 2)": "c"}
    assert reasons == ["key_not_str"]


def test_keys_that_become_equal_are_reported():
    result, reasons = assert_plain({"1": "a", 1: "b"})
    assert result == {"1": "b"}
    assert set(reasons) == {"key_not_str", "key_collision"}


@pytest.mark.parametrize("kind", [list, dict])
def test_a_container_that_holds_itself_is_cut_at_the_cycle(kind):
    thing = kind()
    if kind is list:
        thing.append(thing)
        assert value_of(thing) == (["<cycle: list>"], ["cycle"])
    else:
        thing["me"] = thing
        assert value_of(thing) == ({"me": "<cycle: dict>"}, ["cycle"])
        assert assert_plain(thing) == ({"me": "<cycle: dict>"}, ["cycle"])


def test_the_same_object_twice_is_no_cycle():
    shared = [1]
    assert value_of([shared, shared]) == ([[1], [1]], [])


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}, lambda x: (x,)], ids=["list", "dict", "tuple"])
def test_deep_structures_are_cut_not_crashed_on(wrap):
    deep = 0
    for _ in range(10_000):
        deep = wrap(deep)
    result, reasons = assert_plain({"x": deep})
    assert depth_of(result) == MAX_DEPTH
    assert reasons == ["too_deep"]
    result, reasons = assert_plain(deep)
    assert depth_of(result) == MAX_DEPTH
    assert reasons == ["too_deep"]
    while deep:  # unwrapped by hand, because the interpreter's own clean-up and comparison recurse
        deep = next(iter(deep.values())) if isinstance(deep, dict) else deep[0]


@pytest.mark.parametrize("levels", [MAX_DEPTH - 3, MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
def test_an_exception_or_enum_at_the_deepest_level_keeps_the_depth(levels):
    deep = [ValueError("boom"), enum.Enum("Nested", {"A": [[1]]}).A]
    for _ in range(levels):
        deep = [deep]
    assert_plain({"x": deep})
    assert_plain(deep)


@pytest.mark.parametrize(
    "thing", [list(range(1_000_000)), dict.fromkeys(range(100_000)), [[]] * 50_000], ids=["list", "dict", "nested"]
)
def test_wide_structures_are_cut(thing):
    result, reasons = assert_plain({"x": thing})
    assert 100 < len(result["x"]) <= MAX_NODES
    assert "too_many_items" in reasons


def test_exceptions_count_towards_the_limit_of_items():
    _, reasons = assert_plain({"x": [ValueError(str(number)) for number in range(MAX_NODES // 2)]})
    assert "too_many_items" in reasons


def test_huge_strings_and_bytes_are_cut():
    assert value_of("x" * (MAX_STRING + 1)) == ("x" * MAX_STRING, ["string_cut"])
    assert value_of(b"x" * (MAX_STRING + 1)) == (b"x" * MAX_STRING, ["bytes_cut"])
    assert value_of("é" * MAX_STRING) == ("é" * MAX_STRING, [])


def test_many_large_strings_share_one_allowance():
    result, reasons = assert_plain({"x": ["y" * 100_000] * 200})
    assert sum(map(len, result["x"])) <= MAX_TEXT + 200 * 256
    assert reasons == ["string_cut"]


class Hostile:
    def __init__(self, error):
        self.error = error

    def _raise(self, *_):
        raise self.error

    __str__ = __repr__ = __iter__ = __len__ = __bool__ = __eq__ = _raise
    __hash__ = object.__hash__

    def __getattr__(self, name):
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("no"), RecursionError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr
)
def test_objects_that_raise_cost_themselves_only(error):
    name = type(error).__name__
    value, reasons = value_of(Hostile(error))
    assert value == f"<unprintable Hostile: {name}>"
    assert reasons == ["not_data:Hostile", f"unprintable:{name}"]
    result, reasons = assert_plain({Hostile(error): 1})
    assert result == {f"<unprintable Hostile: {name}>": 1}


class LyingClass:
    def __init__(self, lie):
        self.lie = lie

    @property
    def __class__(self):
        if isinstance(self.lie, BaseException):
            raise self.lie
        return self.lie


@pytest.mark.parametrize(
    "lie",
    [
        dict,
        list,
        str,
        int,
        float,
        bool,
        bytes,
        tuple,
        ValueError,
        type(None),
        enum.Enum,
        uuid.UUID,
        ValueError("no"),
        SystemExit(),
    ],
    ids=repr,
)
def test_objects_that_lie_about_their_class(lie):
    value, _ = value_of(LyingClass(lie))
    assert "LyingClass" in str(value)
    result, _ = assert_plain({LyingClass(lie): 1, "neighbour": 2})
    assert sorted(result.values()) == [1, 2]


def test_mocks_are_survived():
    for spec in (None, dict, list, str, int, Mapping, ValueError, ValueError("x"), enum.Enum):
        value_of(mock.MagicMock(spec=spec))
        assert_plain(mock.MagicMock(spec=spec))


class BadMapping(Mapping):
    def __init__(self, items):
        self._items = items

    def __len__(self):
        raise OverflowError

    def __iter__(self):
        raise RuntimeError

    def __getitem__(self, key):
        raise RuntimeError

    def items(self):
        if isinstance(self._items, BaseException):
            raise self._items
        return self._items


def endless():
    number = 0
    while True:
        yield str(number), number
        number += 1


def test_mappings_that_lie():
    assert value_of(BadMapping([("a", 1)])) == ({"a": 1}, [])
    assert value_of(BadMapping(OSError())) == ("<unreadable BadMapping: OSError>", ["unreadable:OSError"])
    assert value_of(BadMapping(KeyboardInterrupt())) == (
        "<unreadable BadMapping: KeyboardInterrupt>",
        ["unreadable:KeyboardInterrupt"],
    )
    assert value_of(BadMapping([1, 2]))[1] == ["unreadable:TypeError"]
    result, reasons = assert_plain({"x": BadMapping(endless())})
    assert len(result["x"]) == MAX_NODES - 2
    assert reasons == ["too_many_items"]
    assert assert_plain(BadMapping(OSError()))[0] == {"value": "<unreadable BadMapping: OSError>"}


class EndlessSequence(Sequence):
    def __len__(self):
        raise RuntimeError

    def __getitem__(self, index):
        return index


class SelfSequence(Sequence):
    """Every item is a new sequence of the same kind: no cycle by identity, no end."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index >= 2:
            raise IndexError
        return SelfSequence()


def test_sequences_without_end():
    result, reasons = assert_plain({"x": EndlessSequence()})
    assert len(result["x"]) == MAX_NODES - 2
    assert reasons == ["too_many_items"]
    _, reasons = assert_plain({"x": SelfSequence()})
    assert reasons


def test_generators_are_not_consumed():
    generator = (number for number in range(3))
    value, reasons = value_of(generator)
    assert value.startswith("<generator object")
    assert reasons == ["not_data:generator"]
    assert list(generator) == [0, 1, 2]


class HostileStr(str):
    __slots__ = ()

    def _raise(self, *_):
        raise SystemExit

    __str__ = __repr__ = __len__ = isascii = encode = __getitem__ = __format__ = __iter__ = __eq__ = _raise
    __hash__ = str.__hash__


class HostileInt(int):
    def _raise(self, *_):
        raise SystemExit

    __str__ = __repr__ = __int__ = __index__ = __le__ = __ge__ = __lt__ = __gt__ = __trunc__ = _raise


class HostileFloat(float):
    def __float__(self):
        raise SystemExit


class HostileBytes(bytes):
    def __bytes__(self):
        raise SystemExit


@pytest.mark.parametrize(
    ("thing", "plain"),
    [(HostileStr("a"), "a"), (HostileInt(5), 5), (HostileFloat(1.5), 1.5), (HostileBytes(b"a"), b"a")],
    ids=["str", "int", "float", "bytes"],
)
def test_subclasses_of_plain_types_are_read_without_their_methods(thing, plain):
    value, reasons = value_of(thing)
    assert (value, type(value), reasons) == (plain, type(plain), [])


def test_hostile_string_keys_and_str_that_returns_a_subclass():
    assert assert_plain({HostileStr("a"): 1}) == ({"a": 1}, [])

    class Printed:
        def __str__(self):
            return HostileStr("text")

    assert value_of(Printed())[0] == "text"
    assert safe_str(Printed()) == "text"


@dataclasses.dataclass
class Node:
    name: str
    child: object = None


def test_dataclasses_become_dicts_and_their_cycles_are_cut():
    assert value_of(Node("a", Node("b"))) == ({"name": "a", "child": {"name": "b", "child": None}}, [])
    loop = Node("a")
    loop.child = [loop]
    assert value_of(loop) == ({"name": "a", "child": ["<cycle: Node>"]}, ["cycle"])
    assert value_of(Node)[1] == ["not_data:type"]


class Struct(msgspec.Struct):
    a: int
    b: object = None


def test_structs_become_dicts():
    assert assert_plain(Struct(1, Struct(2))) == ({"a": 1, "b": {"a": 2, "b": None}}, [])
    loop = Struct(1)
    loop.b = loop
    assert assert_plain(loop) == ({"a": 1, "b": "<cycle: Struct>"}, ["cycle"])


class PydanticLike:
    """What pydantic's BaseModel looks like from outside."""

    __pydantic_fields__ = {"role": object(), "api_key": object()}  # noqa: RUF012

    def __init__(self):
        self.role = "user"
        self.api_key = "abc"
        self._private = 1

    def __iter__(self):
        yield from self.__dict__.items()


def test_models_become_dicts_of_their_fields_so_that_redaction_sees_the_names():
    assert value_of(PydanticLike()) == ({"role": "user", "api_key": "abc"}, [])


def test_exceptions_become_type_message_and_stack():
    try:
        raise ValueError("boom \ud800")  # noqa: TRY301
    except ValueError as caught:
        error = caught
    value, _ = value_of(error)
    assert value["type"] == "ValueError"
    assert value["message"] == "boom \ufffd"
    assert "test_exceptions_become_type_message_and_stack" in value["stacktrace"]
    assert set(assert_plain(error)[0]) == {"type", "message", "stacktrace"}


class Unprintable(Exception):  # noqa: N818
    def __str__(self):
        raise self.args[0]


@pytest.mark.parametrize("inner", [ValueError(), SystemExit(), KeyboardInterrupt()], ids=repr)
def test_exceptions_that_cannot_be_printed(inner):
    value, reasons = value_of(Unprintable(inner))
    assert value["type"].endswith("Unprintable")
    assert value["message"] == f"<unprintable Unprintable: {type(inner).__name__}>"
    assert f"unprintable:{type(inner).__name__}" in reasons


class EndlessCause(Exception):  # noqa: N818
    @property
    def __cause__(self):
        return EndlessCause()


def test_made_up_causes_are_not_followed():
    value, reasons = value_of(EndlessCause("x"))
    assert value["message"] == "x"
    assert reasons == ["stacktrace:overridden"]


def test_endless_causes_and_large_groups():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert "2" in value_of(first)[0]["stacktrace"]
    long = ValueError("x" * 100_000)
    value, reasons = value_of(long)
    assert len(value["stacktrace"]) == MAX_STACKTRACE
    assert {"string_cut", "stacktrace_cut"} <= set(reasons)
    if sys.version_info >= (3, 11):
        group = ExceptionGroup("many", [ValueError("inner-one"), ExceptionGroup("deeper", [KeyError("inner-two")])])  # noqa: F821
        value, _ = value_of(group)
        assert "inner-one" in value["stacktrace"]
        assert "inner-two" in value["stacktrace"]


class LyingMeta(type):
    def __getattribute__(cls, name):
        raise SystemExit(name)


def test_types_whose_names_cannot_be_read():
    lying = LyingMeta("LyingName", (), {})  # not at module level: pytest itself would die of it
    assert "LyingName" in value_of(lying())[0]
    surrogate = type("Plain", (), {})
    surrogate.__qualname__ = "\ud800"
    assert value_of(surrogate())[1] == ["not_data:\ufffd", "surrogates"]
    error = LyingMeta("LyingError", (Exception,), {})("x")
    assert error_type(error) == "LyingError"
    assert value_of(error)[0]["type"] == "LyingError"


def test_error_type_is_qualified_but_for_builtins():
    assert error_type(KeyError()) == "KeyError"
    assert error_type(msgspec.ValidationError()) == "msgspec.ValidationError"


def test_enums_whose_value_is_the_member_end():
    class Loop(enum.Enum):
        A = 1

        @property
        def value(self):
            return self

    assert type(value_of(Loop.A)[0]) is str


def test_released_buffers_are_survived():
    view = memoryview(b"abc")
    view.release()
    assert value_of(view) == ("<unreadable memoryview: ValueError>", ["unreadable:ValueError"])


def test_a_dict_that_another_thread_changes():
    shared = {str(number): number for number in range(500)}
    stop, running = threading.Event(), threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            shared[f"new{number % 700}"] = number
            shared.pop(f"new{(number * 7) % 700}", None)
            number += 1
            running.set()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        assert running.wait(10)
        for _ in range(300):
            result, reasons = normalize({"x": shared, "neighbour": 1})
            assert result["neighbour"] == 1
            assert reasons == []
            assert len(result["x"]) >= 500
    finally:
        stop.set()
        thread.join()


class NumpyLikeInteger:
    def __index__(self):
        return 7


numbers.Integral.register(NumpyLikeInteger)


def test_integers_of_other_libraries_are_integers():
    assert value_of(NumpyLikeInteger()) == (7, [])


def test_running_out_of_memory_costs_the_payload_only(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("zupa.normalize._take", fail)
    large = dict.fromkeys(range(MAX_NODES + 1))
    assert normalize(large) == ({"value": "<unreadable payload>"}, ["unreadable:MemoryError"])


def test_safe_str_never_raises():
    assert safe_str(Hostile(SystemExit())) == "<unprintable Hostile: SystemExit>"


def test_clean_text_and_safe_str_cut():
    assert clean_text("abcdef", 3) == "abc"
    assert type(clean_text(HostileStr("abc"))) is str
    assert safe_str([1, 2, 3], 4) == "[1, "
