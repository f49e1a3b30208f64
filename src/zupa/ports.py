"""The ports: every seam between zupa's rooms, as Protocols and the plain data that crosses them.

Rooms never import each other; they meet here. A Protocol states its guarantees and who calls it from where.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, overload, runtime_checkable

import msgspec

from zupa.event import Event
from zupa.statistics import BusStatistics

Payload: TypeAlias = Mapping[str, Any] | msgspec.Struct
"""What `EventBus.emit` takes: a mapping, or a `msgspec.Struct` whose fields become the payload in the worker."""

ReducerResult: TypeAlias = Event | list[Event] | tuple[Event, ...] | None
"""One event (kept or changed), several (fan-out), or None (filtered)."""

ReducerFunction: TypeAlias = Callable[[Event], ReducerResult]
"""The type of whatever `EventBus.use` takes; `Reducer` is the same as a Protocol, with the contract."""

Subscriber: TypeAlias = Callable[[Event], object] | Callable[[Event], Awaitable[object]]
"""A handler of events, sync or async. What it returns is ignored; what it raises is counted and logged."""

Unregister: TypeAlias = Callable[[], None]
"""Undoes a registration. Idempotent; safe from any thread and during dispatch."""


@runtime_checkable
class Reducer(Protocol):
    """A processor that returns 0..n events for one. Plain functions qualify.

    Called by the bus's worker thread, one event at a time, in order of registration. A reducer that raises is
    isolated: the event passes on unchanged and the failure is counted under the reducer's name. A reducer with a true
    attribute ``fails_closed`` (a redactor) is the exception: when it raises, the event is dropped and counted as
    ``reducer_error``.
    """

    def __call__(self, event: Event, /) -> ReducerResult: ...


class ExportResult(msgspec.Struct, frozen=True):
    """What became of a batch.

    Attributes:
        success: False when the batch, or a part that `rejected` does not name, was not delivered.
        rejected: Items of a delivered batch that the receiver refused (OTLP partial success).
        error_type: Low-cardinality reason of failure or rejection, as OpenTelemetry's `error.type`.
    """

    SUCCESS: ClassVar[ExportResult]
    FAILURE: ClassVar[ExportResult]

    success: bool = True
    rejected: int = 0
    error_type: str = ""


ExportResult.SUCCESS = ExportResult()
ExportResult.FAILURE = ExportResult(success=False, error_type="export_failed")


class EventExporter(Protocol):
    """Sends batches of events somewhere.

    The bus calls `export` from one thread at a time, never concurrently, with OpenTelemetry instrumentation
    suppressed. `force_flush` and `shutdown` may come from that thread too. An exporter may raise or hang: the batch is
    then counted as failed, and the bus keeps its own deadlines.
    """

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        """Send *batch*, 1 to `max_export_batch_size` events, ordered by `seq`. Retrying is the exporter's business."""
        ...

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Return True when all that `export` accepted has reached its destination within *timeout_millis*."""
        ...

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Release what the exporter holds, within *timeout_millis*. Called once; `export` is not called after."""
        ...


class Clock(Protocol):
    """Where time comes from. `zupa.testing.ManualClock` is the test double."""

    def time_ns(self) -> int:
        """Unix time in ns: stamps only, it may step back."""
        ...

    def monotonic_ns(self) -> int:
        """Monotonic time in ns: every interval and deadline."""
        ...


class RuntimeResource(Protocol):
    """Something with a lifecycle that `zupa.runtime.AgentRuntime` owns.

    Both methods are safe to call twice; `aclose` is safe without `start`. A method may be sync or async: a runtime
    awaits what is awaitable.
    """

    def start(self) -> Awaitable[None] | None:
        """Acquire what the resource needs."""
        ...

    def aclose(self) -> Awaitable[None] | None:
        """Release it."""
        ...


