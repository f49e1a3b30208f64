"""Exported spans by CPU time, next to the SDK's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from _harness import CONTROL, Report, Sample, interleave, microseconds, times
from _receiver import Receiver
from _rigs import FLUSH_MILLIS, SERVICE, count_losses
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.types import AttributeValue

from zupa import BusConfig, Event, ExportResult, ReducerEventBus, Transition
from zupa.otel import OtelEventExporter, build_resource
from zupa.otel._otlp_grpc import GrpcSpanExporter

ZUPA: Final = "zupa: emit, bus, OtelEventExporter, OTLP/gRPC"
SDK: Final = "OTel SDK: start_span/end, BatchSpanProcessor, OTLP/gRPC"
ZUPA_EXPORT: Final = "zupa: OtelEventExporter.export alone"
SDK_EXPORT: Final = "OTel SDK: OTLPSpanExporter.export alone"

BATCH: Final = 512
_ATTRIBUTES: Final[dict[str, AttributeValue]] = {
    "zupa.engine": "zupa",
    "zupa.kind": "node",
    "zupa.run.id": "run-1",
    "zupa.exec.id": "run-1-1-0",
    "zupa.graph": "chain",
    "zupa.node.name": "plan",
    "zupa.node.kind": "node",
    "gen_ai.conversation.id": "thread-1",
    "zupa.step": 1,
    "zupa.attempt": 1,
    "zupa.attempt.max": 1,
}
"""What `_transition` becomes, so that both sides send the same span."""


@dataclass
class _Pipeline:
    """`produce` makes that many spans; `flush` returns when they have arrived; `counted` is the losses it knows of."""

    produce: Callable[[int], object]
    flush: Callable[[], object]
    counted: Callable[[], int] | None = None


def run(report: Report, receiver: Receiver, *, quick: bool) -> None:
    """Run the comparison and write its table."""
    rounds, batches = (2, 2) if quick else (7, 20)
    report.section(
        "throughput: exported spans by CPU time",
        f"{batches} batches of {BATCH} node spans with the same {len(_ATTRIBUTES)} attributes; CPU of this process, "
        "all threads, without the receiver's. The last two rows send finished spans (events) and show what encoding "
        "and sending cost whoever does it in Python.",
    )
    openers: dict[str, Callable[[Receiver], AbstractContextManager[_Pipeline]]] = {
        ZUPA: _open_zupa,
        SDK: _open_sdk,
        ZUPA_EXPORT: _open_zupa_export,
        SDK_EXPORT: _open_sdk_export,
        ZUPA + CONTROL: _open_zupa,
    }
    contestants = {name: partial(_measure, opener, receiver, batches) for name, opener in openers.items()}
    results = interleave(contestants, rounds, label="throughput")
    report.table(
        ("pipeline", "spans a CPU second", "CPU us a span", "spans by CPU, to the SDK's", "lost"),
        [
            (
                name,
                f"{1e9 / results.spread(name, 'cpu').median:,.0f}",
                results.spread(name, "cpu").text(microseconds),
                results.ratio(SDK, name, "cpu").text(times),
                results.loss(name),
            )
            for name in results.samples
        ],
    )
    report.target("P4", "spans by CPU, zupa to OTel SDK", 5, results.ratio(SDK, ZUPA, "cpu"), at_least=True)
    report.target("P4", "the same, export alone", 5, results.ratio(SDK_EXPORT, ZUPA_EXPORT, "cpu"), at_least=True)


def _measure(
    opener: Callable[[Receiver], AbstractContextManager[_Pipeline]], receiver: Receiver, batches: int
) -> Sample:
    with opener(receiver) as pipeline:
        pipeline.produce(BATCH)
        pipeline.flush()
        receiver.take_counts()
        cpu = time.process_time_ns()
        for _ in range(batches):
            pipeline.produce(BATCH)
            pipeline.flush()
        cpu = time.process_time_ns() - cpu
        counted = None if pipeline.counted is None else pipeline.counted()
        arrived = receiver.take_counts()[0]
    spans = batches * BATCH
    return Sample({"cpu": cpu / spans}, {"spans": spans}, {"spans": arrived}, counted)


def _transition(span_id: int) -> Transition:
    return Transition(
        engine="zupa",
        kind="node",
        phase="completed",
        run_id="run-1",
        exec_id="run-1-1-0",
        graph="chain",
        node="plan",
        node_kind="node",
        thread_id="thread-1",
        step=1,
        attempt=1,
        max_attempts=1,
        trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
        span_id=span_id,
        trace_flags=1,
        parent_span_id=1,
        start_ns=time.time_ns(),
        end_ns=time.time_ns(),
    )


@contextlib.contextmanager
def _open_zupa(receiver: Receiver) -> Iterator[_Pipeline]:
    exporter = OtelEventExporter(GrpcSpanExporter(receiver.grpc_endpoint), resource=build_resource(SERVICE))
    with ReducerEventBus(BusConfig(), exporters=[exporter]) as bus:

        def produce(count: int) -> None:
            for span_id in range(2, count + 2):
                bus.emit("engine", "node_completed", _transition(span_id))

        yield _Pipeline(produce, lambda: bus.force_flush(FLUSH_MILLIS), partial(count_losses, bus))


@contextlib.contextmanager
def _open_sdk(receiver: Receiver) -> Iterator[_Pipeline]:
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.grpc_endpoint)))
    tracer = provider.get_tracer(SERVICE)

    def produce(count: int) -> None:
        for _ in range(count):
            tracer.start_span("plan", attributes=_ATTRIBUTES).end()

    try:
        yield _Pipeline(produce, provider.force_flush)
    finally:
        provider.shutdown()


@contextlib.contextmanager
def _open_zupa_export(receiver: Receiver) -> Iterator[_Pipeline]:
    exporter = OtelEventExporter(GrpcSpanExporter(receiver.grpc_endpoint), resource=build_resource(SERVICE))
    events: list[Event] = []
    with ReducerEventBus(BusConfig()) as bus:
        bus.subscribe("*", events.append)
        for span_id in range(2, BATCH + 2):
            bus.emit("engine", "node_completed", _transition(span_id))
        bus.force_flush(FLUSH_MILLIS)

    def produce(count: int) -> None:
        if exporter.export(events[:count]) != ExportResult.SUCCESS:
            raise RuntimeError("the receiver did not take the batch")

    try:
        yield _Pipeline(produce, lambda: None)
    finally:
        exporter.shutdown()


@contextlib.contextmanager
def _open_sdk_export(receiver: Receiver) -> Iterator[_Pipeline]:
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(memory))
    tracer = provider.get_tracer(SERVICE)
    for _ in range(BATCH):
        tracer.start_span("plan", attributes=_ATTRIBUTES).end()
    provider.force_flush()
    spans = memory.get_finished_spans()
    exporter = OTLPSpanExporter(receiver.grpc_endpoint)

    def produce(count: int) -> None:
        if exporter.export(spans[:count]) is not SpanExportResult.SUCCESS:
            raise RuntimeError("the receiver did not take the batch")

    try:
        yield _Pipeline(produce, lambda: None)
    finally:
        exporter.shutdown()
        provider.shutdown()
