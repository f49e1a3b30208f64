"""`ProviderEventExporter`: events into the providers that the application has already set up."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk._logs import LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.normalize import error_type
from zupa.otel._mapping import DEFAULT_SCOPE, map_event
from zupa.otel._resource import HashedResource
from zupa.otel._table import DEFAULT_MAPPING, Mapping
from zupa.otel._values import Limits
from zupa.ports import ExportResult

_logger = logging.getLogger(__name__)


class ProviderEventExporter:
    """Feeds the span and log record processors of existing SDK providers, so that there is one pipeline, the user's.

    Spans reach the processors' `on_end` only: they are over when they arrive, so `on_start` has no meaning. The
    provider's resource and limits apply; its sampler has no say, because sampling was decided when the run started.
    The providers stay the application's own: `shutdown` does not shut them down.

    Concurrency: `export` must not be called concurrently (the bus does not); the other methods: any thread.
    """

    def __init__(
        self, tracer_provider: Any = None, logger_provider: Any = None, *, mapping: Mapping = DEFAULT_MAPPING
    ) -> None:
        """Keep the providers.

        Args:
            tracer_provider: An `opentelemetry.sdk.trace.TracerProvider`; None discards spans.
            logger_provider: An `opentelemetry.sdk._logs.LoggerProvider`; None discards log records.
            mapping: Which event becomes what.

        Raises:
            ConfigurationError: there is no provider, or one that is not the SDK's.
        """
        if tracer_provider is None and logger_provider is None:
            raise ConfigurationError("ProviderEventExporter has neither a tracer nor a logger provider: give it one")
        _require(tracer_provider, "_active_span_processor", "opentelemetry.sdk.trace.TracerProvider")
        _require(logger_provider, "_multi_log_record_processor", "opentelemetry.sdk._logs.LoggerProvider")
        self._tracer_provider = tracer_provider
        self._logger_provider = logger_provider
        self._mapping = mapping
        spans = getattr(tracer_provider, "_span_limits", None)
        logs = getattr(logger_provider, "_log_record_limits", None)
        self._log_limits = logs if logs is not None else LogRecordLimits()
        self._limits = Limits.from_sdk(spans if spans is not None else SpanLimits(), self._log_limits)
        self._resource: HashedResource | None = None
        self._resource_of: Resource | None = None
        self._closed = False

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        """Hand *batch* to the processors. Never raises; what a processor raises costs its own event only."""
        if self._closed:
            return ExportResult(success=False, error_type="already_shutdown")
        rejected, error = 0, ""
        with suppress_instrumentation():
            resource = self._current_resource()
            for event in batch:
                try:
                    self._feed(event, resource)
                except Exception as failure:  # noqa: BLE001 - a user's row or a processor may raise anything
                    rejected += 1
                    error = error_type(failure)
                    _logger.debug("an event cannot be handed to the providers: %s", error)
        return ExportResult(rejected=rejected, error_type=error)

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Flush the providers, which share *timeout_millis*. Their own processors may overstep it."""
        deadline = time.monotonic() + timeout_millis / 1000
        flushed = True
        for provider in (self._tracer_provider, self._logger_provider):
            if provider is None:
                continue
            try:
                left = max(0, int((deadline - time.monotonic()) * 1000))
                flushed = provider.force_flush(left) is not False and flushed
            except Exception as error:  # noqa: BLE001 - somebody else's processor
                flushed = False
                _logger.warning("%s failed to flush: %s", type(provider).__qualname__, error_type(error))
        return flushed

    def shutdown(self, timeout_millis: float = 30_000) -> None:  # noqa: ARG002 - the port's signature
        """Stop feeding the providers, which live on: they belong to the application."""
        self._closed = True

    def _feed(self, event: Event, resource: Resource) -> None:
        item = map_event(
            event,
            resource,
            DEFAULT_SCOPE,
            mapping=self._mapping,
            limits=self._limits,
            spans=self._tracer_provider is not None,
            logs=self._logger_provider is not None,
        )
        if item.span is not None:
            # The SDK has no public way to hand in a span that is over; its own Tracer does the same at `end()`.
            self._tracer_provider._active_span_processor.on_end(item.span)  # noqa: SLF001
        if item.log is not None:
            record = ReadWriteLogRecord(
                item.log.log_record, resource, item.log.instrumentation_scope, limits=self._log_limits
            )
            self._logger_provider._multi_log_record_processor.on_emit(record)  # noqa: SLF001

    def _current_resource(self) -> Resource:
        provider = self._tracer_provider if self._tracer_provider is not None else self._logger_provider
        resource = provider.resource
        # The SDK replaces a provider's resource after a fork.
        if self._resource is None or resource is not self._resource_of:
            self._resource, self._resource_of = HashedResource(resource), resource
        return self._resource


def _require(provider: Any, attribute: str, expected: str) -> None:
    if provider is not None and not hasattr(provider, attribute):
        cls = type(provider)
        raise ConfigurationError(
            f"{cls.__module__}.{cls.__qualname__} has no processors that events could be handed to: use {expected}, "
            "or OtelEventExporter with exporters of its own"
        )
