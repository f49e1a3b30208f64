"""The worker: the one thread that takes events from the ingest queue, reduces them, and hands them on.

Guarantees:
    - Every event that is taken is accounted for: a slice's events are *in flight* from the moment they leave the queue
      until the slice's outcome is booked, in one step, under the ledger's lock.
    - No exception of user code ends the thread, SystemExit and KeyboardInterrupt included. If it dies all the same
      (an asynchronous exception), the next look of `supervise` starts another, which goes on where it stopped.
    - User code that blocks for ever does not stop the stream: after `STUCK_NS`, `supervise` lets a new thread take over
      behind the blocked call. The old one finds itself superseded when the call returns, and ends.
    - The GIL is offered between slices, so that a busy engine never waits for a long backlog to be worked off.
"""

from __future__ import annotations

import threading
import time
from queue import Empty
from time import monotonic_ns
from typing import Any, Final

from zupa.bus._assemble import Assembler, Stamp
from zupa.bus._dispatch import Dispatcher
from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._ledger import Ledger
from zupa.bus._queue import IngestQueue
from zupa.bus._reducers import Registration, apply
from zupa.bus._subscriptions import DEFAULT_MAILBOX_SIZE, Subscription
from zupa.config import BusConfig
from zupa.errors import InvalidEventError
from zupa.event import Event
from zupa.ports import Clock

STUCK_NS: Final = 5 * 1_000_000_000


class _SupersededError(BaseException):
    """Raised in a worker thread that was replaced while user code blocked it."""


class _Slice:
    """Events on their way, with all the state that a successor needs to go on."""

    __slots__ = (
        "charges", "degraded", "delivered", "depths", "dropped", "filtered", "item_index", "items", "marker",
        "offered", "output_index", "outputs", "route", "route_index",
    )  # fmt: skip

    def __init__(self, items: list[tuple[Any, ...]], marker: FlushRequest | None) -> None:
        self.items = items
        self.marker = marker
        self.item_index = 0
        self.outputs: list[Event] = []
        self.charges: list[int] = []
        self.depths: list[int] = []
        self.offered = False
        self.output_index = 0
        self.route: tuple[Subscription, ...] = ()
        self.route_index = 0
        self.delivered = self.filtered = self.degraded = 0
        self.dropped: dict[str, int] = {}

    def successor(self) -> _Slice:
        """Return a copy for the thread that takes over; what the old thread still writes goes nowhere."""
        other = _Slice(self.items, self.marker)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.outputs, other.charges, other.depths = list(self.outputs), list(self.charges), list(self.depths)
        other.dropped = dict(self.dropped)
        return other


