"""The coroutines that instrumentation wraps: what it finds in them, and what it may change."""

from __future__ import annotations

import asyncio
import contextvars
import weakref

import msgspec
import pytest

from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer, NodeResult, RetryPolicy

span = contextvars.ContextVar("span", default=None)


class Watched(EngineExecutor):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.runs, self.steps, self.tasks, self.saved, self.log = [], [], [], [], []

    async def _execute_run(self, run):
        self.runs.append(run)
        self.log.append("run")
        return await super()._execute_run(run)

    async def _execute_step(self, run, step):
        self.steps.append(step)
        self.log.append(f"step {step.index}")
        result = await super()._execute_step(run, step)
        self.log.append(f"end {step.index}")
        return result

    async def _execute_task(self, run, task):
        span.set(task.node)
        result = await super()._execute_task(run, task)
        self.tasks.append((task, task.goto, sorted(result.state_diff)))
        return result

    async def _retry_wait(self, run, task, error, delay_s):
        self.log.append(f"retry {task.node} {task.attempt} {error}")

    async def _save_checkpoint(self, run, checkpoint, ledger_events):
        traced = msgspec.structs.replace(checkpoint, metadata={**checkpoint.metadata, "trace": run.run_id})
        await super()._save_checkpoint(run, traced, ledger_events)
        self.saved.append(run.checkpoint)


def test_order_of_the_seams_and_what_they_are_given():
    def flaky(ctx):
        if ctx.attempt == 1:
            raise OSError("once")
        return {"x": span.get()}

    graph = Graph("g").add_node("a", flaky, retry=RetryPolicy(), kind="tool").add_node("b", lambda ctx: {"y": 1})
    engine = Watched(graph.add_edge("a", "b"), name="named")
    result = engine.invoke_sync({"in": 1}, thread_id="t", context="mine")
    assert engine.log == ["run", "step 1", "retry a 1 once", "end 1", "step 2", "end 2"]
    (run,) = engine.runs
    assert (run.run_id, run.thread_id, run.graph_name, run.context) == (result.run_id, "t", "named", "mine")
    assert (run.input_keys, run.resumed_from, run.checkpoint) == (("in",), None, result.checkpoint)
    first, second = (task for step in engine.steps for task in step.tasks)
    assert (first.node, first.kind, first.step, first.attempt, first.max_attempts) == ("a", "tool", 1, 2, 3)
    assert (first.sources, first.goto) == ((), ("b",))
    assert (second.node, second.kind, second.step, second.attempt, second.max_attempts) == ("b", "node", 2, 1, 1)
    assert (second.sources, second.goto) == (("a",), ())
    assert first.exec_id != second.exec_id
    assert result.values["x"] == "a"


@pytest.mark.parametrize("entry", [("sync",), ("async",), ("sync", "async")])
def test_a_context_variable_set_around_a_task_is_seen_in_its_node_alone(entry):
    seen = {}

    def sync_node(ctx):
        seen["sync"] = span.get()

    async def async_node(ctx):
        seen["async"] = span.get()

    graph = Graph().add_node("sync", sync_node).add_node("async", async_node).set_entrypoint(*entry)

    async def main():
        await Watched(graph).invoke()
        return span.get()

    assert asyncio.run(main()) is None
    assert seen == {name: name for name in entry}
    seen.clear()
    Watched(graph).invoke_sync()
    assert seen == {name: name for name in entry}


def test_goto_is_known_early_where_the_node_decides_and_after_the_step_where_the_state_does():
    graph = Graph()
    graph.add_node("static", lambda ctx: None).add_edge("static", "end")
    graph.add_node("explicit", lambda ctx: NodeResult({"w": 1}, ["end", "end"])).add_edge("explicit", "static")
    graph.add_node("routed", lambda ctx: None).add_conditional_edges("routed", lambda state: "end")
    graph.add_node("end", lambda ctx: None).set_entrypoint("static", "explicit", "routed")
    engine = Watched(graph)
    engine.invoke_sync()
    early = {task.node: goto for task, goto, _ in engine.tasks}
    assert early == {"static": ("end",), "explicit": ("end",), "routed": (), "end": ()}
    assert {task.node: task.goto for task in engine.steps[0].tasks} == dict.fromkeys(
        ("static", "explicit", "routed"), ("end",)
    )
    assert engine.steps[1].tasks[0].sources == ("static", "explicit", "routed")
    assert [writes for task, _, writes in engine.tasks if task.node == "explicit"] == [["w"]]


def test_metadata_that_a_wrapper_adds_is_stored_and_found_on_resume():
    def ask(ctx):
        if ctx.resume_value is None:
            raise GraphInterrupt("ask")

    graph = Graph().add_node("start", lambda ctx: None).add_node("ask", ask).add_edge("start", "ask")
    store = InMemoryCheckpointer()
    engine = Watched(graph, checkpointer=store)
    first = engine.invoke_sync(thread_id="t")
    assert first.checkpoint.metadata["trace"] == first.run_id
    assert asyncio.run(store.get("t")).metadata["trace"] == first.run_id
    engine.resume_sync("yes", thread_id="t")
    resumed = engine.runs[1]
    assert resumed.resumed_from == first.checkpoint
    assert resumed.resumed_from.metadata["trace"] == first.run_id
    assert engine.steps[-1].tasks[0].sources == ("start",), "sources survive the interrupt"
    assert engine.steps[-1].index == engine.steps[-2].index == 2, "the interrupted step is still the same step"


def test_every_exec_id_is_unique():
    graph = Graph().add_node("a", lambda ctx: None).add_node("b", lambda ctx: None).set_entrypoint("a", "b")
    engine = Watched(graph.add_edge("a", "a"), recursion_limit=5)
    for _ in range(2):
        with pytest.raises(Exception, match="super-steps"):
            engine.invoke_sync()
    ids = [task.exec_id for step in engine.steps for task in step.tasks]
    assert len(ids) == len(set(ids)) == 12


def test_runs_steps_and_tasks_can_be_keys_and_weakly_referenced():
    engine = Watched(Graph().add_node("a", lambda ctx: None))
    engine.invoke_sync()
    for item in (engine.runs[0], engine.steps[0], engine.steps[0].tasks[0]):
        assert weakref.ref(item)() is item
        assert {item: 1}[item] == 1
