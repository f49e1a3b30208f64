from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import zupa
from zupa.engine import (
    Append,
    CheckpointError,
    CheckpointSource,
    EngineError,
    EngineExecutor,
    Graph,
    GraphInterrupt,
    InMemoryCheckpointer,
    InvalidUpdateError,
    LastValue,
    NodeNotFoundError,
    SqliteCheckpointer,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield InMemoryCheckpointer()
        return
    with SqliteCheckpointer(tmp_path / "c.db") as sqlite_store:
        yield sqlite_store


def approval_graph():
    graph = Graph("approval", channels={"log": Append(), "approved": LastValue()})

    @graph.node
    async def plan(ctx):
        return {"log": "plan"}

    @graph.node
    def approve(ctx):
        if ctx.resume_value is None:
            raise GraphInterrupt("approval", {"cost": 3})
        return {"log": f"approve:{ctx.resume_value}"}

    @graph.node
    async def act(ctx):
        return {"log": f"act:{ctx.resume_value}"}

    return graph.add_edge("plan", "approve").add_edge("approve", "act")


def test_interrupt_and_resume(store):
    engine = EngineExecutor(approval_graph(), checkpointer=store)
    first = engine.invoke_sync({"log": "in"}, thread_id="t")
    assert (first.status, first.interrupt.reason, first.interrupt.payload) == ("interrupted", "approval", {"cost": 3})
    assert first.interrupt.node == "approve"
    assert first.values == {"log": ["in", "plan"]}
    waiting = asyncio.run(store.get("t"))
    assert (waiting.source, waiting.next_tasks, waiting.step) == (CheckpointSource.INTERRUPT, ("approve",), 1)
    assert waiting.metadata["interrupts"] == [{"node": "approve", "reason": "approval", "payload": {"cost": 3}}]

    second = engine.resume_sync("yes", thread_id="t")
    assert second.status == "completed"
    assert second.values == {"log": ["in", "plan", "approve:yes", "act:None"]}, "only the first step sees the payload"
    assert second.run_id != first.run_id
    assert second.checkpoint.step == 3


def test_a_mapping_is_written_too(store):
    engine = EngineExecutor(approval_graph(), checkpointer=store)
    engine.invoke_sync(thread_id="t")
    result = engine.resume_sync({"approved": True, "log": "resumed"}, thread_id="t")
    assert result.values["approved"] is True
    assert result.values["log"][:2] == ["plan", "resumed"]


def test_invoke_continues_a_waiting_thread(store):
    engine = EngineExecutor(approval_graph(), checkpointer=store)
    engine.invoke_sync({"log": "in"}, thread_id="t")
    result = engine.invoke_sync({"log": "answer"}, thread_id="t")
    assert result.values["log"] == ["in", "plan", "answer", "approve:{'log': 'answer'}", "act:None"]


def test_a_finished_thread_cannot_be_resumed_but_invoked_from_the_entrypoint(store):
    engine = EngineExecutor(approval_graph(), checkpointer=store)
    engine.invoke_sync(thread_id="t")
    engine.resume_sync("yes", thread_id="t")
    with pytest.raises(CheckpointError, match=r"'t' cannot be resumed: it is complete"):
        engine.resume_sync("again", thread_id="t")
    assert engine.invoke_sync({"log": "new"}, thread_id="t").values["log"][-2:] == ["new", "plan"]


def test_what_cannot_be_resumed_says_why(store):
    with pytest.raises(CheckpointError, match="it has no checkpoint"):
        EngineExecutor(approval_graph(), checkpointer=store).resume_sync(thread_id="t")
    with pytest.raises(CheckpointError, match="no checkpointer"):
        EngineExecutor(approval_graph()).resume_sync(thread_id="t")


def test_a_failed_resume_can_be_repeated(store):
    broken = [True]

    def node(ctx):
        if ctx.resume_value is None:
            raise GraphInterrupt("ask")
        if broken:
            raise OSError("down")
        return {"log": "done"}

    engine = EngineExecutor(Graph(channels={"log": Append()}).add_node("a", node), checkpointer=store)
    engine.invoke_sync(thread_id="t")
    with pytest.raises(OSError, match="down"):
        engine.resume_sync({"log": "answer"}, thread_id="t")
    broken.clear()
    assert engine.resume_sync({"log": "answer"}, thread_id="t").values == {"log": ["answer", "done"]}


def test_a_resume_that_writes_an_unknown_channel_changes_nothing(store):
    engine = EngineExecutor(approval_graph(), checkpointer=store)
    engine.invoke_sync(thread_id="t")
    before = asyncio.run(store.get("t"))
    with pytest.raises(InvalidUpdateError, match="'nope'"):
        engine.resume_sync({"nope": 1}, thread_id="t")
    assert asyncio.run(store.get("t")) == before


def test_a_checkpoint_that_names_a_node_that_is_gone(store):
    EngineExecutor(approval_graph(), checkpointer=store).invoke_sync(thread_id="t")
    renamed = Graph("approval").add_node("sign", lambda ctx: None)
    with pytest.raises(NodeNotFoundError, match=r"checkpoint of thread 't'.*'approve'"):
        EngineExecutor(renamed, checkpointer=store).resume_sync("yes", thread_id="t")


def diamond(*, interrupting):
    graph = Graph(channels={"log": Append()})

    def make(name):
        async def node(ctx):
            if name in interrupting and ctx.resume_value is None:
                raise GraphInterrupt(f"ask {name}")
            return {"log": name}

        return node

    for name in ("start", "a", "b", "c", "join"):
        graph.add_node(name, make(name))
    for name in "abc":
        graph.add_edge("start", name).add_edge(name, "join")
    return graph


@pytest.mark.parametrize("interrupting", ["a", "b", "c", "ab", "abc"])
def test_a_fan_in_behind_an_interrupted_step_runs_once_and_knows_all_its_sources(store, interrupting):
    engine = EngineExecutor(diamond(interrupting=interrupting), checkpointer=store)
    first = engine.invoke_sync(thread_id="t")
    done = [name for name in "abc" if name not in interrupting]
    assert first.values["log"] == ["start", *done]
    assert first.interrupt.node == interrupting[0]
    assert first.checkpoint.next_tasks == tuple(interrupting)
    assert first.checkpoint.metadata["sources"] == {name: ["start"] for name in interrupting}

    second = engine.resume_sync(1, thread_id="t")
    assert second.values["log"] == ["start", *done, *interrupting, "join"]
    before_join = asyncio.run(store.history("t"))[1]
    assert before_join.metadata["sources"] == {"join": ["a", "b", "c"]}


def test_routes_of_completed_siblings_survive_repeated_interrupts(store):
    graph = Graph(channels={"log": Append()})

    async def twice(ctx):
        if ctx.resume_value != "second":
            raise GraphInterrupt("ask")
        return {"log": "twice"}

    async def done(ctx):
        return {"log": "done"}

    async def after(ctx):
        return {"log": ctx.node}

    graph.add_node("twice", twice).add_node("done", done).add_node("x", after).add_node("y", after)
    graph.set_entrypoint("twice", "done").add_edge("twice", "x").add_edge("done", "y")
    engine = EngineExecutor(graph, checkpointer=store)
    assert engine.invoke_sync(thread_id="t").status == "interrupted"
    assert engine.resume_sync("first", thread_id="t").status == "interrupted"
    assert engine.resume_sync("second", thread_id="t").values["log"] == ["done", "twice", "x", "y"]


def test_on_step_complete_sees_the_interrupted_step():
    seen = []
    engine = EngineExecutor(approval_graph(), on_step_complete=lambda checkpoint: seen.append(checkpoint.source))
    engine.invoke_sync()
    assert seen == [CheckpointSource.LOOP, CheckpointSource.INTERRUPT]


def test_an_interrupt_payload_that_cannot_be_stored_is_a_clear_error(store):
    def node(ctx):
        raise GraphInterrupt("ask", object())

    with pytest.raises(CheckpointError, match="metadata 'interrupts'"):
        EngineExecutor(Graph().add_node("a", node), checkpointer=store).invoke_sync(thread_id="t")


def test_graph_interrupt_is_an_engine_error_and_can_be_pickled():
    copy = pickle.loads(pickle.dumps(GraphInterrupt("why", {"x": 1})))
    assert isinstance(copy, EngineError)
    assert (str(copy), copy.reason, copy.payload) == ("why", "why", {"x": 1})


SCRIPT = """
import sys
from zupa.engine import Append, EngineExecutor, Graph, GraphInterrupt, SqliteCheckpointer

graph = Graph("approval", channels={"log": Append()})

@graph.node
def plan(ctx):
    return {"log": f"plan:{ctx.context}"}

@graph.node
def other(ctx):
    return {"log": f"other:{ctx.context}"}

@graph.node
async def approve(ctx):
    if ctx.resume_value is None:
        raise GraphInterrupt("approval", {"cost": 3})
    return {"log": f"approve:{ctx.context}:{ctx.resume_value}"}

@graph.node
def act(ctx):
    return {"log": f"act:{ctx.context}"}

graph.add_edge("plan", "approve").add_edge("plan", "other").add_edge("approve", "act").add_edge("other", "act")
with SqliteCheckpointer(sys.argv[2]) as store:
    engine = EngineExecutor(graph, checkpointer=store)
    if sys.argv[1] == "start":
        result = engine.invoke_sync(thread_id="t", context="one")
    else:
        result = engine.resume_sync("yes", thread_id="t", context="two")
    print(result.status, *result.values["log"])
"""


def test_resume_in_another_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(zupa.__file__).parents[1])}

    def run(action):
        command = [sys.executable, "-W", "error", "-c", SCRIPT, action, str(tmp_path / "c.db")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run("start") == ["interrupted", "plan:one", "other:one"]
    assert run("resume") == ["completed", "plan:one", "other:one", "approve:two:yes", "act:two"]
