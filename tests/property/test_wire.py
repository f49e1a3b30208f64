"""The hand-made OTLP encoder against the SDK's: the same bytes, for whatever spans and log records hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs as sdk_encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from zupa.otel import _wire

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LONG = st.integers(0, 6).map(lambda n: "x" * (4_093 + n)) | st.just("é" * 9_000)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT | LONG | st.binary(max_size=300)
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=6)
ATTRIBUTES = st.dictionaries(TEXT.filter(bool), VALUES, max_size=5)
TIMES = st.integers(0, 2**64 - 1)
STATES = st.none() | st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "2=3")])])
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(0), TraceFlags(1), TraceFlags(3)]),
    STATES,
)
RESOURCES = st.builds(Resource, st.dictionaries(TEXT.filter(bool), TEXT, max_size=3), TEXT)
SCOPES = st.none() | st.builds(InstrumentationScope, TEXT, st.none() | TEXT, TEXT)


def bounded(items):
    kept = BoundedList.from_seq(2, items[:2])
    kept.dropped = len(items) - len(kept)
    return kept


LINKS = st.lists(st.builds(Link, CONTEXTS, ATTRIBUTES), max_size=3)
EVENTS = st.lists(st.builds(Event, TEXT, ATTRIBUTES, TIMES), max_size=3)
SPANS = st.builds(
    ReadableSpan,
    name=TEXT,
    context=CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=RESOURCES,
    attributes=st.none() | ATTRIBUTES,
    events=EVENTS | EVENTS.map(bounded),
    links=LINKS | LINKS.map(bounded),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "ü" * 200), None]),
    start_time=st.none() | TIMES,
    end_time=st.none() | TIMES,
    instrumentation_scope=SCOPES,
)


@st.composite
def log_records(draw):
    current = draw(st.none() | CONTEXTS)
    span = INVALID_SPAN if current is None else NonRecordingSpan(current)
    record = LogRecord(
        timestamp=draw(st.none() | TIMES),
        observed_timestamp=draw(TIMES),
        context=set_span_in_context(span, Context()),
        severity_text=draw(st.none() | TEXT),
        severity_number=draw(st.none() | st.sampled_from(SeverityNumber)),
        body=draw(VALUES),
        attributes=draw(st.none() | ATTRIBUTES),
        event_name=draw(st.none() | TEXT),
    )
    return ReadableLogRecord(record, draw(RESOURCES), draw(SCOPES))


def same(ours, theirs):
    # Not a bare assert: pytest would explain the difference of two long byte strings, which takes it minutes.
    if ours != theirs:
        raise AssertionError(f"{len(ours)} bytes differ from {len(theirs)}")


def check_spans(spans):
    same(_wire.encode_spans(spans), sdk_encode_spans(spans).SerializeToString())


def check_logs(records):
    same(_wire.encode_logs(records), sdk_encode_logs(records).SerializeToString())


RECORDS = log_records()
quick = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(SPANS, max_size=3))
def test_spans_are_the_sdks_bytes(spans):
    check_spans(spans)


@quick
@given(st.lists(RECORDS, max_size=3))
def test_log_records_are_the_sdks_bytes(records):
    check_logs(records)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_DOUBLE", lambda value: b"\0" * 8),
        ("_int64", abs),
        ("_status", lambda status: b""),
        ("_IS_REMOTE", 0),
        ("_count", lambda tag, value: b""),
        ("_long_varint", lambda value: b"\x80\x80\x01"),
    ],
)
def test_the_properties_kill_planted_bugs(monkeypatch, name, broken):
    monkeypatch.setattr(_wire, name, broken)
    unshrunk = settings(quick, phases=[Phase.generate], max_examples=300, database=None, report_multiple_bugs=False)
    for items, check in ((SPANS, check_spans), (RECORDS, check_logs)):
        try:
            unshrunk(given(st.lists(items, min_size=1, max_size=2))(check))()
        except AssertionError:
            return
    pytest.fail("no property noticed")


def test_an_attribute_that_cannot_be_encoded_costs_itself(caplog):
    span = ReadableSpan("s", SpanContext(1, 2, is_remote=False), resource=Resource({}), attributes={"good": 1})
    span._attributes = {"bad": object(), "huge": 2**64, "surrogate": "\ud800", "good": 1}
    whole = ReadableSpan("s", SpanContext(1, 2, is_remote=False), resource=Resource({}), attributes={"good": 1})
    assert _wire.encode_spans([span]) == _wire.encode_spans([whole])
    assert len(caplog.records) == 3


def test_the_cache_of_names_is_bounded():
    attributes = {f"key-{number}": math.pi for number in range(10_000)}
    _wire._attributes(b"\x0a", attributes)
    assert len(_wire._keys) <= _wire._KEY_CACHE_LIMIT
