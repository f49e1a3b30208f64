"""What full export costs an engine of short nodes, against none and against OpenTelemetry SDK spans made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Final

from _harness import (
    CONTROL,
    Report,
    Results,
    Sample,
    interleave,
    microseconds,
    percentile,
    times,
)
from _receiver import Receiver
from _rigs import FLUSH_MILLIS, SERVICE, count_losses
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

import zupa
from zupa import BusConfig, BusStatistics, ReducerEventBus
from zupa.engine import EngineExecutor, Graph, NodeContext
from zupa_instrumentation.engine import EngineInstrumentor

PLAIN: Final = "not instrumented"
NO_EXPORT: Final = "zupa, bus without exporter"
GRPC: Final = "zupa, OTLP/gRPC, spans and logs"
GRPC_SPANS: Final = "zupa, OTLP/gRPC, spans only"
HTTP: Final = "zupa, OTLP/HTTP, spans and logs"
SDK: Final = "OTel SDK spans by hand, OTLP/gRPC"

CLOCKS: Final[Mapping[str, Callable[[], int]]] = {"CPU": time.thread_time_ns, "wall": time.perf_counter_ns}
"""What a node spins on. CPU: as real work, it takes longer where somebody else has the GIL. Wall: that is hidden."""

WrapNode = Callable[[Callable[[NodeContext], None]], Callable[[NodeContext], None]]


@dataclass(frozen=True)
class Case:
    """What runs.

    Attributes:
        node_us: Busy work of a node, in us.
        clock: Key of `CLOCKS`.
        is_async: Nodes are async functions on one event loop, otherwise sync functions by `invoke_sync`.
        nodes: Nodes of the chain, one super-step each.
        runs: How often the chain runs.
    """

    node_us: int
    clock: str = "CPU"
    is_async: bool = False
    nodes: int = 200
    runs: int = 25

    @property
    def title(self) -> str:
        kind = "async" if self.is_async else "sync"
        return f"{kind} nodes of {self.node_us} us {self.clock} time, {self.runs} runs of {self.nodes} nodes"


@dataclass(frozen=True)
class Outcome:
    """What became of the telemetry; see `Sample`."""

    made: Mapping[str, int] = field(default_factory=dict)
    arrived: Mapping[str, int] = field(default_factory=dict)
    counted: int | None = None


@dataclass
class Variant:
    """An open variant: how nodes and runs are wrapped, and what happens at the end.

    Attributes:
        wrap_node: Given a node's body, returns the node's function.
        run_scope: Entered around each run.
        settle: Given the runs and the nodes of each since the last call, returns when all their telemetry has arrived.
    """

    wrap_node: WrapNode = lambda body: body  # noqa: E731 - a default
    run_scope: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    settle: Callable[[int, int], Outcome] = lambda _runs, _nodes: Outcome()  # noqa: E731 - a default


Opener = Callable[[], AbstractContextManager[Variant]]


def run(report: Report, receiver: Receiver, *, quick: bool) -> None:
    """Run all cases and write their tables."""
    size = {"nodes": 100, "runs": 3} if quick else {"nodes": 200, "runs": 25}
    rounds = 2 if quick else 5
    report.section(
        "engine: full export against none",
        "A node's time is that between its start and the next node's. A node spins until its thread has used the CPU "
        "time (or, in the wall case, until the time has passed, which hides what others take from it meanwhile). "
        "zupa exports two spans and, with logs, three log records a node; the spans by hand are two a node.",
        f"The engine is never idle, so what cannot be exported meanwhile is dropped: read the last columns too. "
        f"`{NO_EXPORT}` is the floor of everything but exporting.",
    )
    cases = [
        Case(200, **size),
        Case(200, is_async=True, **size),
        Case(200, "wall", **size),
        Case(50, **size),
        Case(50, is_async=True, **size),
    ]
    for case in cases[:2] if quick else cases:
        contestants = {name: partial(measure, opener, case) for name, opener in _openers(receiver).items()}
        results = interleave(contestants, rounds, label=f"engine, {case.title}")
        tabulate(report, case.title, results)
        if case.node_us == 200:
            kind = f"{'async' if case.is_async else 'sync'}, {case.clock} time"
            for name in (GRPC, HTTP):
                report.target("P2", f"mean node, {name}; {kind}", 1.03, results.ratio(name, PLAIN, "mean"))
                report.target("P2", f"p99 node, {name}; {kind}", 1.5, results.ratio(name, PLAIN, "p99"))


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
    clock, budget = CLOCKS[case.clock], case.node_us * 1000
    started, now = starts.append, time.perf_counter_ns

    def work(_context: NodeContext) -> None:
        started(now())
        end = clock() + budget
        while clock() < end:
            pass

    wrapped = variant.wrap_node(work)

    async def work_async(context: NodeContext) -> None:
        wrapped(context)

    graph = Graph("chain")
    for index in range(case.nodes):
        graph.add_node(f"node_{index}", work_async if case.is_async else wrapped)
        if index:
            graph.add_edge(f"node_{index - 1}", f"node_{index}")
    return EngineExecutor(graph, recursion_limit=case.nodes + 1)


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


# -- the variants --------------------------------------------------------------------------------------------------


def _openers(receiver: Receiver) -> dict[str, Opener]:
    return {
        PLAIN: open_plain,
        NO_EXPORT: open_without_export,
        GRPC: partial(_open_zupa, receiver, "grpc"),
        GRPC_SPANS: partial(_open_zupa, receiver, "grpc", logs=False),
        HTTP: partial(_open_zupa, receiver, "http/protobuf"),
        SDK: partial(_open_sdk, receiver),
        PLAIN + CONTROL: open_plain,
    }


@contextlib.contextmanager
def open_plain() -> Iterator[Variant]:
    yield Variant()


@contextlib.contextmanager
def instrumented(bus: ReducerEventBus) -> Iterator[None]:
    """The engine emits on *bus*."""
    instrumentor = EngineInstrumentor()
    instrumentor.instrument(bus=bus)
    try:
        yield
    finally:
        instrumentor.uninstrument()


class BusLedger:
    """What a bus has taken and lost since the last look."""

    def __init__(self, bus: ReducerEventBus) -> None:
        self._bus = bus
        self._before = BusStatistics()
        self._lost_before = 0

    def settle(self, _runs: int, _nodes: int) -> Outcome:
        """Flush; count events that reached the bus's subscribers and exporters as arrived."""
        self._bus.force_flush(FLUSH_MILLIS)
        before = self._before
        emitted, lost = self.take()
        return Outcome({"events": emitted}, {"events": self._before.delivered - before.delivered}, lost)

    def take(self) -> tuple[int, int]:
        """Return the emitted events and those that were counted as lost, since the last call."""
        before, lost_before = self._before, self._lost_before
        self._before, self._lost_before = self._bus.statistics(), count_losses(self._bus)
        return self._before.emitted - before.emitted, self._lost_before - lost_before


