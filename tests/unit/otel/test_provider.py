"""`ProviderEventExporter` with real SDK providers."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.otel import ProviderEventExporter
from zupa.ports import ExportResult

RESOURCE = Resource({"service.name": "the-users-own"})
START = 1_700_000_000_000_000_000


def node_event(index=1, **payload):
    fields = {"kind": "node", "phase": "completed", "node": f"n{index}", "start_ns": START, "end_ns": START + index}
    return Event("engine", "node_completed", {**fields, **payload}, trace_id=1, span_id=index, trace_flags=1)


@pytest.fixture
def pipeline():
    """Batch processors of the SDK, as an application sets them up."""
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    tracer_provider = TracerProvider(
        resource=RESOURCE, shutdown_on_exit=False, span_limits=SpanLimits(max_span_attributes=6)
    )
    tracer_provider.add_span_processor(BatchSpanProcessor(spans))
    logger_provider = LoggerProvider(
        resource=RESOURCE, shutdown_on_exit=False, log_record_limits=LogRecordLimits(max_log_record_attributes=3)
    )
    logger_provider.add_log_record_processor(BatchLogRecordProcessor(logs))
    yield tracer_provider, logger_provider, spans, logs
    tracer_provider.shutdown()
    logger_provider.shutdown()


def test_events_go_through_the_users_processors_with_their_resource(pipeline):
    tracer_provider, logger_provider, spans, logs = pipeline
    exporter = ProviderEventExporter(tracer_provider, logger_provider)
    with tracer_provider.get_tracer("app").start_as_current_span("ambient"):
        result = exporter.export([node_event(1), Event("agent", "note", {"message": "hi"})])
    assert result == ExportResult.SUCCESS
    assert exporter.force_flush(5_000)
    assert {span.name for span in spans.get_finished_spans()} == {"n1", "ambient"}
    assert {span.resource for span in spans.get_finished_spans()} == {RESOURCE}
    (record,) = logs.get_finished_logs()
    assert record.resource == RESOURCE
    assert record.instrumentation_scope.name == "zupa"
    assert (record.log_record.event_name, record.log_record.body) == ("agent.note", "hi")
    assert (record.log_record.trace_id, record.log_record.span_id) == (0, 0)


def test_the_providers_limits_apply(pipeline):
    tracer_provider, logger_provider, spans, logs = pipeline
    exporter = ProviderEventExporter(tracer_provider, logger_provider)
    payload = {f"k{i}": i for i in range(9)}
    assert exporter.export([node_event(1, **payload), Event("agent", "note", payload)]) == ExportResult.SUCCESS
    assert exporter.force_flush(5_000)
    (span,) = spans.get_finished_spans()
    assert len(span.attributes) == 6
    assert span.dropped_attributes > 0
    assert len(logs.get_finished_logs()[0].log_record.attributes) == 3


def test_a_bad_event_and_a_raising_processor_cost_one_event_each():
    class Raising(SpanProcessor):
        def on_end(self, span):
            seen.append(span.name)
            if span.name == "n2":
                raise RuntimeError("processor")

    seen = []
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    exporter = ProviderEventExporter(provider)
    batch = [node_event(1), node_event(2), node_event(3, links="no list"), node_event(4), Event("agent", "note")]
    result = exporter.export(batch)
    assert (result.success, result.rejected) == (True, 2)
    assert result.error_type
    assert seen == ["n1", "n2", "n4"]


def test_logs_alone_and_a_resource_that_changes_as_after_a_fork():
    class Keep(LogRecordProcessor):
        def on_emit(self, log_record):
            kept.append(log_record.resource.attributes["service.name"])

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=30_000):
            return False

    kept = []
    provider = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(Keep())
    exporter = ProviderEventExporter(None, provider)
    exporter.export([Event("agent", "note"), node_event(1)])
    provider._update_resource(Resource({"service.name": "child"}))
    exporter.export([Event("agent", "note")])
    assert kept == ["the-users-own", "child"]
    assert not exporter.force_flush(1_000)


def test_shutdown_leaves_the_providers_to_the_application(pipeline):
    tracer_provider, logger_provider, spans, _ = pipeline
    exporter = ProviderEventExporter(tracer_provider, logger_provider)
    exporter.shutdown(1_000)
    exporter.shutdown(1_000)
    assert exporter.export([node_event(1)]) == ExportResult(success=False, error_type="already_shutdown")
    tracer_provider.get_tracer("app").start_span("still works").end()
    assert tracer_provider.force_flush()
    assert [span.name for span in spans.get_finished_spans()] == ["still works"]


def test_a_raising_flush_is_a_failed_flush(pipeline, monkeypatch):
    tracer_provider, logger_provider, _, _ = pipeline
    exporter = ProviderEventExporter(tracer_provider, logger_provider)
    flushed = []
    monkeypatch.setattr(tracer_provider, "force_flush", lambda timeout_millis: 1 // 0)
    monkeypatch.setattr(logger_provider, "force_flush", flushed.append)
    assert not exporter.force_flush(2_000)
    assert 0 < flushed[0] <= 2_000


def test_a_provider_that_is_not_the_sdks_is_refused():
    with pytest.raises(ConfigurationError, match="neither a tracer nor a logger provider"):
        ProviderEventExporter()
    with pytest.raises(ConfigurationError, match=r"NoOpTracerProvider has no processors .* use opentelemetry\.sdk"):
        ProviderEventExporter(trace.NoOpTracerProvider())
    with pytest.raises(ConfigurationError, match="LoggerProvider"):
        ProviderEventExporter(None, object())
