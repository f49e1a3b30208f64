"""How processes end: by themselves, with a hanging exporter, from atexit, as children of multiprocessing.

``python -m tests.stress.exits SCENARIO FILE``: the exporter appends the events' names to FILE.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from pathlib import Path

from tests.stress.kit import watchdog

from zupa import BusConfig, ReducerEventBus
from zupa.ports import ExportResult


class FileExporter:
    """Appends a line an event; hangs for ever where it is told to."""

    def __init__(self, path, hangs=False):
        self.path = path
        self.hangs = hangs

    def export(self, batch):
        if self.hangs:
            threading.Event().wait()
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.writelines(f"{event.name}\n" for event in batch)
        return ExportResult.SUCCESS

    def force_flush(self, timeout_millis=0):
        return True

    def shutdown(self, timeout_millis=0):
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write("shutdown\n")


def make(path, hangs=False):
    config = BusConfig(schedule_delay_millis=60_000, linger_millis=1_000, shutdown_timeout_millis=1_000)
    return ReducerEventBus(config, exporters=[FileExporter(path, hangs)])


def emit(bus, count=1_000):
    for index in range(count):
        bus.emit("a", f"event_{index}")


def plain(path):
    emit(make(path))


def hanging(path):
    bus = make(path, hangs=True)
    emit(bus)
    sys.exit(7)


def raising(path):
    emit(make(path))
    raise SystemExit(5)


def late(path):
    """An atexit handler registered before the bus's runs after it: its event is counted, not exported."""
    bus = make(path)

    def after():
        bus.emit("a", "too_late")
        statistics = bus.statistics()
        assert statistics.dropped == {"already_shutdown": 1}, statistics
        assert statistics.imbalance == 0
        print("counted")

    atexit.register(after)
    emit(bus)


def early(path):
    """An atexit handler registered after the first event runs before the bus's: its event is exported."""
    bus = make(path)
    emit(bus)
    atexit.register(bus.emit, "a", "early")


def first_in_atexit(path):
    """The very first event comes while the process exits, when newer Pythons start no threads any more."""
    bus = make(path)

    def use():
        emit(bus, 5)
        print("flushed" if bus.force_flush(5_000) else "not flushed")
        bus.shutdown()

    atexit.register(use)


def gone(path):
    """`os._exit` runs nothing: what waits is lost, as documented."""
    emit(make(path), 3)
    os._exit(0)


IN_CHILD = []


def _inherited():
    emit(IN_CHILD[0], 3)


def _own(path):
    IN_CHILD.append(make(path))
    emit(IN_CHILD[0], 3)


def multiprocessing_fork(path):
    IN_CHILD.append(make(path))
    IN_CHILD[0].emit("a", "parent")
    process = multiprocessing.get_context("fork").Process(target=_inherited)
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode


def multiprocessing_spawn(path):
    process = multiprocessing.get_context("spawn").Process(target=_own, args=(path,))
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode


def several(path):
    """Two hanging buses share one deadline."""
    buses = [make(path, hangs=True) for _ in range(3)]
    for bus in buses:
        emit(bus, 3)
    make(path).emit("a", "healthy")


if __name__ == "__main__":
    watchdog(30)
    globals()[sys.argv[1]](sys.argv[2])
