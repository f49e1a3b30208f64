"""`Event`: what travels on the bus, and the grammar of its names.

Grammar::

    topic   = channel ":" name
    channel = segment                    e.g. "engine", "agent", "my-service"
    name    = segment *(":" segment)     e.g. "node_started", "log:info"
    segment = 1*( letter / digit / "_" / "-" / "." / "/" )

A topic is at most `MAX_TOPIC_LENGTH` characters. The first colon ends the channel, so ``"agent:log:info"`` is channel
``agent``, name ``log:info``. Topics are identifiers, not messages: they must be low-cardinality, because routes are
cached by topic and an event's name becomes the OpenTelemetry EventName.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from zupa.errors import InvalidEventError

MAX_TOPIC_LENGTH: Final = 255

_SEGMENT: Final = r"[A-Za-z0-9_.\-/]+"
_CHANNEL: Final = re.compile(rf"{_SEGMENT}\Z")
_NAME: Final = re.compile(rf"{_SEGMENT}(?::{_SEGMENT})*\Z")


class Event(msgspec.Struct, frozen=True):
    """One immutable event.

    A *draft* is an event that has not been through a bus: only `channel`, `name`, and perhaps `payload` and
    `metadata` are set. The bus fills in the rest. Use `replace` to make a changed copy inside a reducer.

    Attributes:
        channel: First part of the topic, before the first colon.
        name: Rest of the topic.
        payload: String keys to plain data (`str`, `bool`, `int` of 64 bits, `float`, `bytes`, `None`, lists and
            dicts of those). The bus normalises everything else; see `zupa.normalize`.
        metadata: Data about the event rather than of it (routing hints, `degraded` marks). Normalised too.
        seq: Position in this bus's stream, from 1, assigned at dequeue; 0 in a draft. Gap-free over accepted and
            fanned-out events.
        timestamp: Unix time in ns at dequeue, never decreasing within a bus (OpenTelemetry ObservedTimestamp).
        occurred_at: Unix time in ns at emit (OpenTelemetry Timestamp).
        trace_id: 128-bit trace id that was current at emit, or 0.
        span_id: 64-bit span id that was current at emit, or 0.
        trace_flags: W3C trace flags that were current at emit.
        boot_id: 16 hex digits, new for every bus and every forked process.
        pid: Process id of the bus that accepted the event.
    """

    channel: str
    name: str
    payload: Mapping[str, Any] = {}
    metadata: Mapping[str, Any] = {}
    seq: int = 0
    timestamp: int = 0
    occurred_at: int = 0
    trace_id: int = 0
    span_id: int = 0
    trace_flags: int = 0
    boot_id: str = ""
    pid: int = 0

    @property
    def topic(self) -> str:
        """``channel:name``, what patterns are matched against."""
        return f"{self.channel}:{self.name}"

    @property
    def id(self) -> str:
        """Unique and stable: ``boot_id-pid-seq``. A receiver can drop duplicates by it."""
        return f"{self.boot_id}-{self.pid}-{self.seq}"

    def replace(self, **changes: Any) -> Event:
        """Return a copy with *changes* applied.

        Raises:
            TypeError: a keyword is not a field of `Event`.
        """
        return msgspec.structs.replace(self, **changes)


def split_topic(topic: str) -> tuple[str, str]:
    """Split *topic* at its first colon into channel and name; the name is ``""`` where there is no colon."""
    channel, _, name = topic.partition(":")
    return channel, name


def check_names(channel: object, name: object) -> None:
    """Check *channel* and *name* against the grammar above.

    Raises:
        InvalidEventError: naming the part that is wrong, and why.
    """
    if not isinstance(channel, str) or not isinstance(name, str):
        raise InvalidEventError(
            f"channel and name must be str, got {type(channel).__name__} and {type(name).__name__}; "
            'write emit("channel", "name", payload) or emit("channel:name", payload)'
        )
    if not _CHANNEL.match(channel):
        raise InvalidEventError(
            f"channel {channel[:80]!r} is not a valid segment: use letters, digits and _ - . / (no colon, not empty)"
        )
    if not _NAME.match(name):
        raise InvalidEventError(
            f"name {name[:80]!r} is not valid: use segments of letters, digits and _ - . / joined by single colons"
        )
    if len(channel) + len(name) + 1 > MAX_TOPIC_LENGTH:
        raise InvalidEventError(
            f"topic {channel[:40]!r}:{name[:40]!r}... is longer than {MAX_TOPIC_LENGTH} characters; "
            "names are identifiers: put changing values into the payload"
        )