@contextlib.contextmanager
def open_without_export() -> Iterator[Variant]:
    with ReducerEventBus(BusConfig()) as bus, instrumented(bus):
        yield Variant(settle=BusLedger(bus).settle)


@contextlib.contextmanager
def _open_zupa(receiver: Receiver, protocol: str, *, logs: bool = True) -> Iterator[Variant]:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    if not logs:
        variables["OTEL_LOGS_EXPORTER"] = "none"
    receiver.take_counts()
    with ReducerEventBus(BusConfig()) as bus, _environment(variables):
        telemetry = zupa.configure(SERVICE, bus=bus, instrument=False, set_global_providers=False)
        ledger = BusLedger(bus)

        def settle(runs: int, nodes: int) -> Outcome:
            if not telemetry.force_flush(FLUSH_MILLIS):
                raise RuntimeError(f"the telemetry could not be flushed: {bus.statistics()}")
            spans, records = receiver.take_counts()
            emitted, lost = ledger.take()
            expected = runs * (1 + 2 * nodes)
            if not logs:
                # The bus drops events that would have become nothing as well, so its count says nothing here.
                return Outcome({"spans": expected}, {"spans": spans})
            made = {"spans": expected, "logs": emitted - expected}
            return Outcome(made, {"spans": spans, "logs": records}, lost)

        try:
            with instrumented(bus):
                yield Variant(settle=settle)
        finally:
            telemetry.shutdown(10_000)


@contextlib.contextmanager
def _open_sdk(receiver: Receiver) -> Iterator[Variant]:
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.grpc_endpoint)))
    tracer = provider.get_tracer(SERVICE)
    receiver.take_counts()

    def settle(runs: int, nodes: int) -> Outcome:
        provider.force_flush()
        return Outcome({"spans": runs * (1 + 2 * nodes)}, {"spans": receiver.take_counts()[0]})

    try:
        yield Variant(
            wrap_node=partial(_with_spans, tracer),
            run_scope=lambda: tracer.start_as_current_span(
                "invoke_workflow chain", attributes={"gen_ai.operation.name": "invoke_workflow", "graph": "chain"}
            ),
            settle=settle,
        )
    finally:
        provider.shutdown()


def _with_spans(tracer: Tracer, body: Callable[[NodeContext], None]) -> Callable[[NodeContext], None]:
    """Make a step's and a node's span around *body*, with the attributes that a careful user would set."""

    def node(context: NodeContext) -> None:
        common = {"graph": "chain", "run_id": context.run_id, "thread_id": context.thread_id, "step": context.step}
        with (
            tracer.start_as_current_span(f"step {context.step}", attributes=common),
            tracer.start_as_current_span(
                context.node, attributes={**common, "node": context.node, "attempt": context.attempt}
            ),
        ):
            body(context)

    return node


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
