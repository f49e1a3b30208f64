"""The ledger: what became of every emitted event.

Guarantees:
    - Numbers move only under `lock`, except drops, which any thread may count at any point, re-entrantly and without
      a lock (`AtomicCounter`).
    - `emitted` is not counted but derived: queued + in flight + done + dropped. An outside count of the calls is what
      the property tests compare it with.
"""

from __future__ import annotations

import itertools
import threading
from typing import Final

REASONS: Final = (
    "queue_full",
    "bytes_full",
    "already_shutdown",
    "invalid_event",
    "reducer_error",
    "reentrant",
    "internal_error",
    "fork_discarded",
    "shutdown_timeout",
)


class AtomicCounter:
    """A counter whose `increment` is a single C call: lock-free, exact under threads, safe in signal handlers.

    `itertools.count` can only be read by advancing it, so each read is remembered and subtracted.
    """

    __slots__ = ("_lock", "_reads", "increment")

    def __init__(self) -> None:
        self.increment = itertools.count().__next__
        self._reads = 0
        self._lock = threading.RLock()

    @property
    def value(self) -> int:
        """How often `increment` was called."""
        with self._lock:
            value = self.increment() - self._reads
            self._reads += 1
        return value


class Ledger:
    """Counters of one bus and one boot id. Mutable; written by the worker under `lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.delivered = 0
        self.filtered = 0
        self.fanned_out = 0
        self.in_flight = 0
        self.degraded = 0
        self.seq = 0
        self.high_watermark = 0
        self.drops = {reason: AtomicCounter() for reason in REASONS}
        self._bulk_drops = dict.fromkeys(REASONS, 0)

    def drop(self, reason: str) -> None:
        """Count one dropped event. Any thread, re-entrant."""
        self.drops[reason].increment()

    def drop_many(self, reason: str, count: int) -> None:
        """Count *count* dropped events. Under `lock`."""
        self._bulk_drops[reason] += count

    def dropped(self) -> dict[str, int]:
        """Return the reasons with at least one drop. Under `lock`."""
        totals = {reason: self._bulk_drops[reason] + self.drops[reason].value for reason in REASONS}
        return {reason: total for reason, total in totals.items() if total}
