"""`FlushRequest`: one deadline, many parties, one answer."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FlushRequest:
    """Travels through the ingest queue behind all events that it covers, then to every exporter and subscriber.

    It is complete when each party that was added has called `done`. The worker is the first party, so that a request
    cannot complete before it has been handed on.

    Args:
        deadline_ns: Monotonic time by which the answer is wanted; parties may give up after it.
        closing: The parties are to shut down after they have flushed.
        blocked_loop: The event loop that waits for the answer without yielding, or None: what runs on it cannot answer.

    Concurrency: any thread.
    """

    def __init__(self, deadline_ns: int, *, closing: bool = False, blocked_loop: object = None) -> None:
        self.deadline_ns = deadline_ns
        self.closing = closing
        self.blocked_loop = blocked_loop
        self._lock = threading.Lock()
        self._completed = threading.Event()
        self._parties = 1
        self._callbacks: list[Callable[[], None]] = []
        self.ok: bool = True

    def add_party(self) -> None:
        """Wait for one more call of `done`."""
        with self._lock:
            self._parties += 1

    def done(self, ok: bool = True) -> None:
        """One party has finished; *ok* is False when it could not flush all."""
        with self._lock:
            self._parties -= 1
            self.ok = self.ok and ok
            if self._parties > 0:
                return
            callbacks, self._callbacks = self._callbacks, []
        self._completed.set()
        for callback in callbacks:
            callback()

    def on_completion(self, callback: Callable[[], None]) -> None:
        """Call *callback* once, on whatever thread completes the request, or now if it is complete."""
        with self._lock:
            if self._parties > 0:
                self._callbacks.append(callback)
                return
        callback()

    @property
    def completed(self) -> bool:
        """Whether every party has finished."""
        return self._completed.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Block for at most *timeout_s*; return whether all parties finished, and all of them well."""
        return self._completed.wait(max(0.0, timeout_s)) and self.ok
