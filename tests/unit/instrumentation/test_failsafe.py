"""Whatever fails in our hooks, the engine does what it does without them: once, with the same results and errors."""

from __future__ import annotations

import asyncio
import logging

import pytest
from opentelemetry import trace

from zupa import ReducerEventBus
from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer, RetryPolicy
from zupa_instrumentation import engine as instrumentation
from zupa_instrumentation._recorder import Recorder

RECORDER = ("open_run", "close_run", "open_step", "close_step", "open_node", "leave_node", "close_node", "retry")
HOOK_OF = {
    "open_run": {"_open_run"},
    "close_run": {"_close_run"},
    "open_step": {"_open_step"},
    "close_step": {"_close_step", "_close_run"},  # the run tries to close a step that is still open
    "open_node": {"_open_node"},
    "leave_node": {"_leave_node"},
    "close_node": {"_close_node"},
    "retry": {"_record_retry"},
    "checkpoint_saved": {"_record_checkpoint"},
}


class Sabotage(Exception):  # noqa: N818
    """Raised in our own code only."""


def sabotage(*args, **kwargs):
    raise Sabotage("broken hook")


def scenario():
    """Everything an engine can do. Returns what an application sees of it."""
    calls = []

    def count(ctx, value=None):
        calls.append((ctx.node, ctx.step, ctx.attempt))
        return value

    async def flaky(ctx):
        count(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("once")
        return {"flaky": True}

    def asks(ctx):
        count(ctx)
        if ctx.resume_value is None:
            raise GraphInterrupt("approval", {"n": 1})
        return {"answer": ctx.resume_value}

    def fails(ctx):
        count(ctx)
        raise LookupError("as always")

    async def hangs(ctx):
        count(ctx)
        if ctx.context is not None:
            ctx.context.set()
        await asyncio.get_running_loop().create_future()

    graph = Graph("good").add_node("start", lambda ctx: count(ctx, {"started": True}))
    graph.add_node("flaky", flaky, retry=RetryPolicy(initial_delay_s=0)).add_node("asks", asks)
    graph.add_edge("start", "flaky").add_edge("start", "asks")
    executor = EngineExecutor(graph, checkpointer=InMemoryCheckpointer())
    interrupted = executor.invoke_sync({"n": 1}, thread_id="t")
    completed = asyncio.run(executor.resume("yes", thread_id="t"))
    seen = [
        (result.status, result.values, result.steps, result.interrupt and result.interrupt.reason)
        for result in (interrupted, completed)
    ]
    bad = EngineExecutor(
        Graph("bad").add_node("fails", fails).add_node("hangs", hangs).set_entrypoint("hangs", "fails")
    )
    try:
        asyncio.run(bad.invoke())
    except LookupError as error:
        seen.append((type(error), error.args, error.__cause__, error.__context__))

    async def cancelled():
        hanging = asyncio.Event()
        executor = EngineExecutor(Graph("hang").add_node("hangs", hangs))
        task = asyncio.ensure_future(executor.invoke(context=hanging))
        await hanging.wait()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    seen.append(asyncio.run(cancelled()))
    return seen, calls


@pytest.fixture(scope="module")
def expected():
    return scenario()


def test_the_scenario_is_the_same_with_and_without_instrumentation(expected, observed):
    assert scenario() == expected
    seen, calls = expected
    assert [item[0] for item in seen[:2]] == ["interrupted", "completed"]
    assert seen[2] == (LookupError, ("as always",), None, None)
    assert seen[3] is True
    assert len(calls) == 8
    observed.assert_every_start_has_one_end()


@pytest.mark.parametrize("method", [*RECORDER, "checkpoint_saved"])
def test_a_recorder_that_raises(expected, instrumentor, make_bus, monkeypatch, caplog, method):
    monkeypatch.setattr(Recorder, method, sabotage)
    instrumentor.instrument(bus=make_bus())
    assert scenario() == expected
    assert set(instrumentor.failures.counts) == HOOK_OF[method]
    # Many failures of one hook are one record.
    records = [record for record in caplog.records if record.name == "zupa.instrumentation"]
    assert {record.args for record in records} == {(hook, "Sabotage") for hook in HOOK_OF[method]}
    assert len(records) == len(HOOK_OF[method])
    assert {record.levelno for record in records} == {logging.WARNING}
    assert "the engine is not affected" in records[0].getMessage()
    assert records[0].exc_info[0] is Sabotage


@pytest.mark.parametrize("function", ["is_instrumentation_enabled", "_phase_of", "parse_traceparent", "traceparent"])
def test_helpers_that_raise(expected, instrumentor, make_bus, monkeypatch, function):
    monkeypatch.setattr(instrumentation, function, sabotage)
    instrumentor.instrument(bus=make_bus())
    assert scenario() == expected
    assert sum(instrumentor.failures.counts.values()) >= 1


def test_a_bus_that_raises(expected, instrumentor, monkeypatch):
    bus = ReducerEventBus()
    monkeypatch.setattr(bus, "emit", sabotage)
    instrumentor.instrument(bus=bus)
    assert scenario() == expected
    # No run could be opened, so nothing else was tried.
    assert instrumentor.failures.counts == {"_open_run": 4}


def test_a_bus_that_raises_later(expected, instrumentor, make_bus, monkeypatch):
    bus = make_bus()
    emit, emitted = bus.emit, []

    def fickle(channel, name, payload):
        emitted.append(name)
        if name != "run_started":
            raise Sabotage(name)
        emit(channel, name, payload)

    monkeypatch.setattr(bus, "emit", fickle)
    instrumentor.instrument(bus=bus)
    assert scenario() == expected
    assert {
        "step_started",
        "node_started",
        "checkpoint_saved",
        "run_interrupted",
        "run_failed",
        "run_cancelled",
    } <= set(emitted)


@pytest.mark.parametrize("what", ["sampler", "clock", "id_generator"])
def test_settings_that_raise(expected, instrumentor, make_bus, what):
    class Broken:
        time_ns = monotonic_ns = generate_trace_id = generate_span_id = __call__ = sabotage

    instrumentor.instrument(bus=make_bus(), **{what: Broken()})
    assert scenario() == expected
    assert instrumentor.failures.counts == {"_open_run": 4}


def test_a_failing_hook_leaves_no_span_current(instrumentor, make_bus, monkeypatch, caplog):
    monkeypatch.setattr(Recorder, "leave_node", sabotage)
    instrumentor.instrument(bus=make_bus())
    seen = []
    graph = Graph("g").add_node("a", lambda ctx: None)
    EngineExecutor(graph, on_step_complete=lambda checkpoint: seen.append(trace.get_current_span())).invoke_sync()
    assert [*seen, trace.get_current_span()] == [trace.INVALID_SPAN] * 2
    assert "Failed to detach" not in caplog.text


def test_the_bus_need_not_be_started(expected, instrumentor, make_observed):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus)
    assert scenario() == expected
    assert len(observed.named("run_started")) == 4


def test_a_bus_that_is_shut_down_costs_events_only(expected, instrumentor, make_observed):
    observed = make_observed()
    observed.bus.shutdown(1_000)
    instrumentor.instrument(bus=observed.bus)
    assert scenario() == expected
    statistics = observed.bus.statistics()
    assert statistics.dropped == {"already_shutdown": statistics.emitted}
    assert statistics.emitted >= 30
    assert instrumentor.failures.counts == {}


def test_names_and_payloads_are_what_a_strict_bus_takes(expected, instrumentor, strict_bus):
    instrumentor.instrument(bus=strict_bus.bus)
    assert scenario() == expected
    assert instrumentor.failures.counts == {}
    strict_bus.assert_every_start_has_one_end()
