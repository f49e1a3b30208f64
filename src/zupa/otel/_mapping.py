"""Event to span and log records: pure functions, driven by the table in `_table`.

An event that cannot be carried raises `UnmappableError` here, before it is in a batch with others.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping as AbstractMapping
from typing import Any, Final

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from zupa import semconv
from zupa.event import Event
from zupa.otel._table import DEFAULT_MAPPING, Mapping, Payload, Row, Signal, exception_attributes, severity_of
from zupa.otel._values import MAX_TIME, Limits, UnmappableError, Walk, unsigned


def _version() -> str:
    try:
        return importlib.metadata.version("zupa-otel")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was not installed
        return ""


DEFAULT_SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, _version(), semconv.SCHEMA_URL)

DEFAULT_LIMITS: Final = Limits()

EXCEPTION_EVENT_NAME: Final = "exception"

_EMPTY: Final[dict[str, Any]] = {}
_UNSET: Final = Status(StatusCode.UNSET)
# An empty Context() is falsy, and LogRecord would then take the span that is current on this thread.
_NO_TRACE: Final = set_span_in_context(INVALID_SPAN, Context())


class Mapped(msgspec.Struct, frozen=True):
    """What one event became: at most one span and one log record, and their estimated size in encoded bytes."""

    span: ReadableSpan | None = None
    log: ReadableLogRecord | None = None
    size: int = 0


def map_event(
    event: Event,
    resource: Resource,
    scope: InstrumentationScope = DEFAULT_SCOPE,
    *,
    mapping: Mapping = DEFAULT_MAPPING,
    limits: Limits = DEFAULT_LIMITS,
    spans: bool = True,
    logs: bool = True,
) -> Mapped:
    """Map *event* as *mapping* says; without *spans* or *logs* these are not made, which saves the work.

    Raises:
        UnmappableError: the event holds something that OTLP cannot carry.
    """
    row = mapping.row(event.channel, event.name)
    if row.signal is Signal.NONE:
        return Mapped()
    _check_identity(event)
    payload = event.payload
    walk = Walk(limits.span_value_length)
    if row.signal is Signal.LOG or not _is_complete_span(event, payload):
        if not logs:
            return Mapped()
        log = _log(event, payload, row, resource, scope, limits)
        return Mapped(None, log[0], log[1])
    sampled = spans and event.trace_flags & 1
    span = _span(event, payload, row, resource, scope, limits, walk) if sampled else None
    size = walk.size
    exception = None
    if logs and row.exception_log and payload.get("phase") == "failed" and payload.get("error"):
        exception, more = _exception_log(event, payload, resource, scope, limits)
        size += more
    return Mapped(span, exception, size)


def to_span(
    event: Event,
    resource: Resource,
    scope: InstrumentationScope = DEFAULT_SCOPE,
    *,
    mapping: Mapping = DEFAULT_MAPPING,
    limits: Limits = DEFAULT_LIMITS,
) -> ReadableSpan | None:
    """Return the span that *event* becomes; None when it becomes none or was not sampled.

    Raises:
        UnmappableError: the event holds something that OTLP cannot carry.
    """
    return map_event(event, resource, scope, mapping=mapping, limits=limits).span


def to_log_record(
    event: Event,
    resource: Resource,
    scope: InstrumentationScope = DEFAULT_SCOPE,
    *,
    mapping: Mapping = DEFAULT_MAPPING,
    limits: Limits = DEFAULT_LIMITS,
) -> ReadableLogRecord | None:
    """Return the log record that *event* becomes (for a failed node: its exception); None when it becomes none.

    Raises:
        UnmappableError: the event holds something that OTLP cannot carry.
    """
    return map_event(event, resource, scope, mapping=mapping, limits=limits).log


def _check_identity(event: Event) -> None:
    unsigned(event.trace_id, 128, "trace_id")
    unsigned(event.span_id, 64, "span_id")
    unsigned(event.trace_flags, 8, "trace_flags")
    unsigned(event.timestamp, 64, "timestamp")
    unsigned(event.occurred_at, 64, "occurred_at")
    if not isinstance(event.payload, AbstractMapping) or not isinstance(event.metadata, AbstractMapping):
        raise UnmappableError("payload and metadata must be mappings")


def _is_complete_span(event: Event, payload: Payload) -> bool:
    start, end = payload.get("start_ns"), payload.get("end_ns")
    if event.trace_id == 0 or event.span_id == 0 or start.__class__ is not int or end.__class__ is not int:
        return False
    return 0 < start <= end <= MAX_TIME


# -- spans ---------------------------------------------------------------------------------------------------------
def _span(
    event: Event,
    payload: Payload,
    row: Row,
    resource: Resource,
    scope: InstrumentationScope,
    limits: Limits,
    walk: Walk,
) -> ReadableSpan:
    flags = TraceFlags(event.trace_flags)
    state = payload.get("trace_state")
    trace_state = TraceState.from_header([walk.text(state, "trace_state")]) if state else None
    parent = None
    if parent_id := _hexadecimal(payload.get("parent_span_id", ""), 64, "parent_span_id"):
        parent = SpanContext(event.trace_id, parent_id, payload.get("parent_is_remote") is True, flags, trace_state)
    phase = payload.get("phase")
    attributes = row.attributes(payload)
    if phase:
        attributes[semconv.OUTCOME] = "error" if phase == "failed" else phase
    if phase == "failed":
        attributes[semconv.ERROR_TYPE] = exception_attributes(payload).get(semconv.ERROR_TYPE, "_OTHER")
    if degraded := event.metadata.get("degraded"):
        attributes[semconv.EVENT_DEGRADED] = degraded
    name = payload.get("span_name") or (row.span_name(payload) if row.span_name else event.topic)
    walk.size += 128
    return ReadableSpan(
        name=walk.text(name, "the span's name"),
        context=SpanContext(event.trace_id, event.span_id, False, flags, trace_state),
        parent=parent,
        resource=resource,
        attributes=walk.attributes(attributes, limits.span_attributes),
        events=_span_events(payload.get("span_events") or (), limits, walk),
        links=_links(payload.get("links") or (), limits, walk),
        status=_status(payload, walk),
        start_time=payload["start_ns"],
        end_time=payload["end_ns"],
        instrumentation_scope=scope,
    )


def _status(payload: Payload, walk: Walk) -> Status:
    """The user's own status is final; else a failure is an error; an interrupt or a cancellation never is."""
    chosen = payload.get("status") or _EMPTY
    code, description = chosen.get("code"), chosen.get("description") or ""
    if code == StatusCode.OK.value:
        return Status(StatusCode.OK)
    failed = payload.get("phase") == "failed"
    if code != StatusCode.ERROR.value and not failed:
        return _UNSET
    if failed and not description:
        description = exception_attributes(payload).get(semconv.EXCEPTION_MESSAGE, "")
    return Status(StatusCode.ERROR, walk.text(description, "the status") or None)


