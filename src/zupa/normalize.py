"""Payload normalisation: a total function from any Python object to plain data.

One bad event must never cost its batch, so normalisation is done per event, in the worker, before any reducer,
subscriber or exporter sees the payload. Whatever the object, the result is made of `None`, `bool`, `int` (64-bit,
signed), `float`, `str` (valid UTF-8), `bytes`, `list` and `dict` with `str` keys, of these exact types, at most
`MAX_DEPTH` deep and `MAX_NODES` large. What could not be carried whole is replaced by a string that says so, and the
caller is told. Normalising the result again changes nothing and finds nothing.

The original is read, never changed, and iterators are never consumed. Objects are asked as little as can be, and each
one that is not plain has its own ``except``, so that a hostile one costs itself alone and not its neighbours.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import numbers
import operator
import os
import re
import traceback
import uuid
from collections import UserString
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 16
"""Deeper structures are cut: three protobuf messages a level meet the parsers' limit of 100."""

MAX_NODES: Final = 20_000
"""Keys and items of one payload; a payload beyond it is cut."""

MAX_STRING: Final = 1024 * 1024
"""Characters of one string, and bytes of one bytes object; a longer one is cut."""

MAX_TEXT: Final = 2 * 1024 * 1024
"""Characters and bytes of one payload together; only strings longer than 256 are counted. Receivers of OTLP over gRPC
refuse messages of more than 4 MiB, and with them the whole batch."""

MAX_STACKTRACE: Final = 32 * 1024

_SHORT: Final = 256
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_AS_IS: Final = frozenset({type(None), bool, float})
_TRACE: Final = ("__traceback__", "__cause__", "__context__")
_SEQUENCES: Final = frozenset({list, tuple})
# Read from `type` itself, because a metaclass may override the attributes.
_qualname = type.__dict__["__qualname__"].__get__
_mro = type.__dict__["__mro__"].__get__
_namespace = type.__dict__["__dict__"].__get__

# Where classes of records keep the names of their fields: dataclasses, pydantic 2 (two spellings) and 1, attrs.
_FIELD_TABLES: Final = ("__dataclass_fields__", "__pydantic_fields__", "model_fields", "__fields__", "__attrs_attrs__")


class Degradation:
    """Counts, for one payload, what it holds and what could not be carried whole."""

    __slots__ = ("nodes", "reasons", "text")

    def __init__(self) -> None:
        self.nodes: int = 0
        self.text: int = 0
        self.reasons: list[str] = []

    def note(self, reason: str) -> None:
        """Remember *reason* once."""
        if reason not in self.reasons:
            self.reasons.append(reason)


def normalize(payload: Any) -> tuple[dict[str, Any], list[str]]:
    """Return *payload* as plain data, and the reasons why it is not whole (empty when it is).

    Args:
        payload: A mapping or a `msgspec.Struct`. Anything else becomes ``{"value": ...}``.

    Never raises, not even for objects whose ``__str__``, ``__iter__`` or ``__getattr__`` raise or recurse. Exceptions
    become ``{"type", "message", "stacktrace"}``; dataclasses, attrs and pydantic objects become dicts of their fields,
    so that reducers can tell their fields by name.
    """
    state = Degradation()
    if payload is None:
        return {}, state.reasons
    try:
        if type(payload) is dict:
            return _mapping(payload, state, 1, (id(payload),)), state.reasons
        value = _value(payload, state, 0, ())
        if type(value) is dict:
            return value, state.reasons
        state = Degradation()  # again, because the wrapping dict takes one level and one node of what is allowed
        return {"value": _value(payload, state, 1, ())}, state.reasons
    except BaseException as error:  # noqa: BLE001 - a hostile object may raise SystemExit; the worker must go on
        state.note(f"unreadable:{_type_name(error)}")
        return {"value": "<unreadable payload>"}, state.reasons


def safe_str(value: object, limit: int = MAX_STRING) -> str:
    """``str(value)`` that never raises and is valid UTF-8, cut to *limit* characters."""
    try:
        return clean_text(str(value), limit)
    except BaseException as error:  # noqa: BLE001
        return f"<unprintable {_type_name(value)}: {_type_name(error)}>"


