"""Subscriptions: who gets which event, and how it gets there without hurting anybody else.

Three ways of delivery, one interface:

- `InlineSubscription`: a quick sync handler, called on the worker's thread.
- `ThreadSubscription`: a sync handler with a mailbox and a thread of its own. An inline handler that proves slow is
  moved here.
- `AsyncSubscription`: an async handler with a mailbox, run by one task on the event loop in which it was subscribed,
  or on the bus's own loop where there was none.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import CoroutineType
from typing import Any, Final, Protocol

from zupa.bus._flush import FlushRequest
from zupa.bus._mailbox import Mailbox
from zupa.bus._patterns import Pattern
from zupa.event import Event
from zupa.statistics import SubscriberStatistics

DEFAULT_MAILBOX_SIZE: Final = 2048

ErrorCallback = Callable[[str, BaseException], None]


class Subscription(Protocol):
    """What the worker needs of a subscription."""

    name: str
    pattern: Pattern
    key: object
    active: bool

    def deliver(self, event: Event) -> None:
        """Hand *event* over. Called by the worker; must not raise."""
        ...

    def flush(self, request: FlushRequest) -> None:
        """Answer *request* once all that was delivered before has been handled."""
        ...

    def close(self) -> None:
        """Deliver nothing more; release threads and tasks."""
        ...

    def statistics(self) -> SubscriberStatistics: ...

    def reset_after_fork(self) -> None: ...


class _Base:
    def __init__(self, name: str, pattern: Pattern, handler: Any, on_error: ErrorCallback) -> None:
        self.name = name
        self.pattern = pattern
        self.handler = handler
        self.on_error = on_error
        self.key = object()
        self.active = True
        self.delivered = 0
        self.errors = 0

    def failed(self, error: BaseException) -> None:
        self.errors += 1
        self.on_error(self.name, error)

    def handle(self, event: Event) -> None:
        """Call a sync handler, isolated."""
        try:
            result = self.handler(event)
            if result.__class__ is CoroutineType:
                result.close()
                raise TypeError(  # noqa: TRY301 - counted and logged right below, like what the handler raises
                    f"subscriber {self.name} is a plain function that returned a coroutine, which was not run; "
                    "subscribe an `async def` function instead"
                )
        except BaseException as error:  # noqa: BLE001 - SystemExit from user code must not end the worker
            self.failed(error)
        else:
            self.delivered += 1

    def statistics(self) -> SubscriberStatistics:
        return SubscriberStatistics(delivered=self.delivered, errors=self.errors)

    def reset_after_fork(self) -> None:
        self.delivered = self.errors = 0


class InlineSubscription(_Base):
    """Calls the handler on the worker's thread."""

    def deliver(self, event: Event) -> None:
        if self.active:
            self.handle(event)

    def flush(self, request: FlushRequest) -> None:
        request.done()

    def close(self) -> None:
        self.active = False


class _Queued(_Base):
    """Common to those that have a mailbox."""

    def __init__(self, name: str, pattern: Pattern, handler: Any, on_error: ErrorCallback, capacity: int) -> None:
        super().__init__(name, pattern, handler, on_error)
        self.mailbox = Mailbox(capacity)

    def statistics(self) -> SubscriberStatistics:
        return SubscriberStatistics(
            delivered=self.delivered, errors=self.errors, missed=self.mailbox.missed, queued=len(self.mailbox)
        )

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        self.mailbox = Mailbox(self.mailbox.capacity)

    def take(self) -> Any:
        """Return the next item for a handler: gaps are for streams, handlers have `missed` in the statistics."""
        while isinstance(item := self.mailbox.take(), Event) and item.topic == "bus:gap":
            pass
        return item


class ThreadSubscription(_Queued):
    """Calls the handler on a daemon thread of its own."""

    def __init__(self, name: str, pattern: Pattern, handler: Any, on_error: ErrorCallback, capacity: int) -> None:
        super().__init__(name, pattern, handler, on_error, capacity)
        self._wake = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def deliver(self, event: Event) -> None:
        if not self.active:
            return
        self.mailbox.offer(event)
        self._ensure_thread()
        self._wake.release()

    def flush(self, request: FlushRequest) -> None:
        if not self._ensure_thread():
            request.done(not len(self.mailbox))
            return
        self.mailbox.mark(request)
        self._wake.release()

    def close(self) -> None:
        self.active = False
        self._wake.release()

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        self._wake = threading.Semaphore(0)
        self._thread = None

    def _ensure_thread(self) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return True
        thread = threading.Thread(target=self._run, name=f"zupa-subscriber-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        wake = self._wake
        while True:
            wake.acquire()
            item = self.take()
            if isinstance(item, FlushRequest):
                item.done()
            elif item is not None and self.active:
                self.handle(item)
            elif item is None and not self.active:
                return


class AsyncSubscription(_Queued):
    """Awaits the handler in one task on *loop*, one event at a time, in order."""

    def __init__(
        self,
        name: str,
        pattern: Pattern,
        handler: Any,
        on_error: ErrorCallback,
        capacity: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name, pattern, handler, on_error, capacity)
        self._loop = loop
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None

    def deliver(self, event: Event) -> None:
        if not self.active:
            return
        self.mailbox.offer(event)
        self._schedule()

    def flush(self, request: FlushRequest) -> None:
        if not self.active:  # its loop is closed: nobody waits for what it may have left
            request.done()
            return
        if request.blocked_loop is self._loop:
            # Whoever waits for the answer blocks the very loop that would have to give it.
            request.done(ok=not len(self.mailbox))
            return
        if not self.active:
            request.done()
            return
        self.mailbox.mark(request)
        self._schedule()

    def close(self) -> None:
        self.active = False

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        self.active = False  # the loop's thread does not exist in the child

    def _schedule(self) -> None:
        if self._scheduled and not self._loop.is_closed():
            return
        self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError as error:  # the loop is closed
            self.failed(error)
            self._give_up()

    def _give_up(self) -> None:
        """Nobody can receive any more: count what waits as missed, and answer those who wait for it."""
        self.active = self._scheduled = False
        while (item := self.take()) is not None:
            if isinstance(item, FlushRequest):
                item.done(ok=False)
            else:
                self.mailbox.missed += 1

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._pump(), name=f"zupa-subscriber-{self.name}")

    async def _pump(self) -> None:
        while True:
            item = self.take()
            if item is None:
                self._scheduled = False
                # An event that came between the look and the flag would wait for the next one: look once more.
                item = self.take()
                if item is None:
                    return
                self._scheduled = True
            if isinstance(item, FlushRequest):
                item.done()
            elif self.active:
                try:
                    await self.handler(item)
                except asyncio.CancelledError as error:
                    self.failed(error)
                    cancelling = getattr(asyncio.current_task(), "cancelling", None)  # new in Python 3.11
                    if cancelling is None or cancelling():
                        self._give_up()
                        raise
                except BaseException as error:  # noqa: BLE001 - isolated like any other subscriber
                    self.failed(error)
                else:
                    self.delivered += 1
