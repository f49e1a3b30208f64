"""What may go into an OTLP message: a strict walk over attribute values, and the limits on them.

One value that protobuf cannot carry (a lone surrogate in a body, a negative timestamp, a 65-bit integer) makes the
OpenTelemetry encoders lose the whole batch, and nesting beyond the parsers' limit makes the *receiver* lose it. So
every value is checked before it gets near a batch, event by event.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk.trace import SpanLimits

_logger = logging.getLogger(__name__)

MAX_DEPTH: Final = 24
"""Protobuf parsers stop at 100 nested messages, and each level of a map takes three."""

MAX_TIME: Final = 2**64 - 1
_INT64: Final = 2**63


class UnmappableError(ValueError):
    """An event holds something that OTLP cannot carry; the message says what and where."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """OpenTelemetry's limits on spans and log records; None means no limit.

    Attributes:
        span_attributes: Attributes of a span; those beyond it are dropped and counted.
        span_events: Events of a span.
        span_links: Links of a span.
        event_attributes: Attributes of one span event.
        link_attributes: Attributes of one link.
        log_attributes: Attributes of a log record.
        span_value_length: Characters of a string value on a span; a longer one is cut.
        log_value_length: Characters of a string value on a log record.
    """

    span_attributes: int | None = 128
    span_events: int | None = 128
    span_links: int | None = 128
    event_attributes: int | None = 128
    link_attributes: int | None = 128
    log_attributes: int | None = 128
    span_value_length: int | None = None
    log_value_length: int | None = None

    @classmethod
    def from_sdk(cls, spans: SpanLimits, logs: LogRecordLimits) -> Limits:
        """Take over the limits of an SDK provider."""
        return cls(
            span_attributes=spans.max_span_attributes,
            span_events=spans.max_events,
            span_links=spans.max_links,
            event_attributes=spans.max_event_attributes,
            link_attributes=spans.max_link_attributes,
            log_attributes=logs.max_log_record_attributes,
            span_value_length=spans.max_span_attribute_length,
            log_value_length=logs.max_log_record_attribute_length,
        )

    @classmethod
    def from_env(cls) -> Limits:
        """Read `OTEL_*_LIMIT` from the process environment; values that cannot be read are warned of and ignored."""
        try:
            return cls.from_sdk(SpanLimits(), LogRecordLimits())
        except ValueError as error:
            _logger.warning("attribute limits from the environment cannot be used, the defaults stay: %s", error)
            return cls()


class Walk:
    """Checks and copies values; adds up roughly how many bytes they take when encoded.

    Attributes:
        size: Estimated encoded bytes of all that went through.
    """

    __slots__ = ("_length", "size")

    def __init__(self, value_length: int | None) -> None:
        self._length = value_length
        self.size = 0

    def text(self, value: object, what: str) -> str:
        """Return *value* if it is a string that UTF-8 can carry; it is never cut.

        Raises:
            UnmappableError: it is not.
        """
        if not isinstance(value, str):
            raise UnmappableError(f"{what} is {type(value).__name__}, not a string")
        self._count(value, what)
        return value

    def value(self, value: Any, what: str, depth: int = 0) -> Any:
        """Return a copy of *value*, strings cut to the limit.

        Raises:
            UnmappableError: it is not plain data, too deep, or too large an integer.
        """
        cls = value.__class__
        self.size += 8
        if cls is str:
            if self._length is not None and len(value) > self._length:
                value = value[: self._length]
            self._count(value, what)
            return value
        if cls is bool or cls is float or value is None:
            return value
        if cls is int:
            if not -_INT64 <= value < _INT64:
                raise UnmappableError(f"{what} is an integer of more than 64 bits")
            return value
        if cls is bytes:
            self.size += len(value)
            return value
        if depth >= MAX_DEPTH:
            raise UnmappableError(f"{what} is nested deeper than {MAX_DEPTH} levels")
        if cls is list or cls is tuple:
            return [self.value(item, what, depth + 1) for item in value]
        if cls is dict:
            return {
                self.text(key, f"a key of {what}"): self.value(item, what, depth + 1) for key, item in value.items()
            }
        raise UnmappableError(f"{what} is {cls.__module__}.{cls.__qualname__}, which is not plain data")

    def attributes(self, values: Mapping[str, Any], maximum: int | None) -> Mapping[str, Any]:
        """Return *values* as attributes; beyond *maximum* the last ones are dropped and counted."""
        kept: dict[str, Any] = {}
        for key, value in values.items():
            if maximum is not None and len(kept) >= maximum:
                break
            if key:
                kept[self.text(key, "an attribute name")] = self.value(value, key)
        dropped = len(values) - len(kept)
        if not dropped:
            return kept
        # The SDK's exporters read the number of dropped attributes from this class only.
        bounded = BoundedAttributes(maxlen=maximum, attributes=kept)
        bounded.dropped = dropped
        return bounded

    def _count(self, value: str, what: str) -> None:
        if value.isascii():
            self.size += len(value)
            return
        try:
            self.size += len(value.encode())
        except UnicodeEncodeError as error:
            raise UnmappableError(f"{what} holds a lone surrogate at {error.start}, which UTF-8 cannot carry") from None


def unsigned(value: Any, bits: int, what: str) -> int:
    """Return *value* if it is an integer of at most *bits* bits, not negative.

    Raises:
        UnmappableError: it is not.
    """
    if value.__class__ is not int or not 0 <= value < 1 << bits:
        raise UnmappableError(f"{what} is not an unsigned integer of {bits} bits")
    return int(value)
