from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from zupa.engine import (
    END,
    Append,
    CheckpointSource,
    EngineError,
    EngineExecutor,
    Graph,
    InMemoryCheckpointer,
    InvalidUpdateError,
    LastValue,
    LedgerEvent,
    NodeNotFoundError,
    NodeResult,
    RecursionLimitError,
)
from zupa.errors import ConfigurationError

variable = contextvars.ContextVar("variable", default="unset")


def record(name):
    def node(ctx):
        return {"path": name}

    return node


def path_graph(*names):
    graph = Graph("path", channels={"path": Append()})
    for name in names:
        graph.add_node(name, record(name))
    return graph


def test_static_edges_fan_out_and_fan_in():
    graph = path_graph("start", "left", "right", "join")
    graph.add_edge("start", "left").add_edge("start", "right").add_edge("left", "join").add_edge("right", "join")
    result = EngineExecutor(graph).invoke_sync({"path": "in"})
    assert result.values == {"path": ["in", "start", "left", "right", "join"]}
    assert (result.status, result.steps, result.interrupt) == ("completed", 3, None)


def test_next_tasks_of_parallel_nodes_are_united_in_task_order():
    graph = path_graph("c", "a", "b")
    graph.add_node("left", lambda ctx: NodeResult({"path": "left"}, ["b", "c"]))
    graph.add_node("right", lambda ctx: NodeResult({"path": "right"}, ["a", "b"]))
    graph.set_entrypoint("right", "left")
    store = InMemoryCheckpointer()
    result = EngineExecutor(graph, checkpointer=store).invoke_sync(thread_id="t")
    assert result.values["path"] == ["right", "left", "a", "b", "c"]
    second = asyncio.run(store.history("t"))[1]
    assert second.next_tasks == ("a", "b", "c")
    assert second.metadata["sources"] == {"a": ["right"], "b": ["right", "left"], "c": ["left"]}


def test_next_tasks_of_a_node_win_over_its_edges():
    graph = path_graph("b", "c").add_edge("a", "b").add_conditional_edges("a", lambda state: "b")
    graph.add_node("a", lambda ctx: NodeResult({"path": "a"}, "c"))
    assert EngineExecutor(graph.set_entrypoint("a")).invoke_sync().values["path"] == ["a", "c"]
    graph = path_graph("b").add_edge("a", "b").add_node("a", lambda ctx: NodeResult({"path": "a"}, ()))
    assert EngineExecutor(graph.set_entrypoint("a")).invoke_sync().values["path"] == ["a"]


@pytest.mark.parametrize(
    ("routed", "path"),
    [("b", ["a", "b"]), (["c", "b", "c"], ["a", "c", "b"]), (None, ["a"]), (END, ["a"]), ([END, "b"], ["a", "b"])],
)
def test_conditional_routing(routed, path):
    graph = path_graph("a", "b", "c").add_conditional_edges("a", lambda state: routed)
    assert EngineExecutor(graph).invoke_sync().values["path"] == path


def test_static_and_conditional_edges_add_up():
    graph = path_graph("a", "b", "c").add_conditional_edges("a", lambda state: ["b", "c"]).add_edge("a", "c")
    assert EngineExecutor(graph).invoke_sync().values["path"] == ["a", "c", "b"]


def test_routers_see_the_reduced_state_of_the_whole_step():
    seen = []

    def router(state):
        seen.append(list(state["path"]))

    graph = path_graph("a", "b").set_entrypoint("a", "b").add_conditional_edges("a", router)
    EngineExecutor(graph).invoke_sync()
    assert seen == [["a", "b"]]


