"""OTLP encoding: finished spans and log records to the bytes of an export request.

The SDK's encoder builds a protobuf message for every attribute of every span, which costs some 55 us a span under the
application's GIL. These functions write the same bytes directly, at about a fifth of that. A property test holds them
to the SDK's encoder, byte for byte.

Wire format: a field is a tag byte (number << 3 | type), then a varint, 4 or 8 little-endian bytes, or a length and as
many bytes. Fields go out in the order of their numbers, and proto3 leaves out fields that have their default value,
except in a oneof (AnyValue). Numbers are those of opentelemetry-proto 1.x; they never change.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status

_logger = logging.getLogger(__name__)

_MASK64: Final = 2**64 - 1
_FIXED64: Final = struct.Struct("<Q").pack
_FIXED32: Final = struct.Struct("<I").pack
_DOUBLE: Final = struct.Struct("<d").pack
_KEY_CACHE_LIMIT: Final = 4096

_KIND: Final = {
    SpanKind.INTERNAL: b"\x30\x01",
    SpanKind.SERVER: b"\x30\x02",
    SpanKind.CLIENT: b"\x30\x03",
    SpanKind.PRODUCER: b"\x30\x04",
    SpanKind.CONSUMER: b"\x30\x05",
}
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200


def _long_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS: Final = [_long_varint(value) for value in range(4096)]

_keys: dict[str, bytes] = {}


def encode_spans(spans: Iterable[ReadableSpan]) -> bytes:
    """Return *spans* as the bytes of an ExportTraceServiceRequest, grouped by resource and scope as the SDK does.

    Raises:
        Exception: a span cannot be encoded at all: no context, an id or time out of range, text with lone surrogates.
            An attribute that cannot be encoded is logged and left out, as in the SDK.
    """
    groups: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
    for span in spans:
        scopes = groups.setdefault(span.resource, {})
        scopes.setdefault(span.instrumentation_scope or None, []).append(_span(span))
    return _request(groups)


def encode_logs(records: Iterable[ReadableLogRecord]) -> bytes:
    """Return *records* as the bytes of an ExportLogsServiceRequest; as `encode_spans`."""
    groups: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
    for record in records:
        scopes = groups.setdefault(record.resource, {})
        scopes.setdefault(record.instrumentation_scope or None, []).append(_log_record(record))
    return _request(groups)


# -- primitives ----------------------------------------------------------------------------------------------------
def _varint(value: int) -> bytes:
    return _VARINTS[value] if value < 4096 else _long_varint(value)


def _sized(tag: bytes, data: bytes) -> bytes:
    """A length-delimited field."""
    return tag + _varint(len(data)) + data


def _text(tag: bytes, value: str | None) -> bytes:
    """A string field, left out when empty."""
    return _sized(tag, value.encode()) if value else b""


def _count(tag: bytes, value: int) -> bytes:
    """A varint field, left out when 0."""
    return tag + _varint(value) if value else b""


def _time(tag: bytes, value: int | None) -> bytes:
    """A fixed64 field, left out when 0 or unknown."""
    return tag + _FIXED64(value) if value else b""


# -- values --------------------------------------------------------------------------------------------------------
def _any_value(value: Any) -> bytes:
    """An AnyValue: a oneof, so that defaults are written."""
    cls = value.__class__
    if cls is str:
        return _sized(b"\x0a", value.encode())
    if cls is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if cls is int:
        return b"\x18" + _varint(_int64(value))
    if cls is float:
        return b"\x21" + _DOUBLE(value)
    if value is None:
        return b""
    return _other_value(value)


def _other_value(value: Any) -> bytes:
    """Containers, and subclasses of the plain types, in the order in which the SDK looks at them."""
    if isinstance(value, str):
        return _sized(b"\x0a", value.encode())
    if isinstance(value, int):
        return b"\x18" + _varint(_int64(int(value)))
    if isinstance(value, float):
        return b"\x21" + _DOUBLE(value)
    if isinstance(value, bytes):
        return _sized(b"\x3a", value)
    if isinstance(value, Sequence):
        return _sized(b"\x2a", b"".join([_sized(b"\x0a", _any_value(item)) for item in value]))
    if isinstance(value, Mapping):
        return _sized(b"\x32", b"".join([_sized(b"\x0a", _key_value(str(key), item)) for key, item in value.items()]))
    raise TypeError(f"{type(value).__name__} is no attribute value")


def _int64(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer of more than 64 bits cannot be encoded")
    return value & _MASK64


def _key(key: str) -> bytes:
    """The key field of a KeyValue; names repeat, so they are kept."""
    encoded = _text(b"\x0a", key)
    if len(_keys) >= _KEY_CACHE_LIMIT:
        _keys.clear()
    _keys[key] = encoded
    return encoded


def _key_value(key: str, value: Any) -> bytes:
    encoded = _keys.get(key)
    if encoded is None:
        encoded = _key(key)
    return encoded + _sized(b"\x12", _any_value(value))


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b""
    out: list[bytes] = []
    keys, varints = _keys, _VARINTS
    for key, value in attributes.items():
        try:
            encoded = keys.get(key)
            if encoded is None:
                encoded = _key(key)
            item = _any_value(value)
            size = len(item)
            if size < 4000:
                pair = encoded + b"\x12" + varints[size] + item
                out += (tag, varints[len(pair)] if len(pair) < 4096 else _long_varint(len(pair)), pair)
            else:
                out.append(_sized(tag, encoded + _sized(b"\x12", item)))
        except Exception:
            _logger.exception("an attribute cannot be encoded and is left out: %r", key)
    return b"".join(out)


# -- spans ---------------------------------------------------------------------------------------------------------
def _span(span: ReadableSpan) -> bytes:
    context = span.get_span_context()
    assert context is not None
    parent = span.parent
    flags = _HAS_IS_REMOTE
    if parent and parent.is_remote:
        flags |= _IS_REMOTE
    state = context.trace_state
    return b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            _text(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()])) if state else b"",
            b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent else b"",
            _text(b"\x2a", span.name),
            _KIND[span.kind],
            _time(b"\x39", span.start_time),
            _time(b"\x41", span.end_time),
            _attributes(b"\x4a", span.attributes),
            _count(b"\x50", span.dropped_attributes),
            b"".join([_sized(b"\x5a", _event(event)) for event in span.events]),
            _count(b"\x60", span.dropped_events),
            b"".join([_sized(b"\x6a", _link(link)) for link in span.links]),
            _count(b"\x70", span.dropped_links),
            _status(span.status),
            b"\x85\x01" + _FIXED32(flags),
        )
    )


def _event(event: Any) -> bytes:
    return (
        _time(b"\x09", event.timestamp)
        + _text(b"\x12", event.name)
        + _attributes(b"\x1a", event.attributes)
        + _count(b"\x20", event.dropped_attributes)
    )


def _link(link: Link) -> bytes:
    context: SpanContext = link.context
    return b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            _attributes(b"\x22", link.attributes),
            _count(b"\x28", link.dropped_attributes),
            b"\x35" + _FIXED32(_HAS_IS_REMOTE | _IS_REMOTE if context.is_remote else _HAS_IS_REMOTE),
        )
    )


def _status(status: Status | None) -> bytes:
    if status is None:
        return b""
    return _sized(b"\x7a", _text(b"\x12", status.description) + _count(b"\x18", status.status_code.value))


# -- log records ---------------------------------------------------------------------------------------------------
def _log_record(readable: ReadableLogRecord) -> bytes:
    record = readable.log_record
    severity = getattr(record.severity_number, "value", None)
    return b"".join(
        (
            _time(b"\x09", record.timestamp),
            _count(b"\x10", severity) if severity else b"",
            _text(b"\x1a", record.severity_text),
            _sized(b"\x2a", _any_value(record.body)),
            _attributes(b"\x32", record.attributes),
            _count(b"\x38", readable.dropped_attributes),
            b"\x45" + _FIXED32(int(record.trace_flags)) if record.trace_flags else b"",
            b"\x4a\x10" + record.trace_id.to_bytes(16, "big") if record.trace_id else b"",
            b"\x52\x08" + record.span_id.to_bytes(8, "big") if record.span_id else b"",
            _time(b"\x59", record.observed_timestamp),
            _text(b"\x62", record.event_name),
        )
    )


# -- requests ------------------------------------------------------------------------------------------------------
def _request(groups: Mapping[Resource, Mapping[InstrumentationScope | None, list[bytes]]]) -> bytes:
    """Resource and scope have the same field numbers for both signals."""
    out = []
    for resource, scopes in groups.items():
        parts = [_sized(b"\x0a", _attributes(b"\x0a", resource.attributes))]
        for scope, items in scopes.items():
            body = b"".join([part for item in items for part in (b"\x12", _varint(len(item)), item)])
            schema = _text(b"\x1a", scope.schema_url) if scope else b""
            parts.append(_sized(b"\x12", _sized(b"\x0a", _scope(scope)) + body + schema))
        parts.append(_text(b"\x1a", resource.schema_url))
        out.append(_sized(b"\x0a", b"".join(parts)))
    return b"".join(out)


def _scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return b""
    return _text(b"\x0a", scope.name) + _text(b"\x12", scope.version) + _attributes(b"\x1a", scope.attributes)
