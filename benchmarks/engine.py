"""What full export costs an engine of short nodes, against none and against OpenTelemetry SDK spans made by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Final

from _harness import Report, Results, Sample, interleave, microseconds, percentile, times
from _receiver import Receiver
from _variants import GRPC, HOOKS, HTTP, NO_EXPORT, PLAIN, Opener, Variant, variants

from zupa.engine import EngineExecutor, Graph, NodeContext, NodeResult

CLOCKS: Final[Mapping[str, Callable[[], int]]] = {"CPU": time.thread_time_ns, "wall": time.perf_counter_ns}
"""What a node spins on. CPU: as real work, it takes longer where somebody else has the GIL. Wall: that is hidden."""


@dataclass(frozen=True)
class Case:
    """What runs.

    Attributes:
        node_us: Busy work of a node, in us.
        clock: Key of `CLOCKS`.
        is_async: Nodes are async functions on one event loop, otherwise sync functions by `invoke_sync`.
        nodes: Nodes that a run executes, one after the other, one super-step each.
        names: Nodes that the graph has; they form a ring.
        runs: How often it runs.
    """

    node_us: int
    clock: str = "CPU"
    is_async: bool = False
    nodes: int = 200
    names: int = 10
    runs: int = 25

    @property
    def title(self) -> str:
        kind = "async" if self.is_async else "sync"
        work = f"{kind} nodes of {self.node_us} us {self.clock} time"
        return f"{work}, {self.runs} runs of {self.nodes} steps over {self.names} nodes"


def run(report: Report, receiver: Receiver, *, quick: bool) -> None:
    """Run all cases and write their tables."""
    rounds = 2 if quick else 5
    report.section(
        "engine: full export against none",
        "A node's time is that between its start and the next node's. A node spins until its thread has used the CPU "
        "time (or, in the wall case, until the time has passed, which hides what others take from it meanwhile). "
        "zupa exports two spans and, with logs, two log records a node; the spans by hand are two a node.",
        f"The engine is never idle: exporting takes its time from the nodes, or drops. Read the last columns too. "
        f"`{HOOKS}` is the instrumentation alone, `{NO_EXPORT}` everything but exporting.",
    )
    cases = [
        Case(200),
        Case(200, is_async=True),
        Case(200, "wall"),
        Case(200, names=200),
        Case(50),
        Case(50, is_async=True),
    ]
    if quick:
        cases = [smaller(case) for case in cases[:2]]
    for case in cases:
        contestants = {name: partial(measure, opener, case) for name, opener in variants(receiver).items()}
        results = interleave(contestants, rounds, label=f"engine, {case.title}")
        tabulate(report, case.title, results)
        if case.node_us == 200:
            kind = f"{'async' if case.is_async else 'sync'}, {case.clock} time, {case.names} nodes"
            for name in (GRPC, HTTP):
                report.target("P2", f"mean node, {name}; {kind}", 1.03, results.ratio(name, PLAIN, "mean"))
                report.target("P2", f"p99 node, {name}; {kind}", 1.5, results.ratio(name, PLAIN, "p99"))


def smaller(case: Case) -> Case:
    """Return *case* at a size that shows that it works, and no more."""
    return replace(case, nodes=100, names=min(case.names, 100), runs=3)


def measure(opener: Opener, case: Case) -> Sample:
    """Run *case* once, after one warm-up run."""
    with opener() as variant:
        starts: list[int] = []
        executor = _build(case, variant, starts)
        _drive(executor, case, variant, 1)
        variant.settle(1, case.nodes)
        starts.clear()
        cpu, thread_cpu = time.process_time_ns(), time.thread_time_ns()
        _drive(executor, case, variant, case.runs)
        thread_cpu = time.thread_time_ns() - thread_cpu
        outcome = variant.settle(case.runs, case.nodes)
        cpu = time.process_time_ns() - cpu
    gaps = [after - before for index, (before, after) in enumerate(pairwise(starts), 1) if index % case.nodes]
    gaps.sort()
    nodes = case.nodes * case.runs
    values = {
        "mean": sum(gaps) / len(gaps),
        "p50": float(percentile(gaps, 0.5)),
        "p99": float(percentile(gaps, 0.99)),
        "thread": thread_cpu / nodes,
        "cpu": cpu / nodes,
    }
    return Sample(values, outcome.made, outcome.arrived, outcome.counted)


def tabulate(report: Report, title: str, results: Results, *, base: str = PLAIN) -> None:
    """Write the table of one case."""
    report.section(f"{title[0].upper()}{title[1:]}", level=3)
    report.table(
        (
            "variant",
            "mean, us a node",
            "p50",
            "p99",
            f"mean, to {base}",
            "p99, to the same",
            "engine thread CPU, us a node",
            "process CPU, us a node",
            "lost",
        ),
        [
            (
                name,
                results.spread(name, "mean").text(microseconds),
                microseconds(results.spread(name, "p50").median),
                microseconds(results.spread(name, "p99").median),
                results.ratio(name, base, "mean").text(times),
                results.ratio(name, base, "p99").text(times),
                microseconds(results.spread(name, "thread").median),
                microseconds(results.spread(name, "cpu").median),
                results.loss(name),
            )
            for name in results.samples
        ],
    )


# -- the graph -----------------------------------------------------------------------------------------------------


def _build(case: Case, variant: Variant, starts: list[int]) -> EngineExecutor:
    clock, budget, last = CLOCKS[case.clock], case.node_us * 1000, case.nodes
    started, now = starts.append, time.perf_counter_ns
    done = NodeResult(next_tasks=())

    def work(context: NodeContext) -> NodeResult | None:
        started(now())
        end = clock() + budget
        while clock() < end:
            pass
        return done if context.step == last else None

    wrapped = variant.wrap_node(work)

    async def work_async(context: NodeContext) -> NodeResult | None:
        result: NodeResult | None = wrapped(context)
        return result

    graph = Graph("ring")
    for index in range(case.names):
        graph.add_node(f"node_{index}", work_async if case.is_async else wrapped)
        graph.add_edge(f"node_{index}", f"node_{(index + 1) % case.names}")
    return EngineExecutor(graph, recursion_limit=case.nodes)


def _drive(executor: EngineExecutor, case: Case, variant: Variant, runs: int) -> None:
    async def drive() -> None:
        for _ in range(runs):
            with variant.run_scope():
                await executor.invoke()

    if case.is_async:
        asyncio.run(drive())
        return
    for _ in range(runs):
        with variant.run_scope():
            executor.invoke_sync()