def test_unknown_routes_name_their_origin():
    graph = path_graph("a").add_conditional_edges("a", lambda state: "nowhere")
    with pytest.raises(NodeNotFoundError, match=r"conditional edge of node 'a'.*'nowhere'.*nodes: 'a'"):
        EngineExecutor(graph).invoke_sync()
    graph = Graph().add_node("a", lambda ctx: NodeResult({}, "nowhere"))
    with pytest.raises(NodeNotFoundError, match=r"next_tasks of node 'a'.*'nowhere'"):
        EngineExecutor(graph).invoke_sync()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("text", "node 'a' returned a str as its writes"),
        ({"pth": 1}, "node 'a' wrote 'pth', which is no channel .*'path'"),
        (NodeResult(ledger_events=["x"]), "node 'a' returned 'x' as a ledger event"),
    ],
)
def test_wrong_results_name_the_node(returned, message):
    graph = Graph(channels={"path": Append()}).add_node("a", lambda ctx: returned)
    with pytest.raises(InvalidUpdateError, match=message):
        EngineExecutor(graph).invoke_sync()


def test_wrong_input_is_refused():
    engine = EngineExecutor(path_graph("a"))
    with pytest.raises(InvalidUpdateError, match="the input wrote 'nope'"):
        engine.invoke_sync({"nope": 1})
    with pytest.raises(InvalidUpdateError, match="the input is a str"):
        engine.invoke_sync("hello")


def test_parallel_last_values_follow_task_order_not_completion_order():
    async def main(first, second):
        first_done = asyncio.Event()

        async def early(ctx):
            first_done.set()
            return {"winner": ctx.node}

        async def late(ctx):
            await first_done.wait()
            return {"winner": ctx.node}

        graph = Graph().add_node("early", early).add_node("late", late).set_entrypoint(first, second)
        return (await EngineExecutor(graph).invoke()).values["winner"]

    assert asyncio.run(main("early", "late")) == "late"
    assert asyncio.run(main("late", "early")) == "early", "late finished last, but early comes last in task order"


def test_nodes_of_a_step_run_in_parallel():
    barrier = threading.Barrier(2)

    def meet(ctx):
        barrier.wait(10)

    graph = Graph().add_node("a", meet).add_node("b", meet).set_entrypoint("a", "b")
    assert EngineExecutor(graph).invoke_sync().status == "completed"


def test_parallel_nodes_see_the_same_snapshot_and_cannot_change_it():
    problems = []
    changed = asyncio.Event()

    async def vandal(ctx):
        try:
            ctx.state["items"] = []
        except TypeError as error:
            problems.append(error)
        ctx.state["items"].append("vandal")
        ctx.state["table"]["x"] = 1
        changed.set()

    async def witness(ctx):
        await changed.wait()
        return {"seen": [list(ctx.state["items"]), dict(ctx.state["table"])]}

    async def main():
        graph = Graph().add_node("vandal", vandal).add_node("witness", witness).set_entrypoint("vandal", "witness")
        return await EngineExecutor(graph).invoke({"items": ["a"], "table": {}})

    values = asyncio.run(main()).values
    assert len(problems) == 1
    assert values == {"items": ["a"], "table": {}, "seen": [["a"], {}]}


@pytest.mark.parametrize("alone", [True, False])
def test_context_variables_reach_sync_and_async_nodes_and_do_not_leak(alone):
    seen = {}

    def sync_node(ctx):
        seen["sync"] = variable.get()
        variable.set("leak")

    async def async_node(ctx):
        seen["async"] = variable.get()
        variable.set("leak")

    graph = Graph().add_node("sync", sync_node).add_node("async", async_node)
    graph.add_edge("sync", "async") if alone else graph.set_entrypoint("sync", "async")

    async def main():
        variable.set("mine")
        await EngineExecutor(graph).invoke()
        return variable.get()

    assert asyncio.run(main()) == "mine"
    assert seen == {"sync": "mine", "async": "mine"}
    token = variable.set("theirs")
    EngineExecutor(graph).invoke_sync()
    variable.reset(token)
    assert seen == {"sync": "theirs", "async": "theirs"}


def test_where_sync_nodes_run():
    threads = {}

    def node(ctx):
        threads[ctx.node] = threading.current_thread()

    graph = Graph()
    for name in ("alone", "a", "b"):
        graph.add_node(name, node)
    graph.add_edge("alone", "a").add_edge("alone", "b")
    here = threading.current_thread()
    EngineExecutor(graph).invoke_sync()
    assert threads["alone"] is here
    assert threads["a"] is not here
    assert threads["b"] is not here
    asyncio.run(EngineExecutor(graph).invoke())
    assert threads["alone"] is not here, "an async caller's loop must not be blocked"


