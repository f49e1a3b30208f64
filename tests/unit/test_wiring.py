"""`configure`: what is wired to what, and that it can be done again and undone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PREAMBLE = """
import json, logging, os, sys
import zupa
from zupa import BusConfig, ConfigurationError, ReducerEventBus
from zupa.engine import EngineExecutor, Graph
from zupa.ports import ExportResult
from zupa_instrumentation.engine import EngineInstrumentor
from opentelemetry import trace
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

class Kept:
    def __init__(self):
        self.events, self.shut_down = [], 0
    def export(self, batch):
        self.events += batch
        return ExportResult.SUCCESS
    def force_flush(self, timeout_millis=0):
        return True
    def shutdown(self, timeout_millis=0):
        self.shut_down += 1

def run(name="g"):
    return EngineExecutor(Graph(name).add_node("a", lambda ctx: None)).invoke_sync()

def names(exporter):
    return sorted(span.name for span in exporter.get_finished_spans())

EVENTS = 6
SPANS = ["a", "invoke_workflow g", "step 1"]
quick = BusConfig(schedule_delay_millis=5, linger_millis=1)
"""


def script(body, **environ):
    """Run *body* in a process of its own: OpenTelemetry's globals can be set once a process."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(body)],
        env={key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ZUPA_"))} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(body, stderr="", **environ):
    done = script(body, **environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == stderr
    return done.stdout


def test_exporters_get_the_engines_events():
    check("""
        kept = Kept()
        handle = zupa.configure(exporters=[kept], config=quick)
        assert handle.instrumented == ["zupa_engine"] and handle.skipped == {}
        run()
        assert handle.force_flush(10_000)
        assert len(kept.events) == EVENTS
        assert handle.statistics().exported["Kept"].exported == EVENTS
        assert handle.shutdown() and kept.shut_down == 1
        assert handle.shutdown() and kept.shut_down == 1
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry
        run()
        assert len(kept.events) == EVENTS
        """)


def test_any_sdk_exporter_can_be_given():
    check("""
        spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        with zupa.configure("svc", span_exporter=spans, log_exporter=logs, config=quick,
                            resource_attributes={"team": "x"}) as handle:
            run()
            handle.bus.emit("agent", "log:info", {"message": "hello"})
            assert handle.force_flush(10_000)
            assert names(spans) == SPANS
            resource = spans.get_finished_spans()[0].resource.attributes
            assert (resource["service.name"], resource["team"]) == ("svc", "x")
            assert resource["telemetry.distro.name"] == "zupa-otel"
            found = [log.log_record.event_name for log in logs.get_finished_logs()]
            assert "agent.log.info" in found and "engine.node_started" in found
        """)


def test_the_default_bus_is_the_same_before_and_after():
    check("""
        bus = zupa.get_bus()
        assert zupa.get_bus() is bus
        seen, kept = [], Kept()
        bus.subscribe("*", seen.append)
        bus.emit("agent", "early")
        assert bus.force_flush(10_000)
        handle = zupa.configure(exporters=[kept])
        assert handle.bus is bus is zupa.get_bus()
        bus.emit("agent", "late")
        assert handle.force_flush(10_000)
        assert [event.name for event in seen] == ["early", "late"]
        assert [event.name for event in kept.events] == ["late"]
        handle.shutdown()
        assert zupa.get_bus() is not bus
        """)


def test_a_bus_of_ones_own_becomes_the_default():
    check("""
        bus, kept = ReducerEventBus(quick), Kept()
        handle = zupa.configure(bus=bus, exporters=[kept])
        assert zupa.get_bus() is handle.bus is bus
        run()
        assert handle.force_flush(10_000) and len(kept.events) == EVENTS
        """)


def test_a_second_configure_replaces_the_first():
    check("""
        first, second = Kept(), Kept()
        one = zupa.configure(exporters=[first])
        run()
        two = zupa.configure(exporters=[second])
        assert (len(first.events), first.shut_down) == (EVENTS, 1)  # flushed when it was replaced
        run()
        assert two.force_flush(10_000)
        assert (len(first.events), len(second.events)) == (EVENTS, EVENTS)
        assert one.bus is two.bus
        assert list(two.statistics().exported) == ["Kept"]
        """)


def test_a_second_configure_from_the_environment_still_exports_everything():
    out = check(
        """
        for name in ("one", "two"):
            handle = zupa.configure(name, config=BusConfig(schedule_delay_millis=5))
            provider = trace.get_tracer_provider()
            run()
            with trace.get_tracer("user").start_as_current_span("foreign " + name):
                pass
            assert handle.shutdown(10_000)
            sys.stdout.write(f"--- {name}\\n")
        """,
        OTEL_TRACES_EXPORTER="console",
        OTEL_LOGS_EXPORTER="console",
    )
    one, two = out.split("--- one")
    for text, name in ((one, "one"), (two, "two")):
        assert text.count('"name": "invoke_workflow g"') == 1
        assert text.count(f'"name": "foreign {name}"') == 1
        assert text.count('"event_name": "engine.node_started"') == 1
        assert f'"service.name": "{name}"' in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("bus=ReducerEventBus(), config=quick", "both bus= and config="),
        ("exporters=[], span_exporter=InMemorySpanExporter()", "exporters= and span_exporter="),
        ("exporters=[], log_exporter=InMemoryLogRecordExporter()", "exporters= and span_exporter="),
        ("config=quick", "after events were emitted"),
        (
            "**(os.environ.update(OTEL_TRACES_EXPORTER='carrier-pigeon') or {})",
            "'carrier-pigeon', which is not installed",
        ),
    ],
)
def test_a_refused_call_names_the_conflict_and_leaves_the_previous_one_in_force(call, message):
    check(f"""
        kept = Kept()
        handle = zupa.configure(exporters=[kept])
        handle.bus.emit("agent", "x")
        try:
            zupa.configure({call})
        except ConfigurationError as error:
            assert {message!r} in str(error), error
        else:
            raise AssertionError("not refused")
        run()
        assert handle.force_flush(10_000) and len(kept.events) == 1 + EVENTS
        assert handle.shutdown() and kept.shut_down == 1
        """)


