"""The process's default bus: a slot that the wiring fills and a test can borrow.

It lives in layer 0 because whoever borrows it (`zupa.testing`) and whoever fills it (`zupa._wiring`) are of one layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from zupa.ports import EventBus

_lock = threading.RLock()
_bus: EventBus | None = None


def default_bus() -> EventBus | None:
    """Return the default bus, or None where nobody has made one. Any thread."""
    return _bus


def replace_default_bus(bus: EventBus | None) -> EventBus | None:
    """Make *bus* the default and return what it was before. Any thread."""
    global _bus
    with _lock:
        previous, _bus = _bus, bus
    return previous


def default_bus_or(make: Callable[[], EventBus]) -> EventBus:
    """Return the default bus; where there is none, the one that *make* returns becomes it. Any thread."""
    global _bus  # noqa: PLW0603
    with _lock:
        if _bus is None:
            _bus = make()
        return _bus
