"""A subscriber's own bounded queue. The oldest events give way, and a gap remembers which."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from zupa.event import Event
from zupa.semconv import BUS_CHANNEL


class Mailbox:
    """Bounded by *capacity* events; markers (flush requests) are exempt.

    Concurrency: any thread; a short lock, never held while user code runs.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.RLock()
        self._items: deque[Any] = deque()
        self._events = 0
        self._gap: tuple[int, int, int] | None = None
        self.missed: int = 0

    def __len__(self) -> int:
        return self._events

    def offer(self, event: Event) -> None:
        """Append *event*; evict and count the oldest when full."""
        with self._lock:
            if self._events >= self.capacity:
                self._evict()
            self._items.append(event)
            self._events += 1

    def mark(self, marker: object) -> None:
        """Append *marker* behind all events that are here now."""
        with self._lock:
            self._items.append(marker)

    def take(self) -> Any:
        """Return the next event or marker, first a gap event if events were evicted before it; None when empty."""
        with self._lock:
            if self._gap is not None:
                missed, first, last = self._gap
                self._gap = None
                payload = {"missed": missed, "first_seq": first, "last_seq": last}
                return Event(BUS_CHANNEL, "gap", payload, seq=last)
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Event):
                self._events -= 1
            return item

    def _evict(self) -> None:
        for index, item in enumerate(self._items):
            if isinstance(item, Event):
                del self._items[index]
                self._events -= 1
                self.missed += 1
                missed, first, _ = self._gap or (0, item.seq, 0)
                self._gap = (missed + 1, first, item.seq)
                return