def _links(items: Any, limits: Limits, walk: Walk) -> Any:
    def link(item: Any) -> Link:
        context = SpanContext(
            _hexadecimal(item.get("trace_id", ""), 128, "a link's trace_id"),
            _hexadecimal(item.get("span_id", ""), 64, "a link's span_id"),
            is_remote=False,
        )
        attributes = {semconv.LINK_KIND: item.get("kind", "")}
        if item.get("name"):
            attributes[semconv.NODE] = item["name"]
        walk.size += 32
        return Link(context, walk.attributes(attributes, limits.link_attributes))

    return _bounded([link(item) for item in _maps(items, "links", limits.span_links)], items, limits.span_links)


def _span_events(items: Any, limits: Limits, walk: Walk) -> Any:
    def span_event(item: Any) -> SpanEvent:
        walk.size += 16
        return SpanEvent(
            walk.text(item.get("name"), "a span event's name"),
            walk.attributes(item.get("attributes") or _EMPTY, limits.event_attributes),
            unsigned(item.get("time_ns"), 64, "a span event's time_ns"),
        )

    kept = _maps(items, "span_events", limits.span_events)
    return _bounded([span_event(item) for item in kept], items, limits.span_events)


def _maps(items: Any, what: str, maximum: int | None) -> Any:
    if not isinstance(items, list | tuple) or not all(isinstance(item, dict) for item in items):
        raise UnmappableError(f"{what} is not a list of maps")
    return items if maximum is None else items[:maximum]


