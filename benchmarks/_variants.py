"""The ways to run an engine: bare, with zupa in several forms, and with OpenTelemetry SDK spans made by hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from _harness import CONTROL
from _receiver import Receiver
from _rigs import FLUSH_MILLIS, SERVICE, count_losses
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

import zupa
from zupa import BusConfig, BusStatistics, ReducerEventBus
from zupa.engine import NodeContext
from zupa_instrumentation.engine import EngineInstrumentor

PLAIN: Final = "not instrumented"
HOOKS: Final = "zupa, bus that discards"
NO_EXPORT: Final = "zupa, bus without exporter"
GRPC: Final = "zupa, OTLP/gRPC, spans and logs"
GRPC_SPANS: Final = "zupa, OTLP/gRPC, spans only"
HTTP: Final = "zupa, OTLP/HTTP, spans and logs"
SDK: Final = "OTel SDK spans by hand, OTLP/gRPC"

Body: TypeAlias = Callable[[NodeContext], Any]


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

    wrap_node: Callable[[Body], Body] = lambda body: body
    run_scope: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    settle: Callable[[int, int], Outcome] = lambda _runs, _nodes: Outcome()


Opener: TypeAlias = Callable[[], AbstractContextManager[Variant]]


def variants(receiver: Receiver) -> dict[str, Opener]:
    return {
        PLAIN: open_plain,
        HOOKS: _open_hooks,
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


class _DiscardingBus(ReducerEventBus):
    def emit(self, *_args: Any, **_kwargs: Any) -> None:
        return


@contextlib.contextmanager
def _open_hooks() -> Iterator[Variant]:
    with _DiscardingBus(BusConfig()) as bus, instrumented(bus):
        yield Variant()


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
                "invoke_workflow ring", attributes={"gen_ai.operation.name": "invoke_workflow", "graph": "ring"}
            ),
            settle=settle,
        )
    finally:
        provider.shutdown()


def _with_spans(tracer: Tracer, body: Body) -> Body:
    """Make a step's and a node's span around *body*, with the attributes that a careful user would set."""

    def node(context: NodeContext) -> Any:
        common: dict[str, AttributeValue] = {
            "graph": "ring",
            "run_id": context.run_id,
            "thread_id": context.thread_id,
            "step": context.step,
        }
        with (
            tracer.start_as_current_span(f"step {context.step}", attributes=common),
            tracer.start_as_current_span(
                context.node, attributes={**common, "node": context.node, "attempt": context.attempt}
            ),
        ):
            return body(context)

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
