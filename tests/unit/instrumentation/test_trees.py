"""Runs, steps and nodes have the right parents, edges and names, whatever the shape of the graph."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from zupa.engine import END, Append, EngineExecutor, Graph, InMemoryCheckpointer, NodeResult
from zupa_instrumentation.engine import EngineInstrumentor


async def nothing(ctx):
    return None


def chain(*names, name="chain"):
    graph = Graph(name)
    for node in names:
        graph.add_node(node, nothing)
    for source, target in itertools.pairwise(names):
        graph.add_edge(source, target)
    return graph


def edges(observed, span):
    """Names of the spans that *span*'s edges lead from."""
    names = {other.context.span_id: other.name for other in observed.spans}
    assert all(link.attributes["zupa.link.kind"] == "edge" for link in span.links)
    assert all(names[link.context.span_id] == link.attributes["zupa.node.name"] for link in span.links)
    return [names[link.context.span_id] for link in span.links]


def parent_of(observed, span):
    return next(other for other in observed.spans if other.context.span_id == span.parent.span_id)


def test_run_step_node_are_nested_and_named(observed):
    result = asyncio.run(EngineExecutor(chain("a", "b", name="two")).invoke(thread_id="t1"))
    run = observed.span("invoke_workflow two")
    assert run.parent is None
    assert run.attributes["zupa.run.id"] == result.run_id
    assert run.attributes["gen_ai.conversation.id"] == "t1"
    assert run.attributes["gen_ai.workflow.name"] == "two"
    for index, name in ((1, "a"), (2, "b")):
        step, node = observed.span(f"step {index}"), observed.span(name)
        assert step.parent.span_id == run.context.span_id
        assert node.parent.span_id == step.context.span_id
        assert {step.context.trace_id, node.context.trace_id} == {run.context.trace_id}
        assert run.start_time <= step.start_time <= node.start_time
        assert node.end_time <= step.end_time <= run.end_time
        assert node.attributes["zupa.step"] == index
        assert node.attributes["zupa.exec.id"] == f"{result.run_id}-{index}-0"
        assert node.attributes["zupa.graph"] == "two"
        assert step.attributes["zupa.step.tasks"] == [name]
    assert len(observed.spans) == 5
    observed.assert_every_start_has_one_end()


@pytest.mark.parametrize(
    ("kind", "name", "operation", "attribute"),
    [
        ("agent", "invoke_agent x", "invoke_agent", "gen_ai.agent.name"),
        ("tool", "execute_tool x", "execute_tool", "gen_ai.tool.name"),
    ],
)
def test_kinds_of_nodes_get_the_conventions_names(observed, kind, name, operation, attribute):
    graph = Graph("kinds").add_node("x", nothing, kind=kind)
    EngineExecutor(graph).invoke_sync()
    span = observed.span(name)
    assert span.attributes["gen_ai.operation.name"] == operation
    assert span.attributes[attribute] == "x"
    assert span.attributes["zupa.node.kind"] == kind


def test_fan_out_and_fan_in_are_edges(observed):
    graph = Graph("diamond", channels={"seen": Append()})
    graph.add_node("top", nothing)
    for name in ("left", "right"):
        graph.add_node(name, lambda ctx: {"seen": ctx.node})
        graph.add_edge("top", name).add_edge(name, "bottom")
    graph.add_node("bottom", nothing)
    EngineExecutor(graph).invoke_sync()
    left, right, bottom = (observed.span(name) for name in ("left", "right", "bottom"))
    assert edges(observed, observed.span("top")) == []
    assert edges(observed, left) == edges(observed, right) == ["top"]
    assert edges(observed, bottom) == ["left", "right"]
    assert left.parent.span_id == right.parent.span_id == observed.span("step 2").context.span_id
    assert left.attributes["zupa.node.sources"] == ["top"]
    assert bottom.attributes["zupa.node.sources"] == ["left", "right"]
    assert left.attributes["zupa.node.writes"] == ["seen"]
    assert observed.span("step 2").attributes["zupa.node.goto"] == ["bottom"]


def test_goto_is_the_routing_decision(observed):
    graph = Graph("routes")
    graph.add_node("pick", lambda ctx: NodeResult({"n": 1}, next_tasks=("b", "c")))
    for name in ("a", "b", "c"):
        graph.add_node(name, nothing)
    graph.add_edge("pick", "a")
    EngineExecutor(graph).invoke_sync()
    assert observed.span("pick").attributes["zupa.node.goto"] == ["b", "c"]
    assert observed.span("pick").attributes["zupa.node.writes"] == ["n"]
    assert edges(observed, observed.span("b")) == edges(observed, observed.span("c")) == ["pick"]
    assert "a" not in [span.name for span in observed.spans]