def _bounded(kept: list[Any], items: Any, maximum: int | None) -> Any:
    if len(kept) == len(items):
        return kept
    # The SDK's exporters read the number of dropped items from this class only.
    bounded = BoundedList.from_seq(maximum, kept)
    bounded.dropped = len(items) - len(kept)
    return bounded


def _hexadecimal(value: Any, bits: int, what: str) -> int:
    if not value:
        return 0
    try:
        return unsigned(int(value, 16), bits, what)
    except (TypeError, ValueError):
        raise UnmappableError(f"{what} is not a hexadecimal id of {bits} bits") from None


# -- log records ---------------------------------------------------------------------------------------------------
def _log(
    event: Event, payload: Payload, row: Row, resource: Resource, scope: InstrumentationScope, limits: Limits
) -> tuple[ReadableLogRecord, int]:
    body = payload.get("message")
    attributes = row.attributes(payload)
    if row.signal is Signal.SPAN and payload.get("phase") == "failed":  # an end that lacks a span of its own
        attributes.update(exception_attributes(payload))
    return _record(
        event,
        attributes,
        event_name=row.event_name or f"{event.channel}.{event.name.replace(':', '.')}",
        severity=row.severity or severity_of(event.name),
        body=body if isinstance(body, str) else None,
        resource=resource,
        scope=scope,
        limits=limits,
    )


def _exception_log(
    event: Event, payload: Payload, resource: Resource, scope: InstrumentationScope, limits: Limits
) -> tuple[ReadableLogRecord, int]:
    attributes = exception_attributes(payload)
    for field, name in (("run_id", semconv.RUN_ID), ("exec_id", semconv.EXEC_ID), ("node", semconv.NODE)):
        if field in payload:
            attributes[name] = payload[field]
    return _record(
        event,
        attributes,
        event_name=EXCEPTION_EVENT_NAME,
        severity=SeverityNumber.ERROR,
        body=attributes.get(semconv.EXCEPTION_MESSAGE),
        resource=resource,
        scope=scope,
        limits=limits,
    )


def _record(
    event: Event,
    attributes: dict[str, Any],
    *,
    event_name: str,
    severity: SeverityNumber,
    body: str | None,
    resource: Resource,
    scope: InstrumentationScope,
    limits: Limits,
) -> tuple[ReadableLogRecord, int]:
    own: dict[str, Any] = {semconv.EVENT_CHANNEL: event.channel}
    if event.seq:
        own[semconv.EVENT_ID] = event.id
        own[semconv.EVENT_SEQ] = event.seq
    if degraded := event.metadata.get("degraded"):
        own[semconv.EVENT_DEGRADED] = degraded
    for key in own:
        attributes.pop(key, None)
    context = _NO_TRACE
    if event.trace_id and event.span_id:
        current = SpanContext(event.trace_id, event.span_id, False, TraceFlags(event.trace_flags))
        context = set_span_in_context(NonRecordingSpan(current), Context())
    walk = Walk(limits.log_value_length)
    walk.size += 64
    record = LogRecord(
        timestamp=event.occurred_at or None,
        observed_timestamp=event.timestamp or event.occurred_at or None,
        context=context,
        severity_number=severity,
        severity_text=severity.name,
        body=None if body is None else walk.value(body, "the message"),
        attributes=walk.attributes({**own, **attributes}, limits.log_attributes),
        event_name=walk.text(event_name, "the event's name"),
    )
    return ReadableLogRecord(record, resource, scope), walk.size