class Worker:
    """See the module's text.

    Attributes:
        depth: How deep in a chain of emits from within reducers and subscribers the thread is; 0 outside user code.
        ident: The thread's identity, to tell its own emits from others'.
        restarts: How often a thread had to be replaced.
    """

    def __init__(
        self,
        queue: IngestQueue,
        ledger: Ledger,
        dispatcher: Dispatcher,
        config: BusConfig,
        clock: Clock,
        incidents: IncidentLog,
        identity: tuple[str, int],
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._config = config
        self._clock = clock
        self._incidents = incidents
        self._boot_id, self._pid = identity
        self._assembler = Assembler()
        self._linger_s = config.linger_millis / 1e3
        self._slow_ns = int(config.slow_subscriber_millis * 1e6)
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._starting = False
        self._hurry = threading.Lock()
        self._hurry.acquire()
        self._head: Any = None
        self._slice: _Slice | None = None
        self._timestamp = 0
        self._user_code_since = 0
        self._generation = 0
        self._suspicious = False
        self.stopped = False
        self.depth = 0
        self.ident = 0
        self.restarts = 0

    # -- called from outside -------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Cut the worker's linger short. One C call, re-entrant; a semaphore of at most 1."""
        try:
            self._hurry.release()
        except RuntimeError:
            pass

    def supervise(self) -> bool:
        """Make sure that a thread is at work and not stuck; return False where none can be started."""
        if self._starting:  # re-entered, from a finaliser or signal handler in the lines below
            return True
        thread = self._thread
        since = self._user_code_since
        if thread is not None and thread.is_alive() and not (since and monotonic_ns() - since > STUCK_NS):
            return True
        with self._lock:
            if self.stopped:
                return True
            self._starting = True
            try:
                return self._start()
            finally:
                self._starting = False

    def run_inline(self) -> None:
        """Work the queue off on the caller's thread: for exits, when no thread can be started any more."""
        with self._lock:
            self._generation += 1
            self.ident = threading.get_ident()
            try:
                while self._work(self._generation, block=False):
                    pass
            except _SupersededError:
                pass

    def stop(self) -> None:
        """Let the thread end when it next looks; nothing is taken after."""
        self.stopped = True
        self._generation += 1
        self._queue.put(None)
        self.hurry()

    def abandon(self) -> int:
        """Count what will not be processed any more as dropped; return how much it was. After `stop`."""
        with self._ledger.lock:
            items = [item for item in self._queue.drain() if isinstance(item, tuple)]
            head, self._head = self._head, None
            left = len(items) + isinstance(head, tuple)
            self._queue.release(left)
            left += self._ledger.in_flight
            self._ledger.in_flight = 0
            self._slice = None
            self._ledger.drop_many("shutdown_timeout", left)
        return left

    # -- the thread ----------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        predecessor = self._thread
        if predecessor is not None:
            self.restarts += 1
            self._generation += 1
            self._take_over(predecessor)
        self._user_code_since = 0
        generation = self._generation
        thread = threading.Thread(target=self._run, args=(generation,), name="zupa-bus", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # "can't start new thread": out of threads now, or the interpreter is exiting.
            self._thread = predecessor
            return False
        return True

    def _take_over(self, predecessor: threading.Thread) -> None:
        what = "blocked in a reducer or subscriber" if predecessor.is_alive() else "dead"
        blocking = ""
        if (current := self._slice) is not None:
            self._slice = current.successor()
            if predecessor.is_alive() and 0 < current.route_index <= len(current.route):
                subscription = current.route[current.route_index - 1]
                blocking = f" (subscriber {subscription.name} is unsubscribed)"
                self._dispatcher.remove_subscription(subscription.key)
        self._incidents.report("worker", "the bus's worker thread was %s and has been replaced%s", what, blocking)

    def _run(self, generation: int) -> None:
        self.ident = threading.get_ident()
        while True:
            try:
                while self._work(generation, block=True):
                    pass
            except _SupersededError:
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, the next event must be processed
                self._incidents.report("worker_error", "the bus's worker went on after %s", error, error=error)
            else:
                return

    def _work(self, generation: int, *, block: bool) -> bool:
        """Do one slice. Return False when there is nothing to do and never will be (or, without *block*, now)."""
        if self._generation != generation:
            raise _SupersededError
        if self._slice is None:
            if self._head is None:
                try:
                    self._head = self._queue.get(block=False)
                except Empty:
                    if not block:
                        return False
                    self._report_losses()
                    self._head = self._queue.get()
                    if isinstance(self._head, tuple):
                        # A burst should cost one wake-up: let it collect.
                        self._hurry.acquire(timeout=self._linger_s)
            if self._head is None:  # a stop marker
                return block and not self.stopped
            if self._generation != generation:
                raise _SupersededError
            self._take()
        self._process(self._slice, generation)  # type: ignore[arg-type] # _take has set it
        self._finish(self._slice)  # type: ignore[arg-type]
        if block:
            time.sleep(0)
        return True

    def _take(self) -> None:
        queue, ledger = self._queue, self._ledger
        items: list[tuple[Any, ...]] = []
        marker = None
        with ledger.lock:
            ledger.high_watermark = max(ledger.high_watermark, len(queue))
            item, self._head = self._head, None
            charges = 0
            while True:
                if isinstance(item, tuple):
                    items.append(item)
                    charges += item[7]
                    if len(items) >= self._config.slice_size:
                        break
                elif isinstance(item, FlushRequest):
                    marker = item
                    break
                try:
                    item = queue.get_nowait()
                except Empty:
                    break
            ledger.in_flight += len(items)
            self._slice = _Slice(items, marker)
            queue.release(len(items))
            queue.release_bytes(charges)

    def _process(self, work: _Slice, generation: int) -> None:
        if work.item_index < len(work.items):
            # One clock reading a slice: all of it is dequeued at this moment. Never back, whatever the wall clock does.
            self._timestamp = max(self._timestamp, self._clock.time_ns())
            stamp = Stamp(self._timestamp, self._boot_id, self._pid)
            reducers = self._dispatcher.reducers
            while work.item_index < len(work.items):
                item = work.items[work.item_index]
                work.item_index += 1
                self._reduce(work, item, stamp, reducers, generation)
        if not work.offered:
            work.offered = True
            if work.outputs:
                for processor in self._dispatcher.processors:
                    processor.offer(work.outputs, work.charges)
        if self._dispatcher.subscriptions:
            self._dispatch(work, generation)

    def _reduce(
        self,
        work: _Slice,
        item: tuple[Any, ...],
        stamp: Stamp,
        reducers: tuple[Registration, ...],
        generation: int,
    ) -> None:
        ledger = self._ledger
        try:
            event, degraded = self._assembler.assemble(item, ledger.seq + 1, stamp)
        except InvalidEventError as error:
            self._drop(work, "invalid_event")
            self._incidents.report("invalid_event", "an event was dropped: %s", error)
            return
        ledger.seq += 1
        work.degraded += degraded
        outputs, failed_closed = [event], False
        if reducers:
            self.depth = item[6] + 1
            self._user_code_since = monotonic_ns()
            try:
                outputs, failed_closed = apply(event, reducers, self._reducer_failed)
            finally:
                self.depth = self._user_code_since = 0
            if self._generation != generation:
                raise _SupersededError
        if not outputs:
            if failed_closed:
                self._drop(work, "reducer_error")
            else:
                work.filtered += 1
            return
        if len(outputs) > 1 or outputs[0] is not event:
            outputs = self._adopt(outputs, event)
            if not outputs:
                self._drop(work, "invalid_event")
                return
        work.delivered += 1
        work.outputs.extend(outputs)
        work.charges.extend([item[7]] * len(outputs))
        work.depths.extend([item[6] + 1] * len(outputs))

    def _adopt(self, outputs: list[Event], source: Event) -> list[Event]:
        ledger = self._ledger
        adopted: list[Event] = []
        for output in outputs:
            if output is source and not adopted:
                adopted.append(source)
                continue
            seq = source.seq if not adopted else ledger.seq + 1
            try:
                adopted.append(self._assembler.adopt(output, source, seq))
            except InvalidEventError as error:
                self._incidents.report("invalid_event", "a reducer made an event that was dropped: %s", error)
            else:
                ledger.seq = max(ledger.seq, seq)
        return adopted

    def _dispatch(self, work: _Slice, generation: int) -> None:
        while work.output_index < len(work.outputs):
            event = work.outputs[work.output_index]
            if work.route_index == 0:
                work.route = self._dispatcher.routes(event.topic)
            if work.route:
                self.depth = work.depths[work.output_index]
                self._user_code_since = started = monotonic_ns()
                try:
                    while work.route_index < len(work.route):
                        subscription = work.route[work.route_index]
                        work.route_index += 1
                        before = monotonic_ns() if self._suspicious else 0
                        subscription.deliver(event)
                        if self._generation != generation:
                            raise _SupersededError
                        if before and monotonic_ns() - before > self._slow_ns:
                            self._promote(subscription)
                finally:
                    self.depth = self._user_code_since = 0
                # Timing every handler would cost more than most handlers do: only look closer after a slow event.
                self._suspicious = monotonic_ns() - started > self._slow_ns
            work.output_index += 1
            work.route_index = 0

    def _promote(self, subscription: Subscription) -> None:
        if self._dispatcher.promote(subscription, DEFAULT_MAILBOX_SIZE) is not None:
            self._incidents.report(
                f"slow:{subscription.name}",
                "subscriber %s took longer than slow_subscriber_millis=%s and now has a queue and thread of its own",
                subscription.name,
                self._config.slow_subscriber_millis,
            )

    def _finish(self, work: _Slice) -> None:
        ledger = self._ledger
        with ledger.lock:
            if self._slice is not work:  # abandoned at shutdown: counted as dropped already
                raise _SupersededError
            self._slice = None
            count = len(work.items)
            unexplained = count - work.delivered - work.filtered - sum(work.dropped.values())
            ledger.in_flight -= count
            ledger.delivered += work.delivered
            ledger.filtered += work.filtered
            ledger.fanned_out += len(work.outputs) - work.delivered
            ledger.degraded += work.degraded
            for reason, number in work.dropped.items():
                ledger.drop_many(reason, number)
            if unexplained:
                ledger.drop_many("internal_error", unexplained)
        if work.marker is not None:
            self._hand_on(work.marker)

    def _hand_on(self, request: FlushRequest) -> None:
        for party in (*self._dispatcher.processors, *self._dispatcher.subscriptions):
            request.add_party()
            party.flush(request)
        request.done()

    @staticmethod
    def _drop(work: _Slice, reason: str) -> None:
        work.dropped[reason] = work.dropped.get(reason, 0) + 1

    def _reducer_failed(self, registration: Registration, error: BaseException) -> None:
        consequence = "the event was dropped" if registration.fails_closed else "the event passed on unchanged"
        self._incidents.report(
            f"reducer:{registration.name}",
            "reducer %s raised %s; %s",
            registration.name,
            error,
            consequence,
            error=error,
        )

    def _report_losses(self) -> None:
        with self._ledger.lock:
            dropped = self._ledger.dropped()
        self._incidents.report_losses(dropped)
