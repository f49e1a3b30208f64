"""``zupa demo``: the main job end to end, on a small but real agent graph."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypedDict

from opentelemetry import trace

import zupa
from zupa.engine import (
    Append,
    EngineExecutor,
    Graph,
    GraphInterrupt,
    NodeContext,
    NodeResult,
    RetryPolicy,
    RunResult,
    SqliteCheckpointer,
)
from zupa.event import Event
from zupa.otel import ConsoleTreeExporter
from zupa.reducers import redact

THREAD = "trip-42"


class Trip(TypedDict, total=False):
    """State of the trip planner."""

    city: str
    offers: Annotated[list[str], Append()]
    notes: Annotated[list[str], Append()]
    approved: bool
    booking: str


async def plan(ctx: NodeContext) -> NodeResult:
    """Fan out to three searches."""
    zupa.get_bus().emit("agent", "log:info", {"message": f"planning a trip to {ctx.state['city']}"})
    return NodeResult({"notes": "planned"}, next_tasks=("search_flights", "search_hotels", "check_visa"))


async def search_flights(ctx: NodeContext) -> dict[str, Any]:
    """Fail once, as networks do, and succeed at the second attempt."""
    if ctx.attempt == 1:
        raise ConnectionError("flight service reset the connection")
    with trace.get_tracer("zupa.demo").start_as_current_span("GET /flights"):
        await asyncio.sleep(0.03)
    zupa.current_node().set_attribute("demo.flights.found", 3)
    return {"offers": ["flight ZU 101"]}


def search_hotels(ctx: NodeContext) -> dict[str, Any]:
    """Search for hotels: a plain function, run in a thread beside the others."""
    # The redactor takes the key out before any exporter sees it.
    zupa.get_bus().emit(
        "agent", "log:debug", {"message": "asking for hotels", "api_key": "sk-demo-0123456789abcdef0123"}
    )
    return {"offers": [f"hotel in {ctx.state['city']}"]}


async def check_visa(ctx: NodeContext) -> dict[str, Any]:
    """Ask another graph, which fails, and handle it."""
    try:
        await _visa_executor().invoke({"city": ctx.state["city"]})
    except TimeoutError as error:
        zupa.current_node().set_attribute("demo.fallback", True)
        return {"notes": f"visa unknown ({error})"}
    return {"notes": "visa ok"}


async def ask_consulate(ctx: NodeContext) -> dict[str, Any]:
    """Time out."""
    await asyncio.sleep(0.01)
    raise TimeoutError(f"the consulate of {ctx.state['city']} did not answer")


async def approve(ctx: NodeContext) -> dict[str, Any]:
    """Wait for a person: the run is interrupted until somebody resumes it."""
    if not ctx.state.get("approved"):
        raise GraphInterrupt("approval needed", {"offers": list(ctx.state["offers"])})
    return {"notes": "approved"}


async def book(ctx: NodeContext) -> dict[str, Any]:
    """Book what was approved."""
    await asyncio.sleep(0.01)
    return {"booking": f"{len(ctx.state['offers'])} items booked"}


def _visa_executor() -> EngineExecutor:
    graph = Graph("visa-check", state=Trip)
    graph.add_node("ask_consulate", ask_consulate, kind="tool")
    return EngineExecutor(graph)


def _trip_executor(checkpointer: SqliteCheckpointer) -> EngineExecutor:
    graph = Graph("trip-planner", state=Trip)
    graph.add_node("plan", plan, kind="agent")
    graph.add_node("search_flights", search_flights, retry=RetryPolicy(max_attempts=3, initial_delay_s=0.01))
    graph.add_node("search_hotels", search_hotels)
    graph.add_node("check_visa", check_visa)
    graph.add_node("approve", approve)
    graph.add_node("book", book)
    for search in ("search_flights", "search_hotels", "check_visa"):
        graph.add_edge(search, "approve")
    graph.add_edge("approve", "book")
    return EngineExecutor(graph, checkpointer=checkpointer)


def to_agent_log(event: Event) -> list[Event]:
    """Add a line to the agent's log for each node that starts: the RFC's example, as a fan-out."""
    message = f"entering node {event.payload['node']}"
    return [event, event.replace(channel="agent", name="log:info", payload={"message": message})]


def run_demo(resume: list[str] | None) -> int:
    """Run the first half of the demo, or with *resume* (database and thread) the second.

    Returns:
        The exit code.
    """
    telemetry = _configure()
    telemetry.bus.use(redact())
    telemetry.bus.use(to_agent_log, pattern="engine:node_started")
    if resume is not None:
        result = asyncio.run(_resume(*resume))
        return _report(telemetry, result, "completed")
    with tempfile.TemporaryDirectory(prefix="zupa-demo-") as folder:
        database = str(Path(folder) / "checkpoints.sqlite")
        print("== process 1: a run that waits for approval\n")
        with SqliteCheckpointer(database) as checkpointer:
            result = asyncio.run(_trip_executor(checkpointer).invoke({"city": "Lisbon"}, thread_id=THREAD))
        if (code := _report(telemetry, result, "interrupted")) != 0:
            return code
        print("\n== process 2: approved; the run goes on from its checkpoint\n", flush=True)
        return subprocess.run(  # noqa: S603 - our own interpreter, our own arguments
            [sys.executable, "-m", "zupa", "demo", "--resume", database, THREAD], check=False
        ).returncode


async def _resume(database: str, thread: str) -> RunResult:
    with SqliteCheckpointer(database) as checkpointer:
        return await _trip_executor(checkpointer).resume({"approved": True}, thread_id=thread)


def _configure() -> zupa.Telemetry:
    tree = ConsoleTreeExporter(sys.stdout)
    if not any(name.startswith("OTEL_") and "EXPORTER" in name for name in os.environ):
        return zupa.configure("zupa-demo", exporters=[tree])
    telemetry = zupa.configure("zupa-demo")
    telemetry.bus.add_exporter(tree)
    return telemetry


def _report(telemetry: zupa.Telemetry, result: RunResult, expected: str) -> int:
    ok = telemetry.shutdown(5_000)
    s = telemetry.statistics()
    exports = " ".join(f"{name}={x.exported}/{x.offered}" for name, x in s.exported.items())
    print(
        f"\nstatistics: emitted={s.emitted} delivered={s.delivered} filtered={s.filtered} fanned_out={s.fanned_out} "
        f"dropped={s.dropped_total} queued={s.queued} in_flight={s.in_flight} imbalance={s.imbalance} "
        f"exported: {exports}"
    )
    if result.status != expected or s.dropped_total or not ok:
        print(
            f"the demo did not go as planned: run {result.status}, dropped {s.dropped}, flushed {ok}", file=sys.stderr
        )
        return 1
    return 0
