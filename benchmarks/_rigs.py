"""The contestants that take single calls: each opened fresh, with the statement to time and a count at its far end."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from _receiver import Receiver
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from zupa import BusConfig, Event, ExportResult, ReducerEventBus
from zupa.otel import OtelEventExporter, build_resource
from zupa.otel._otlp_grpc import GrpcLogExporter, GrpcSpanExporter

SERVICE: Final = "benchmark"
DEFAULT_QUEUE: Final = 2048
"""Default queue size of OpenTelemetry's batch processors and of the bus."""
OTEL_BATCH: Final = 512
FLUSH_MILLIS: Final = 300_000


class Gate:
    """Where a blocked consumer waits.

    Attributes:
        entered: Set when a consumer has come to the gate.
        opened: Lets it pass.
    """

    def __init__(self, *, blocked: bool) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        if not blocked:
            self.opened.set()

    def pass_through(self) -> None:
        self.entered.set()
        self.opened.wait()


@dataclass(frozen=True)
class Setup:
    """How to open a contestant.

    Attributes:
        payload: What each call carries.
        queue_size: Of each queue on the way.
        receiver: Export by OTLP/gRPC to it; None means an exporter that only counts.
        blocked: The consumer stops at `Rig.gate` until it is opened.
    """

    payload: dict[str, Any]
    queue_size: int = DEFAULT_QUEUE
    receiver: Receiver | None = None
    blocked: bool = False


@dataclass
class Rig:
    """An open contestant.

    Attributes:
        statement: The call to time; *names* are its local variables.
        flush: Returns when everything that was accepted has reached the far end.
        received: How many items have reached the far end; to be called once, after `flush`.
        counted: How many items it has counted as lost so far; None where it keeps no such count.
        gate: Where a blocked consumer waits.
        prime: Calls that it takes to send a blocked consumer to the gate.
    """

    statement: str
    names: dict[str, Any]
    flush: Callable[[], object] = lambda: None
    received: Callable[[], int] | None = None
    counted: Callable[[], int] | None = None
    gate: Gate = field(default_factory=lambda: Gate(blocked=False))
    prime: int = 1


Opener: TypeAlias = Callable[[Setup], AbstractContextManager[Rig]]


# -- floors --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_bare_loop(_setup: Setup) -> Iterator[Rig]:
    yield Rig("pass", {})


@contextlib.contextmanager
def open_empty_call(setup: Setup) -> Iterator[Rig]:
    def emit(_channel: str, _name: str, _payload: dict[str, Any]) -> None:
        return

    yield Rig('emit("agent", "node_started", payload)', {"emit": emit, "payload": setup.payload})


def open_simple_queue(setup: Setup) -> AbstractContextManager[Rig]:
    return _open_queue("put(payload)", setup)


def open_event_floor(setup: Setup) -> AbstractContextManager[Rig]:
    """The least that an event can be: the time, and a copy of the payload that its sender may go on to change."""
    return _open_queue("put((time_ns(), payload.copy()))", setup)


@contextlib.contextmanager
def _open_queue(statement: str, setup: Setup) -> Iterator[Rig]:
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    taken = 0

    def drain() -> None:
        nonlocal taken
        with contextlib.suppress(queue.Empty):
            while True:
                items.get_nowait()
                taken += 1

    names = {"put": items.put, "time_ns": time.time_ns, "payload": setup.payload}
    yield Rig(statement, names, drain, lambda: taken)


# -- zupa ----------------------------------------------------------------------------------------------------------


class _EventCounter:
    def __init__(self) -> None:
        self.received = 0

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        self.received += len(batch)
        return ExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 30_000) -> bool:  # noqa: ARG002
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        pass


def count_losses(bus: ReducerEventBus) -> int:
    """All that *bus* and its exporters have counted as lost."""
    statistics = bus.statistics()
    exporters = statistics.exported.values()
    return statistics.dropped_total + sum(x.failed + x.rejected + sum(x.dropped.values()) for x in exporters)


