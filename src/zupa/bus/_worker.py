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

import contextlib
import threading
import time
from itertools import islice
from queue import Empty
from time import monotonic_ns
from typing import Any, Final, Protocol

from zupa.bus._dispatch import Dispatcher
from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._ledger import Ledger
from zupa.bus._queue import IngestQueue
from zupa.bus._stage import ExecutionStage, Slice, SupersededError
from zupa.config import BusConfig
from zupa.ports import Clock

YIELD_S: Final = 20e-6
"""Pause between slices. `sleep(0)` would give the GIL back and take it again before a waiting engine has woken up; this
is long enough for it to be taken, and costs nobody anything."""

STUCK_NS: Final = 5 * 1_000_000_000
REPORT_EVERY: Final = 64
"""Slices after which losses are looked at even if the worker never idles."""

_NOTHING: Final = object()


class _Flushable(Protocol):
    def flush(self, request: FlushRequest) -> None: ...


class Worker:
    """See the module's text.

    Attributes:
        stage: What it does with a slice; `ExecutionStage.depth` tells `emit` about chains of emits.
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
        self._slice_size = config.slice_size
        self._linger_s = config.linger_millis / 1e3
        self._incidents = incidents
        self.stage = ExecutionStage(ledger, dispatcher, config, clock, incidents, identity)
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._starting = False
        self._hurry = threading.Lock()
        self._hurry.acquire()
        # Taken from the queue, not yet in a slice; still counted as queued.
        self._pending: list[Any] = []
        self._slices = 0
        self._slice: Slice | None = None
        self.stopped = False
        self.ident = 0
        self.restarts = 0

    # -- called from outside -------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Cut the worker's linger short. One C call, re-entrant; a semaphore of at most 1."""
        try:
            self._hurry.release()
        except RuntimeError:  # it is hurried already
            return

    def supervise(self) -> bool:
        """Make sure that a thread is at work and not stuck; return False where none can be started."""
        if self._starting:  # re-entered, from a finaliser or signal handler in the lines below
            return True
        if self._healthy():
            return True
        if not self._lock.acquire(blocking=False):  # another thread sees to it; emit must not wait for it
            return True
        try:
            if self.stopped or self._healthy():
                return True
            self._starting = True
            return self._start()
        finally:
            self._starting = False
            self._lock.release()

    def _healthy(self) -> bool:
        thread = self._thread
        since = self.stage.user_code_since
        return thread is not None and thread.is_alive() and not (since and monotonic_ns() - since > STUCK_NS)

    def run_inline(self) -> None:
        """Work the queue off on the caller's thread: for exits, when no thread can be started any more."""
        with self._lock:
            self.stage.generation += 1
            self.ident = threading.get_ident()
            try:
                while self._work(self.stage.generation, block=False):
                    pass
            except SupersededError:
                pass

    def stop(self) -> None:
        """Let the thread end when it next looks; nothing is taken after."""
        self.stopped = True
        self.stage.generation += 1
        self._queue.put(None)
        self.hurry()

    def abandon(self, reason: str = "shutdown_timeout") -> int:
        """Count what will not be processed any more as dropped; return how much it was. After `stop`."""
        with self._ledger.lock:
            items = [*self._pending, *self._queue.drain()]
            self._pending.clear()
            events = [item for item in items if isinstance(item, tuple)]
            self._queue.release(len(events))
            left = len(events) + self._ledger.in_flight
            self._ledger.in_flight = 0
            work, self._slice = self._slice, None
            self._ledger.drop_many(reason, left)
        for item in (*items, work and work.marker):
            if isinstance(item, FlushRequest):
                item.done(ok=False)
        return left

    # -- the thread ----------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        predecessor = self._thread
        if predecessor is not None:
            self.stage.generation += 1
            self._take_over(predecessor)
        self.stage.user_code_since = 0
        generation = self.stage.generation
        thread = threading.Thread(target=self._run, args=(generation,), name="zupa-bus", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # "can't start new thread": out of threads now, or the interpreter is exiting.
            self._thread = predecessor
            return False
        self.restarts += predecessor is not None
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
            except SupersededError:
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, the next event must be processed
                self._incidents.report("worker_error", "the bus's worker went on after %s", error, error=error)
            else:
                return

    def _work(self, generation: int, *, block: bool) -> bool:
        """Do one slice. Return False when there is nothing to do and never will be (or, without *block*, now)."""
        if self.stopped or self.stage.generation != generation:
            raise SupersededError
        if self._slice is None:
            if not self._pending and not self._fetch(wait=block):
                return False
            if self.stage.generation != generation:
                raise SupersededError
            self._take()
        self.stage.process(self._slice, generation)  # type: ignore[arg-type] # _take has set it
        self._finish(self._slice)  # type: ignore[arg-type]
        if block:
            self._slices += 1
            if self._slices % REPORT_EVERY == 0:  # under constant load there is no idle moment to do it
                self._report_losses()
            time.sleep(YIELD_S)
        return True

    def _fetch(self, *, wait: bool) -> bool:
        """Take the next item from the queue; with *wait*, also where there is none yet. Return whether there is one.

        `list.extend` takes and keeps in one C call: no asynchronous exception comes in between.
        """
        get = self._queue.get_nowait
        try:
            self._pending.extend(islice(iter(get, _NOTHING), 1))
        except Empty:
            if wait:
                self._report_losses()
                self._pending.extend(islice(iter(self._queue.get, _NOTHING), 1))
                if isinstance(self._pending[0], tuple):
                    # A burst should cost one wake-up: let it collect.
                    self._hurry.acquire(timeout=self._linger_s)
        return bool(self._pending)

    def _take(self) -> None:
        queue, ledger, pending = self._queue, self._ledger, self._pending
        with ledger.lock:
            ledger.high_watermark = max(ledger.high_watermark, len(queue))
            # A backlog asks for larger slices: each pause costs the worker up to the interpreter's switch interval.
            limit = max(self._slice_size, len(queue) // 4)
            with contextlib.suppress(Empty):
                pending.extend(islice(iter(queue.get_nowait, _NOTHING), max(0, limit - len(pending))))
            items: list[tuple[Any, ...]] = []
            marker = None
            charges = used = 0
            for item in pending:
                used += 1
                if isinstance(item, tuple):
                    items.append(item)
                    charges += item[7]
                elif isinstance(item, FlushRequest):
                    marker = item
                    break
            self._slice = Slice(items, marker)
            ledger.in_flight += len(items)
            del pending[:used]
            queue.release(len(items))
            queue.release_bytes(charges)

    def _finish(self, work: Slice) -> None:
        ledger = self._ledger
        with ledger.lock:
            if self._slice is not work:  # abandoned at shutdown: counted as dropped already
                raise SupersededError
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
        parties: tuple[_Flushable, ...] = (*self._dispatcher.processors, *self._dispatcher.subscriptions)
        for party in parties:
            request.add_party()
            party.flush(request)
        request.done()

    def _report_losses(self) -> None:
        with self._ledger.lock:
            dropped = self._ledger.dropped()
        self._incidents.report_losses(dropped)
