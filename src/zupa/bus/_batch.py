"""The batch processor: one exporter's bounded queue, thread, and ledger.

It follows OpenTelemetry's batching processor (trace/sdk.md, "Batching processor"): a batch is exported when
`max_export_batch_size` events wait, when `schedule_delay_millis` have passed since the first of them, or on a flush;
`export` is never called concurrently. Where the Python SDK falls short it does not follow: timeouts are honoured, the
exporter's result is counted, and what is left at shutdown is counted too.

Guarantees:
    - `offer` never waits for the exporter. A full queue drops the new events and counts them.
    - A hanging exporter costs its own events and nothing else: after `export_timeout_millis` its batch is counted as
      failed, flushes answer False at their deadlines, and the thread is a daemon.
    - Everything the exporter does runs with OpenTelemetry instrumentation suppressed, so that its HTTP and gRPC calls
      are not traced.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic_ns
from typing import Any, Final

from opentelemetry import context as context_api

from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._patterns import Pattern
from zupa.bus._queue import CHUNK
from zupa.config import BusConfig
from zupa.event import Event
from zupa.normalize import error_type
from zupa.ports import Clock, EventExporter, ExportResult
from zupa.statistics import ExporterStatistics

_SUPPRESS_KEYS: Final = ("suppress_instrumentation", context_api._SUPPRESS_INSTRUMENTATION_KEY)  # noqa: SLF001

_LOSSES: Final = {
    "queue_full": "exporter %s is too slow or stuck: its queue is full and new events are dropped",
    "bytes_full": "exporter %s is too slow or stuck: its queue holds max_queue_bytes and new events are dropped",
    "shutdown_timeout": "exporter %s had not finished at the shutdown deadline: what it held is lost",
    "timeout": "exporter %s has taken longer than export_timeout_millis: the batch is counted as failed",
}


def suppressed_context() -> context_api.Context:
    """Return the current context with instrumentation suppressed, by the new key and the one older packages read."""
    context = context_api.get_current()
    for key in _SUPPRESS_KEYS:
        context = context_api.set_value(key, True, context)
    return context


class BatchProcessor:
    """See the module's text. Created by `ReducerEventBus.add_exporter`."""

    def __init__(
        self,
        exporter: EventExporter,
        name: str,
        pattern: Pattern,
        config: BusConfig,
        clock: Clock,
        incidents: IncidentLog,
    ) -> None:
        self.exporter = exporter
        self.name = name
        self._matches = None if pattern.matches_everything else pattern.matches
        self._config = config
        self._monotonic_ns = clock.monotonic_ns
        self._delay_ns = int(config.schedule_delay_millis * 1e6)
        self._timeout_ns = int(config.export_timeout_millis * 1e6)
        self._byte_capacity = max(1, config.max_queue_bytes // CHUNK)
        self._incidents = incidents
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._buffer: deque[tuple[Event, int]] = deque()
        self._charged = 0
        self._taken = 0
        self._oldest_ns = 0
        self._flushes: deque[tuple[FlushRequest, int]] = deque()
        self._closing: FlushRequest | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._export_started_ns = 0
        self._abandoned = False
        self._offered = self._exported = self._failed = self._rejected = self._in_flight = self._batches = 0
        self._dropped: dict[str, int] = {}
        self._last_error = ""
        self._unreported: set[str] = set()

    def reset_after_fork(self) -> None:
        """Start over in a forked child: the parent exports what was queued; here it is counted as discarded."""
        discarded = len(self._buffer) + self._in_flight
        was_closed = self._closed
        self._reset()
        self._closed = was_closed
        self._offered = discarded
        if discarded:
            self._dropped["fork_discarded"] = discarded
        reset = getattr(self.exporter, "reset_after_fork", None)
        if reset is not None:
            reset()

    # -- called by the bus's worker ------------------------------------------------------------------------------

    def offer(self, events: list[Event], charges: list[int]) -> None:
        """Queue those *events* that match; *charges* are their byte permits. Never waits for the exporter."""
        matches = self._matches
        with self._condition:
            self._check_export_timeout()
            buffer, capacity = self._buffer, self._config.max_queue_size
            was_empty = not buffer
            for event, charge in zip(events, charges, strict=True):
                if matches is not None and not matches(event.topic):
                    continue
                self._offered += 1
                if self._closed:
                    self._drop("already_shutdown", 1)
                elif len(buffer) >= capacity:
                    self._drop("queue_full", 1)
                elif charge and self._charged + charge > self._byte_capacity:
                    self._drop("bytes_full", 1)
                else:
                    buffer.append((event, charge))
                    self._charged += charge
            if buffer and was_empty:
                self._oldest_ns = self._monotonic_ns()
                self._ensure_thread()
            if buffer and (was_empty or len(buffer) >= self._config.max_export_batch_size):
                self._condition.notify()
        if self._unreported:
            self._report()

    def flush(self, request: FlushRequest) -> None:
        """Export all that was offered before, then answer *request*. Returns at once."""
        with self._condition:
            if self._closed:
                request.done(not request.closing or not self._buffer)
                return
            if request.closing:
                self._closed = True
                self._closing = request
            else:
                self._flushes.append((request, self._taken + len(self._buffer)))
            if self._ensure_thread():
                self._condition.notify()
                return
        # The interpreter no longer starts threads (it is exiting): the caller's thread does the work.
        self._run(until=request)

    def abandon(self) -> int:
        """Give up on what is left, at the shutdown deadline; count it and return how much it was."""
        with self._condition:
            self._closed = True
            left = len(self._buffer)
            self._buffer.clear()
            self._charged = 0
            self._taken += left  # flushes that wait for these events have waited long enough
            if left:
                self._drop("shutdown_timeout", left)
            if self._in_flight:
                left += self._in_flight
                self._fail(self._in_flight, "shutdown_timeout")
                self._in_flight, self._abandoned = 0, True
            self._condition.notify()
        if self._unreported:
            self._report()
        return left

    def statistics(self) -> ExporterStatistics:
        """Return a consistent snapshot of this exporter's ledger."""
        with self._condition:
            self._check_export_timeout()
            return ExporterStatistics(
                offered=self._offered,
                exported=self._exported,
                failed=self._failed,
                rejected=self._rejected,
                dropped=dict(self._dropped),
                queued=len(self._buffer),
                in_flight=self._in_flight,
                batches=self._batches,
                last_error=self._last_error,
            )

    # -- the exporter's own thread -------------------------------------------------------------------------------

    def _ensure_thread(self) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return True
        thread = threading.Thread(target=self._run, name=f"zupa-export-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _run(self, until: FlushRequest | None = None) -> None:
        token = context_api.attach(suppressed_context())
        try:
            while self._run_once():
                if until is not None and not until.closing and all(item is not until for item, _ in self._flushes):
                    return
        finally:
            context_api.detach(token)

    def _run_once(self) -> bool:
        """Do the next piece of work, waiting for it if need be. Return False when there will be none."""
        action = ""
        try:
            with self._condition:
                while not (action := self._next_action()):
                    self._condition.wait(self._wait_s())
                batch = self._take() if action == "export" else []
            if action == "export":
                self._export(batch)
                return True
            if action == "flush":
                self._answer_flushes()
                return True
            self._close()
        except BaseException as error:  # noqa: BLE001 - the thread outlives whatever an exporter raises
            self._incidents.report(f"exporter:{self.name}", "exporter %s raised %s", self.name, error, error=error)
        return action != "close"

    def _next_action(self) -> str:
        if self._buffer and (
            self._closing is not None
            or len(self._buffer) >= self._config.max_export_batch_size
            or (self._flushes and self._flushes[0][1] > self._taken)
            or self._monotonic_ns() >= self._oldest_ns + self._delay_ns
        ):
            return "export"
        if self._flushes:
            return "flush"
        return "close" if self._closed else ""

    def _wait_s(self) -> float | None:
        if not self._buffer:
            return None
        return max(0.0, (self._oldest_ns + self._delay_ns - self._monotonic_ns()) / 1e9)

    def _take(self) -> list[Event]:
        size = min(len(self._buffer), self._config.max_export_batch_size)
        batch = []
        for _ in range(size):
            event, charge = self._buffer.popleft()
            self._charged -= charge
            batch.append(event)
        self._taken += size
        self._in_flight = size
        self._oldest_ns = self._export_started_ns = self._monotonic_ns()
        self._abandoned = False
        return batch

    def _export(self, batch: list[Event]) -> None:
        try:
            result: Any = self.exporter.export(batch)
            if not isinstance(result, ExportResult):
                result = ExportResult(success=False, error_type=f"invalid_result:{type(result).__name__}")
        except BaseException as error:  # noqa: BLE001 - SystemExit from an exporter must not end the thread
            self._incidents.report(f"exporter:{self.name}", "exporter %s raised %s", self.name, error, error=error)
            result = ExportResult(success=False, error_type=error_type(error))
        with self._condition:
            self._batches += 1
            if self._abandoned:  # counted as failed at the timeout already
                return
            self._in_flight = 0
            rejected = min(max(result.rejected, 0), len(batch))
            if result.success:
                self._exported += len(batch) - rejected
                self._rejected += rejected
                self._last_error = result.error_type or self._last_error
            else:
                self._fail(len(batch), result.error_type or "export_failed")
        if not result.success:
            self._incidents.report(
                f"export_failed:{self.name}",
                "exporter %s lost a batch of %d events (%s); see statistics().exported[%r]",
                self.name,
                len(batch),
                result.error_type,
                self.name,
            )

    def _answer_flushes(self) -> None:
        with self._condition:
            ready = [
                self._flushes.popleft()[0] for _ in range(len(self._flushes)) if self._flushes[0][1] <= self._taken
            ]
        for request in ready:
            request.done(self._flush_exporter(request))

    def _flush_exporter(self, request: FlushRequest) -> bool:
        try:
            return bool(self.exporter.force_flush(self._millis_left(request)))
        except BaseException as error:  # noqa: BLE001 - the other requests want an answer too
            self._incidents.report(f"exporter:{self.name}", "exporter %s raised %s", self.name, error, error=error)
            return False

    def _close(self) -> None:
        request = self._closing
        if request is None:  # abandoned at the deadline while the exporter hung, and it has come back
            self.exporter.shutdown(0)
            return
        ok = self._flush_exporter(request)
        try:
            self.exporter.shutdown(self._millis_left(request))
        except BaseException:
            ok = False
            raise
        finally:
            request.done(ok)

    def _millis_left(self, request: FlushRequest) -> float:
        return max(1.0, (request.deadline_ns - monotonic_ns()) / 1e6)

    # -- counting, under the condition ---------------------------------------------------------------------------

    def _drop(self, reason: str, count: int) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + count
        if reason in _LOSSES:
            self._unreported.add(reason)

    def _fail(self, count: int, reason: str) -> None:
        self._failed += count
        self._last_error = reason

    def _check_export_timeout(self) -> None:
        if self._in_flight and self._monotonic_ns() - self._export_started_ns > self._timeout_ns:
            self._fail(self._in_flight, "timeout")
            self._in_flight, self._abandoned = 0, True
            self._unreported.add("timeout")

    def _report(self) -> None:
        # Not under the condition: a logging handler may wait for somebody who reads the statistics.
        with self._condition:
            reasons, self._unreported = self._unreported, set()
        for reason in sorted(reasons):
            self._incidents.report(f"exporter_{reason}:{self.name}", _LOSSES[reason] + " (%s)", self.name, reason)