def test_a_loop_leads_from_the_newest_run_of_each_node(observed):
    graph = Graph("loop")
    graph.add_node("again", lambda ctx: {"n": ctx.state.get("n", 0) + 1})
    graph.add_conditional_edges("again", lambda state: "again" if state["n"] < 3 else END)
    EngineExecutor(graph).invoke_sync()
    first, second, third = sorted(
        (s for s in observed.spans if s.name == "again"), key=lambda s: s.attributes["zupa.step"]
    )
    assert list(first.links) == []
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert [link.context.span_id for link in third.links] == [second.context.span_id]


def test_an_edge_leads_from_the_step_before_even_if_its_source_runs_again_beside_it(observed):
    async def at_once(ctx):  # ends before the other task of its step has begun
        return None

    graph = Graph("beside").add_node("a", at_once).add_node("b", at_once)
    decisions = iter([("a", "b"), None])
    graph.add_conditional_edges("a", lambda state: next(decisions))
    asyncio.run(EngineExecutor(graph).invoke())
    first, second = sorted((s for s in observed.spans if s.name == "a"), key=lambda s: s.attributes["zupa.step"])
    b = observed.span("b")
    assert second.parent.span_id == b.parent.span_id
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert [link.context.span_id for link in b.links] == [first.context.span_id]


def nested(outer_node, inner="inner"):
    graph = Graph("outer").add_node("before", nothing).add_node("calls", outer_node).add_edge("before", "calls")
    return graph, Graph(inner).add_node("leaf", nothing)


def assert_nested(observed):
    inner, calls = observed.span("invoke_workflow inner"), observed.span("calls")
    assert inner.parent.span_id == calls.context.span_id
    assert inner.context.trace_id == calls.context.trace_id
    assert inner.attributes["zupa.namespace"] == ["calls"]
    assert inner.attributes["zupa.parent.exec.id"] == calls.attributes["zupa.exec.id"]
    leaf = observed.span("leaf")
    assert leaf.attributes["zupa.namespace"] == ["calls"]
    step = parent_of(observed, leaf)
    assert step.name == "step 1"
    assert step.parent.span_id == inner.context.span_id
    assert "zupa.namespace" not in calls.attributes
    assert len(observed.spans) == 8
    observed.assert_every_start_has_one_end()


def test_a_run_inside_a_node_is_its_child(observed):
    async def calls(ctx):
        await EngineExecutor(leaf).invoke()

    graph, leaf = nested(calls)
    asyncio.run(EngineExecutor(graph).invoke())
    assert_nested(observed)


@pytest.mark.parametrize("sync", [True, False], ids=["invoke_sync", "invoke"])
def test_a_blocking_run_inside_a_sync_node_is_its_child(observed, sync):
    def calls(ctx):
        EngineExecutor(leaf).invoke_sync()

    graph, leaf = nested(calls)
    executor = EngineExecutor(graph)
    executor.invoke_sync() if sync else asyncio.run(executor.invoke())
    assert_nested(observed)


def test_three_levels_have_the_whole_path_as_namespace(observed):
    innermost = Graph("c").add_node("leaf", nothing)

    async def middle_node(ctx):
        await EngineExecutor(innermost).invoke()

    middle = Graph("b").add_node("middle", middle_node)

    async def outer_node(ctx):
        await EngineExecutor(middle).invoke()

    asyncio.run(EngineExecutor(Graph("a").add_node("outer", outer_node)).invoke())
    assert observed.span("leaf").attributes["zupa.namespace"] == ["outer", "middle"]
    assert observed.span("middle").attributes["zupa.namespace"] == ["outer"]
    assert len({span.context.trace_id for span in observed.spans}) == 1


def test_concurrent_runs_do_not_mix(observed):
    async def main():
        turns = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None
        both = asyncio.Event()
        inside = []

        async def meet(ctx):
            inside.append(ctx.run_id)
            if turns is not None:
                await turns.wait()
            elif len(inside) % 2 == 0:
                both.set()
            else:
                await both.wait()

        executors = [
            EngineExecutor(
                Graph(name).add_node(f"{name}1", meet).add_node(f"{name}2", nothing).add_edge(f"{name}1", f"{name}2")
            )
            for name in ("p", "q")
        ]
        return await asyncio.gather(*(executor.invoke() for executor in executors))

    results = asyncio.run(main())
    assert len(observed.spans) == 10
    traces = {}
    for span in observed.spans:
        traces.setdefault(span.context.trace_id, set()).add(span.name)
    assert sorted(map(sorted, traces.values())) == [
        ["invoke_workflow p", "p1", "p2", "step 1", "step 2"],
        ["invoke_workflow q", "q1", "q2", "step 1", "step 2"],
    ]
    for name, result in zip("pq", results, strict=True):
        assert observed.span(f"{name}2").attributes["zupa.run.id"] == result.run_id
        assert edges(observed, observed.span(f"{name}2")) == [f"{name}1"]
        assert parent_of(observed, observed.span(f"{name}2")).attributes["zupa.run.id"] == result.run_id


