"""A resumed run is a trace of its own that links to the run it continues, in this process and in another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import msgspec
import pytest

from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer, SqliteCheckpointer

GRAPH = """
from zupa.engine import Graph, GraphInterrupt

def build():
    graph = Graph("trip")
    graph.add_node("left", lambda ctx: {"left": 1})
    graph.add_node("right", lambda ctx: {"right": 1})
    graph.add_node("approve", approve)
    graph.add_node("book", lambda ctx: None)
    graph.set_entrypoint("left", "right")
    graph.add_edge("left", "approve").add_edge("right", "approve").add_edge("approve", "book")
    return graph

def approve(ctx):
    if ctx.resume_value is None:
        raise GraphInterrupt("approval needed")
"""

SECOND_PROCESS = (
    GRAPH
    + """
import json, sys
from zupa import BusConfig, ReducerEventBus
from zupa.engine import EngineExecutor, SqliteCheckpointer
from zupa.ports import ExportResult
from zupa_instrumentation.engine import EngineInstrumentor

class Printer:
    def export(self, batch):
        for event in batch:
            ids = {"trace_id": f"{event.trace_id:032x}", "span_id": f"{event.span_id:016x}"}
            print(json.dumps({"name": event.name, **ids, "payload": event.payload}), flush=True)
        return ExportResult.SUCCESS
    def force_flush(self, timeout_millis=0): return True
    def shutdown(self, timeout_millis=0): pass

bus = ReducerEventBus(exporters=[Printer()])
EngineInstrumentor().instrument(bus=bus)
with SqliteCheckpointer(sys.argv[1]) as checkpointer:
    executor = EngineExecutor(build(), checkpointer=checkpointer)
    assert executor.resume_sync(True, thread_id="t").status == "completed"