def test_a_sync_function_may_return_an_awaitable():
    async def later():
        return {"x": 1}

    graph = Graph().add_node("a", lambda ctx: later())
    assert EngineExecutor(graph).invoke_sync().values == {"x": 1}
    assert asyncio.run(EngineExecutor(graph).invoke()).values == {"x": 1}


@pytest.mark.parametrize("entry", [("a",), ("a", "b")])
def test_stop_iteration_neither_hangs_nor_passes_for_success(entry):
    def node(ctx):
        return next(iter(()))

    graph = Graph().add_node("a", node).add_node("b", node).set_entrypoint(*entry)
    with pytest.raises(RuntimeError, match="StopIteration"):
        EngineExecutor(graph).invoke_sync()


def test_node_context_and_user_context():
    seen = []

    async def node(ctx):
        seen.append(ctx)

    mine = object()
    result = asyncio.run(EngineExecutor(Graph().add_node("a", node)).invoke({"in": 1}, thread_id="t", context=mine))
    (ctx,) = seen
    assert ctx.context is mine
    assert (ctx.thread_id, ctx.run_id, ctx.node, ctx.step, ctx.attempt) == ("t", result.run_id, "a", 1, 1)
    assert ctx.resume_value is None, "the input of a new run is no answer to an interrupt"


def test_all_ledger_events_are_stored_in_task_order():
    def node(ctx):
        return NodeResult(ledger_events=[LedgerEvent("one", {"by": ctx.node}), LedgerEvent("two", node="forged")])

    store = InMemoryCheckpointer()
    graph = Graph().add_node("a", node).add_node("b", node).set_entrypoint("b", "a")
    EngineExecutor(graph, checkpointer=store).invoke_sync(thread_id="t")
    assert asyncio.run(store.ledger("t")) == [
        LedgerEvent("one", {"by": "b"}, "b", 1),
        LedgerEvent("two", {}, "forged", 1),
        LedgerEvent("one", {"by": "a"}, "a", 1),
        LedgerEvent("two", {}, "forged", 1),
    ]


def test_the_trail_of_checkpoints():
    store = InMemoryCheckpointer()
    graph = path_graph("a", "b").add_edge("a", "b")
    result = EngineExecutor(graph, checkpointer=store).invoke_sync({"path": "in"}, thread_id="t")
    trail = asyncio.run(store.history("t"))[::-1]
    assert [(c.step, c.source, c.next_tasks, c.writes) for c in trail] == [
        (0, CheckpointSource.INPUT, ("a",), {"path": ["in"]}),
        (1, CheckpointSource.LOOP, ("b",), {"path": ["a"]}),
        (2, CheckpointSource.LOOP, (), {"path": ["b"]}),
    ]
    assert [c.parent_checkpoint_id for c in trail] == [None, trail[0].checkpoint_id, trail[1].checkpoint_id]
    assert [c.metadata.get("sources") for c in trail] == [None, {"b": ["a"]}, {}]
    assert trail[-1] == result.checkpoint
    assert trail[0].created_at_ns > 0


def test_a_finished_thread_starts_again_with_its_state():
    engine = EngineExecutor(path_graph("a", "b").add_edge("a", "b"), checkpointer=InMemoryCheckpointer())
    engine.invoke_sync({"path": "1"}, thread_id="t")
    again = engine.invoke_sync({"path": "2"}, thread_id="t")
    assert again.values["path"] == ["1", "a", "b", "2", "a", "b"]
    assert again.checkpoint.step == 4
    assert again.steps == 2


def test_a_failed_thread_goes_on_where_it_failed():
    broken = [True]

    def fragile(ctx):
        if broken:
            raise LookupError("broken")
        return {"path": "b"}

    graph = path_graph("a").add_node("b", fragile).add_edge("a", "b")
    store = InMemoryCheckpointer()
    engine = EngineExecutor(graph, checkpointer=store)
    with pytest.raises(LookupError, match="broken"):
        engine.invoke_sync({"path": "in"}, thread_id="t")
    assert asyncio.run(store.get("t")).next_tasks == ("b",)
    broken.clear()
    assert engine.invoke_sync(thread_id="t").values["path"] == ["in", "a", "b"]


