"""From what `emit` queued to an `Event`. Pure: no clock, no lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from zupa.errors import InvalidEventError
from zupa.event import Event, check_names, split_topic
from zupa.normalize import normalize
from zupa.transition import Transition

_TOPIC_CACHE_LIMIT: Final = 8192


class Stamp(NamedTuple):
    """What the worker adds to every event of a slice."""

    timestamp: int
    boot_id: str
    pid: int


def resolve_names(channel: Any, name: Any, payload: Any) -> tuple[Any, Any, Any]:
    """Bring the forms of `emit` to channel, name and payload; an Event draft stays in *channel*."""
    if name.__class__ is str or isinstance(channel, Event):
        return channel, name, payload
    if isinstance(channel, str) and ":" in channel:
        if payload is None and name is not None and not isinstance(name, str):
            payload, name = name, None
        if name is None:
            channel, name = split_topic(channel)
    return channel, name, payload


def check_call(channel: Any, name: Any, payload: Any, metadata: Any) -> None:
    """Check a call of `emit`.

    Raises:
        InvalidEventError: saying what is wrong.
    """
    if isinstance(channel, Event):
        if name is not None or payload is not None or metadata is not None:
            raise InvalidEventError("emit(event) takes no other arguments: use event.replace(...) first")
        channel, name, payload, metadata = channel.channel, channel.name, channel.payload, channel.metadata
    check_names(channel, name)
    if payload is not None and not isinstance(payload, Mapping | msgspec.Struct):
        raise InvalidEventError(
            f"payload of {channel}:{name} is a {type(payload).__name__}; it must be a mapping or a msgspec.Struct"
        )
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidEventError(f"metadata of {channel}:{name} is a {type(metadata).__name__}; it must be a mapping")


class Assembler:
    """Builds events. Remembers which names it has checked; only the worker uses it."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def check_names(self, channel: Any, name: Any) -> None:
        """`zupa.event.check_names`, O(1) for names seen before."""
        known = self._known
        try:
            if (channel, name) in known:
                return
        except TypeError:  # unhashable: certainly no name
            pass
        check_names(channel, name)
        if len(known) >= _TOPIC_CACHE_LIMIT:
            known.clear()
        known.add((channel, name))

    def assemble(self, item: tuple[Any, ...], seq: int, stamp: Stamp) -> tuple[Event, bool]:
        """Return the event of one queued item, and whether its payload had to be degraded.

        Args:
            item: ``(occurred_at, span context or None, channel, name, payload, metadata, depth, charge)``.
            seq: Its place in the stream.
            stamp: What all events of the slice have in common.

        Raises:
            InvalidEventError: a name or the payload's type breaks the grammar.
        """
        occurred_at, span_context, channel, name, payload, metadata, _, _ = item
        trace_id = span_id = trace_flags = 0
        if span_context is not None:
            trace_id, span_id, trace_flags = span_context.trace_id, span_context.span_id, int(span_context.trace_flags)
        if isinstance(channel, Event):
            if name is not None or payload is not None or metadata is not None:
                check_call(channel, name, payload, metadata)
            draft = channel
            channel, name, payload, metadata = draft.channel, draft.name, draft.payload, draft.metadata
            occurred_at = draft.occurred_at or occurred_at
            if draft.trace_id:
                trace_id, span_id, trace_flags = draft.trace_id, draft.span_id, int(draft.trace_flags)
        self.check_names(channel, name)
        if payload is None:
            plain: dict[str, Any] = {}
            reasons: list[str] = []
        elif payload.__class__ is Transition:
            trace_id, span_id, trace_flags = payload.trace_id, payload.span_id, int(payload.trace_flags)
            plain, reasons = payload.to_payload()
        elif isinstance(payload, Mapping | msgspec.Struct):
            plain, reasons = normalize(payload)
        else:
            check_call(channel, name, payload, None)
        marks, more = _marks(channel, name, metadata)
        reasons.extend(more)
        if reasons:
            marks["degraded"] = reasons
        event = Event(
            channel,
            name,
            plain,
            marks,
            seq,
            stamp.timestamp,
            occurred_at,
            trace_id,
            span_id,
            trace_flags,
            stamp.boot_id,
            stamp.pid,
        )
        return event, bool(reasons)

    def adopt(self, output: Event, source: Event, seq: int) -> Event:
        """Give *output*, which a reducer made of *source*, its place in the stream and a plain payload.

        Raises:
            InvalidEventError: the reducer gave it a name that breaks the grammar.
        """
        if output.channel is not source.channel or output.name is not source.name:
            self.check_names(output.channel, output.name)
        payload, metadata = output.payload, output.metadata
        if metadata is not source.metadata:
            metadata, _ = normalize(metadata)
        if payload is not source.payload:
            payload, reasons = normalize(payload)
            if reasons:
                metadata = {**metadata, "degraded": reasons}
        own_trace = output if output.trace_id else source
        return Event(
            output.channel,
            output.name,
            payload,
            metadata,
            seq,
            source.timestamp,
            output.occurred_at or source.occurred_at,
            own_trace.trace_id,
            own_trace.span_id,
            own_trace.trace_flags,
            source.boot_id,
            source.pid,
        )


def _marks(channel: str, name: str, metadata: Any) -> tuple[dict[str, Any], list[str]]:
    if not metadata:
        return {}, []
    if not isinstance(metadata, Mapping):
        check_call(channel, name, None, metadata)
    return normalize(metadata)