@contextlib.contextmanager
def open_zupa(setup: Setup) -> Iterator[Rig]:
    gate = Gate(blocked=setup.blocked)
    counter = _EventCounter()
    bus = ReducerEventBus(BusConfig(max_queue_size=setup.queue_size, shutdown_timeout_millis=10_000))
    if setup.receiver is None:
        bus.add_exporter(counter)
    else:
        setup.receiver.take_counts()
        endpoint = setup.receiver.grpc_endpoint
        exporters = GrpcSpanExporter(endpoint), GrpcLogExporter(endpoint)
        bus.add_exporter(OtelEventExporter(*exporters, resource=build_resource(SERVICE)))
    if setup.blocked:

        def wait(event: Event) -> Event:
            gate.pass_through()
            return event

        bus.use(wait)

    def received() -> int:
        return counter.received if setup.receiver is None else setup.receiver.take_counts()[1]

    def flush() -> None:
        if not bus.force_flush(FLUSH_MILLIS):
            raise RuntimeError(f"the bus could not be flushed: {bus.statistics()}")

    names = {"emit": bus.emit, "payload": setup.payload}
    try:
        counted = partial(count_losses, bus)
        yield Rig('emit("agent", "node_started", payload)', names, flush, received, counted, gate)
    finally:
        gate.opened.set()
        bus.shutdown()


# -- OpenTelemetry -------------------------------------------------------------------------------------------------


class _LogCounter(LogRecordExporter):
    def __init__(self, gate: Gate) -> None:
        self.received = 0
        self._gate = gate

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        self._gate.pass_through()
        self.received += len(batch)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        return True

    def shutdown(self) -> None:
        pass


class _SpanCounter(SpanExporter):
    def __init__(self, gate: Gate) -> None:
        self.received = 0
        self._gate = gate

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self._gate.pass_through()
        self.received += len(spans)
        return SpanExportResult.SUCCESS


@contextlib.contextmanager
def open_otel_log(setup: Setup) -> Iterator[Rig]:
    gate = Gate(blocked=setup.blocked)
    counter = _LogCounter(gate)
    exporter: LogRecordExporter = counter
    if setup.receiver is not None:
        setup.receiver.take_counts()
        exporter = OTLPLogExporter(setup.receiver.grpc_endpoint)
    provider = LoggerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=setup.queue_size))

    def received() -> int:
        return counter.received if setup.receiver is None else setup.receiver.take_counts()[1]

    names = {
        "emit": provider.get_logger(SERVICE).emit,
        "level": SeverityNumber.INFO,
        "payload": setup.payload,
    }
    statement = 'emit(event_name="agent.node_started", severity_number=level, attributes=payload)'
    try:
        yield Rig(statement, names, provider.force_flush, received, gate=gate, prime=OTEL_BATCH)
    finally:
        gate.opened.set()
        provider.shutdown()


@contextlib.contextmanager
def open_otel_span(setup: Setup) -> Iterator[Rig]:
    gate = Gate(blocked=setup.blocked)
    counter = _SpanCounter(gate)
    exporter: SpanExporter = counter
    if setup.receiver is not None:
        setup.receiver.take_counts()
        exporter = OTLPSpanExporter(setup.receiver.grpc_endpoint)
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=setup.queue_size))

    def received() -> int:
        return counter.received if setup.receiver is None else setup.receiver.take_counts()[0]

    names = {"start_span": provider.get_tracer(SERVICE).start_span, "payload": setup.payload}
    statement = 'start_span("node_started", attributes=payload).end()'
    try:
        yield Rig(statement, names, provider.force_flush, received, gate=gate, prime=OTEL_BATCH)
    finally:
        gate.opened.set()
        provider.shutdown()


# -- the standard library ------------------------------------------------------------------------------------------

_MARK: Final = "flush"


class _CountingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.flushed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == _MARK:
            self.flushed.set()
        else:
            self.received += 1


@contextlib.contextmanager
def open_queue_handler(setup: Setup) -> Iterator[Rig]:
    records: Any = queue.SimpleQueue()
    handler = _CountingHandler()
    listener = logging.handlers.QueueListener(records, handler)
    logger = logging.Logger(SERVICE, logging.INFO)  # noqa: LOG001 - outside the tree of loggers, so with no other handler
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()

    def flush() -> None:
        handler.flushed.clear()
        logger.info(_MARK)
        handler.flushed.wait()

    names = {"info": logger.info, "payload": setup.payload}
    try:
        yield Rig('info("node_started %s", payload)', names, flush, lambda: handler.received)
    finally:
        listener.stop()
