"""Fork while eight threads emit: every child's bus works, keeps the law, and has an identity of its own.

``python -m tests.stress.fork``; ZUPA_STRESS_FORKS children (100), ZUPA_STRESS_THREADS threads (8).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import warnings

import msgspec
from tests.stress.kit import check_ledgers, quick, report, setting

from zupa import ReducerEventBus
from zupa.bus import _process
from zupa.ports import ExportResult

EVENTS = 50


class PipeExporter:
    """Writes a line a batch to `fd`; in the parent, where there is none, it only encodes."""

    fd = -1

    def export(self, batch):
        data = msgspec.json.encode([event.payload.get("child", -1) for event in batch])
        if self.fd >= 0:
            os.write(self.fd, data + b"\n")
        return ExportResult.SUCCESS

    def force_flush(self, timeout_millis=0):
        return True

    def shutdown(self, timeout_millis=0):
        return None


def child(bus, exporter, number, fd, parent_boot_id):
    """What a child does; its last line says how it went."""
    signal.alarm(15)
    exporter.fd = fd
    inherited = bus.statistics()
    check_ledgers(inherited)
    for _ in range(EVENTS):
        bus.emit("child", "said", {"child": number})
    flushed = bus.force_flush(10_000)
    statistics = bus.statistics()
    check_ledgers(statistics)
    discarded = statistics.dropped.get("fork_discarded", 0)
    facts = {
        "flushed": flushed,
        "new_identity": statistics.boot_id != parent_boot_id and statistics.pid == os.getpid(),
        "law": statistics.emitted == EVENTS + discarded and statistics.delivered == EVENTS,
        "seq": statistics.seq == EVENTS,
        "discarded": discarded,
        "shut_down": bus.shutdown(5_000),
    }
    os.write(fd, msgspec.json.encode(facts) + b"\n")


def fork_child(bus, exporter, number):
    """Fork one child; return how it ended, its facts, and how many events it exported."""
    read, write = os.pipe()
    parent_boot_id = bus._boot_id  # not by statistics(): its lock may be what is held
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            child(bus, exporter, number, write, parent_boot_id)
            status = 0
        except BaseException as error:
            sys.stderr.write(f"child {number}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = [msgspec.json.decode(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    facts = lines[-1] if lines and isinstance(lines[-1], dict) else {}
    exported = [value for line in lines if isinstance(line, list) for value in line]
    return os.waitstatus_to_exitcode(status), facts, exported


def locks_of(bus):
    """Every lock that a thread of the parent may hold when it forks."""
    return {
        "bus": bus._lock,
        "ledger": bus._ledger.lock,
        "counter": bus._ledger.drops["queue_full"]._lock,
        "worker": bus._worker._lock,
        "dispatcher": bus._dispatcher._lock,
        "registry": bus._registry._lock,
        "incidents": bus._incidents._lock,
        "exporter": bus._dispatcher.processors[0]._condition,
        "mailbox": next(x for x in bus._dispatcher.subscriptions if hasattr(x, "mailbox")).mailbox._lock,
    }


def held(lock, function):
    """Call *function* while another thread holds *lock*."""
    taken, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(10)
    try:
        return function()
    finally:
        release.set()
        thread.join()


def main():
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
    # Not by faulthandler's thread, which a child would wait for when it sets a timer of its own.
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(setting("ZUPA_STRESS_SECONDS", 100))
    forks, threads = setting("ZUPA_STRESS_FORKS", 100), setting("ZUPA_STRESS_THREADS", 8)
    exporter = PipeExporter()
    bus = ReducerEventBus(quick(max_queue_size=512, linger_millis=0), exporters=[exporter])
    bus.use(lambda event: event)
    bus.subscribe("*", lambda event: None)
    bus.subscribe("*", lambda event: None, max_queue_size=100)
    stop = threading.Event()
    counts = [0] * threads

    def emit(index):
        while not stop.is_set():
            bus.emit("parent", "said", {"text": "x" * 10})
            counts[index] += 1
            if counts[index] % 100 == 0:
                stop.wait(0.001)

    emitters = [threading.Thread(target=emit, args=(index,)) for index in range(threads)]
    for thread in emitters:
        thread.start()
    failures, discarded = [], 0
    for number in range(forks):
        code, facts, exported = fork_child(bus, exporter, number)
        discarded += facts.pop("discarded", 0)
        if code != 0 or not facts or not all(facts.values()) or exported != [number] * EVENTS:
            failures.append((number, code, facts, len(exported)))
    stop.set()
    for thread in emitters:
        thread.join()
    for name, lock in locks_of(bus).items():
        code, facts, exported = held(lock, lambda: fork_child(bus, exporter, 0))
        facts.pop("discarded", 0)
        if code != 0 or not facts or not all(facts.values()) or len(exported) != EVENTS:
            failures.append((name, code, facts, len(exported)))
    flushed = bus.force_flush(20_000)
    bus.shutdown()
    statistics = bus.statistics()
    check_ledgers(statistics)
    report(
        forks=forks,
        failures=failures,
        discarded=discarded,
        flushed=flushed,
        emitted=statistics.emitted,
        calls=sum(counts),
        live=len(_process._live),
    )


if __name__ == "__main__":
    main()
