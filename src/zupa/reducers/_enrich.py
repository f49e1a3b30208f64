"""`enrich`: add fields to payload or metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.normalize import normalize

_MISSING: Final = object()


class Enrich:
    """What `enrich` returns."""

    name = "enrich"

    def __init__(
        self, fields: Mapping[str, Any] | Callable[[Event], Mapping[str, Any]], *, into: str, overwrite: bool
    ) -> None:
        if into not in ("payload", "metadata"):
            raise ConfigurationError(f'enrich(into={into!r}) is unusable: use "payload" or "metadata"')
        self._compute: Callable[[Event], Mapping[str, Any]] | None = None
        self._fields: dict[str, Any] = {}
        if isinstance(fields, Mapping):
            self._fields = normalize(fields)[0]
            if not self._fields:
                raise ConfigurationError("enrich(fields={}) adds nothing: give at least one field")
        elif callable(fields):
            self._compute = fields
        else:
            raise ConfigurationError(
                f"enrich(fields) is a {type(fields).__name__}: give a mapping, keywords, "
                "or a function from an Event to a mapping"
            )
        self._into = into
        self._overwrite = overwrite

    def __call__(self, event: Event) -> Event:
        fields = self._fields if self._compute is None else self._computed(event)
        current: Mapping[str, Any] = event.payload if self._into == "payload" else event.metadata
        if self._overwrite:
            added = {key: value for key, value in fields.items() if current.get(key, _MISSING) != value}
        else:
            added = {key: value for key, value in fields.items() if key not in current}
        return event.replace(**{self._into: {**current, **added}}) if added else event

    def _computed(self, event: Event) -> dict[str, Any]:
        assert self._compute is not None
        fields = self._compute(event)
        if not isinstance(fields, Mapping):
            raise TypeError(
                f"enrich: the function returned a {type(fields).__name__}; it must return a mapping ({{}} for nothing)"
            )
        return normalize(fields)[0]

    def __repr__(self) -> str:
        what = "..." if self._compute is not None else ", ".join(self._fields)  # names only: values may be secret
        return f"enrich({what}, into={self._into!r}, overwrite={self._overwrite})"


def enrich(
    fields: Mapping[str, Any] | Callable[[Event], Mapping[str, Any]] | None = None,
    /,
    *,
    into: Literal["payload", "metadata"] = "payload",
    overwrite: bool = False,
    **more: Any,
) -> Enrich:
    """Add fields to every event.

    Args:
        fields: A mapping, or a function from the event to a mapping, called once an event in the worker.
        into: Where the fields go.
        overwrite: Whether a field that the event already has is replaced.
        more: Fields as keywords, added to a mapping; for a field that is called ``into`` use the mapping.

    Raises:
        ConfigurationError: a setting is unusable, or there is nothing to add.
    """
    if not more:
        return Enrich({} if fields is None else fields, into=into, overwrite=overwrite)
    if fields is None:
        return Enrich(more, into=into, overwrite=overwrite)
    if not isinstance(fields, Mapping):
        raise ConfigurationError(
            "enrich(fields) is a function, and keywords were given too: let the function return them"
        )
    return Enrich({**fields, **more}, into=into, overwrite=overwrite)
