"""`NodeSpan`: OpenTelemetry's Span for a node, without a lock, and never in the way."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from zupa import NodeSpan, current_node
from zupa.span import MAX_ATTRIBUTES, set_node_in_context

CONTEXT = SpanContext(0xAAAA, 0xBBBB, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@pytest.fixture
def span():
    return NodeSpan(CONTEXT)


def test_it_is_a_span_of_the_api(span):
    assert isinstance(span, Span)
    assert span.get_span_context() is CONTEXT
    assert span.is_recording()


def test_it_is_propagated_like_any_other_span(span):
    carrier = {}
    TraceContextTextMapPropagator().inject(carrier, set_node_in_context(span, Context()))
    assert carrier == {"traceparent": f"00-{0xAAAA:032x}-{0xBBBB:016x}-01"}


def test_current_node_outside_of_a_node_is_harmless():
    node = current_node()
    assert node is INVALID_SPAN
    node.set_attribute("k", 1)
    assert not node.is_recording()


def test_current_node_is_found_below_other_spans(span):
    context = set_span_in_context(NonRecordingSpan(SpanContext(1, 2, is_remote=False)), set_node_in_context(span))
    assert current_node(context) is span
    assert trace.get_current_span(context) is not span
    assert current_node(set_node_in_context(span, Context())) is span


def test_ok_is_final_and_unset_never_overrides(span):
    span.set_status(StatusCode.ERROR, "first")
    span.set_status(StatusCode.UNSET)
    assert span.status == (StatusCode.ERROR.value, "first")
    span.set_status(Status(StatusCode.ERROR, "second"))
    assert span.status == (StatusCode.ERROR.value, "second")
    span.set_status(Status(StatusCode.OK))
    span.set_status(StatusCode.ERROR, "late")
    assert span.status == (StatusCode.OK.value, "")


def test_limits_count_what_they_drop(span):
    for index in range(MAX_ATTRIBUTES + 5):
        span.set_attribute(f"k{index}", index)
        span.add_event(f"e{index}")
        span.add_link(CONTEXT)
    assert (len(span.attributes), len(span.events), len(span.links)) == (MAX_ATTRIBUTES,) * 3
    assert span.dropped == 15
    span.set_attribute("k0", "new")  # no new key
    assert span.attributes["k0"] == "new"
    assert span.dropped == 15


def test_an_event_gets_the_time_it_is_added(span):
    span.add_event("now")
    span.add_event("then", {"k": 1}, timestamp=5)
    (now, then) = span.events
    assert now[1] > 1_600_000_000_000_000_000
    assert then == ("then", 5, {"k": 1})


def test_an_exception_that_cannot_be_printed_is_recorded(span):
    class Mute(Exception):  # noqa: N818
        def __str__(self):
            raise RuntimeError("no")

    span.record_exception(Mute())
    (name, _, attributes) = span.events[0]
    assert name == "exception"
    assert attributes["exception.type"].endswith("Mute")
    assert "unprintable" in attributes["exception.message"]


def test_end_is_the_instrumentations_business(span):
    span.end()
    assert span.is_recording()
    span.finish()
    assert not span.is_recording()
    span.set_attribute("k", 1)
    span.set_attributes({"k": 1})
    span.add_event("e")
    span.add_link(CONTEXT)
    span.update_name("n")
    span.set_status(StatusCode.ERROR, "d")
    span.record_exception(ValueError())
    assert (span.attributes, span.events, span.links, span.name, span.status) == ({}, [], [], "", None)


def test_use_span_records_an_error_once_and_lets_it_pass(span):
    with pytest.raises(ValueError, match="x"), trace.use_span(span, end_on_exit=True):
        raise ValueError("x")
    assert [name for name, _, _ in span.events] == ["exception"]
    assert span.status == (StatusCode.ERROR.value, "ValueError: x")
    assert span.is_recording()


def test_many_threads_may_write(span, restless):
    start = threading.Barrier(4)

    def write(number):
        start.wait(10)
        for index in range(25):
            span.set_attribute(f"{number}-{index}", index)
            span.add_event(f"{number}-{index}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(span.attributes) == len({name for name, _, _ in span.events}) == 100
    assert span.dropped == 0
