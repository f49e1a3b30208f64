"""`OtelEventExporter` against fake and real exporters, and real receivers on loopback."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import context as context_api
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support import otlp_receiver
from tests.support.otlp_receiver import OtlpReceiver, attributes_of

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.otel import HashedResource, OtelEventExporter, build_exporters
from zupa.ports import ExportResult

RESOURCE = Resource({"service.name": "exporter-test"})
START = 1_700_000_000_000_000_000


def node_event(index=1, *, phase="completed", **payload):
    fields = {"kind": "node", "phase": phase, "node": f"n{index}", "start_ns": START, "end_ns": START + index}
    return Event(
        "engine", f"node_{phase}", {**fields, **payload}, seq=index, trace_id=1, span_id=index, trace_flags=1, pid=1
    )


def log_event(index=1, **payload):
    return Event("agent", "note", {"index": index, **payload}, seq=index, timestamp=START, occurred_at=START)


class Spans(SpanExporter):
    """Encodes like an OTLP exporter, and answers, raises and remembers as told."""

    def __init__(self, answer=SpanExportResult.SUCCESS):
        self.answer = answer
        self.batches = []
        self.suppressed = []
        self.shutdown_timeouts = []
        self.flushed = []

    def export(self, spans):
        self.suppressed.append(context_api.get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        encode_spans(spans).SerializeToString()
        if isinstance(self.answer, BaseException):
            raise self.answer
        self.batches.append([span.name for span in spans])
        return self.answer

    def shutdown(self, timeout_millis=30_000):
        self.shutdown_timeouts.append(timeout_millis)

    def force_flush(self, timeout_millis=30_000):
        self.flushed.append(timeout_millis)
        return self.answer is SpanExportResult.SUCCESS


class Logs(LogRecordExporter):
    def __init__(self, answer=LogRecordExportResult.SUCCESS):
        self.answer = answer
        self.batches = []
        self.shutdowns = 0

    def export(self, batch):
        encode_logs(batch).SerializeToString()
        if isinstance(self.answer, BaseException):
            raise self.answer
        self.batches.append([record.log_record.event_name for record in batch])
        return self.answer

    def shutdown(self):
        self.shutdowns += 1
        if isinstance(self.answer, BaseException):
            raise self.answer

    def force_flush(self, timeout_millis=30_000):
        return True


def test_spans_and_logs_go_to_their_exporters_with_instrumentation_suppressed():
    spans, logs = Spans(), Logs()
    exporter = OtelEventExporter(spans, logs, resource=RESOURCE)
    batch = [node_event(1), log_event(2), node_event(3, phase="failed", error={"type": "E", "message": "m"})]
    assert exporter.export(batch) == ExportResult.SUCCESS
    assert spans.batches == [["n1", "n3"]]
    assert logs.batches == [["agent.note", "exception"]]
    assert spans.suppressed == [True]
    assert not context_api.get_value(_SUPPRESS_INSTRUMENTATION_KEY)


def test_one_bad_event_is_rejected_alone():
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    exporter = OtelEventExporter(spans, logs, resource=RESOURCE)
    hostile = [
        log_event(2, junk=object()),
        log_event(3, text="\ud800"),
        node_event(4, links="no list"),
        node_event(5, status="no map"),
        node_event(6).replace(span_id=-1),
        "not even an event",
    ]
    result = exporter.export([log_event(1), *hostile, node_event(9)])
    assert result == ExportResult(rejected=6, error_type="invalid_event")
    assert [span.name for span in spans.get_finished_spans()] == ["n9"]
    assert [r.log_record.attributes["index"] for r in logs.get_finished_logs()] == [1]


def test_a_batch_of_bad_events_only_is_all_rejected():
    exporter = OtelEventExporter(None, InMemoryLogRecordExporter(), resource=RESOURCE)
    assert exporter.export([log_event(junk=object())]) == ExportResult(rejected=1, error_type="invalid_event")


def test_what_nobody_exports_is_not_made(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("made for nobody")

    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    with monkeypatch.context() as patched:
        patched.setattr("zupa.otel._mapping._record", fail)
        OtelEventExporter(spans, resource=RESOURCE).export([log_event(1), node_event(2)])
    with monkeypatch.context() as patched:
        patched.setattr("zupa.otel._mapping._span", fail)
        OtelEventExporter(None, logs, resource=RESOURCE).export([log_event(1), node_event(2)])
    assert (len(spans.get_finished_spans()), len(logs.get_finished_logs())) == (1, 1)


def test_a_failed_log_export_with_good_spans_is_a_partial_rejection():
    exporter = OtelEventExporter(Spans(), Logs(LogRecordExportResult.FAILURE), resource=RESOURCE)
    batch = [node_event(1), node_event(2), log_event(3)]
    assert exporter.export(batch) == ExportResult(rejected=1, error_type="export_failed")


def test_a_raising_span_exporter_does_not_keep_the_logs():
    logs = Logs()
    exporter = OtelEventExporter(Spans(ConnectionError("secret")), logs, resource=RESOURCE)
    batch = [node_event(1), node_event(2), log_event(3)]
    assert exporter.export(batch) == ExportResult(rejected=2, error_type="ConnectionError")
    assert logs.batches == [["agent.note"]]


def test_when_nothing_arrives_the_batch_has_failed():
    exporter = OtelEventExporter(
        Spans(SpanExportResult.FAILURE), Logs(LogRecordExportResult.FAILURE), resource=RESOURCE
    )
    result = exporter.export([node_event(1), log_event(2), log_event(3, junk=object())])
    assert result == ExportResult(success=False, error_type="export_failed")


def test_an_error_message_never_reaches_the_log(caplog):
    exporter = OtelEventExporter(Spans(ConnectionError("Authorization: Bearer s3cr3t")), resource=RESOURCE)
    with caplog.at_level(logging.DEBUG):
        exporter.export([node_event(1)])
    assert "ConnectionError" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_several_exporters_for_one_signal():
    first, second = Spans(), Spans()
    exporter = OtelEventExporter([first, second], resource=RESOURCE)
    assert exporter.export([node_event(1), log_event(2)]) == ExportResult.SUCCESS
    assert first.batches == second.batches == [["n1"]]


def test_a_signal_without_an_exporter_is_discarded():
    spans = Spans()
    assert OtelEventExporter(spans, resource=RESOURCE).export([log_event(1)]) == ExportResult.SUCCESS
    assert spans.batches == []


def test_batches_larger_than_a_request_are_split():
    logs = Logs()
    exporter = OtelEventExporter(None, logs, resource=RESOURCE, max_request_bytes=100_000)
    assert exporter.export([log_event(i, text="x" * 40_000) for i in range(5)]) == ExportResult.SUCCESS
    assert [len(batch) for batch in logs.batches] == [2, 2, 1]


def test_an_event_larger_than_a_request_is_cut_and_marked():
    logs = InMemoryLogRecordExporter()
    exporter = OtelEventExporter(None, logs, resource=RESOURCE, max_request_bytes=100_000)
    assert exporter.export([log_event(1, text="x" * 200_000, keep="me")]) == ExportResult.SUCCESS
    (record,) = logs.get_finished_logs()
    found = record.log_record.attributes
    assert found["text"] == "x" * 1024
    assert found["keep"] == "me"
    assert list(found["zupa.event.degraded"]) == ["values_cut"]
    hopeless = log_event(2, items=["x" * 1024] * 500)
    assert exporter.export([hopeless]) == ExportResult(rejected=1, error_type="invalid_event")


def test_flush_asks_every_exporter_and_reports_a_failure():
    good, bad = Spans(), Spans(SpanExportResult.FAILURE)
    assert OtelEventExporter(good, Logs(), resource=RESOURCE).force_flush(5_000)
    assert 0 < good.flushed[0] <= 5_000
    assert not OtelEventExporter([bad, good], resource=RESOURCE).force_flush(5_000)
    assert len(good.flushed) == 2


def test_a_raising_flush_is_a_failed_flush_and_the_others_are_still_asked(monkeypatch):
    raising, good = Spans(), Spans()
    monkeypatch.setattr(raising, "force_flush", lambda timeout_millis: 1 // 0)
    assert not OtelEventExporter([raising, good], resource=RESOURCE).force_flush(5_000)
    assert len(good.flushed) == 1


def test_a_response_that_is_not_otlp_does_not_unmake_a_delivery(monkeypatch):
    with OtlpReceiver() as receiver:
        exporter = _exporter_for(receiver, "http/protobuf", monkeypatch)
        monkeypatch.setitem(
            otlp_receiver._HttpHandler.routes,
            "/v1/traces",
            (otlp_receiver.trace_service_pb2.ExportTraceServiceRequest, lambda _: _NotOtlp()),
        )
        assert exporter.export([node_event(1)]) == ExportResult.SUCCESS
        exporter.shutdown(1_000)


class _NotOtlp:
    def SerializeToString(self):  # noqa: N802 - protobuf's name
        return b"\xff\xff<html>"


def test_shutdown_passes_the_timeout_where_it_is_taken_and_survives_a_raising_exporter():
    spans, logs = Spans(), Logs(OSError("no"))
    exporter = OtelEventExporter(spans, logs, resource=RESOURCE)
    exporter.shutdown(1_234)
    exporter.shutdown(1_234)
    assert len(spans.shutdown_timeouts) == 1
    assert 0 < spans.shutdown_timeouts[0] <= 1_234
    assert logs.shutdowns == 1
    assert exporter.export([node_event(1)]) == ExportResult(success=False, error_type="already_shutdown")
    assert spans.batches == []


def test_unusable_settings_are_refused_at_construction():
    with pytest.raises(ConfigurationError, match="neither a span exporter nor a log exporter"):
        OtelEventExporter(resource=RESOURCE)
    with pytest.raises(ConfigurationError, match="max_request_bytes=10"):
        OtelEventExporter(Spans(), resource=RESOURCE, max_request_bytes=10)


def test_a_hashed_resource_equals_and_hashes_like_its_original():
    hashed = HashedResource(RESOURCE)
    assert (hashed, hash(hashed)) == (RESOURCE, hash(RESOURCE))
    assert hashed == RESOURCE
    assert hashed != Resource({"service.name": "other"})


# -- real receivers ------------------------------------------------------------------------------------------------
def _exporter_for(receiver, protocol, monkeypatch, **extra):
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=s3cr3t")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    built = build_exporters()
    return OtelEventExporter(built.spans, built.logs, resource=RESOURCE, **extra)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_spans_and_logs_arrive_over_otlp(protocol, monkeypatch):
    with OtlpReceiver() as receiver:
        exporter = _exporter_for(receiver, protocol, monkeypatch)
        failed = node_event(2, phase="failed", error={"type": "ValueError", "message": "boom"})
        assert exporter.export([node_event(1), failed, log_event(3, message="hello")]) == ExportResult.SUCCESS
        assert receiver.wait_for(n_spans=2, n_logs=2)
        exporter.shutdown(1_000)
    assert [span.name for span in receiver.spans] == ["n1", "n2"]
    assert [log.event_name for log in receiver.logs] == ["exception", "agent.note"]
    assert attributes_of(receiver.spans[1])["error.type"] == "ValueError"
    assert receiver.resource_attributes["service.name"] == "exporter-test"
    assert all(headers["x-api-key"] == "s3cr3t" for headers in receiver.headers)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_the_receiver_refuses_is_counted(protocol, monkeypatch):
    with OtlpReceiver("partial", rejected=2) as receiver:
        exporter = _exporter_for(receiver, protocol, monkeypatch)
        batch = [node_event(i) for i in range(1, 6)]
        assert exporter.export(batch) == ExportResult(rejected=2, error_type="rejected")
        receiver.mode = "ok"
        assert exporter.export(batch) == ExportResult.SUCCESS
        exporter.shutdown(1_000)


@pytest.mark.parametrize("mode", ["unavailable", "refuse", "hang"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_receiver_fails_the_batch(mode, protocol, monkeypatch):
    with OtlpReceiver(mode) as receiver:
        exporter = _exporter_for(receiver, protocol, monkeypatch)
        for signal in (exporter._spans[0], exporter._logs[0]):
            timed = signal if protocol == "grpc" else signal._client
            timed._timeout = 0.3
        result = exporter.export([node_event(1), log_event(2)])
        assert result == ExportResult(success=False, error_type="export_failed")
        exporter.shutdown(1_000)
    assert (receiver.spans, receiver.logs) == ([], [])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_slow_receiver_is_waited_for(protocol, monkeypatch):
    with OtlpReceiver("slow", delay_s=0.1) as receiver:
        exporter = _exporter_for(receiver, protocol, monkeypatch)
        assert exporter.export([node_event(1)]) == ExportResult.SUCCESS
        assert receiver.wait_for_requests(1)
        exporter.shutdown(1_000)
    assert len(receiver.spans) == 1


def test_a_grpc_exporter_is_still_watched_after_it_has_reconnected(monkeypatch):
    with OtlpReceiver("unavailable") as receiver:
        exporter = _exporter_for(receiver, "grpc", monkeypatch)
        exporter._spans[0]._timeout = 0.3
        assert not exporter.export([node_event(1)]).success
        receiver.mode = "partial"
        exporter._spans[0]._timeout = 5
        assert exporter.export([node_event(1), node_event(2)]) == ExportResult(rejected=1, error_type="rejected")
        exporter.shutdown(1_000)


def test_a_batch_that_grpc_would_refuse_whole_arrives_in_parts(monkeypatch):
    with OtlpReceiver() as receiver:
        exporter = _exporter_for(receiver, "grpc", monkeypatch)
        assert exporter.export([log_event(i, text="x" * 1_000_000) for i in range(1, 10)]) == ExportResult.SUCCESS
        assert receiver.wait_for(n_logs=9)
        assert receiver.requests >= 3
        exporter.shutdown(1_000)
