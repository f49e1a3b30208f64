import pytest
from opentelemetry._logs import SeverityNumber

from zupa import BusConfig, Event, ExportResult, ReducerEventBus
from zupa.errors import PatternError
from zupa.otel import DEFAULT_MAPPING, Row, Signal, UnmappableError
from zupa.testing import InMemoryEventExporter

NODE = {"kind": "node", "phase": "completed", "node": "plan", "start_ns": 5, "end_ns": 9}


def span_event(**changes):
    return Event("engine", "node_completed", NODE, seq=1, trace_id=1, span_id=2, trace_flags=1).replace(**changes)


def test_it_keeps_what_a_bus_exports_in_order():
    exporter = InMemoryEventExporter()
    with ReducerEventBus(BusConfig(linger_millis=0), exporters=[exporter]) as bus:
        for number in range(1000):
            bus.emit("agent", "note", {"number": number})
        assert bus.force_flush(5_000)
        assert [event.payload["number"] for event in exporter.events] == list(range(1000))
        assert not exporter.is_shut_down
    assert exporter.is_shut_down


def test_events_are_a_copy_and_clear_forgets():
    exporter = InMemoryEventExporter()
    exporter.export([Event("a", "b")])
    before = exporter.events
    exporter.clear()
    assert before == (Event("a", "b"),)
    assert exporter.events == ()


def test_events_are_found_by_pattern():
    exporter = InMemoryEventExporter()
    exporter.export([Event("a", "x"), Event("a", "y:z"), Event("b", "x")])
    assert [event.topic for event in exporter.get_finished_events("a:*")] == ["a:x", "a:y:z"]
    assert len(exporter.get_finished_events()) == 3
    with pytest.raises(PatternError):
        exporter.get_finished_events("nothing")


def test_spans_and_logs_come_from_the_real_mapping():
    exporter = InMemoryEventExporter()
    exporter.export([span_event(), Event("agent", "log:warning", {"message": "careful", "n": 1})])
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.context.span_id, span.start_time, span.end_time) == ("plan", 2, 5, 9)
    assert span.attributes["zupa.outcome"] == "completed"
    (log,) = exporter.get_finished_logs()
    assert log.log_record.body == "careful"
    assert log.log_record.severity_number is SeverityNumber.WARN
    assert log.log_record.event_name == "agent.log.warning"


def test_the_mapping_can_be_another():
    mapping = DEFAULT_MAPPING.with_row("engine:node_completed", Row(signal=Signal.NONE))
    exporter = InMemoryEventExporter(mapping=mapping)
    exporter.export([span_event()])
    assert exporter.get_finished_spans() == exporter.get_finished_logs() == ()


def test_what_otlp_cannot_carry_is_an_error_in_a_test():
    exporter = InMemoryEventExporter()
    exporter.export([span_event(payload={**NODE, "parent_span_id": "no id"})])
    with pytest.raises(UnmappableError, match="parent_span_id"):
        exporter.get_finished_spans()


def test_a_failing_result_reaches_the_bus_and_keeps_nothing():
    exporter = InMemoryEventExporter()
    exporter.result = ExportResult(success=False, error_type="teapot")
    with ReducerEventBus(BusConfig(linger_millis=0), exporters=[exporter]) as bus:
        bus.emit("a", "b")
        bus.force_flush(5_000)
        counts = bus.statistics().exported["InMemoryEventExporter"]
        assert (counts.failed, counts.exported, counts.last_error) == (1, 0, "teapot")
        exporter.result = ExportResult.SUCCESS
        bus.emit("a", "c")
        assert bus.force_flush(5_000)
    assert [event.name for event in exporter.events] == ["c"]


def test_after_shutdown_it_refuses_and_keeps_what_it_has():
    exporter = InMemoryEventExporter()
    exporter.export([Event("a", "b")])
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export([Event("a", "c")]) == ExportResult(success=False, error_type="already_shutdown")
    assert exporter.events == (Event("a", "b"),)
