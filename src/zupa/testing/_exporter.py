"""`InMemoryEventExporter`: keeps what it is given, as events, spans and log records."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from zupa.bus import Pattern
from zupa.event import Event
from zupa.otel import DEFAULT_MAPPING, Mapping, map_event
from zupa.ports import ExportResult


class InMemoryEventExporter:
    """An `EventExporter` that keeps every event that it was given.

    Args:
        resource: Of the spans and log records; by default an empty one.
        mapping: Which event becomes what; the one that is used in production by default.

    Attributes:
        result: What `export` answers. Events of a batch that is answered with a failure are not kept.
        is_shut_down: Whether `shutdown` was called. `export` then fails, and what was kept stays.

    Concurrency: any thread. A bus exports in the background: flush it before you look.
    """

    def __init__(self, *, resource: Resource | None = None, mapping: Mapping = DEFAULT_MAPPING) -> None:
        self.result: ExportResult = ExportResult.SUCCESS
        self.is_shut_down: bool = False
        self._resource = Resource.get_empty() if resource is None else resource
        self._mapping = mapping
        self._events: list[Event] = []

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        if self.is_shut_down:
            return ExportResult(success=False, error_type="already_shutdown")
        result = self.result
        if result.success:
            self._events.extend(batch)
        return result

    def force_flush(self, timeout_millis: float = 30_000) -> bool:  # noqa: ARG002 - nothing waits here
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:  # noqa: ARG002 - nothing waits here
        self.is_shut_down = True

    @property
    def events(self) -> tuple[Event, ...]:
        """All events, in the order in which they came."""
        return tuple(self._events)

    def clear(self) -> None:
        """Forget all events."""
        self._events.clear()

    def get_finished_events(self, pattern: str = "*") -> tuple[Event, ...]:
        """Return the events whose topic matches *pattern*.

        Raises:
            PatternError: *pattern* can never match.
        """
        compiled = Pattern(pattern)
        return tuple(event for event in self.events if compiled.matches(event.topic))

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that the events become.

        Raises:
            zupa.otel.UnmappableError: an event holds what OTLP cannot carry; in production it would be rejected alone.
        """
        mapped = (map_event(event, self._resource, mapping=self._mapping).span for event in self.events)
        return tuple(span for span in mapped if span is not None)

    def get_finished_logs(self) -> tuple[ReadableLogRecord, ...]:
        """Return the log records that the events become, those of exceptions included.

        Raises:
            zupa.otel.UnmappableError: as for `get_finished_spans`.
        """
        mapped = (map_event(event, self._resource, mapping=self._mapping).log for event in self.events)
        return tuple(log for log in mapped if log is not None)
