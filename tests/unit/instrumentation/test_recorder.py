"""`Recorder` on its own, as the instrumentation of another engine uses it."""

from __future__ import annotations

import contextvars

import pytest
from opentelemetry import trace

from zupa import current_node
from zupa_instrumentation import Recorder


@pytest.fixture
def recorder(observed):
    return Recorder("other", observed.bus)


def test_what_was_current_is_current_again_after_a_node(recorder, observed):
    run = recorder.open_run("r", "g", "")
    assert trace.get_current_span() is trace.INVALID_SPAN
    outer = recorder.open_node(run, "x1", "outer")
    inner = recorder.open_node(run, "x2", "inner")
    assert current_node() is inner.span
    recorder.leave_node(inner)
    assert trace.get_current_span() is current_node() is outer.span
    recorder.leave_node(inner)  # harmless
    assert current_node() is outer.span
    recorder.leave_node(outer)
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert current_node() is trace.INVALID_SPAN


def test_leaving_a_node_in_another_context_is_harmless(recorder):
    run = recorder.open_run("r", "g", "")
    context = contextvars.copy_context()
    scope = context.run(recorder.open_node, run, "x1", "a")
    recorder.leave_node(scope)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_an_engine_without_steps_has_nodes_below_its_runs_and_edges(recorder, observed):
    run = recorder.open_run("r", "g", "t")
    for name, sources in (("a", ()), ("b", ("a", "unknown"))):
        node = recorder.open_node(run, f"x-{name}", name, sources=sources, triggers=("start",))
        recorder.leave_node(node)
        recorder.close_node(node, "completed", goto=("b",))
    recorder.close_run(run, "completed")
    root, a, b = (observed.span(name) for name in ("invoke_workflow g", "a", "b"))
    assert a.parent.span_id == b.parent.span_id == root.context.span_id
    assert [link.context.span_id for link in b.links] == [a.context.span_id]
    assert "zupa.step" not in a.attributes
    assert a.attributes["zupa.engine"] == "other"
    observed.assert_every_start_has_one_end()


@pytest.mark.parametrize(
    ("phase", "of_step"), [("completed", "abandoned"), ("interrupted", "interrupted"), ("cancelled", "cancelled")]
)
def test_a_run_takes_its_open_step_with_it(recorder, observed, phase, of_step):
    run = recorder.open_run("r", "g", "")
    recorder.open_step(run, 1, ("a",))
    recorder.close_run(run, phase)
    assert observed.span("step 1").attributes["zupa.outcome"] == of_step
    assert observed.span("invoke_workflow g").attributes["zupa.outcome"] == phase
    assert observed.names() == ["run_started", "step_started", f"step_{of_step}", f"run_{phase}"]


def test_time_that_steps_back_makes_no_negative_durations(observed):
    class Clock:
        times = iter([1_000_000_000, 900_000_000])
        readings = iter([5_000, 4_000])

        def time_ns(self):
            return next(self.times)

        def monotonic_ns(self):
            return next(self.readings)

    recorder = Recorder("other", observed.bus, Clock())
    recorder.close_run(recorder.open_run("r", "g", ""), "completed")
    span = observed.span("invoke_workflow g")
    assert (span.start_time, span.end_time) == (1_000_000_000, 1_000_000_000)