@runtime_checkable
class EventBus(Protocol):
    """Carries events from anywhere in the application to reducers, subscribers and exporters in the background.

    Guarantees: `emit` never blocks and never raises (unless the bus was made strict); it may be called from any
    thread, event loop, signal handler, finaliser, subscriber or reducer. No other method raises after construction
    except for arguments that are unusable.
    """

    @overload
    def emit(
        self, channel: str, name: str, payload: Payload | None = None, *, metadata: Mapping[str, Any] | None = None
    ) -> None: ...

    @overload
    def emit(self, channel: str, name: Payload | None = None, *, metadata: Mapping[str, Any] | None = None) -> None: ...

    @overload
    def emit(self, channel: Event) -> None: ...

    def use(self, reducer: ReducerFunction, pattern: str | None = None, *, name: str | None = None) -> Unregister:
        """Register a reducer behind those that are registered."""
        ...

    def subscribe(
        self, pattern: str, handler: Subscriber, *, name: str | None = None, max_queue_size: int | None = None
    ) -> Unregister:
        """Call *handler* with every matching event that has passed the reducers."""
        ...

    def stream(self, pattern: str = "*", *, max_queue_size: int = 1024) -> AsyncIterator[Event]:
        """Return matching events from now on, as an async iterator."""
        ...

    def add_exporter(self, exporter: EventExporter, *, name: str | None = None, pattern: str = "*") -> Unregister:
        """Export matching events in batches."""
        ...

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Wait until all that was emitted before is handled; whether it was, within *timeout_millis*."""
        ...

    async def aflush(self, timeout_millis: float = 30_000) -> bool:
        """`force_flush`, awaited."""
        ...

    def shutdown(self, timeout_millis: float | None = None) -> bool:
        """Take no more events, flush, release everything, within *timeout_millis*. Idempotent."""
        ...

    def statistics(self) -> BusStatistics:
        """Return a consistent snapshot of all counts."""
        ...

    def start(self) -> None:
        """Start the background work now rather than at the first event. Idempotent."""
        ...

    async def aclose(self) -> None:
        """`shutdown`, awaited."""
        ...


class CheckpointSource(str, enum.Enum):
    """Why a checkpoint was written."""

    INPUT = "input"
    LOOP = "loop"
    INTERRUPT = "interrupt"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one thread of execution after a super-step.

    Attributes:
        checkpoint_id: Unique id.
        thread_id: The conversation or session that the run belongs to.
        parent_checkpoint_id: The checkpoint that this one follows, or None.
        step: Super-steps done so far in this thread; 0 for the input checkpoint.
        source: Why it was written.
        values: Channel name to value.
        next_tasks: Names of the nodes to run next; empty when the graph is done.
        writes: Channel name to what this step wrote, before reduction.
        metadata: An open mapping of plain data for those who observe the engine (e.g. the run's trace context).
        created_at_ns: Unix time in ns.
    """

    checkpoint_id: str
    thread_id: str
    parent_checkpoint_id: str | None = None
    step: int = 0
    source: CheckpointSource = CheckpointSource.LOOP
    values: dict[str, Any] = {}
    next_tasks: tuple[str, ...] = ()
    writes: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    created_at_ns: int = 0


class LedgerEvent(msgspec.Struct, frozen=True):
    """A domain event that a node wants recorded with the step that produced it."""

    type: str
    data: dict[str, Any] = {}
    node: str = ""
    step: int = 0


@runtime_checkable
class Checkpointer(Protocol):
    """Stores checkpoints and the ledger. Implementations: in-memory and SQLite, in `zupa.engine`.

    `put` is atomic: the checkpoint and the ledger events of its step are stored together or not at all.
    """

    async def get(self, thread_id: str, checkpoint_id: str | None = None) -> Checkpoint | None:
        """Return the checkpoint, the newest of the thread where no id is given, or None."""
        ...

    async def put(self, checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent] = ()) -> None:
        """Store *checkpoint* and *ledger_events* together or not at all."""
        ...

    async def history(self, thread_id: str) -> list[Checkpoint]:
        """Return the thread's checkpoints, newest first."""
        ...

    async def ledger(self, thread_id: str) -> list[LedgerEvent]:
        """Return the thread's ledger events, oldest first."""
        ...
