"""The ingest stage: `emit`, and all that it needs to be cheap, total, and right after a fork."""

from __future__ import annotations

import abc
import os
import threading
import time
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final, overload

from zupa.bus import _process
from zupa.bus._assemble import check_call, resolve_names
from zupa.bus._context import get_context
from zupa.bus._dispatch import Dispatcher
from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._ledger import Ledger
from zupa.bus._queue import CHUNK, IngestQueue, estimate_bytes
from zupa.bus._registry import Registry
from zupa.bus._worker import Worker
from zupa.config import BusConfig
from zupa.event import Event
from zupa.ports import Clock, Payload
from zupa.span import SPAN_KEY

MAX_DEPTH: Final = 8
"""Emits from within reducers and subscribers may trigger each other this deep; deeper is a feedback loop."""

_DROPS_BEFORE_LOOK: Final = 251  # a prime: reading the counter advances it too, and the two must not keep in step

_FLAT: Final = frozenset({int, float, bool, type(None)})


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        # The functions themselves rather than methods around them: `emit` calls one of them.
        self.time_ns: Callable[[], int] = time.time_ns
        self.monotonic_ns: Callable[[], int] = time.monotonic_ns


class IngestStage(abc.ABC):
    """One half of `ReducerEventBus`: the way in. The other half adds registrations, flushes and statistics."""

    def __init__(self, config: BusConfig, clock: Clock | None) -> None:
        self._config = config
        self._clock: Clock = clock or SystemClock()
        self._time_ns = self._clock.time_ns
        self._strict = config.strict
        self._shut_down = False
        self._dispatcher = Dispatcher()
        self._incidents = IncidentLog(time.monotonic_ns)
        self._registry = Registry(self._dispatcher, config, self._clock, self._incidents)
        self.exit_timeout_millis: float = config.shutdown_timeout_millis
        self._reset()

    def _reset(self) -> None:
        """Make everything that belongs to one process and one boot id."""
        self._pid = os.getpid()
        self._boot_id = os.urandom(8).hex()
        self._lock = threading.RLock()
        self._ledger = Ledger()
        self._queue = IngestQueue(self._config.max_queue_size, self._config.max_queue_bytes)
        self._worker = Worker(
            self._queue,
            self._ledger,
            self._dispatcher,
            self._config,
            self._clock,
            self._incidents,
            (self._boot_id, self._pid),
        )
        # What the hot path touches, bound once.
        self._stage = self._worker.stage
        self._put = self._queue.put
        self._take_permit = self._queue.permits.pop
        # Set whenever an emit needs more than the hot path: not started, strict, or shut down.
        self._attention = True

    @overload
    def emit(
        self, channel: str, name: str, payload: Payload | None = None, *, metadata: Mapping[str, Any] | None = None
    ) -> None: ...

    @overload
    def emit(self, channel: str, name: Payload | None = None, *, metadata: Mapping[str, Any] | None = None) -> None: ...

    @overload
    def emit(self, channel: Event) -> None: ...

    def emit(  # noqa: C901, PLR0912 - one function on purpose: each call more would cost what the whole may cost
        self,
        channel: Any,
        name: Any = None,
        payload: Any = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue one event for the worker: ``emit("engine", "node_started", {...})``.

        ``emit("engine:node_started", {...})`` and ``emit(Event("engine", "node_started", {...}))`` do the same. The
        trace context that is current here, and the time, go with the event.

        Args:
            channel: The channel, or a whole topic ``channel:name``, or an `Event` draft.
            name: The name within the channel; see `zupa.event` for the grammar.
            payload: String keys to data. A dict is copied, one level deep; do not change what it holds before the
                worker has seen it (about 20 ms). A `msgspec.Struct` becomes a payload in the worker.
            metadata: Data about the event.

        Raises:
            InvalidEventError: on a strict bus only (`BusConfig.strict`), for a bad name or payload. Otherwise nothing:
                an event that cannot be taken is counted in ``statistics().dropped``.

        Concurrency: any thread, event loop, signal handler or finaliser; O(size of the payload's top level). Does no
        I/O, and takes no lock for an event that is accepted (a refused one takes the ledger's, which is re-entrant).
        """
        if self._attention and not self._attend(channel, name, payload, metadata):
            return
        try:
            wake = self._take_permit()
        except IndexError:
            if self._ledger.drops["queue_full"].increment() % _DROPS_BEFORE_LOOK == 0:
                self._tend()  # a queue that stays full may have lost its worker
            self._worker.hurry()
            return
        charge = 0
        try:
            depth = self._stage.depth
            if depth:
                if self._worker.ident != get_ident():
                    depth = 0
                elif depth > MAX_DEPTH:
                    self._return_permit("reentrant")
                    return
            if name.__class__ is not str:
                channel, name, payload = resolve_names(channel, name, payload)
            if payload.__class__ is dict:
                payload = payload.copy()
                size = 0
                for value in payload.values():
                    kind = value.__class__
                    if kind is str:
                        size += len(value)
                    elif kind not in _FLAT:
                        size += estimate_bytes(value)
            elif payload is not None or name is None:
                size = estimate_bytes(channel if name is None else payload)
            else:
                size = 0
            if size > CHUNK and (charge := self._queue.reserve_bytes(size)) < 0:
                self._return_permit("bytes_full")
                return
            if metadata is not None:
                metadata = dict(metadata)
            span = get_context().get(SPAN_KEY)
            context = None if span is None else span.get_span_context()
            self._put((self._time_ns(), context, channel, name, payload, metadata, depth, charge))
        except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001 - a hostile payload or span: not the caller's fault
            self._queue.release_bytes(charge)
            self._return_permit("invalid_event")
            return
        if wake:
            self._tend()

    def _attend(self, channel: Any, name: Any, payload: Any, metadata: Any) -> bool:
        """Do what the hot path does not; return whether the event may go on."""
        if self._shut_down:
            self._ledger.drop("already_shutdown")
            return False
        if self._strict:
            check_call(*resolve_names(channel, name, payload), metadata)
        self._start()
        return True

    def _return_permit(self, reason: str) -> None:
        # Under the lock, so that no snapshot sees the event both queued and dropped. Only refused events come here.
        with self._ledger.lock:
            self._ledger.drop(reason)
            self._queue.permits.append(False)

    def _tend(self) -> None:
        """Once in a few hundred events: wake the worker early, and see to its health."""
        self._worker.hurry()
        if self._pid != os.getpid():  # a fork that ran no hooks
            self.reset_after_fork()
        self._worker.supervise()

    # -- the process --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def begin_shutdown(self, timeout_millis: float) -> FlushRequest | None:
        """Take no more events and begin to flush; the exit hook calls it. None when that was done before."""

    @abc.abstractmethod
    def finish_shutdown(self, request: FlushRequest, timeout_millis: float) -> bool:
        """Wait for what `begin_shutdown` returned, count what is left, and return whether everything was handled."""

    def _start(self) -> None:
        if self._pid != os.getpid():
            self.reset_after_fork()
        if self._worker.supervise():
            # A strict bus looks at each event, so it keeps the attention.
            self._attention = self._strict or self._shut_down
            _process.flush_at_exit(self)

    def reset_after_fork(self) -> None:
        """Start over in a forked child: fresh worker, empty queue, new boot id. Called by the fork hook."""
        discarded = len(self._queue) + self._ledger.in_flight
        self._incidents.reset_after_fork()
        self._registry.reset_after_fork()
        self._reset()
        if discarded:
            self._ledger.drop_many("fork_discarded", discarded)
