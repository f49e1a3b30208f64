"""`ReducerEventBus`: registrations, flushes, shutdown and statistics, on top of the ingest stage."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from threading import get_ident
from types import TracebackType
from typing import Any, TypeVar, overload

from zupa.bus import _process
from zupa.bus._flush import FlushRequest
from zupa.bus._ingest import IngestStage
from zupa.bus._registry import current_loop
from zupa.bus._snapshot import snapshot
from zupa.bus._stream import EventStream
from zupa.config import BusConfig
from zupa.errors import ConfigurationError
from zupa.ports import Clock, EventExporter, ReducerFunction, Subscriber, Unregister
from zupa.statistics import BusStatistics

F = TypeVar("F", bound=ReducerFunction)


class ReducerEventBus(IngestStage):
    """An event bus whose `emit` costs the caller one push; everything else happens on a worker thread.

    Args:
        config: Settings; `BusConfig.from_env()` when not given.
        exporters: Exporters to start with; see `add_exporter`.
        clock: Source of time stamps, for tests.

    The worker starts at the first event. A bus that was used is flushed at exit within `shutdown_timeout_millis`;
    ``with bus:`` and ``async with bus:`` do so earlier. What can be lost, and where it is counted, is in the README.

    Concurrency: every method may be called from any thread, and from any event loop.
    """

    def __init__(
        self, config: BusConfig | None = None, *, exporters: Iterable[EventExporter] = (), clock: Clock | None = None
    ) -> None:
        if config is not None and not isinstance(config, BusConfig):
            raise ConfigurationError(
                f"config={config!r} is unusable: pass a BusConfig, e.g. BusConfig(max_queue_size=4096)"
            )
        super().__init__(config or BusConfig.from_env(), clock)
        _process.track(self)
        for exporter in exporters:
            self.add_exporter(exporter)

    # -- registrations -------------------------------------------------------------------------------------------

    @overload
    def use(self, reducer: ReducerFunction, pattern: str | None = None, *, name: str | None = None) -> Unregister: ...

    @overload
    def use(
        self, reducer: str | None = None, pattern: str | None = None, *, name: str | None = None
    ) -> Callable[[F], F]: ...

    def use(self, reducer: Any = None, pattern: str | None = None, *, name: str | None = None) -> Any:
        """Register *reducer*, behind those that are registered, for all events or those that match *pattern*.

        Also a decorator: ``@bus.use(pattern="engine:*")``, or ``@bus.use("engine:*")``, leaves the function's name with
        the function. A bare ``@bus.use`` is a plain call: the name then holds the callable that unregisters.

        Args:
            reducer: Called by the worker with one `Event`; returns an Event (use `Event.replace` for a changed copy),
                a list or tuple of Events (fan-out), or None (filtered). See `zupa.ports.Reducer` for what happens
                when it raises.
            pattern: Which events it is for; see `zupa.bus._patterns`. The pattern is matched against the topic that
                earlier reducers left the event with.
            name: Its name in statistics and logs; the function's own name by default.

        Returns:
            A callable that unregisters the reducer (idempotent).

        Raises:
            PatternError: *pattern* can never match.
            ConfigurationError: *reducer* is not callable.
        """
        if reducer is None or (isinstance(reducer, str) and pattern is None):
            scope = pattern if reducer is None else reducer

            def decorate(function: F) -> F:
                self._registry.use(function, scope, name)
                return function

            return decorate
        return self._registry.use(reducer, pattern, name)

    def subscribe(
        self, pattern: str, handler: Subscriber, *, name: str | None = None, max_queue_size: int | None = None
    ) -> Unregister:
        """Call *handler* with every event that matches *pattern* and has passed the reducers.

        A plain function is called on the worker's thread; it should be quick. With *max_queue_size*, or when it turns
        out slow (`BusConfig.slow_subscriber_millis`), it gets a queue and a thread of its own. An async function is
        awaited on the event loop that is running here, or on a loop of the bus's own. Queues evict their oldest events
        when full, and count them as `missed`.

        Returns:
            A callable that unsubscribes: idempotent, safe during dispatch; the handler is not called after it, except
            for a call that is under way on another thread.

        Raises:
            PatternError: *pattern* can never match.
            ConfigurationError: *handler* is not callable, or *max_queue_size* is not a positive whole number.
        """
        return self._registry.subscribe(pattern, handler, name, max_queue_size)

    def stream(self, pattern: str = "*", *, max_queue_size: int = 1024) -> EventStream:
        """Return an async iterator over the events that match *pattern*, from now on; see `EventStream`.

        Raises:
            PatternError: *pattern* can never match.
            ConfigurationError: *max_queue_size* is not a positive whole number.
        """
        return self._registry.stream(pattern, max_queue_size, active=not self._shut_down)

    def add_exporter(self, exporter: EventExporter, *, name: str | None = None, pattern: str = "*") -> Unregister:
        """Export every event that matches *pattern* through *exporter*, in batches, on a thread of its own.

        Returns:
            A callable that detaches the exporter: what it holds is flushed and it is shut down within
            `shutdown_timeout_millis`. Idempotent.

        Raises:
            PatternError: *pattern* can never match.
            ConfigurationError: *exporter* lacks one of the methods of `EventExporter`.
        """
        return self._registry.add_exporter(exporter, name, pattern)

    # -- lifecycle -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker now instead of at the first event. Idempotent; after `shutdown` it does nothing."""
        if not self._shut_down:
            self._start()

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Wait until all that was emitted before has been handled by subscribers and acknowledged by exporters.

        Returns:
            False when that took longer than *timeout_millis*, when an exporter could not flush, or when the caller is
            itself one of those who are waited for (a reducer, a subscriber).
        """
        if get_ident() == self._worker.ident and self._stage.depth:
            self._incidents.report(
                "flush", "force_flush was called by a reducer or subscriber, which it would wait for"
            )
            return False
        request = self._begin(timeout_millis, closing=False, blocked_loop=current_loop())
        return request.wait(timeout_millis / 1e3)

    async def aflush(self, timeout_millis: float = 30_000) -> bool:
        """`force_flush` that awaits instead of blocking the event loop."""
        return await _completion(self._begin(timeout_millis, closing=False), timeout_millis)

    def shutdown(self, timeout_millis: float | None = None) -> bool:
        """Take no more events, flush, shut the exporters down; all within *timeout_millis*.

        Args:
            timeout_millis: `BusConfig.shutdown_timeout_millis` when None.

        Returns:
            Whether everything was handled. What was not is counted as dropped (`shutdown_timeout`). Idempotent.
        """
        timeout = self._config.shutdown_timeout_millis if timeout_millis is None else timeout_millis
        request = self.begin_shutdown(timeout)
        return True if request is None else self.finish_shutdown(request, timeout)

    def begin_shutdown(self, timeout_millis: float) -> FlushRequest | None:
        if not self._close():
            return None
        return self._begin(timeout_millis, closing=True, blocked_loop=current_loop())

    def finish_shutdown(self, request: FlushRequest, timeout_millis: float) -> bool:
        return self._finish(request.wait(timeout_millis / 1e3))

    async def aclose(self) -> None:
        """`shutdown` that awaits instead of blocking the event loop."""
        timeout = self._config.shutdown_timeout_millis
        if self._close():
            ok = False
            try:
                ok = await _completion(self._begin(timeout, closing=True), timeout)
            finally:  # also where the wait is cancelled: what is left must be counted
                self._finish(ok)

    def _begin(self, timeout_millis: float, *, closing: bool, blocked_loop: object = None) -> FlushRequest:
        deadline_ns = time.monotonic_ns() + int(timeout_millis * 1e6)
        request = FlushRequest(deadline_ns, closing=closing, blocked_loop=blocked_loop)
        if self._pid != os.getpid():
            self.reset_after_fork()
        if self._worker.stopped:
            request.done(ok=closing)
            return request
        self._put(request)
        if self._worker.supervise():
            self._worker.hurry()
        else:
            self._worker.run_inline()
        return request

    def _close(self) -> bool:
        with self._lock:
            if self._shut_down:
                return False
            self._shut_down = self._attention = True
        return True

    def _finish(self, ok: bool) -> bool:
        self._worker.stop()
        left = self._worker.abandon()
        for processor in self._dispatcher.processors:
            left += processor.abandon()
        self._registry.close()
        with self._ledger.lock:
            dropped = self._ledger.dropped()
        self._incidents.report_losses(dropped, final=True)
        self._incidents.silenced = True
        _process.untrack(self)
        return ok and not left

    # -- statistics ----------------------------------------------------------------------------------------------

    def statistics(self) -> BusStatistics:
        """Return a snapshot of everything that this bus counts; see `BusStatistics` for the law that it keeps."""
        if self._worker.stopped:
            self._worker.abandon("already_shutdown")  # an emit that overlapped the shutdown may have come in since
        return snapshot(
            self._ledger,
            self._queue,
            self._dispatcher,
            worker_restarts=self._worker.restarts,
            boot_id=self._boot_id,
            pid=self._pid,
        )

    # -- context managers, small helpers -------------------------------------------------------------------------

    def __enter__(self) -> ReducerEventBus:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> ReducerEventBus:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "shut down" if self._shut_down else f"{len(self._queue)}/{self._config.max_queue_size} queued"
        return f"<{type(self).__name__} {state}>"


async def _completion(request: FlushRequest, timeout_millis: float) -> bool:
    loop = asyncio.get_running_loop()
    completed = asyncio.Event()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(completed.set)
        except RuntimeError:  # the loop was closed while it waited: nobody is left to tell
            return

    request.on_completion(tell)
    try:
        await asyncio.wait_for(completed.wait(), timeout_millis / 1e3)
    except asyncio.TimeoutError:
        return False
    return request.ok
