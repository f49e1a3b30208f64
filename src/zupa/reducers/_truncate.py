"""`truncate`: cut payloads that are too long, too wide or too deep."""

from __future__ import annotations

from typing import Any, Final

from zupa.event import Event
from zupa.reducers._settings import check_count

_ELLIPSIS: Final = "\u2026"


class Truncate:
    """What `truncate` returns. `truncated` counts the events that were cut."""

    name = "truncate"

    def __init__(self, *, max_string: int, max_items: int, max_depth: int) -> None:
        self._max_string = check_count("truncate(max_string)", max_string)
        self._max_items = check_count("truncate(max_items)", max_items)
        self._max_depth = check_count("truncate(max_depth)", max_depth)
        self.truncated: int = 0

    def __call__(self, event: Event) -> Event:
        fields = event.payload if isinstance(event.payload, dict) else dict(event.payload)
        payload = self._cut_dict(fields, 1)
        if payload is fields:
            return event
        self.truncated += 1
        return event.replace(payload=payload, metadata={**event.metadata, "truncated": True})

    def _cut(self, value: Any, depth: int) -> Any:
        """Return *value* itself where nothing was too large."""
        if isinstance(value, str):
            return self._cut_text(value)
        if isinstance(value, bytes):
            return value if len(value) <= self._max_string else value[: self._max_string]
        if not isinstance(value, dict | list | tuple):
            return value
        if depth > self._max_depth:
            return self._cut_text(f"<cut: {type(value).__name__} deeper than {self._max_depth}>")
        return self._cut_dict(value, depth) if isinstance(value, dict) else self._cut_list(value, depth)

    def _cut_text(self, text: str) -> str:
        if len(text) <= self._max_string:
            return text
        # The end is worth keeping: it is where a stack trace names the error.
        tail = self._max_string // 4
        head = self._max_string - tail - 1
        return text[:head] + _ELLIPSIS + (text[-tail:] if tail else "")

    def _cut_list(self, items: list[Any] | tuple[Any, ...], depth: int) -> list[Any] | tuple[Any, ...]:
        cut = [self._cut(item, depth + 1) for item in items[: self._max_items]]
        if len(cut) == len(items) and all(map(_same, cut, items)):
            return items
        return cut

    def _cut_dict(self, fields: dict[str, Any], depth: int) -> dict[str, Any]:
        changed = len(fields) > self._max_items
        cut: dict[str, Any] = {}
        for key, value in fields.items():
            if len(cut) == self._max_items:
                break
            short_key, short = self._cut_text(key), self._cut(value, depth + 1)
            changed = changed or short_key is not key or short is not value
            cut[short_key] = short
        return cut if changed else fields

    def __repr__(self) -> str:
        return (
            f"truncate(max_string={self._max_string}, max_items={self._max_items}, max_depth={self._max_depth}, "
            f"truncated={self.truncated})"
        )


def _same(left: object, right: object) -> bool:
    return left is right


def truncate(*, max_string: int = 4096, max_items: int = 256, max_depth: int = 8) -> Truncate:
    """Cut what is too large out of payloads, and mark the event with ``metadata["truncated"] = True``.

    Register it after `redact`: a secret that was cut in half may no longer look like one.

    Args:
        max_string: Characters of a string (the middle is cut out of a longer one) and bytes of a bytes object.
        max_items: Items of one list or dict; the first ones are kept.
        max_depth: Levels of dicts and lists, the payload itself being the first.

    Raises:
        ConfigurationError: a setting is unusable.
    """
    return Truncate(max_string=max_string, max_items=max_items, max_depth=max_depth)
