"""What the tests and stress scripts of the bus share: recording exporters, a clock, a ledger to compare with."""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from zupa import BusConfig
from zupa.ports import ExportResult
from zupa.statistics import BusStatistics

TIMEOUT = 20.0
"""Seconds after which a condition that should come true is given up on."""


def quick(**changes) -> BusConfig:
    """A configuration without waits that would make a test slow."""
    settings = {"schedule_delay_millis": 5, "linger_millis": 1, "shutdown_timeout_millis": 10_000} | changes
    if "max_queue_size" in settings:
        settings.setdefault("max_export_batch_size", min(512, settings["max_queue_size"]))
    return BusConfig(**settings)


class FakeClock:
    """Time that stands still until it is set."""

    def __init__(self, now=1_000, monotonic=0):
        self.now = now
        self.monotonic = monotonic

    def time_ns(self):
        return self.now

    def monotonic_ns(self):
        return self.monotonic


class Recorder:
    """An exporter that encodes what it gets and keeps it; `gate` holds every export until it is set.

    `result` says what `export` returns, or raises, for a batch.
    """

    def __init__(self, result: Callable[[list], object] = lambda batch: ExportResult.SUCCESS, gate=None):
        self.result = result
        self.gate = gate
        self.arrived = threading.Condition()
        self.entered = threading.Event()
        self.events = []
        self.batches = []
        self.concurrent = 0
        self.shutdowns = 0
        self.flush_timeouts = []
        self._busy = threading.Lock()

    def export(self, batch):
        if not self._busy.acquire(blocking=False):
            self.concurrent += 1
            return ExportResult.FAILURE
        try:
            self.entered.set()
            if self.gate is not None:
                self.gate.wait()
            msgspec.msgpack.encode(batch)
            with self.arrived:
                self.events.extend(batch)
                self.batches.append(len(batch))
                self.arrived.notify_all()
            return self.result(batch)
        finally:
            self._busy.release()

    def force_flush(self, timeout_millis=30_000):
        self.flush_timeouts.append(timeout_millis)
        return True

    def shutdown(self, timeout_millis=30_000):
        self.shutdowns += 1

    def wait_for(self, count):
        """Return the events once there are *count*."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.events) >= count, TIMEOUT), f"{len(self.events)}/{count}"
            return list(self.events)


class Calls:
    """Counts the calls of emit, from outside and from any thread."""

    def __init__(self, bus):
        self._bus = bus
        self._next = itertools.count().__next__

    def emit(self, *args, **kwargs):
        self._next()
        self._bus.emit(*args, **kwargs)

    @property
    def total(self):
        """The number of calls so far; read it once, at the end."""
        return self._next()


class Gate:
    """A reducer that holds the worker: `held` is set once it is there, `open` lets it go."""

    def __init__(self):
        self.held = threading.Event()
        self._open = threading.Event()

    def __call__(self, event):
        self.held.set()
        assert self._open.wait(TIMEOUT), "nobody opened the gate"
        return event

    def open(self):
        self._open.set()


def in_threads(count, function):
    """Run ``function(index)`` on *count* threads that start together; raise what one of them raised."""
    barrier = threading.Barrier(count)
    errors = []

    def run(index):
        try:
            barrier.wait(TIMEOUT)
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def wait_until(condition, what="condition"):
    """Poll *condition*, for states that nobody announces."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT * 500)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError(f"{what}: not within {TIMEOUT:g} s")


def check_ledgers(statistics: BusStatistics) -> None:
    """The laws of one snapshot, of the bus and of each exporter."""
    assert statistics.imbalance == 0, statistics
    assert 0 <= statistics.queued <= statistics.queue_capacity, statistics
    assert statistics.in_flight >= 0, statistics
    assert statistics.high_watermark <= statistics.queue_capacity, statistics
    for name, ledger in statistics.exported.items():
        explained = ledger.exported + ledger.failed + ledger.rejected + sum(ledger.dropped.values())
        explained += ledger.queued + ledger.in_flight
        assert ledger.offered == explained, (name, ledger)


def check_monotonic(before: BusStatistics, after: BusStatistics) -> None:
    """What only counts up has not gone down."""
    for field in ("emitted", "delivered", "filtered", "fanned_out", "degraded", "seq", "high_watermark"):
        assert getattr(after, field) >= getattr(before, field), (field, before, after)
    for reason, count in before.dropped.items():
        assert after.dropped.get(reason, 0) >= count, (reason, before, after)
    for name, ledger in before.exported.items():
        for field in ("offered", "exported", "failed", "rejected", "batches"):
            assert getattr(after.exported[name], field) >= getattr(ledger, field), (name, field)


def check_seqs(events) -> None:
    """Sequence numbers strictly increase, time never goes back."""
    for earlier, later in itertools.pairwise(events):
        assert later.seq > earlier.seq, (earlier, later)
        assert later.timestamp >= earlier.timestamp, (earlier, later)


def watchdog(seconds: float) -> None:
    """End this process with all stacks on stderr when it has not ended after *seconds*."""
    faulthandler.dump_traceback_later(seconds, exit=True)


def setting(name: str, default: int) -> int:
    """A number from the environment, for longer runs."""
    return int(os.environ.get(name, default))


def report(**facts) -> None:
    """Print what a stress script found, for the test that runs it."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def emit(bus, count, topic="a:b"):
    """Emit *count* events."""
    for index in range(count):
        bus.emit(topic, {"index": index})


def hanging():
    """Return an exporter whose gate nobody opens."""
    return Recorder(gate=threading.Event())


def ledger(bus, name="Recorder"):
    """Check all ledgers; return that of one exporter."""
    statistics = bus.statistics()
    check_ledgers(statistics)
    return statistics.exported[name]


def elapsed(function):
    """Return what *function* returns, and the seconds it took."""
    started = time.monotonic()
    result = function()
    return result, time.monotonic() - started
