"""Exporters, sampler and resource from the standard variables."""

from __future__ import annotations

import traceback

import pytest
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from zupa.errors import ConfigurationError
from zupa.otel import _environment as environment_module
from zupa.otel import build_exporters, build_resource, build_sampler, sdk_disabled
from zupa.otel._otlp_grpc import GrpcLogExporter as GrpcLogs
from zupa.otel._otlp_grpc import GrpcSpanExporter as GrpcSpans
from zupa.otel._otlp_http import HttpLogExporter as HttpLogs
from zupa.otel._otlp_http import HttpSpanExporter as HttpSpans
from zupa.otel._values import Limits


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def _close(exporters):
    for exporter in (*exporters.spans, *exporters.logs):
        exporter.shutdown()


@pytest.mark.parametrize(
    ("variables", "spans", "logs"),
    [
        ({}, [], []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, [], []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, [GrpcSpans], [GrpcLogs]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4317"}, [GrpcSpans], []),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://localhost:4317"}, [], [GrpcLogs]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            [HttpSpans],
            [HttpLogs],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
            },
            [GrpcSpans],
            [HttpLogs],
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none"}, [GrpcSpans], []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost", "OTEL_TRACES_EXPORTER": "none"}, [], [GrpcLogs]),
        ({"OTEL_TRACES_EXPORTER": "console"}, [ConsoleSpanExporter], []),
        ({"OTEL_LOGS_EXPORTER": "console"}, [], [ConsoleLogRecordExporter]),
        ({"OTEL_TRACES_EXPORTER": " console , otlp ,console"}, [ConsoleSpanExporter, GrpcSpans], []),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_http"}, [HttpSpans], []),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "TRUE"}, [], []),
    ],
)
def test_which_exporters_the_variables_select(variables, spans, logs, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    exporters = build_exporters()
    assert [type(exporter) for exporter in exporters.spans] == spans
    assert [type(exporter) for exporter in exporters.logs] == logs
    assert bool(exporters) == bool(spans or logs)
    _close(exporters)


def test_an_explicit_mapping_selects_instead_of_the_process_environment(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    exporters = build_exporters({"OTEL_LOGS_EXPORTER": "console"})
    assert exporters.spans == ()
    assert [type(exporter) for exporter in exporters.logs] == [ConsoleLogRecordExporter]


def test_an_unknown_exporter_is_named_with_what_is_allowed():
    with pytest.raises(ConfigurationError, match=r"OTEL_TRACES_EXPORTER names 'jaeger'.*console, none, otlp"):
        build_exporters({"OTEL_TRACES_EXPORTER": "jaeger"})


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_an_unknown_protocol_is_named_with_what_is_allowed(variable):
    with pytest.raises(ConfigurationError, match=rf"{variable}='http/json'.*grpc or http/protobuf"):
        build_exporters({"OTEL_TRACES_EXPORTER": "otlp", variable: "http/json"})


class _Broken:
    def __init__(self):
        raise ValueError("bad header: Authorization=Bearer s3cr3t")


@pytest.mark.parametrize(("factory", "message"), [(_Broken, "cannot be built"), (dict, "builds no SpanExporter")])
def test_an_exporter_that_cannot_be_used_is_reported_without_its_secrets(factory, message, monkeypatch):
    class EntryPoint:
        name = "custom"

        def load(self):
            return factory

    monkeypatch.setattr(environment_module, "entry_points", lambda **_: [EntryPoint()])
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_exporters({"OTEL_TRACES_EXPORTER": "custom"})
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "argument", "description"),
    [
        ("", "", sampling.DEFAULT_ON.get_description()),
        ("always_on", "", sampling.ALWAYS_ON.get_description()),
        ("ALWAYS_OFF", "", sampling.ALWAYS_OFF.get_description()),
        ("parentbased_always_on", "", sampling.DEFAULT_ON.get_description()),
        ("parentbased_always_off", "", sampling.DEFAULT_OFF.get_description()),
        ("traceidratio", "0.25", sampling.TraceIdRatioBased(0.25).get_description()),
        ("parentbased_traceidratio", "0.5", sampling.ParentBasedTraceIdRatio(0.5).get_description()),
    ],
)
def test_samplers(name, argument, description, caplog):
    sampler = build_sampler({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert sampler.get_description() == description
    assert caplog.records == []


@pytest.mark.parametrize("argument", ["", "half", "1.5", "nan"])
def test_a_ratio_that_cannot_be_read_is_warned_of(argument, caplog):
    sampler = build_sampler({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": argument})
    assert sampler.get_description() == sampling.TraceIdRatioBased(1.0).get_description()
    assert "OTEL_TRACES_SAMPLER_ARG" in caplog.text


def test_an_unknown_sampler_is_warned_of(caplog):
    assert build_sampler({"OTEL_TRACES_SAMPLER": "coin"}) is sampling.DEFAULT_ON
    assert "'coin' is unknown" in caplog.text
    assert "traceidratio" in caplog.text


def test_a_sampler_from_an_entry_point_gets_its_argument(monkeypatch, caplog):
    class EntryPoint:
        def load(self):
            return lambda argument: sampling.TraceIdRatioBased(float(argument))

    monkeypatch.setattr(environment_module, "entry_points", lambda **_: [EntryPoint()])
    sampler = build_sampler({"OTEL_TRACES_SAMPLER": "mine", "OTEL_TRACES_SAMPLER_ARG": "0.125"})
    assert sampler.get_description() == sampling.TraceIdRatioBased(0.125).get_description()
    assert build_sampler({"OTEL_TRACES_SAMPLER": "mine", "OTEL_TRACES_SAMPLER_ARG": "x"}) is sampling.DEFAULT_ON
    assert "cannot be built: ValueError" in caplog.text


@pytest.mark.parametrize(("value", "disabled"), [("true", True), ("True", True), ("1", False), ("", False)])
def test_sdk_disabled(value, disabled, monkeypatch):
    assert sdk_disabled({"OTEL_SDK_DISABLED": value}) is disabled
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert sdk_disabled() is disabled


def test_the_resource_takes_the_environment_and_arguments_win(monkeypatch):
    assert build_resource().attributes["service.name"].startswith("unknown_service")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=attr,team=blue,region=eu")
    assert build_resource().attributes["service.name"] == "attr"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "env")
    assert build_resource().attributes["service.name"] == "env"
    resource = build_resource("arg", {"team": "red", "service.name": "less"})
    found = resource.attributes
    assert (found["service.name"], found["team"], found["region"]) == ("arg", "red", "eu")
    assert found["telemetry.distro.name"] == "zupa-otel"
    assert found["telemetry.sdk.language"] == "python"


def test_limits_come_from_the_standard_variables(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")
    limits = Limits.from_env()
    assert (limits.span_attributes, limits.log_attributes) == (5, 128)
    assert (limits.span_value_length, limits.log_value_length) == (10, 10)
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    assert Limits.from_env() == Limits()
    assert "defaults stay" in caplog.text
