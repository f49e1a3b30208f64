"""collector-config.yaml as users get it: a real Collector accepts it, and traces and logs arrive where it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

CONFIG = Path(__file__).resolve().parents[2] / "collector-config.yaml"


def validate(binary, config):
    command = [str(binary), "validate", f"--config={config}"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


def exporters(collector, protocol):
    if protocol == "grpc":
        endpoint = collector.otlp_grpc_endpoint
        return GrpcSpanExporter(endpoint=endpoint, insecure=True), GrpcLogExporter(endpoint=endpoint, insecure=True)
    endpoint = collector.otlp_http_endpoint
    return HttpSpanExporter(endpoint=f"{endpoint}/v1/traces"), HttpLogExporter(endpoint=f"{endpoint}/v1/logs")


def test_the_collector_accepts_the_configuration(collector_binary):
    result = validate(collector_binary, CONFIG)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        pytest.param("sending_queue:", "sendin_queue:", "has invalid keys: sendin_queue", id="unknown key"),
        pytest.param("otlp_grpc/jaeger", "otlp_gprc/jaeger", 'unknown type: "otlp_gprc"', id="unknown component"),
        pytest.param("exporters: [file, debug]", "exporters: [fil]", '"fil" which is not configured', id="undefined"),
    ],
)
def test_the_collector_refuses_a_planted_mistake(collector_binary, tmp_path, right, wrong, complaint):
    text = CONFIG.read_text(encoding="utf-8")
    assert right in text
    planted = tmp_path / "planted.yaml"
    planted.write_text(text.replace(right, wrong), encoding="utf-8")
    result = validate(collector_binary, planted)
    assert result.returncode != 0
    assert complaint in result.stderr


def test_the_collector_starts_without_a_deprecation(collector):
    # Deprecated names of components are warned of at start only, never by `validate`.
    log = collector.log_path.read_text(encoding="utf-8")
    assert "Everything is ready" in log
    assert "deprecated" not in log.lower()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_span_and_a_log_record_arrive(collector, protocol):
    resource = Resource.create({"service.name": f"collector-config-{protocol}"})
    span_exporter, log_exporter = exporters(collector, protocol)
    tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(span_exporter))
    logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(log_exporter))
    try:
        tracer = tracer_provider.get_tracer("test")
        with tracer.start_as_current_span("parent") as parent, tracer.start_as_current_span("child") as child:
            record = LogRecord(event_name="engine.test", body="hello", severity_number=SeverityNumber.INFO)
            logger_provider.get_logger("test").emit(record)
    finally:
        tracer_provider.shutdown()
        logger_provider.shutdown()
    trace_id = f"{parent.get_span_context().trace_id:032x}"
    parent_id, child_id = (f"{span.get_span_context().span_id:016x}" for span in (parent, child))

    spans = {span["name"]: span for span in collector.jaeger.wait_for_trace(trace_id, 2)}
    assert spans.keys() == {"parent", "child"}
    assert spans["child"]["parentSpanId"] == spans["parent"]["spanId"] == parent_id
    service = next(pair for pair in spans["parent"]["resource"] if pair["key"] == "service.name")
    assert service["value"] == {"stringValue": f"collector-config-{protocol}"}

    (log_record,) = collector.wait_for_log_records(trace_id, 1)
    assert log_record["eventName"] == "engine.test"
    assert log_record["body"] == {"stringValue": "hello"}
    assert log_record["spanId"] == child_id

    in_file = {span["name"] for span in collector.spans_in_file() if span["traceId"] == trace_id}
    assert in_file == {"parent", "child"}


def test_a_stopped_collector_exits_cleanly_and_comes_back(collector):
    assert collector.stop() == 0
    collector.start()
