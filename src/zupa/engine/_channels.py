"""Channels: what becomes of the writes that one super-step makes to one key of the state."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_origin, get_type_hints

import msgspec
from msgspec import UNSET

from zupa.errors import GraphValidationError


class Channel(ABC):
    """Reduces the writes of a super-step into the value of one key.

    A channel is shared by all runs of a graph and holds no state of its own. Derive from it for other merges.
    """

    def initial(self) -> Any:
        """Return a fresh first value, or `msgspec.UNSET` when the key is absent until it is written."""
        return UNSET

    @abstractmethod
    def reduce(self, current: Any, writes: Sequence[Any]) -> Any:
        """Return the new value. *current* must not be changed in place: earlier checkpoints may share it.

        Args:
            current: The value before the step; `msgspec.UNSET` when there is none.
            writes: At least one, in task order (never in the order in which nodes happened to finish).
        """


class LastValue(Channel):
    """Keeps the newest write. Of parallel writes, that of the last task in task order wins, however fast it was.

    Task order is the order of `Checkpoint.next_tasks`.

    Args:
        default: The first value; copied for each run.
    """

    def __init__(self, default: Any = UNSET) -> None:
        self._default = default

    def initial(self) -> Any:
        return UNSET if self._default is UNSET else copy.deepcopy(self._default)

    def reduce(self, current: Any, writes: Sequence[Any]) -> Any:  # noqa: ARG002
        return writes[-1]


class Append(Channel):
    """A list that grows. A list or tuple that is written is added item by item, anything else as one item.

    To append a list as one item, write it inside a list.
    """

    def initial(self) -> Any:
        return []

    def reduce(self, current: Any, writes: Sequence[Any]) -> Any:
        result = [] if current is UNSET else list(current)
        for write in writes:
            if isinstance(write, list | tuple):
                result.extend(write)
            else:
                result.append(write)
        return result


class BinaryOperator(Channel):
    """Folds each write into the value with a function of two arguments, in task order.

    Args:
        operator: ``(current, write) -> new value``; must not change *current* in place.
        initial: The first value; copied for each run.
    """

    def __init__(self, operator: Callable[[Any, Any], Any], initial: Any) -> None:
        self._operator = operator
        self._initial = initial

    def initial(self) -> Any:
        return copy.deepcopy(self._initial)

    def reduce(self, current: Any, writes: Sequence[Any]) -> Any:
        result = self.initial() if current is UNSET else current
        for write in writes:
            result = self._operator(result, write)
        return result


def channels_of(state: type) -> dict[str, Channel]:
    """Read channels from the annotations of a TypedDict, dataclass or `msgspec.Struct`.

    ``Annotated[list[str], Append()]`` names its channel. A field without one is a `LastValue`, which starts with the
    field's default where there is one.

    Raises:
        GraphValidationError: *state* is no such class, or an annotation cannot be used.
    """
    if not isinstance(state, type) or not (_is_typed_dict(state) or _has_fields(state)):
        raise GraphValidationError(
            f"state={state!r} describes no channels: pass a TypedDict, dataclass or msgspec.Struct class, "
            "or channels={...}"
        )
    try:
        hints = get_type_hints(state, include_extras=True)
    except (NameError, TypeError) as error:
        raise GraphValidationError(
            f"the annotations of {state.__name__} cannot be read: {error}; "
            "define the names that they use at module level"
        ) from error
    names = hints if _is_typed_dict(state) else _field_names(state)
    defaults = _defaults(state)
    return {
        name: _channel_in(hints[name], f"{state.__name__}.{name}") or LastValue(defaults.get(name, UNSET))
        for name in names
    }


def check_channels(channels: Mapping[str, Channel]) -> dict[str, Channel]:
    """Return a copy of *channels*, or raise `GraphValidationError` naming the key that is wrong."""
    return {name: _instance(channel, f"channels[{name!r}]") for name, channel in channels.items()}


def _channel_in(hint: Any, where: str) -> Channel | None:
    if get_origin(hint) is Annotated:
        for item in hint.__metadata__:
            if isinstance(item, Channel) or (isinstance(item, type) and issubclass(item, Channel)):
                return _instance(item, where)
        return _channel_in(hint.__origin__, where)
    origin = getattr(hint, "__origin__", None)
    if getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly"):
        return _channel_in(hint.__args__[0], where)
    return None


def _instance(channel: object, where: str) -> Channel:
    """Accept ``Append`` for ``Append()``, the slip that everybody makes once."""
    if isinstance(channel, type) and issubclass(channel, Channel):
        try:
            return channel()
        except TypeError as error:
            raise GraphValidationError(f"{where}: write an instance, {channel.__name__}(...): {error}") from error
    if isinstance(channel, Channel):
        return channel
    raise GraphValidationError(f"{where} is {channel!r}, not a channel: use LastValue(), Append() or BinaryOperator()")


def _is_typed_dict(state: type) -> bool:
    return issubclass(state, dict) and hasattr(state, "__total__")


def _has_fields(state: type) -> bool:
    return dataclasses.is_dataclass(state) or issubclass(state, msgspec.Struct)


def _field_names(state: type) -> list[str]:
    if issubclass(state, msgspec.Struct):
        return list(state.__struct_fields__)
    return [field.name for field in dataclasses.fields(state)] if dataclasses.is_dataclass(state) else []


def _defaults(state: type) -> dict[str, Any]:
    """Return field name to default; factories are called once, because `LastValue` copies for each run."""
    found: dict[str, Any] = {}
    if issubclass(state, msgspec.Struct):
        for info in msgspec.structs.fields(state):
            if info.default is not msgspec.NODEFAULT:
                found[info.name] = info.default
            elif info.default_factory is not msgspec.NODEFAULT:
                found[info.name] = info.default_factory()
    elif dataclasses.is_dataclass(state):
        for field in dataclasses.fields(state):
            if field.default is not dataclasses.MISSING:
                found[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
    return found
