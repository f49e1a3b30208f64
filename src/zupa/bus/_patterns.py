"""Patterns over topics, and the cache of what they match. Pure.

A pattern is a topic in which ``*`` stands for any run of characters, colons included and possibly empty: ``engine:*``
matches ``engine:node_started`` and ``agent:*`` matches ``agent:log:info``. There is no escape and no other wildcard.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from zupa.errors import PatternError
from zupa.event import MAX_TOPIC_LENGTH

_ALLOWED: Final = re.compile(r"[A-Za-z0-9_.\-/:*]+\Z")
_CACHE_LIMIT: Final = 4096
"""Topics are low-cardinality by contract; a cache that outgrows this is simply started again."""


class Pattern:
    """A compiled pattern.

    Attributes:
        text: The pattern as it was written.
        matches_everything: True for ``*`` and its like, so that callers can skip the match.
    """

    __slots__ = ("_cache", "_match", "matches_everything", "text")

    def __init__(self, text: str) -> None:
        self._match = compile_match(text)
        self.text: str = text
        self.matches_everything: bool = not text.strip("*")
        self._cache: dict[str, bool] = {}

    def matches(self, topic: str) -> bool:
        """Whether *topic* matches. O(1) for a topic seen before. Any thread."""
        hit = self._cache.get(topic)
        if hit is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache = {}
            hit = self._cache[topic] = self._match(topic)
        return hit

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def compile_match(text: object) -> Callable[[str], bool]:
    """Return a predicate over topics.

    Raises:
        PatternError: *text* is not a str, is empty or too long, has a character that no topic has, or can never match
            because it has neither a colon nor a ``*``.
    """
    if not isinstance(text, str):
        raise PatternError(f"a pattern must be a str such as 'engine:*', got {type(text).__name__}")
    if not text or len(text) > MAX_TOPIC_LENGTH:
        raise PatternError(f"a pattern has 1 to {MAX_TOPIC_LENGTH} characters, got {len(text)}")
    if not _ALLOWED.match(text):
        raise PatternError(
            f"pattern {text!r} has a character that no topic has; "
            "topics are made of letters, digits, _ - . / and colons, and '*' matches any run of them"
        )
    if "*" not in text:
        if ":" not in text:
            raise PatternError(f"pattern {text!r} can never match: topics have a colon; did you mean '{text}:*'?")
        return text.__eq__
    if not text.strip("*"):
        return _everything
    prefix, star, rest = text.partition("*")
    if star and not rest.strip("*"):
        return lambda topic: topic.startswith(prefix)
    expression = re.compile(".*".join(re.escape(part) for part in text.split("*")) + r"\Z", re.DOTALL)
    return lambda topic: expression.match(topic) is not None


def _everything(topic: str) -> bool:  # noqa: ARG001
    return True
