"""The registry: checks what users register, names it, and gives it to the dispatcher."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from zupa.bus._batch import BatchProcessor
from zupa.bus._dispatch import Dispatcher
from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._loop import LoopThread
from zupa.bus._patterns import Pattern
from zupa.bus._reducers import Registration
from zupa.bus._stream import EventStream, StreamSubscription
from zupa.bus._subscriptions import (
    DEFAULT_MAILBOX_SIZE,
    AsyncSubscription,
    InlineSubscription,
    Subscription,
    ThreadSubscription,
)
from zupa.config import BusConfig
from zupa.errors import ConfigurationError
from zupa.ports import Clock, EventExporter, ReducerFunction, Subscriber, Unregister


class Registry:
    """What `ReducerEventBus.use`, `subscribe`, `stream` and `add_exporter` do; documented there. Any thread."""

    def __init__(self, dispatcher: Dispatcher, config: BusConfig, clock: Clock, incidents: IncidentLog) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._clock = clock
        self._incidents = incidents
        self._lock = threading.RLock()
        self._loop_thread = LoopThread()

    def use(self, reducer: ReducerFunction, pattern: str | None, name: str | None) -> Unregister:
        """Check and register *reducer*."""
        if not callable(reducer):
            raise ConfigurationError(f"a reducer must be callable with one Event, got {type(reducer).__name__}")
        if _is_async(reducer):
            raise ConfigurationError(
                f"reducer {_name_of(reducer)} is async; reducers run one after another on the worker's thread and must "
                "be plain functions. Use an async subscriber for work that waits"
            )
        scope = None if pattern is None else Pattern(pattern)
        with self._lock:
            label = _unique(name or _name_of(reducer), {item.name for item in self._dispatcher.reducers})
            registration = Registration(reducer, scope, label)
            self._dispatcher.add_reducer(registration)
        return lambda: self._dispatcher.remove_reducer(registration)

    def subscribe(self, pattern: str, handler: Subscriber, name: str | None, max_queue_size: int | None) -> Unregister:
        """Check *handler* and choose how it is called."""
        compiled = Pattern(pattern)
        if not callable(handler):
            raise ConfigurationError(f"a subscriber must be callable with one Event, got {type(handler).__name__}")
        capacity = DEFAULT_MAILBOX_SIZE if max_queue_size is None else _checked_capacity(max_queue_size)
        with self._lock:
            label = self._unique_subscriber(name or _name_of(handler))
            subscription: Subscription
            if _is_async(handler):
                loop = current_loop() or self._loop_thread.loop
                subscription = AsyncSubscription(label, compiled, handler, self._failed, capacity, loop)
            elif max_queue_size is not None:
                subscription = ThreadSubscription(label, compiled, handler, self._failed, capacity)
            else:
                subscription = InlineSubscription(label, compiled, handler, self._failed)
            self._dispatcher.add_subscription(subscription)
        return lambda: self._dispatcher.remove_subscription(subscription.key)

    def stream(self, pattern: str, max_queue_size: int, *, active: bool) -> EventStream:
        """Make a stream; one that is not *active* ends at once."""
        compiled, capacity = Pattern(pattern), _checked_capacity(max_queue_size)
        with self._lock:
            subscription = StreamSubscription(self._unique_subscriber(f"stream({pattern})"), compiled, capacity)
            subscription.active = active
            self._dispatcher.add_subscription(subscription)
        dispatcher, key = self._dispatcher, subscription.key
        return EventStream(subscription, lambda: dispatcher.remove_subscription(key))

    def add_exporter(self, exporter: EventExporter, name: str | None, pattern: str) -> Unregister:
        """Check *exporter* and give it a batch processor."""
        missing = [x for x in ("export", "force_flush", "shutdown") if not callable(getattr(exporter, x, None))]
        if missing:
            raise ConfigurationError(
                f"exporter {type(exporter).__name__} lacks {', '.join(missing)}(); see zupa.EventExporter. "
                "To use an OpenTelemetry SpanExporter or LogRecordExporter wrap it in zupa.otel.OtelEventExporter"
            )
        compiled = Pattern(pattern)
        with self._lock:
            label = _unique(name or type(exporter).__name__, {item.name for item in self._dispatcher.processors})
            processor = BatchProcessor(exporter, label, compiled, self._config, self._clock, self._incidents)
            self._dispatcher.add_processor(processor)
        return lambda: self._detach(processor)

    def close(self) -> None:
        """End all subscriptions, and the loop of those that had none."""
        for subscription in self._dispatcher.subscriptions:
            subscription.close()
        self._loop_thread.close()

    def reset_after_fork(self) -> None:
        """Rebuild what threads of the parent may have held."""
        self._lock = threading.RLock()
        self._loop_thread = LoopThread()
        self._dispatcher.reset_after_fork()

    def _detach(self, processor: BatchProcessor) -> None:
        if processor not in self._dispatcher.processors:
            return
        self._dispatcher.remove_processor(processor)
        timeout_millis = self._config.shutdown_timeout_millis
        request = FlushRequest(time.monotonic_ns() + int(timeout_millis * 1e6), closing=True)
        processor.flush(request)  # the only party: the worker is not involved here
        if not request.wait(timeout_millis / 1e3):
            processor.abandon()

    def _unique_subscriber(self, wanted: str) -> str:
        return _unique(wanted, {item.name for item in self._dispatcher.subscriptions})

    def _failed(self, name: str, error: BaseException) -> None:
        self._incidents.report(f"subscriber:{name}", "subscriber %s raised %s", name, error, error=error)


def current_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs on this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _unique(wanted: str, taken: set[str]) -> str:
    """Return *wanted*, numbered if it is among *taken*: statistics are kept by name."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}#{number}", number + 1
    return name


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "name", None)
    if isinstance(name, str) and name:
        return name
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__).rpartition("<locals>.")[2]


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - its kind is asked for, not whether it is callable


def _checked_capacity(max_queue_size: int) -> int:
    if isinstance(max_queue_size, bool) or not isinstance(max_queue_size, int) or max_queue_size < 1:
        raise ConfigurationError(f"max_queue_size={max_queue_size!r} is unusable: it must be a whole number >= 1")
    return max_queue_size
