"""`rename`: change topics by a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zupa.errors import ConfigurationError, InvalidEventError
from zupa.event import Event, check_names, split_topic

_MAX_CACHED: Final = 4096


class Rename:
    """What `rename` returns."""

    name = "rename"

    def __init__(self, topics: Mapping[str, str]) -> None:
        if not isinstance(topics, Mapping) or not topics:
            raise ConfigurationError(
                f'rename(topics={topics!r}) renames nothing: give a dict such as {{"old:name": "new:name"}}'
            )
        for old, new in topics.items():
            check_topic(f"rename(topics[{old!r}])", old)
            check_topic(f"rename(topics[{old!r}])", new)
            if new.endswith("*") and not old.endswith("*"):
                raise ConfigurationError(
                    f"rename(topics={{{old!r}: {new!r}}}): the new topic's * stands for what the old one's * matched, "
                    "and the old one has none"
                )
        self._exact = {old: new for old, new in topics.items() if not old.endswith("*")}
        prefixes = [(old[:-1], new) for old, new in topics.items() if old.endswith("*")]
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))  # the longest match wins
        self._cache: dict[tuple[str, str], tuple[str, str] | None] = {}

    def __call__(self, event: Event) -> Event:
        old = (event.channel, event.name)
        try:
            new = self._cache[old]
        except KeyError:
            new = self._find(event.topic)
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[old] = new
        return event if new is None or new == old else event.replace(channel=new[0], name=new[1])

    def _find(self, topic: str) -> tuple[str, str] | None:
        new = self._exact.get(topic)
        if new is None:
            for prefix, target in self._prefixes:
                if topic.startswith(prefix):
                    new = fill(target, topic[len(prefix) :])
                    break
            else:
                return None
        channel, name = split_topic(new)
        check_names(channel, name)  # raises where what the * matched makes the new topic too long or empty
        return channel, name

    def __repr__(self) -> str:
        return f"rename({len(self._exact)} topics, {len(self._prefixes)} prefixes)"


def fill(target: str, rest: str) -> str:
    """Put *rest*, what an old topic's ``*`` matched, into *target*."""
    return target[:-1] + rest if target.endswith("*") else target


def check_topic(setting: str, topic: object) -> None:
    """Refuse what is no topic and no ``channel:prefix*``."""
    if not isinstance(topic, str):
        raise ConfigurationError(f"{setting}: {topic!r} is not a topic; write it as a str, channel:name or channel:*")
    channel, name = split_topic(topic.removesuffix("*") + "x" if topic.endswith("*") else topic)
    try:
        check_names(channel, name)
    except InvalidEventError as error:
        raise ConfigurationError(f"{setting}: {topic[:80]!r} is neither channel:name nor channel:*: {error}") from error


def rename(topics: Mapping[str, str]) -> Rename:
    """Rename events: ``{"telemetry:node_transition": "agent:log", "legacy:*": "engine:*"}``.

    Args:
        topics: Old topic to new one. An old topic may end in ``*``; a ``*`` at the end of the new one then stands for
            what the old one matched. An exact topic wins over a prefix, a longer prefix over a shorter one. Topics
            are renamed once: a new topic is not looked up again.

    Raises:
        ConfigurationError: the table is empty, or a topic in it breaks the grammar of `zupa.event`.
    """
    return Rename(topics)