def test_nothing_to_export_to_is_said_once_and_the_bus_works():
    check(
        """
        handle, seen = zupa.configure(), []
        handle.bus.subscribe("engine:*", seen.append)
        run()
        assert handle.force_flush(10_000) and len(seen) == EVENTS
        """,
        stderr="zupa exports nothing: set OTEL_EXPORTER_OTLP_ENDPOINT (e.g. http://localhost:4317), or "
        "OTEL_TRACES_EXPORTER=console, or pass exporters= to zupa.configure()\n",
    )


def test_disabled_means_no_telemetry_but_a_working_bus():
    check(
        """
        kept, seen = Kept(), []
        handle = zupa.configure(exporters=[kept])
        assert handle.instrumented == []
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry
        handle.bus.subscribe("*", seen.append)
        run()
        handle.bus.emit("agent", "x")
        assert handle.force_flush(10_000)
        assert [event.name for event in seen] == ["x"] and kept.events == []
        assert handle.shutdown()
        """,
        OTEL_SDK_DISABLED="True",
    )


def test_always_off_makes_no_spans_but_log_records_and_events():
    check(
        """
        spans, logs, seen = InMemorySpanExporter(), InMemoryLogRecordExporter(), []
        handle = zupa.configure(span_exporter=spans, log_exporter=logs, config=quick)
        handle.bus.subscribe("engine:*", seen.append)
        run()
        assert handle.force_flush(10_000)
        assert names(spans) == [] and len(seen) == EVENTS
        found = [log.log_record.event_name for log in logs.get_finished_logs()]
        assert found.count("engine.node_started") == 1
        assert {event.trace_flags for event in seen} == {0}
        """,
        OTEL_TRACES_SAMPLER="always_off",
    )


