"""`EventStream`: the bus as an async iterator."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from zupa.bus._flush import FlushRequest
from zupa.bus._mailbox import Mailbox
from zupa.bus._patterns import Pattern
from zupa.event import Event
from zupa.statistics import SubscriberStatistics


class StreamSubscription:
    """The bus's end of a stream: a mailbox, and the loop of whoever waits for it."""

    def __init__(self, name: str, pattern: Pattern, capacity: int) -> None:
        self.key: object = object()
        self.name = name
        self.pattern = pattern
        self.active: bool = True
        self.mailbox: Mailbox = Mailbox(capacity)
        self.delivered = 0
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def deliver(self, event: Event) -> None:
        if self.active:
            self.mailbox.offer(event)
            self.wake()

    def flush(self, request: FlushRequest) -> None:
        # A stream is read at its reader's pace: a flush does not wait for it.
        request.done()

    def close(self) -> None:
        self.active = False
        self.wake()

    def statistics(self) -> SubscriberStatistics:
        return SubscriberStatistics(delivered=self.delivered, missed=self.mailbox.missed, queued=len(self.mailbox))

    def reset_after_fork(self) -> None:
        self.active = False

    def wait_on(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Wake *event* on *loop* at the next delivery."""
        self._waiter = (loop, event)

    def wake(self) -> None:
        """Wake the reader, if one waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        loop, event = waiter
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # the reader's loop is closed
            self.active = False


class EventStream:
    """Events that match a pattern, from the moment at which the stream was made.

    A reader that is slower than the bus misses the oldest events: they are counted, and the next item is an event
    ``bus:gap`` whose payload has ``missed``, ``first_seq`` and ``last_seq``. The stream ends when the bus shuts down,
    or by `aclose`; a stream that is garbage-collected unsubscribes itself.

    Concurrency: one reader, in one event loop.
    """

    def __init__(self, subscription: StreamSubscription, unsubscribe: Callable[[], None]) -> None:
        self._subscription = subscription
        self._finalizer = weakref.finalize(self, unsubscribe)
        self._finalizer.atexit = False

    @property
    def missed(self) -> int:
        """Events that this stream's reader was too slow for."""
        return self._subscription.mailbox.missed

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        subscription = self._subscription
        while True:
            item: Any = subscription.mailbox.take()
            if item is not None:
                subscription.delivered += 1
                return item  # type: ignore[no-any-return]
            if not subscription.active:
                raise StopAsyncIteration
            arrived = asyncio.Event()
            subscription.wait_on(asyncio.get_running_loop(), arrived)
            # An event may have come between the look and the registration; the next look would find it, but only if
            # somebody wakes us.
            if len(subscription.mailbox) or not subscription.active:
                continue
            await arrived.wait()

    async def aclose(self) -> None:
        """Unsubscribe; what is queued can still be read."""
        self._finalizer()

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
