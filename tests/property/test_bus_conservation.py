"""The conservation law, under schedules of thousands of events, many threads and every fault that user code can make.

Every number is compared with a count from outside of the bus; snapshots are taken all the while by another thread.
"""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stress.kit import Calls, Recorder, check_ledgers, check_monotonic, check_seqs, in_threads, quick

from zupa import Event, ReducerEventBus
from zupa.bus._ingest import MAX_DEPTH
from zupa.ports import ExportResult

FAULTS = frozenset(
    {"filter", "fan_out", "raise", "exit", "fails_closed", "bad_names", "reentrant", "big", "subscriber", "exporter"}
)
MINIMUM = 10_000


@dataclass(frozen=True)
class Schedule:
    """What happens; printed by the failing assertion, so that it can be run again."""

    seed: int
    threads: int = 4
    events: int = 2_600
    max_queue_size: int = 2048
    max_export_batch_size: int = 64
    slice_size: int = 64
    faults: frozenset[str] = FAULTS
    slow_exporter: bool = False
    shutdown_at: int | None = None
    must_drop: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What happened, as counted inside and outside."""

    schedule: Schedule
    calls: int = 0
    snapshots: list = field(default_factory=list)
    final: object = None
    whole: object = None
    flawed: object = None
    some: object = None
    reduced: dict = field(default_factory=lambda: {"filter": 0, "fails_closed": 0})


class FailsClosed:
    fails_closed = True

    def __init__(self, outcome):
        self.outcome = outcome

    def __call__(self, event):
        if event.payload.get("fault") == "fails_closed":
            self.outcome.reduced["fails_closed"] += 1
            raise ValueError("closed")
        return event


def _reducer(outcome, calls):
    def reduce(event):
        fault = event.payload.get("fault")
        if fault == "filter":
            outcome.reduced["filter"] += 1
            return None
        if fault == "fan_out":
            return [event, Event("fanned", "out", {"of": event.seq}), event.replace(name="copy")]
        if fault == "raise":
            raise ValueError("raise")
        if fault == "exit":
            raise SystemExit(1)
        if fault == "reentrant":
            calls.emit("engine", "again", event.payload)
        return event

    return reduce


def _flawed(random_number):
    def result(batch):
        draw = random_number.random()
        if draw < 0.2:
            raise SystemExit(2)
        if draw < 0.4:
            return ExportResult.FAILURE
        if draw < 0.6:
            return ExportResult(rejected=1, error_type="bad_data")
        return "junk" if draw < 0.7 else ExportResult.SUCCESS

    return result


def _emit_all(schedule, outcome, calls, bus, index):
    draws = random.Random(schedule.seed * 100 + index)
    faults = sorted(schedule.faults - {"subscriber", "exporter"})
    for number in range(schedule.events):
        if schedule.shutdown_at is not None and index == 0 and number == schedule.shutdown_at:
            bus.shutdown(20_000)
        fault = draws.choice(faults) if faults and draws.random() < 0.3 else ""
        if fault == "bad_names":
            calls.emit("no good", "x")
        elif fault == "big":
            calls.emit("agent", "said", {"text": "x" * 3_000, "n": number})
        else:
            calls.emit(draws.choice(("engine", "agent")), "x", {"fault": fault, "n": number})


def run(schedule: Schedule) -> Outcome:
    """Play *schedule* on a new bus and return what came of it."""
    outcome = Outcome(schedule)
    slow = threading.Event()
    outcome.whole = Recorder()
    outcome.some = Recorder()
    outcome.flawed = Recorder(_flawed(random.Random(schedule.seed)))
    if schedule.slow_exporter:
        whole = outcome.whole.result
        outcome.whole.result = lambda batch: slow.wait(0.02) or whole(batch)
    config = quick(
        max_queue_size=schedule.max_queue_size,
        max_export_batch_size=min(schedule.max_export_batch_size, schedule.max_queue_size),
        max_queue_bytes=256 * 1024,
        slice_size=schedule.slice_size,
        linger_millis=0.1,
    )
    bus = ReducerEventBus(config)
    calls = Calls(bus)
    bus.add_exporter(outcome.whole, name="whole")
    bus.add_exporter(outcome.some, name="some", pattern="engine:*")
    if "exporter" in schedule.faults:
        bus.add_exporter(outcome.flawed, name="flawed")
    bus.use(FailsClosed(outcome))
    bus.use(_reducer(outcome, calls), name="faults")
    if "subscriber" in schedule.faults:

        def broken(event):
            if event.seq % 3 == 0:
                raise SystemExit(event.seq)

        bus.subscribe("*", broken)
        bus.subscribe("engine:*", lambda event: None, max_queue_size=32)
    stop = threading.Event()

    def poll():
        while not stop.is_set():
            outcome.snapshots.append(bus.statistics())
            stop.wait(0.0005)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        in_threads(schedule.threads, lambda index: _emit_all(schedule, outcome, calls, bus, index))
        for _ in range(MAX_DEPTH + 2):  # as deep as events that events cause may go
            bus.force_flush(20_000)
        bus.shutdown(20_000)
    finally:
        stop.set()
        poller.join(20)
    outcome.calls = calls.total
    outcome.final = bus.statistics()
    outcome.snapshots.append(outcome.final)
    return outcome


def check(outcome: Outcome) -> None:
    """The law, and all that follows from it."""
    final, schedule = outcome.final, outcome.schedule
    for snapshot in outcome.snapshots:
        check_ledgers(snapshot)
        assert snapshot.emitted <= outcome.calls, (schedule, snapshot)
    for before, after in itertools.pairwise(outcome.snapshots):
        check_monotonic(before, after)
    assert final.emitted == outcome.calls, (schedule, outcome.calls, final)
    assert (final.queued, final.in_flight) == (0, 0), (schedule, final)
    assert final.filtered == outcome.reduced["filter"], (schedule, outcome.reduced, final)
    assert final.dropped.get("reducer_error", 0) == outcome.reduced["fails_closed"], (schedule, outcome.reduced, final)
    assert final.dropped.get("internal_error", 0) == 0, (schedule, final)
    for reason in schedule.must_drop:
        assert final.dropped.get(reason, 0) > 0, (schedule, "no drop of this kind came about", reason, final)
    _check_exporters(outcome)


def _check_exporters(outcome: Outcome) -> None:
    final, schedule = outcome.final, outcome.schedule
    passed = final.delivered + final.fanned_out
    whole = final.exported["whole"]
    assert whole.dropped or not schedule.slow_exporter, (schedule, "the slow exporter kept up", final)
    # The bus may give up, at a shutdown, on events that it had offered to its exporters already, and to some only.
    given_up = final.dropped.get("shutdown_timeout", 0) + final.dropped.get("already_shutdown", 0)
    slack = range(1 if schedule.shutdown_at is None else 3 * given_up + 1)
    assert whole.offered - passed in slack, (schedule, final)
    assert whole.exported == len(outcome.whole.events), (schedule, final)
    assert whole.offered == len(outcome.whole.events) + sum(whole.dropped.values()), (schedule, final)
    if "flawed" in final.exported:
        flawed = final.exported["flawed"]
        assert flawed.offered - passed in slack, (schedule, final)
        assert flawed.exported + flawed.failed + flawed.rejected == len(outcome.flawed.events), (schedule, final)
    for recorder in (outcome.whole, outcome.some, outcome.flawed):
        assert recorder.concurrent == 0
        assert max(recorder.batches, default=0) <= schedule.max_export_batch_size
        check_seqs(recorder.events)
    if not whole.dropped and final.delivered:
        expected = {event.seq for event in outcome.whole.events if event.channel == "engine"}
        assert {event.seq for event in outcome.some.events} == expected, schedule


SCHEDULES = [
    Schedule(1),
    Schedule(2, threads=8, events=1_300, max_queue_size=16, slice_size=1, must_drop=frozenset({"queue_full"})),
    Schedule(3, threads=1, events=10_500, must_drop=frozenset({"invalid_event", "reducer_error"})),
    Schedule(4, slow_exporter=True, max_queue_size=256, max_export_batch_size=8, faults=FAULTS - {"filter"}),
    Schedule(5, threads=3, events=3_600, shutdown_at=1_200, must_drop=frozenset({"already_shutdown"})),
    Schedule(6, faults=frozenset({"reentrant"}), max_queue_size=20_000, must_drop=frozenset({"reentrant"})),
    Schedule(7, threads=8, events=1_300, faults=frozenset({"big"}), must_drop=frozenset({"bytes_full"})),
    Schedule(8, faults=frozenset(), max_queue_size=20_000),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: f"seed{schedule.seed}")
def test_the_law_holds(schedule):
    """Kills: a drop that is not counted, an event that a raising reducer loses, in_flight that does not come back."""
    outcome = run(schedule)
    assert outcome.calls >= MINIMUM
    check(outcome)


def test_without_faults_nothing_is_lost():
    outcome = run(Schedule(9, faults=frozenset(), max_queue_size=20_000, max_export_batch_size=512))
    check(outcome)
    assert outcome.final.dropped == {}
    assert len(outcome.whole.events) == outcome.calls == outcome.final.seq
    assert [event.seq for event in outcome.whole.events] == list(range(1, outcome.calls + 1))


schedules = st.builds(
    Schedule,
    seed=st.integers(0, 10_000),
    threads=st.just(5),
    events=st.just(2_050),
    max_queue_size=st.sampled_from([1, 64, 2048, 20_000]),
    max_export_batch_size=st.sampled_from([1, 7, 512]),
    slice_size=st.sampled_from([1, 16, 128]),
    faults=st.frozensets(st.sampled_from(sorted(FAULTS))),
    shutdown_at=st.none() | st.integers(0, 2_000),
).filter(lambda schedule: schedule.max_export_batch_size <= schedule.max_queue_size)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(schedules)
def test_the_law_holds_for_any_schedule(schedule):
    outcome = run(schedule)
    assert outcome.calls >= MINIMUM
    check(outcome)
