"""Payload normalisation: a total function from any Python object to plain data.

One bad event must never cost its batch, so normalisation is done per event, in the worker, before any reducer,
subscriber or exporter sees the payload. Whatever the object, the result is made of `None`, `bool`, `int` (64-bit,
signed), `float`, `str` (valid UTF-8), `bytes`, `list` and `dict` with `str` keys, at most `MAX_DEPTH` deep and
`MAX_NODES` large. What could not be carried whole is replaced by a string that says so, and the caller is told.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import re
import traceback
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 16
"""Deeper structures are cut: three protobuf messages a level meet the parsers' limit of 100."""

MAX_NODES: Final = 20_000
"""Keys and items of one payload; a payload beyond it is cut."""

MAX_STRING: Final = 1024 * 1024
"""Characters of one string; a longer one is cut."""

MAX_STACKTRACE: Final = 32 * 1024

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class Degradation:
    """Counts, for one payload, what could not be carried whole."""

    __slots__ = ("nodes", "reasons")

    def __init__(self) -> None:
        self.nodes = 0
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
    become ``{"type", "message", "stacktrace"}``.
    """
    state = Degradation()
    try:
        if payload is None:
            return {}, state.reasons
        value = _value(payload, state, 0, ())
        if not isinstance(value, dict):
            value = {"value": value}
    except BaseException as error:  # noqa: BLE001 - a hostile object may raise SystemExit; the worker must go on
        state.note(f"unreadable:{type(error).__name__}")
        value = {"value": "<unreadable payload>"}
    return value, state.reasons


def safe_str(value: object, limit: int = MAX_STRING) -> str:
    """``str(value)`` that never raises and is valid UTF-8, cut to *limit* characters."""
    try:
        text = str(value)
    except BaseException as error:  # noqa: BLE001
        return f"<unprintable {_type_name(value)}: {type(error).__name__}>"
    return clean_text(text, limit)


def clean_text(text: str, limit: int = MAX_STRING) -> str:
    """Cut *text* to *limit* characters and replace lone surrogates by U+FFFD."""
    if len(text) > limit:
        text = text[:limit]
    if text.isascii():
        return str.__str__(text)
    return _SURROGATES.sub("\ufffd", text)


def error_type(error: BaseException) -> str:
    """The qualified class name, without the module for builtins: OpenTelemetry's `error.type`."""
    cls = type(error)
    module = cls.__module__
    return cls.__qualname__ if module in ("builtins", "__main__") else f"{module}.{cls.__qualname__}"


def _type_name(value: object) -> str:
    return type(value).__qualname__


def _value(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    """Normalise one value. *parents* holds the ids of the enclosing containers: a cycle is a repeat among them."""
    cls = value.__class__
    if value is None or cls is bool or cls is float:
        return value
    if cls is str:
        return _text(value, state)
    if cls is int:
        return _integer(value, state)
    state.nodes += 1
    if state.nodes > MAX_NODES:
        state.note("too_many_items")
        return "<cut: too many items>"
    if isinstance(value, dict | list | tuple | Mapping | msgspec.Struct | Set) or _is_sequence(value):
        return _container(value, state, depth, parents)
    return _scalar(value, state, depth, parents)


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _text(value: str, state: Degradation) -> str:
    if len(value) > MAX_STRING:
        state.note("string_cut")
        value = value[:MAX_STRING]
    if value.isascii():
        return value
    cleaned = clean_text(value)
    if cleaned != value:
        state.note("surrogates")
    return cleaned


def _integer(value: int, state: Degradation) -> Any:
    if _INT64_MIN <= value <= _INT64_MAX:
        return int(value)
    state.note("integer_over_64_bits")
    try:
        return str(value)
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
    try:
        if isinstance(value, msgspec.Struct):
            value = {name: getattr(value, name) for name in value.__struct_fields__}
        if isinstance(value, Mapping):
            return _mapping(value, state, depth + 1, inside)
        result = []
        for item in value:
            state.nodes += 1
            if state.nodes > MAX_NODES:
                state.note("too_many_items")
                break
            result.append(_value(item, state, depth + 1, inside))
        return result
    except BaseException as error:  # noqa: BLE001 - includes RecursionError and "changed size during iteration"
        state.note(f"unreadable:{type(error).__name__}")
        return f"<unreadable {_type_name(value)}: {type(error).__name__}>"


def _mapping(value: Mapping[Any, Any], state: Degradation, depth: int, parents: tuple[int, ...]) -> dict[str, Any]:
    # list(items()) is one C call for a dict: the window in which another thread may change it is as small as can be.
    result: dict[str, Any] = {}
    for key, item in list(value.items()):
        state.nodes += 1
        if state.nodes > MAX_NODES:
            state.note("too_many_items")
            break
        if key.__class__ is str:
            name = _text(key, state)
        else:
            name = safe_str(key, 256)
            state.note("key_not_str")
        result[name] = _value(item, state, depth, parents)
    return result


def _scalar(value: Any, state: Degradation, depth: int, parents: tuple[int, ...]) -> Any:
    """Everything that is neither plain nor a container, from the likely to the hopeless."""
    if isinstance(value, BaseException):
        return _exception(value, state)
    if isinstance(value, enum.Enum):
        return _value(value.value, state, depth, parents)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return _integer(int(value), state)
    if isinstance(value, str):
        return _text(str.__str__(value), state)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | decimal.Decimal | os.PathLike):
        return safe_str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return _container(fields, state, depth, (*parents, id(value)) if id(value) not in parents else parents)
    state.note(f"not_data:{_type_name(value)}")
    return safe_str(value, 4096)


def _exception(error: BaseException, state: Degradation) -> dict[str, Any]:
    message = safe_str(error, 4096)
    result = {"type": error_type(error), "message": message}
    try:
        stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as failure:  # noqa: BLE001 - format_exception calls the exception's own __str__
        state.note(f"stacktrace:{type(failure).__name__}")
    else:
        result["stacktrace"] = clean_text(stack[-MAX_STACKTRACE:])
    return result
