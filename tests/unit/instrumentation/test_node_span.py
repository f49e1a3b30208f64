"""The node's own span is current inside the node's body and nowhere else, and what user code sets on it arrives."""

from __future__ import annotations

import asyncio
import threading

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

import zupa
from zupa.engine import EngineExecutor, Graph, RetryPolicy


@pytest.fixture
def sdk():
    """A real SDK tracer, and what it exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("user"), exporter
    provider.shutdown()


def run_one(function, *, mode="async"):
    """Run *function* as a node's body: in a coroutine, in a thread of the loop, or on the caller's own thread."""
    if mode == "async":

        async def body(ctx):
            return function()
    else:

        def body(ctx):
            return function()

    executor = EngineExecutor(Graph("g").add_node("a", body))
    return executor.invoke_sync() if mode == "inline" else asyncio.run(executor.invoke())


MODES = pytest.mark.parametrize("mode", ["async", "thread", "inline"])


@MODES
def test_the_nodes_span_is_current_in_its_body(observed, mode):
    seen = []
    run_one(lambda: seen.append((trace.get_current_span(), zupa.current_node())), mode=mode)
    ((current, node),) = seen
    assert current is node
    span = observed.span("a")
    assert node.get_span_context().span_id == span.context.span_id
    assert node.get_span_context().trace_id == span.context.trace_id
    assert node.get_span_context().trace_flags.sampled
    assert not node.is_recording()  # it is over


@MODES
def test_spans_of_an_sdk_are_children(observed, sdk, mode):
    tracer, exporter = sdk

    def body():
        with tracer.start_as_current_span("GET /x"):
            zupa.current_node().set_attribute("below", True)
            assert trace.get_current_span() is not zupa.current_node()

    run_one(body, mode=mode)
    (child,) = exporter.get_finished_spans()
    node = observed.span("a")
    assert child.parent.span_id == node.context.span_id
    assert child.context.trace_id == node.context.trace_id
    assert node.attributes["below"] is True


def test_what_is_set_on_the_span_arrives(observed):
    other = SpanContext(0x11, 0x22, is_remote=True)

    def body():
        span = trace.get_current_span()
        span.set_attribute("k", 1)
        span.set_attributes({"list": ["a", "b"], "k": 2})
        span.add_event("cache miss", {"key": "lisbon"}, timestamp=1_700_000_000_000_000_000)
        span.record_exception(KeyError("lisbon"), {"where": "cache"})
        span.set_status(Status(StatusCode.ERROR, "half done"))
        span.update_name("search Lisbon")
        span.add_link(other)

    run_one(body)
    span = observed.span("search Lisbon")
    assert (span.attributes["k"], span.attributes["list"]) == (2, ["a", "b"])
    miss, exception = span.events
    assert (miss.name, dict(miss.attributes), miss.timestamp) == (
        "cache miss",
        {"key": "lisbon"},
        1_700_000_000_000_000_000,
    )
    assert exception.name == "exception"
    assert dict(exception.attributes) == {
        "exception.type": "KeyError",
        "exception.message": "'lisbon'",
        "where": "cache",
    }
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "half done")
    assert span.attributes["zupa.outcome"] == "completed"
    assert span.attributes["zupa.node.name"] == "a"
    (link,) = span.links
    assert (link.context.trace_id, link.context.span_id) == (0x11, 0x22)
    assert link.attributes["zupa.link.kind"] == "user"


def test_a_status_ok_of_the_user_is_final(observed):
    async def body(ctx):
        trace.get_current_span().set_status(StatusCode.OK)
        raise ValueError("handled elsewhere")

    with pytest.raises(ValueError, match="handled"):
        EngineExecutor(Graph("g").add_node("a", body)).invoke_sync()
    assert observed.span("a").status.status_code is StatusCode.OK
    assert observed.span("step 1").status.status_code is StatusCode.ERROR


def test_all_attempts_share_the_span(observed):
    spans = []

    async def body(ctx):
        spans.append(zupa.current_node())
        zupa.current_node().set_attribute(f"attempt{ctx.attempt}", True)
        if ctx.attempt == 1:
            raise ConnectionError

    EngineExecutor(Graph("g").add_node("a", body, retry=RetryPolicy(initial_delay_s=0))).invoke_sync()
    assert spans[0] is spans[1]
    assert observed.span("a").attributes["attempt1"] is observed.span("a").attributes["attempt2"] is True


def test_parallel_nodes_have_each_their_own(observed):
    async def main():
        met = asyncio.Event()
        inside = {}

        async def body(ctx):
            inside[ctx.node] = zupa.current_node()
            if len(inside) == 2:
                met.set()
            await met.wait()
            assert zupa.current_node() is trace.get_current_span() is inside[ctx.node]

        graph = Graph("g").add_node("a", body).add_node("b", body).set_entrypoint("a", "b")
        await EngineExecutor(graph).invoke()
        return inside

    inside = asyncio.run(main())
    for name in ("a", "b"):
        assert inside[name].get_span_context().span_id == observed.span(name).context.span_id


def test_tasks_that_a_node_starts_are_below_it(observed, sdk):
    tracer, exporter = sdk

    async def request(name):
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)

    async def body(ctx):
        await asyncio.gather(request("x"), request("y"))

    asyncio.run(EngineExecutor(Graph("g").add_node("a", body)).invoke())
    parents = {span.name: span.parent.span_id for span in exporter.get_finished_spans()}
    assert parents == dict.fromkeys(["x", "y"], observed.span("a").context.span_id)


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_nothing_of_ours_is_current_outside_of_a_node(observed, fails):
    seen = {}

    def look(where):
        seen[where] = (trace.get_current_span(), zupa.current_node())

    async def body(ctx):
        if fails and ctx.node == "b":
            raise ValueError("b")

    async def main():
        graph = Graph("g").add_node("a", body).add_node("b", body).add_edge("a", "b")
        graph.add_conditional_edges("a", lambda state: look("router"))
        executor = EngineExecutor(graph, on_step_complete=lambda checkpoint: look(f"hook {checkpoint.step}"))
        look("before")
        try:
            await executor.invoke()
        except ValueError:
            look("error")
        look("after")

    asyncio.run(main())
    look("outside")
    expected = {"before", "router", "hook 1", "after", "outside"} | ({"error"} if fails else {"hook 2"})
    assert set(seen) == expected
    assert set(seen.values()) == {(trace.INVALID_SPAN, trace.INVALID_SPAN)}


def test_the_users_span_is_current_again_after_a_node(observed, sdk):
    tracer, _ = sdk
    with tracer.start_as_current_span("request") as request:
        before = context_api.get_current()
        run_one(lambda: None, mode="inline")
        assert trace.get_current_span() is request
        assert context_api.get_current() == before
        run_one(lambda: None, mode="async")
        assert trace.get_current_span() is request


def test_nothing_of_ours_is_current_in_the_buss_threads(observed):
    seen = []
    observed.bus.subscribe("engine:*", lambda event: seen.append((trace.get_current_span(), zupa.current_node())))
    observed.bus.use(lambda event: seen.append((trace.get_current_span(), zupa.current_node())) or event)
    run_one(lambda: None)
    assert observed.bus.force_flush(10_000)
    assert len(seen) == 12
    assert set(seen) == {(trace.INVALID_SPAN, trace.INVALID_SPAN)}


def test_events_emitted_in_a_node_carry_its_ids(observed, sdk):
    tracer, exporter = sdk

    def body():
        observed.bus.emit("agent", "log:info", {"message": "in the node"})
        with tracer.start_as_current_span("request"):
            observed.bus.emit("agent", "log:info", {"message": "below it"})

    run_one(body, mode="thread")
    inside, below = [event for event in observed.events if event.topic == "agent:log:info"]
    assert inside.span_id == observed.span("a").context.span_id
    assert below.span_id == exporter.get_finished_spans()[0].context.span_id
    assert inside.trace_id == below.trace_id == observed.span("a").context.trace_id


def test_the_span_is_read_only_once_the_node_has_ended(observed):
    kept = []
    finished = threading.Event()

    def late():
        finished.wait(10)
        kept[0].set_attribute("late", True)
        kept[0].add_event("late")
        kept[0].update_name("late")

    def body():
        kept.append(zupa.current_node())
        threads.append(threading.Thread(target=late))
        threads[0].start()

    threads = []
    run_one(body)
    finished.set()
    threads[0].join(10)
    span = observed.span("a")
    assert "late" not in span.attributes
    assert list(span.events) == []


def test_ending_it_early_is_left_to_the_node(observed):
    def body():
        with trace.use_span(trace.get_current_span(), end_on_exit=True):
            pass
        trace.get_current_span().set_attribute("after", True)

    run_one(body)
    assert observed.span("a").attributes["after"] is True


def test_an_sdk_span_may_link_to_a_node(observed, sdk):
    tracer, exporter = sdk
    contexts = []
    run_one(lambda: contexts.append(zupa.current_node().get_span_context()))
    with tracer.start_as_current_span("later", links=[Link(contexts[0])]):
        pass
    assert exporter.get_finished_spans()[0].links[0].context.span_id == observed.span("a").context.span_id


def test_suppressed_code_is_not_observed_and_neither_are_its_spans(observed):
    with suppress_instrumentation():
        run_one(lambda: None)
    assert observed.events == []


def test_a_suppressed_run_inside_a_node_leaves_no_trace_on_the_node(observed):
    async def flaky(ctx):
        if ctx.attempt == 1:
            raise ConnectionError
        assert zupa.current_node() is nodes[0]

    inner = EngineExecutor(Graph("inner").add_node("leaf", flaky, retry=RetryPolicy(initial_delay_s=0)))
    nodes = []

    async def body(ctx):
        nodes.append(zupa.current_node())
        with suppress_instrumentation():
            await inner.invoke()

    asyncio.run(EngineExecutor(Graph("outer").add_node("a", body)).invoke())
    assert [span.name for span in observed.spans] == ["a", "step 1", "invoke_workflow outer"]
    assert observed.named("node_retry") == []
    assert observed.named("checkpoint_saved") == []  # without a checkpointer nothing is stored
