"""What the process does to every live bus: fork, and exit."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import time
import weakref
from typing import Protocol

from zupa.bus._flush import FlushRequest


class ProcessAware(Protocol):
    """A bus, as far as fork and exit are concerned."""

    exit_timeout_millis: float

    def reset_after_fork(self) -> None: ...

    def begin_shutdown(self, timeout_millis: float) -> FlushRequest | None: ...

    def finish_shutdown(self, request: FlushRequest, timeout_millis: float) -> bool: ...


_live: weakref.WeakSet[ProcessAware] = weakref.WeakSet()
_used: set[ProcessAware] = set()  # alive until they are shut down, whether or not the application still holds them
_exit_hook_pid = 0


def track(bus: ProcessAware) -> None:
    """Reset *bus* in forked children from now on."""
    _live.add(bus)


def untrack(bus: ProcessAware) -> None:
    """Leave *bus* alone at exit: it is shut down."""
    _live.discard(bus)
    _used.discard(bus)


def flush_at_exit(bus: ProcessAware) -> None:
    """Shut down *bus*, and all other live ones, when this process ends, also where it ends without `atexit`.

    Children of `multiprocessing` leave by `os._exit`, but run multiprocessing's own finalizers first; those are wiped
    when the child starts, so it has to be asked in the child, at the first event.
    """
    global _exit_hook_pid  # noqa: PLW0603 - one hook a process
    _used.add(bus)
    pid = os.getpid()
    if _exit_hook_pid == pid:
        return
    if _exit_hook_pid == 0:
        atexit.register(shutdown_all)
    _exit_hook_pid = pid
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, shutdown_all, exitpriority=10)


def shutdown_all() -> None:
    """Shut down every live bus; all of them together within the longest of their deadlines."""
    buses = list(_live)
    if not buses:
        return
    # All at once, not one after another: a bus whose exporter hangs must not use up the time of those behind it.
    started = time.monotonic()
    requests = [(bus, bus.begin_shutdown(bus.exit_timeout_millis)) for bus in buses]
    for bus, request in requests:
        if request is not None:
            left_millis = bus.exit_timeout_millis - (time.monotonic() - started) * 1e3
            bus.finish_shutdown(request, max(1.0, left_millis))


def _after_fork_in_child() -> None:
    for bus in list(_live):
        bus.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
