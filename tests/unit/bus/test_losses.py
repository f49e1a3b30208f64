"""What is logged about losses and repeated failures: when, how often, and never by whoever emits."""

from __future__ import annotations

import logging
import threading

import pytest
from tests.stress.kit import FakeClock, Gate, wait_until

from zupa.bus._incidents import INTERVAL_NS, IncidentLog


class Lines(logging.Handler):
    """Keeps lines, with the threads that logged them."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.threads = []

    def emit(self, record):
        self.lines.append(record.getMessage())
        self.threads.append(threading.current_thread().name)


@pytest.fixture
def lines():
    logger, handler = logging.getLogger("zupa.bus"), Lines()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def clock():
    return FakeClock(monotonic=INTERVAL_NS)


@pytest.fixture
def incidents(clock):
    return IncidentLog(clock.monotonic_ns)


def test_an_incident_is_logged_at_most_every_30_seconds(incidents, clock, lines):
    for _ in range(5):
        incidents.report("key", "it happened to %s", "x")
    assert lines.lines == ["it happened to x"]
    clock.monotonic += INTERVAL_NS - 1
    incidents.report("key", "it happened to %s", "x")
    assert len(lines.lines) == 1
    clock.monotonic += 1
    incidents.report("key", "it happened to %s", "x")
    assert "5 more like this" in lines.lines[1]
    incidents.report("other", "else")
    assert lines.lines[2] == "else"


def test_incidents_show_hostile_errors(incidents, lines):
    class LoudError(Exception):
        def __str__(self):
            raise ValueError

    incidents.report("key", "%s", LoudError())
    assert "unprintable" in lines.lines[0]


def test_incidents_of_ever_new_keys_do_not_fill_the_memory(incidents, lines):
    for index in range(3_000):
        incidents.report(f"key {index}", "x")
    assert len(incidents._last) <= 1024


def test_a_loss_is_logged_when_it_starts_goes_on_and_ends(incidents, clock, lines):
    def report(count, **options):
        incidents.report_losses({"queue_full": count} if count else {}, **options)
        logged, lines.lines = lines.lines, []
        return logged

    assert report(0) == []
    assert "3 events were lost so far (queue_full=3)" in report(3)[0]
    assert report(5) == []
    clock.monotonic += INTERVAL_NS
    assert "9 events were lost so far" in report(9)[0]
    assert report(9) == []
    clock.monotonic += INTERVAL_NS
    assert "9 events were lost; the loss has ended" in report(9)[0]
    clock.monotonic += INTERVAL_NS
    assert report(9) == []
    assert "10 events were lost so far" in report(10)[0]
    assert "10 events were lost until shutdown" in report(10, final=True)[0]


def test_what_a_fork_leaves_to_its_parent_is_no_loss(incidents, lines):
    incidents.report_losses({"fork_discarded": 3}, final=True)
    assert lines.lines == []
    incidents.report_losses({"fork_discarded": 3, "queue_full": 1}, final=True)
    assert "1 events were lost until shutdown (queue_full=1)" in lines.lines[0]


def test_nothing_is_said_at_shutdown_where_nothing_was_lost(make_bus, lines):
    bus = make_bus()
    bus.emit("a", "b")
    bus.shutdown()
    assert lines.lines == []


def test_the_bus_reports_its_losses_but_never_on_the_emitting_thread(make_bus, lines):
    gate = Gate()
    bus = make_bus(max_queue_size=10)
    bus.use(gate)
    bus.emit("a", "b")
    assert gate.held.wait(10)
    for _ in range(2_000):
        bus.emit("a", "b")
    assert lines.lines == []
    gate.open()
    assert bus.force_flush(10_000)
    wait_until(lambda: lines.lines)
    assert "1990 events were lost so far (queue_full=1990)" in lines.lines[0]
    assert set(lines.threads) == {"zupa-bus"}
    bus.shutdown()
    assert "1990 events were lost until shutdown" in lines.lines[-1]
    assert len(lines.lines) == 2
    bus.emit("a", "b")
    assert len(lines.lines) == 2


def test_a_worker_that_never_idles_reports_all_the_same(make_bus, lines):
    """Kills: losses that are only looked at when the queue is empty, which it is not while they happen."""
    bus = make_bus(max_queue_size=20, slice_size=1, linger_millis=0)
    fed = 0

    def said():
        return any("lost so far" in line for line in lines.lines)

    def feeds(event):
        # Another thread fills the queue before each event is done, so the worker never finds it empty.
        nonlocal fed
        if fed < 1_000 and not said():
            fed += 1
            thread = threading.Thread(target=lambda: [bus.emit("a", "b") for _ in range(25)])
            thread.start()
            thread.join()

    bus.subscribe("*", feeds)
    bus.emit("a", "b")
    wait_until(lambda: said() or fed == 1_000)
    assert said()
    assert fed < 1_000
    assert set(lines.threads) == {"zupa-bus"}