def test_sync_nodes_in_threads_have_the_same_tree(observed):
    graph = Graph("threads")
    graph.add_node("start", lambda ctx: None)
    for name in ("x", "y"):
        graph.add_node(name, lambda ctx: None)
        graph.add_edge("start", name)
    asyncio.run(EngineExecutor(graph).invoke())
    assert parent_of(observed, observed.span("x")).name == parent_of(observed, observed.span("y")).name == "step 2"
    assert edges(observed, observed.span("x")) == edges(observed, observed.span("y")) == ["start"]
    observed.assert_every_start_has_one_end()


def test_a_run_inside_the_users_span_is_its_child(observed):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("user")
    with tracer.start_as_current_span("request") as request:
        EngineExecutor(chain("a")).invoke_sync()
        assert trace.get_current_span() is request
    run = observed.span("invoke_workflow chain")
    assert run.parent.span_id == request.get_span_context().span_id
    assert run.context.trace_id == request.get_span_context().trace_id
    assert run.parent.is_remote is False


def test_a_run_below_a_remote_parent_is_its_child(observed):
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(remote)):
        EngineExecutor(chain("a")).invoke_sync()
    run = observed.span("invoke_workflow chain")
    assert (run.context.trace_id, run.parent.span_id, run.parent.is_remote) == (0xABC, 0xDEF, True)
    assert observed.span("step 1").parent.is_remote is False


def test_children_follow_an_unsampled_parent(observed):
    unsampled = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
    with trace.use_span(NonRecordingSpan(unsampled)):
        EngineExecutor(chain("a")).invoke_sync()
    assert observed.spans == []
    assert {event.trace_flags for event in observed.events} == {0}
    assert {event.trace_id for event in observed.events} == {0xABC}


def test_the_sampler_is_asked_once_a_run(observed):
    asked = []

    def sampler(parent, trace_id, name):
        asked.append((parent, trace_id, name))
        return len(asked) > 1

    EngineInstrumentor().instrument(sampler=sampler)
    for _ in range(2):
        EngineExecutor(chain("a", "b")).invoke_sync()
    assert [(parent, name) for parent, _, name in asked] == [(None, "invoke_workflow chain")] * 2
    assert {span.context.trace_id for span in observed.spans} == {asked[1][1]}
    assert len(observed.spans) == 5


@pytest.mark.parametrize("flags", [TraceFlags(0), TraceFlags(1), TraceFlags(3)])
def test_a_run_below_a_span_follows_it_by_default(observed, flags):
    parent = SpanContext(7, 8, is_remote=True, trace_flags=flags)
    with use_span(NonRecordingSpan(parent)):
        EngineExecutor(chain("a")).invoke_sync()
    assert len(observed.spans) == (3 if flags.sampled else 0)
    assert {event.trace_flags for event in observed.events} == {int(flags)}


def test_a_sampler_may_overrule_the_parent(observed):
    EngineInstrumentor().instrument(sampler=lambda parent, trace_id, name: not parent.trace_flags.sampled)
    for flags, expected in ((TraceFlags(1), 0), (TraceFlags(2), 3)):
        with use_span(NonRecordingSpan(SpanContext(7, 8, is_remote=True, trace_flags=flags))):
            EngineExecutor(chain("a")).invoke_sync()
        assert len(observed.spans) == expected
    assert {event.trace_flags for event in observed.events} == {0, 3}


def test_events_carry_their_own_spans_ids_and_nothing_is_said_twice(observed):
    EngineExecutor(chain("a"), checkpointer=InMemoryCheckpointer()).invoke_sync({"k": 1}, thread_id="t")
    assert observed.names() == [
        "run_started",
        "checkpoint_saved",
        "step_started",
        "node_started",
        "node_completed",
        "checkpoint_saved",
        "step_completed",
        "run_completed",
    ]
    for kind, name in (("run", "invoke_workflow chain"), ("step", "step 1"), ("node", "a")):
        ids = {(e.trace_id, e.span_id) for e in observed.events if e.payload["kind"] == kind}
        assert ids == {(observed.span(name).context.trace_id, observed.span(name).context.span_id)}
    assert {event.payload["engine"] for event in observed.events} == {"zupa"}