def test_without_thread_id_each_run_has_its_own():
    engine = EngineExecutor(path_graph("a"), checkpointer=InMemoryCheckpointer())
    first, second = engine.invoke_sync(), engine.invoke_sync()
    assert first.thread_id != second.thread_id
    assert first.run_id != second.run_id
    assert second.values["path"] == ["a"]


def test_recursion_limit_says_what_was_running_and_how_to_raise_it():
    calls = []
    graph = Graph("loop").add_node("again", lambda ctx: calls.append(1)).add_edge("again", "again")
    with pytest.raises(RecursionLimitError, match=r"'t'.*'loop' took 3 .*again.*recursion_limit=") as caught:
        EngineExecutor(graph, recursion_limit=3).invoke_sync(thread_id="t")
    assert len(calls) == 3
    assert isinstance(caught.value, EngineError)


def test_recursion_limit_is_50_and_exact():
    def count(ctx):
        n = ctx.state.get("n", 0) + 1
        return NodeResult({"n": n}, "count" if n < ctx.context else ())

    engine = EngineExecutor(Graph().add_node("count", count))
    assert engine.invoke_sync(context=50).values == {"n": 50}
    with pytest.raises(RecursionLimitError, match="took 50"):
        engine.invoke_sync(context=51)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_unusable_recursion_limit_is_refused(limit):
    with pytest.raises(ConfigurationError, match="recursion_limit"):
        EngineExecutor(path_graph("a"), recursion_limit=limit)


@pytest.mark.parametrize("is_async", [True, False])
def test_on_step_complete_is_called_after_each_save(is_async):
    store, seen = InMemoryCheckpointer(), []

    async def async_hook(checkpoint):
        seen.append((checkpoint.step, (await store.get("t")).checkpoint_id == checkpoint.checkpoint_id))

    def sync_hook(checkpoint):
        seen.append((checkpoint.step, True))

    graph = path_graph("a", "b").add_edge("a", "b")
    hook = async_hook if is_async else sync_hook
    EngineExecutor(graph, checkpointer=store, on_step_complete=hook).invoke_sync(thread_id="t")
    assert seen == [(1, True), (2, True)]


def test_what_on_step_complete_raises_ends_the_run():
    def hook(checkpoint):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        EngineExecutor(path_graph("a"), on_step_complete=hook).invoke_sync()


def test_invoke_sync_inside_a_loop_says_what_to_write():
    engine = EngineExecutor(path_graph("a"), checkpointer=InMemoryCheckpointer())

    async def main():
        with pytest.raises(EngineError, match=r"await engine\.invoke"):
            engine.invoke_sync()
        with pytest.raises(EngineError, match=r"await engine\.resume"):
            engine.resume_sync(thread_id="t")

    asyncio.run(main())


@pytest.mark.parametrize("entry", [("outer",), ("outer", "other")])
def test_sync_nodes_may_run_an_engine_themselves(entry):
    inner = EngineExecutor(Graph().add_node("inner", lambda ctx: {"seen": variable.get()}))

    def outer(ctx):
        return {"inner": inner.invoke_sync().values["seen"]}

    graph = Graph().add_node("outer", outer).add_node("other", lambda ctx: None).set_entrypoint(*entry)
    token = variable.set("through")
    try:
        assert EngineExecutor(graph).invoke_sync().values == {"inner": "through"}
    finally:
        variable.reset(token)


def test_declared_channels_start_with_their_first_values():
    graph = Graph(channels={"log": Append(), "mode": LastValue("fast"), "absent": LastValue()})
    graph.add_node("a", lambda ctx: {"log": sorted(ctx.state)})
    assert EngineExecutor(graph).invoke_sync().values == {"log": ["log", "mode"], "mode": "fast"}
