"""The engine, instrumented, on a real bus, and its telemetry as events and spans."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.resources import Resource
from tests.stress.kit import quick

from zupa import ReducerEventBus
from zupa.otel import map_event
from zupa.ports import ExportResult
from zupa.transition import TERMINAL_PHASES
from zupa_instrumentation.engine import EngineInstrumentor

RESOURCE = Resource({})


class Kept:
    """An exporter that keeps all events."""

    def __init__(self):
        self.events = []

    def export(self, batch):
        self.events += batch
        return ExportResult.SUCCESS

    def force_flush(self, timeout_millis=30_000):
        return True

    def shutdown(self, timeout_millis=30_000):
        pass


class Observed:
    """What an instrumented engine emitted on `bus`."""

    def __init__(self, bus, kept):
        self.bus = bus
        self.kept = kept

    @property
    def events(self):
        assert self.bus.force_flush(10_000)
        return list(self.kept.events)

    def named(self, name, **fields):
        """Events ``engine:name`` whose payload has *fields*."""
        return [
            event
            for event in self.events
            if event.topic == f"engine:{name}" and all(event.payload.get(key) == fields[key] for key in fields)
        ]

    def names(self, kind=None):
        return [event.name for event in self.events if kind is None or event.payload.get("kind") == kind]

    @property
    def spans(self):
        mapped = [map_event(event, RESOURCE).span for event in self.events]
        return [span for span in mapped if span is not None]

    @property
    def logs(self):
        mapped = [map_event(event, RESOURCE).log for event in self.events]
        return [log.log_record for log in mapped if log is not None]

    def span(self, name, **attributes):
        """The one span with this name and these attributes."""
        found = [
            span
            for span in self.spans
            if span.name == name and all(span.attributes.get(key) == attributes[key] for key in attributes)
        ]
        assert len(found) == 1, f"{len(found)} spans {name!r} of {[span.name for span in self.spans]}"
        return found[0]

    def assert_every_start_has_one_end(self):
        events = self.events
        starts = [x.payload["exec_id"] for x in events if x.payload.get("phase") == "started"]
        ends = [x.payload["exec_id"] for x in events if x.payload.get("phase") in TERMINAL_PHASES]
        assert len(starts) == len(set(starts))
        assert sorted(starts) == sorted(ends)
        span_ids = [span.context.span_id for span in self.spans]
        assert len(span_ids) == len(set(span_ids)) == len(ends)
        assert all(span.end_time >= span.start_time > 0 for span in self.spans)


def parent_name(observed, span):
    """The name of a span's parent; None for a root; the parent has to be among the spans."""
    if span.parent is None:
        return None
    (parent,) = [other for other in observed.spans if other.context.span_id == span.parent.span_id]
    assert parent.context.trace_id == span.context.trace_id
    return parent.name


@pytest.fixture
def instrumentor():
    """The engine's instrumentor, not instrumented before and after, its counts of failures at zero."""
    instrumentor = EngineInstrumentor()
    assert not instrumentor.is_instrumented_by_opentelemetry
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    instrumentor.failures.counts.clear()
    instrumentor.failures._logged.clear()


@pytest.fixture
def make_observed(make_bus, instrumentor):
    def make():
        kept = Kept()
        return Observed(make_bus(kept), kept)

    return make


@pytest.fixture
def observed(make_observed, instrumentor, caplog):
    """The engine is instrumented; afterwards nothing may have failed, been lost, or been detached wrongly."""
    with caplog.at_level(logging.WARNING):
        observed = make_observed()
        instrumentor.instrument(bus=observed.bus)
        yield observed
        observed.bus.force_flush(10_000)
    assert instrumentor.failures.counts == {}
    statistics = observed.bus.statistics()
    assert (statistics.imbalance, statistics.dropped, statistics.degraded) == (0, {}, 0)
    # A fixture's own `caplog.records` are those of the teardown.
    messages = [record.getMessage() for record in caplog.get_records("call")]
    assert [text for text in messages if "etach" in text or "different Context" in text] == []


@pytest.fixture
def strict_bus():
    """A bus on which a wrong name or payload raises into the engine's hooks, and so is counted as a failure."""
    kept = Kept()
    bus = ReducerEventBus(quick(strict=True), exporters=[kept])
    yield Observed(bus, kept)
    bus.shutdown(1_000)