@pytest.mark.parametrize(("ratio", "lowest", "highest"), [("0", 0, 0), ("0.5", 60, 140), ("1", 200, 200)])
def test_traceidratio_takes_whole_traces(ratio, lowest, highest):
    check(
        f"""
        from collections import Counter
        spans = InMemorySpanExporter()
        handle = zupa.configure(span_exporter=spans, log_exporter=InMemoryLogRecordExporter(), config=quick)
        for _ in range(200):
            run()
            assert handle.force_flush(10_000)
        traces = Counter(span.context.trace_id for span in spans.get_finished_spans())
        assert {lowest} <= len(traces) <= {highest}, len(traces)
        assert set(traces.values()) <= {{3}}
        """,
        OTEL_TRACES_SAMPLER="traceidratio",
        OTEL_TRACES_SAMPLER_ARG=ratio,
    )


def test_an_existing_sdk_is_fed_and_there_is_no_second_pipeline():
    check(
        """
        from opentelemetry import _logs
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
        from opentelemetry.sdk.resources import Resource
        spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        provider = TracerProvider(resource=Resource({"service.name": "theirs"}))
        provider.add_span_processor(SimpleSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        logger_provider = LoggerProvider()
        logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
        _logs.set_logger_provider(logger_provider)
        handle = zupa.configure("ours", config=quick)
        assert trace.get_tracer_provider() is provider
        assert list(handle.statistics().exported) == ["ProviderEventExporter"]
        with trace.get_tracer("user").start_as_current_span("request"):
            run()
        assert handle.force_flush(10_000)
        assert names(spans) == ["a", "invoke_workflow g", "request", "step 1"]
        assert {span.resource.attributes["service.name"] for span in spans.get_finished_spans()} == {"theirs"}
        assert len({span.context.trace_id for span in spans.get_finished_spans()}) == 1
        assert "engine.node_started" in [log.log_record.event_name for log in logs.get_finished_logs()]
        handle.shutdown()
        with trace.get_tracer("user").start_as_current_span("afterwards"):
            pass
        assert names(spans)[0:2] == ["a", "afterwards"]  # theirs lives on
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )


def test_without_an_sdk_spans_of_other_libraries_are_exported_at_exit():
    out = check(
        """
        zupa.configure("svc")
        def body(ctx):
            with trace.get_tracer("user").start_as_current_span("GET /x"):
                pass
        EngineExecutor(Graph("g").add_node("a", body)).invoke_sync()
        """,
        OTEL_TRACES_EXPORTER="console",
    )
    assert out.count('"name": "GET /x"') == 1
    assert out.count('"name": "invoke_workflow g"') == 1


def test_the_global_provider_is_left_alone_where_that_was_asked():
    check(
        """
        before = trace.get_tracer_provider()
        handle = zupa.configure(set_global_providers=False)
        assert trace.get_tracer_provider() is before
        """,
        OTEL_TRACES_EXPORTER="console",
    )


def test_uninstrumented_where_that_was_asked():
    check("""
        kept = Kept()
        handle = zupa.configure(exporters=[kept], instrument=False, config=quick)
        run()
        handle.bus.emit("agent", "x")
        assert handle.force_flush(10_000) and [event.name for event in kept.events] == ["x"]
        """)


def test_the_engine_can_be_instrumented_before_configure():
    check("""
        EngineInstrumentor().instrument()
        kept = Kept()
        handle = zupa.configure(exporters=[kept])
        run()
        EngineInstrumentor().instrument()  # as opentelemetry-instrument may do later
        run()
        assert handle.force_flush(10_000) and len(kept.events) == 2 * EVENTS
        """)


def test_importing_zupa_imports_no_grpc():
    done = script("print(sorted(name for name in sys.modules if name.startswith('grpc')))")
    assert done.stdout == "[]\n"
