"""Puts the installed instrumentations of zupa on another bus, and back as they were.

They are found through their entry points, as OpenTelemetry's own loader finds them: this room must not import them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Final

_GROUP: Final = "opentelemetry_instrumentor"
_PACKAGE: Final = "zupa_instrumentation."


def instrument(**settings: Any) -> Callable[[], None]:
    """Instrument every target that is installed, with *settings*; return what restores the state before.

    An instrumentation that is active keeps its wrappers and only gets new settings, which are attributes of its
    (single) instance; restoring gives it the old ones.
    """
    undo: list[Callable[[], None]] = []

    def restore() -> None:
        while undo:
            undo.pop()()

    try:
        for value in sorted({item.value for item in entry_points(group=_GROUP) if item.value.startswith(_PACKAGE)}):
            instrumentor = _load(value)
            if instrumentor is not None:
                undo.append(_restorer(instrumentor, settings))
                instrumentor.instrument(**settings)
    except BaseException:
        restore()
        raise
    return restore


def _load(value: str) -> Any:
    (found, *_) = (item for item in entry_points(group=_GROUP) if item.value == value)
    try:
        return found.load()()
    except ModuleNotFoundError:  # its target is not installed
        return None


def _restorer(instrumentor: Any, settings: dict[str, Any]) -> Callable[[], None]:
    before = dict(vars(instrumentor)) if instrumentor.is_instrumented_by_opentelemetry else None

    def restore() -> None:
        active = instrumentor.is_instrumented_by_opentelemetry
        if before is None:
            if active:
                instrumentor.uninstrument()
            return
        if not active:  # what ran in between has uninstrumented
            instrumentor.instrument(**settings)
        vars(instrumentor).update(before)

    return restore