def clean_text(text: str, limit: int = MAX_STRING) -> str:
    """Cut *text* to *limit* characters and replace lone surrogates by U+FFFD. The result is exactly a `str`."""
    if type(text) is not str:
        text = str.__str__(text)  # the subclass's own methods may do anything
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def error_type(error: BaseException) -> str:
    """The qualified class name, without the module for builtins: OpenTelemetry's `error.type`."""
    name = _type_name(error)
    try:
        module = type(error).__module__
    except BaseException:  # noqa: BLE001 - a property of the metaclass
        return name
    return name if module in ("builtins", "__main__") else f"{safe_str(module, _SHORT)}.{name}"


def _type_name(value: object) -> str:
    return clean_text(_qualname(type(value)), _SHORT)


def _value(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    """Normalise one value. *parents* holds the ids of the enclosing containers: a cycle is a repeat among them."""
    cls = type(value)
    if cls in _AS_IS:
        return value
    if cls is str:
        return _text(value, state)
    if cls is int:
        return _integer(value, state)
    return _object(value, state, depth, parents)


def _object(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    state.nodes += 1
    if state.nodes > MAX_NODES:
        state.note("too_many_items")
        return "<cut: too many items>"
    try:
        if type(value) is dict or type(value) in _SEQUENCES or _is_container(value):
            return _container(value, state, depth, parents)
        return _scalar(value, state, depth, parents)
    except BaseException as error:  # noqa: BLE001 - includes RecursionError and "changed size during iteration"
        state.note(f"unreadable:{_type_name(error)}")
        return f"<unreadable {_type_name(value)}: {_type_name(error)}>"


def _is_container(value: object) -> bool:
    if isinstance(value, str | bytes | bytearray | memoryview | UserString):
        return False
    return isinstance(value, Mapping | msgspec.Struct | AbstractSet | Sequence)


def _text(value: str, state: Degradation) -> str:
    if len(value) > _SHORT:
        room = max(_SHORT, min(MAX_STRING, MAX_TEXT - state.text))
        if len(value) > room:
            state.note("string_cut")
            value = value[:room]
        state.text += len(value)
    if value.isascii():
        return value
    cleaned = _SURROGATES.sub("\ufffd", value)
    if cleaned != value:
        state.note("surrogates")
    return cleaned


def _printed(value: object, state: Degradation, limit: int = MAX_STRING) -> str:
    """`safe_str` that tells *state* what it had to do."""
    try:
        text = str.__str__(str(value))
    except BaseException as error:  # noqa: BLE001
        state.note(f"unprintable:{_type_name(error)}")
        return f"<unprintable {_type_name(value)}: {_type_name(error)}>"
    if len(text) > limit:
        state.note("string_cut")
        text = text[:limit]
    return _text(text, state)


def _integer(value: int, state: Degradation) -> int | str:
    if _INT64_MIN <= value <= _INT64_MAX:
        return value
    state.note("integer_over_64_bits")
    try:
        return _text(str(value), state)
    except ValueError:  # CPython refuses to print integers of more than 4300 digits
        return f"<integer of {value.bit_length()} bits>"


def _container(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    identity = id(value)
    if identity in parents:
        state.note("cycle")
        return f"<cycle: {_type_name(value)}>"
    if depth >= MAX_DEPTH:
        state.note("too_deep")
        return f"<cut: {_type_name(value)} deeper than {MAX_DEPTH}>"
    inside = (*parents, identity)
    if type(value) not in _SEQUENCES:
        if isinstance(value, Mapping):
            return _mapping(value, state, depth + 1, inside)
        if isinstance(value, msgspec.Struct):
            return _mapping({name: getattr(value, name) for name in value.__struct_fields__}, state, depth + 1, inside)
    return [_value(item, state, depth + 1, inside) for item in _take(value, state)]


def _take(items: Iterable[Any], state: Degradation) -> list[Any]:
    """Copy as many items as the payload may still have, in one C call for builtin containers.

    So the window in which another thread may change them is as small as can be, and an endless iterable ends. A
    ``__len__`` is never asked.
    """
    room = max(0, MAX_NODES - state.nodes)
    taken = list(islice(iter(items), room + 1))
    if len(taken) > room:
        state.note("too_many_items")
        del taken[room:]
    state.nodes += len(taken)
    return taken


def _mapping(value: Mapping[Any, Any], state: Degradation, depth: int, parents: tuple[int, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if type(value) is dict and len(value) <= MAX_NODES - state.nodes:
        items = list(value.items())  # what `_take` does, without its detours
        state.nodes += len(items)
    else:
        items = _take(value.items(), state)
    for key, item in items:
        # The checks of `_text`, `_integer` and `_value` for the likely cases, in line: this is the hot loop.
        if type(key) is not str or len(key) > _SHORT or not key.isascii():
            key = _key(key, state)  # noqa: PLW2901
        cls = type(item)
        if cls in _AS_IS or (cls is str and len(item) <= _SHORT and item.isascii()):
            result[key] = item
        else:
            result[key] = _value(item, state, depth, parents)
    if len(result) < len(items):
        state.note("key_collision")
    return result


def _key(key: Any, state: Degradation) -> str:
    if issubclass(type(key), str):
        return _text(str.__str__(key), state)
    state.note("key_not_str")
    return _printed(key, state, _SHORT)


def _scalar(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:  # noqa: C901, PLR0911, PLR0912
    """Everything that is neither plain nor a container, from the likely to the hopeless.

    By the true type, because ``__class__`` may lie, and through the base class's methods, because a subclass may
    override ``__str__`` or ``__int__``.
    """
    cls = type(value)
    if issubclass(cls, BaseException):
        return _exception(value, state, depth)
    if issubclass(cls, enum.Enum):
        # One level deeper, so that a `value` that is the member itself ends.
        return _value(value.value, state, depth + 1, parents) if depth < MAX_DEPTH else _printed(value, state)
    if issubclass(cls, float):
        return float.__float__(value)
    if issubclass(cls, int):
        return _integer(int.__int__(value), state)
    if issubclass(cls, str):
        return _text(str.__str__(value), state)
    if issubclass(cls, bytes | bytearray | memoryview):
        return _bytes(value, state)
    if issubclass(cls, dt.date | dt.time):
        return _text(str.__str__(value.isoformat()), state)
    if issubclass(cls, dt.timedelta):
        return dt.timedelta.total_seconds(value)
    if issubclass(cls, uuid.UUID | decimal.Decimal | os.PathLike | UserString):
        return _printed(value, state)
    if issubclass(cls, numbers.Integral):  # numpy's integers
        return _integer(operator.index(value), state)
    if issubclass(cls, numbers.Real):
        return float.__float__(float(value))
    if not issubclass(cls, type):
        for table in _FIELD_TABLES:
            fields = getattr(cls, table, None)
            if isinstance(fields, Mapping | tuple) and fields:
                return _record(value, fields, state, depth, parents)
    state.note(f"not_data:{_type_name(value)}")
    return _printed(value, state, 4096)


def _record(value: Any, fields: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    if id(value) in parents:
        state.note("cycle")
        return f"<cycle: {_type_name(value)}>"
    names = list(fields) if isinstance(fields, Mapping) else [field.name for field in fields]
    return _container({name: getattr(value, name, None) for name in names}, state, depth, (*parents, id(value)))


def _bytes(value: bytes | bytearray | memoryview, state: Degradation) -> bytes:
    view = memoryview(value)
    data = view.tobytes() if view.ndim != 1 or view.nbytes <= _SHORT else view[: MAX_STRING + 1].tobytes()
    if len(data) <= _SHORT:
        return data
    room = max(_SHORT, min(MAX_STRING, MAX_TEXT - state.text))
    if len(data) > room:
        state.note("bytes_cut")
        data = data[:room]
    state.text += len(data)
    return data


def _exception(error: BaseException, state: Degradation, depth: int) -> Any:
    message = _printed(error, state, 4096)
    if depth >= MAX_DEPTH or state.nodes + 3 > MAX_NODES:
        state.note("too_deep" if depth >= MAX_DEPTH else "too_many_items")
        return _text(f"{error_type(error)}: {message}", state)
    result = {"type": error_type(error), "message": message}
    state.nodes += 3
    if _hides_its_trace(type(error)):
        state.note("stacktrace:overridden")
        return result
    try:
        stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as failure:  # noqa: BLE001 - format_exception calls the exception's own __str__
        state.note(f"stacktrace:{_type_name(failure)}")
        return result
    if len(stack) > MAX_STACKTRACE:
        state.note("stacktrace_cut")
    result["stacktrace"] = _text(stack[-MAX_STACKTRACE:], state)
    return result


def _hides_its_trace(cls: type[BaseException]) -> bool:
    """Say whether following the causes or frames may never end, because the class makes them up (as mocks do)."""
    bases = [base for base in _mro(cls) if base is not BaseException and base is not object]
    return any(_namespace(base).get(name) is not None for base in bases for name in _TRACE)
