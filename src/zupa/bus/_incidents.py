"""Incidents: failures that repeat are logged at most once in 30 s, with how often they happened since."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from zupa.normalize import safe_str

logger = logging.getLogger("zupa.bus")

INTERVAL_NS: Final = 30 * 1_000_000_000
_MAX_KEYS: Final = 1024


class IncidentLog:
    """Logs the first incident of each key at once, later ones at most every 30 s.

    Never called on an emitting thread: drops are only counted there, and reported by the worker.

    Args:
        monotonic_ns: The clock.
    """

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._lock = threading.RLock()
        self._last: dict[str, tuple[int, int]] = {}
        self._loss: dict[str, int] = {}
        self._loss_reported_ns = 0
        self._loss_seen_ns = 0
        self._losing = False
        self.silenced = False

    def reset_after_fork(self) -> None:
        """Forget everything: another thread of the parent may have held the lock."""
        self._lock = threading.RLock()
        self._last, self._loss, self._losing, self.silenced = {}, {}, False, False

    def report(self, key: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log *message* at WARNING, unless *key* was logged in the last 30 s; then only count it."""
        now = self._monotonic_ns()
        with self._lock:
            last, suppressed = self._last.get(key, (None, 0))
            if last is not None and now - last < INTERVAL_NS:
                self._last[key] = (last, suppressed + 1)
                return
            if len(self._last) >= _MAX_KEYS:
                self._last.clear()
            self._last[key] = (now, 0)
        if self.silenced:
            return
        args = tuple(f"{type(x).__name__}: {safe_str(x, 500)}" if isinstance(x, BaseException) else x for x in args)
        if suppressed:
            message = f"{message} ({suppressed} more like this since it was last reported)"
        logger.warning(message, *args, exc_info=error)

    def report_losses(self, dropped: dict[str, int], *, final: bool = False) -> None:
        """Compare *dropped* with the last call and log when a loss starts, goes on for 30 s, ends, or at shutdown."""
        now = self._monotonic_ns()
        dropped = {
            reason: count for reason, count in dropped.items() if reason != "fork_discarded"
        }  # the parent has them
        with self._lock:
            news = dropped != self._loss and sum(dropped.values()) > sum(self._loss.values())
            if news:
                self._loss_seen_ns = now
            starts = news and not self._losing
            goes_on = news and self._losing and now - self._loss_reported_ns >= INTERVAL_NS
            ends = self._losing and not news and now - self._loss_seen_ns >= INTERVAL_NS
            self._loss = dropped
            if not (starts or goes_on or ends or (final and dropped)):
                return
            self._losing = not ends
            self._loss_reported_ns = now
        if self.silenced and not final:
            return
        if final:
            state = "were lost until shutdown"
        elif ends:
            state = "were lost; the loss has ended"
        else:
            state = "were lost so far"
        detail = ", ".join(f"{reason}={count}" for reason, count in sorted(dropped.items()))
        logger.warning(
            "%d events %s (%s). bus.statistics() has the exact counts; against queue_full raise max_queue_size",
            sum(dropped.values()),
            state,
            detail,
        )
