"""The fail-safe layer between an engine and our hooks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

_logger = logging.getLogger("zupa.instrumentation")

INTERVAL_S: Final = 30.0

R = TypeVar("R")


class HookFailures:
    """Counts what failed in our hooks, by hook, and logs it at most once in 30 s each.

    Concurrency: any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def record(self, hook: str, error: BaseException) -> None:
        """Count one failure of *hook*. Never raises."""
        now = time.monotonic()
        with self._lock:
            self.counts[hook] = self.counts.get(hook, 0) + 1
            if now - self._logged.get(hook, -INTERVAL_S) < INTERVAL_S:
                return
            self._logged[hook] = now
        _logger.warning(
            "instrumentation hook %s failed (%s); the engine is not affected, its telemetry may be incomplete",
            hook,
            type(error).__name__,
            exc_info=error,
        )

    def call(self, hook: Callable[..., R], *args: Any) -> R | None:
        """Call *hook*; a failure is recorded and answered with None."""
        try:
            return hook(*args)
        except Exception as error:  # noqa: BLE001 - that is what this layer is for
            self.record(hook.__name__, error)
            return None