assert bus.shutdown(10_000)
"""
)


def build():
    space = {}
    exec(GRAPH, space)
    return space["build"]()


def resume_link(run):
    (link,) = [link for link in run.links if link.attributes["zupa.link.kind"] == "resume"]
    return link.context.trace_id, link.context.span_id


def test_resume_links_to_the_interrupted_run(observed):
    executor = EngineExecutor(build(), checkpointer=InMemoryCheckpointer())
    waiting = executor.invoke_sync(thread_id="t")
    first = observed.span("invoke_workflow trip")
    assert executor.resume_sync(True, thread_id="t").status == "completed"
    second = observed.span("invoke_workflow trip", **{"zupa.outcome": "completed"})
    assert second.context.trace_id != first.context.trace_id
    assert second.parent is None
    assert resume_link(second) == (first.context.trace_id, first.context.span_id)
    assert len(second.links) == 1
    assert list(first.links) == []
    assert second.attributes["gen_ai.conversation.id"] == first.attributes["gen_ai.conversation.id"] == "t"
    assert second.attributes["zupa.run.id"] != first.attributes["zupa.run.id"]
    (resumed,) = observed.named("run_resumed")
    assert resumed.payload["checkpoint_id"] == waiting.checkpoint.checkpoint_id
    assert resumed.span_id == second.context.span_id
    assert observed.names("run") == [
        "run_started",
        "run_interrupted",
        "run_started",
        "run_resumed",
        "run_completed",
    ]
    observed.assert_every_start_has_one_end()


def test_edges_cross_the_resume(observed):
    executor = EngineExecutor(build(), checkpointer=InMemoryCheckpointer())
    executor.invoke_sync(thread_id="t")
    executor.resume_sync(True, thread_id="t")
    sources = [
        (observed.span(name).context.trace_id, observed.span(name).context.span_id) for name in ("left", "right")
    ]
    approve = observed.span("approve", **{"zupa.outcome": "completed"})
    assert [(link.context.trace_id, link.context.span_id) for link in approve.links] == sources
    assert approve.context.trace_id != sources[0][0]
    assert [link.attributes["zupa.node.name"] for link in approve.links] == ["left", "right"]
    (edge,) = observed.span("book").links
    assert edge.context.span_id == approve.context.span_id


def test_a_failed_thread_that_is_continued_links_too(observed):
    broken = [True]

    def once(ctx):
        if broken.pop() if broken else False:
            raise OSError("down")

    graph = Graph("g").add_node("a", lambda ctx: None).add_node("b", once).add_edge("a", "b")
    executor = EngineExecutor(graph, checkpointer=InMemoryCheckpointer())
    with pytest.raises(OSError, match="down"):
        executor.invoke_sync(thread_id="t")
    executor.invoke_sync(thread_id="t")
    first = observed.span("invoke_workflow g", **{"zupa.outcome": "error"})
    second = observed.span("invoke_workflow g", **{"zupa.outcome": "completed"})
    assert resume_link(second) == (first.context.trace_id, first.context.span_id)
    (edge,) = observed.span("b", **{"zupa.outcome": "completed"}).links
    assert edge.context.span_id == observed.span("a").context.span_id


def test_a_finished_thread_that_starts_again_links_to_nothing(observed):
    executor = EngineExecutor(Graph("g").add_node("a", lambda ctx: None), checkpointer=InMemoryCheckpointer())
    executor.invoke_sync(thread_id="t")
    executor.invoke_sync(thread_id="t")
    assert [list(span.links) for span in observed.spans] == [[]] * 6
    assert observed.named("run_resumed") == []


def test_a_run_that_nobody_observed_can_be_resumed(observed, instrumentor):
    executor = EngineExecutor(build(), checkpointer=InMemoryCheckpointer())
    instrumentor.uninstrument()
    executor.invoke_sync(thread_id="t")
    instrumentor.instrument(bus=observed.bus)
    executor.resume_sync(True, thread_id="t")
    run = observed.span("invoke_workflow trip")
    assert list(run.links) == []
    assert list(observed.span("approve").links) == []
    assert len(observed.named("run_resumed")) == 1


@pytest.mark.parametrize("metadata", [{"zupa.traceparent": 7, "zupa.node_spans": {"left": "00-zz", "right": None}}])
def test_what_somebody_else_wrote_into_the_metadata_is_ignored(observed, metadata):
    class Foreign(InMemoryCheckpointer):
        async def get(self, thread_id, checkpoint_id=None):
            found = await super().get(thread_id, checkpoint_id)
            return found and msgspec.structs.replace(found, metadata={**found.metadata, **metadata})

    executor = EngineExecutor(build(), checkpointer=Foreign())
    executor.invoke_sync(thread_id="t")
    executor.resume_sync(True, thread_id="t")
    run = observed.span("invoke_workflow trip", **{"zupa.outcome": "completed"})
    assert list(run.links) == []


def test_resume_in_a_second_process(observed, tmp_path):
    database = str(tmp_path / "checkpoints.sqlite")
    with SqliteCheckpointer(database) as checkpointer:
        asyncio.run(EngineExecutor(build(), checkpointer=checkpointer).invoke(thread_id="t"))
    first = observed.span("invoke_workflow trip")
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", SECOND_PROCESS, database],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, "")
    events = [json.loads(line) for line in child.stdout.splitlines()]
    (run,) = [event for event in events if event["name"] == "run_completed"]
    assert run["trace_id"] != f"{first.context.trace_id:032x}"
    (link,) = run["payload"]["links"]
    assert (link["kind"], link["trace_id"]) == ("resume", f"{first.context.trace_id:032x}")
    assert link["span_id"] == f"{first.context.span_id:016x}"
    (approve,) = [e for e in events if e["name"] == "node_completed" and e["payload"]["node"] == "approve"]
    assert [(x["kind"], x["name"], x["span_id"]) for x in approve["payload"]["links"]] == [
        ("edge", name, f"{observed.span(name).context.span_id:016x}") for name in ("left", "right")
    ]
    assert {event["trace_id"] for event in events} == {run["trace_id"]}


def test_interrupted_twice_links_each_run_to_the_one_before(observed):
    def ask(ctx):
        if ctx.resume_value != "yes":
            raise GraphInterrupt("again")

    executor = EngineExecutor(Graph("g").add_node("ask", ask), checkpointer=InMemoryCheckpointer())
    executor.invoke_sync(thread_id="t")
    executor.resume_sync("no", thread_id="t")
    executor.resume_sync("yes", thread_id="t")
    first, second, third = (span for span in observed.spans if span.name == "invoke_workflow g")
    assert resume_link(second) == (first.context.trace_id, first.context.span_id)
    assert resume_link(third) == (second.context.trace_id, second.context.span_id)
