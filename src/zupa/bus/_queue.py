"""The ingest queue: bounded by events and by bytes, without a lock on the way in.

Guarantees:
    - `put` never blocks, never takes a Python lock and is re-entrant: a finaliser or a signal handler may run between
      any two of its steps and put as well. Each step is one C call, atomic under the GIL (and, in free-threaded
      builds, under the list's own lock).
    - The bounds are exact, also under threads: a *permit* is popped from a list before the item is put, and returned
      only after the item has left the queue. `len(queue) <= capacity` at every moment.
    - One permit in `WAKE_EVERY` is marked, so that its taker knows that the consumer should be woken early. That
      costs nothing, where comparing the depth would cost a call per event.
    - `take` and the marker methods are for the one consumer and for those who hold the ledger's lock.

An item larger than `CHUNK` bytes also takes one byte permit for each `CHUNK`. Smaller ones are covered by the bound on
events: together they are at most ``capacity * CHUNK`` bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Final

import msgspec

CHUNK: Final = 1024
WAKE_EVERY: Final = 256
_MAX_VISITS: Final = 512
_BUILTIN: Final = frozenset({list, tuple, set, frozenset})


class IngestQueue:
    """See the module's text. *capacity* is in events, *capacity_bytes* in bytes."""

    __slots__ = ("_items", "_tokens", "byte_permits", "capacity", "get", "permits", "put")

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self.put = self._items.put
        self.get = self._items.get
        self.capacity = capacity
        # Popped from the end. False is a plain permit, True says: wake the consumer.
        self.permits = [index % WAKE_EVERY == 0 for index in range(capacity, 0, -1)]
        self.byte_permits: list[None] = [None] * max(1, capacity_bytes // CHUNK)
        self._tokens = 0

    def __len__(self) -> int:
        return self.capacity - len(self.permits)

    def reserve_bytes(self, size: int) -> int:
        """Take byte permits for *size* bytes; return how many, or -1 when there are not enough."""
        wanted = size // CHUNK
        permits = self.byte_permits
        taken = 0
        try:
            while taken < wanted:
                permits.pop()
                taken += 1
        except IndexError:
            self.release_bytes(taken)
            return -1
        return wanted

    def release_bytes(self, count: int) -> None:
        """Give *count* byte permits back."""
        if count:
            self.byte_permits.extend([None] * count)

    def release(self, count: int) -> None:
        """Give *count* permits back, one in `WAKE_EVERY` of them marked."""
        tokens = self._tokens
        self.permits.extend([(tokens + index) % WAKE_EVERY == 0 for index in range(count)])
        self._tokens = (tokens + count) % WAKE_EVERY

    def get_nowait(self) -> Any:
        """Return the next item.

        Raises:
            queue.Empty: there is none.
        """
        return self._items.get_nowait()

    def drain(self) -> list[Any]:
        """Remove and return all items that are there now."""
        items = []
        try:
            while True:
                items.append(self._items.get_nowait())
        except Empty:
            return items


def estimate_bytes(value: object) -> int:
    """Estimate the memory that *value* holds, in bytes: strings and buffers by length, the rest by count.

    Bounded: it looks at no more than a few hundred values and extrapolates from there. Never raises.
    """
    declared = getattr(value.__class__, "__event_bytes__", None)
    if declared.__class__ is int:
        return declared
    try:
        size, visits = 0, 0
        stack: list[object] = [value]
        while stack:
            item = stack.pop()
            visits += 1
            if visits > _MAX_VISITS:
                # What was seen so far stands for what is left on the stack.
                return size + (size // visits + 64) * len(stack)
            if isinstance(item, str | bytes | bytearray):
                size += 49 + len(item)
            elif isinstance(item, msgspec.Struct):
                stack.extend(getattr(item, name, None) for name in item.__struct_fields__[:_MAX_VISITS])
            elif isinstance(item, Mapping):
                size += 64
                # What is not the builtin type may be endless.
                stack.extend(item.values() if item.__class__ is dict else islice(item.values(), _MAX_VISITS))
            elif isinstance(item, list | tuple | set | frozenset):
                size += 56 + 8 * len(item)
                stack.extend(item if item.__class__ in _BUILTIN else islice(item, _MAX_VISITS))
            else:
                size += 32
    except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001 - a hostile mapping; its text will be short
        return CHUNK
    return size
