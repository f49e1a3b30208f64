"""The properties can fail: each is run against a bus with one planted bug, and must find it."""

from __future__ import annotations

import pytest
from tests.property import test_bus_conservation as conservation
from tests.property import test_bus_pipeline as pipeline
from tests.property import test_patterns as patterns

from zupa.bus import _patterns, _reducers, _stage
from zupa.bus._assemble import Assembler
from zupa.bus._batch import BatchProcessor
from zupa.bus._bus import ReducerEventBus
from zupa.bus._ledger import Ledger
from zupa.bus._queue import IngestQueue
from zupa.bus._stage import ExecutionStage
from zupa.bus._worker import Worker

FULL = conservation.Schedule(2, threads=8, events=1_300, max_queue_size=16, slice_size=1)
MIXED = conservation.Schedule(1)
CALM = conservation.Schedule(8, faults=frozenset(), max_queue_size=20_000)
LATE = conservation.Schedule(5, threads=3, events=3_600, shutdown_at=1_200)
SLOW = conservation.Schedule(4, slow_exporter=True, max_queue_size=256, max_export_batch_size=8, faults=frozenset())
BIG = conservation.Schedule(7, threads=8, events=1_300, faults=frozenset({"big"}))


def uncounted_queue_full(patch):
    original = Ledger.dropped
    patch.setattr(Ledger, "dropped", lambda self: {k: v for k, v in original(self).items() if k != "queue_full"})


def uncounted_drops(patch):
    patch.setattr(Ledger, "drop", lambda self, reason: None)


def refused_events_keep_their_permit(patch):
    patch.setattr(ReducerEventBus, "_return_permit", lambda self, reason: self._ledger.drop(reason))


def in_flight_is_not_restored(patch):
    original = Worker._finish

    def finish(self, work):
        original(self, work)
        if work.dropped:
            self._ledger.in_flight += 1

    patch.setattr(Worker, "_finish", finish)


def permits_are_not_returned(patch):
    original = IngestQueue.release
    patch.setattr(IngestQueue, "release", lambda self, count: original(self, max(0, count - 1)))


def events_are_offered_twice(patch):
    original = BatchProcessor.offer

    def offer(self, events, charges):
        original(self, events, charges)
        original(self, events[:1], charges[:1])

    patch.setattr(BatchProcessor, "offer", offer)


def an_exporter_loses_what_it_takes(patch):
    original = BatchProcessor._take
    patch.setattr(BatchProcessor, "_take", lambda self: original(self)[:-1])


def a_full_exporter_does_not_count(patch):
    original = BatchProcessor._drop
    patch.setattr(BatchProcessor, "_drop", lambda self, reason, count: original(self, reason, 0))


def a_failed_export_is_not_counted(patch):
    patch.setattr(BatchProcessor, "_fail", lambda self, count, reason: None)


def filtered_counts_as_delivered(patch):
    original = Worker._finish

    def finish(self, work):
        work.delivered, work.filtered = work.delivered + work.filtered, 0
        original(self, work)

    patch.setattr(Worker, "_finish", finish)


def a_raising_reducer_loses_the_event(patch):
    original = _reducers.apply

    def apply(event, registrations, on_error, start=0):
        failed = []

        def note(registration, error):
            failed.append(error)
            on_error(registration, error)

        events, closed = original(event, registrations, note, start)
        return ([] if failed else events), closed

    patch.setattr(_stage, "apply", apply)


def a_raising_reducer_ends_the_worker_s_slice(patch):
    def reduce(self, work, item, stamp, reducers, generation):
        if (
            any(registration.name == "faults" for registration in reducers)
            and item[4]
            and item[4].get("fault") == "raise"
        ):
            raise ValueError
        original(self, work, item, stamp, reducers, generation)

    original = ExecutionStage._reduce
    patch.setattr(ExecutionStage, "_reduce", reduce)


def fan_out_shares_one_seq(patch):
    original = Assembler.adopt
    patch.setattr(Assembler, "adopt", lambda self, output, source, seq: original(self, output, source, source.seq))


def fan_out_skips_a_seq(patch):
    original = Assembler.adopt

    def adopt(self, output, source, seq):
        return original(self, output, source, seq if seq == source.seq else seq + 1)

    patch.setattr(Assembler, "adopt", adopt)


def time_follows_the_wall_clock(patch):
    original = ExecutionStage.process

    def process(self, work, generation):
        self._timestamp = 0
        original(self, work, generation)

    patch.setattr(ExecutionStage, "process", process)


def fails_closed_fails_open(patch):
    original = _reducers.Registration.__init__

    def init(self, *args):
        original(self, *args)
        self.fails_closed = False

    patch.setattr(_reducers.Registration, "__init__", init)


def scopes_see_the_old_topic(patch):
    original = _reducers.apply

    def apply(event, registrations, on_error, start=0):
        kept = tuple(x for x in registrations[start:] if x.matches is None or x.matches(event.topic))
        for registration in kept:
            registration.matches = None
        return original(event, kept, on_error)

    patch.setattr(_stage, "apply", apply)


def reducers_run_backwards(patch):
    original = _reducers.apply
    patch.setattr(
        _stage, "apply", lambda event, registrations, on_error: original(event, registrations[::-1], on_error)
    )


def fan_out_starts_over(patch):
    original = _reducers._fan_out
    patch.setattr(
        _reducers,
        "_fan_out",
        lambda items, registrations, on_error, start: original(items[:1], registrations, on_error, start),
    )


def star_stops_at_colons(patch):
    def compile_match(text):
        expression = _patterns.re.compile(_patterns.re.escape(text).replace(r"\*", "[^:]*") + r"\Z")
        return lambda topic: expression.match(topic) is not None

    patch.setattr(_patterns, "compile_match", compile_match)


def dots_are_wild(patch):
    def compile_match(text):
        expression = _patterns.re.compile(text.replace("*", ".*") + r"\Z")
        return lambda topic: expression.match(topic) is not None

    patch.setattr(_patterns, "compile_match", compile_match)


def patterns_match_anywhere(patch):
    original = _patterns.compile_match
    patch.setattr(_patterns, "compile_match", lambda text: original(text + "*"))


@pytest.mark.parametrize(
    ("plant", "schedule"),
    [
        (uncounted_queue_full, FULL),
        (uncounted_drops, BIG),
        (uncounted_drops, LATE),
        (refused_events_keep_their_permit, BIG),
        (in_flight_is_not_restored, MIXED),
        (permits_are_not_returned, CALM),
        (events_are_offered_twice, CALM),
        (an_exporter_loses_what_it_takes, CALM),
        (a_full_exporter_does_not_count, SLOW),
        (a_failed_export_is_not_counted, MIXED),
        (filtered_counts_as_delivered, MIXED),
        (a_raising_reducer_loses_the_event, MIXED),
        (a_raising_reducer_ends_the_worker_s_slice, MIXED),
        (fan_out_shares_one_seq, MIXED),
        (fails_closed_fails_open, MIXED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_conservation_finds(monkeypatch, plant, schedule):
    plant(monkeypatch)
    outcome = conservation.run(schedule)
    with pytest.raises(AssertionError):
        conservation.check(outcome)


STEPS = [
    pipeline.Step("mark", None),
    pipeline.Step("rename", "a:*"),
    pipeline.Step("split", "new:*"),
    pipeline.Step("mark", "a:*"),
]
BROKEN = [pipeline.Step("mark", None), pipeline.Step("raise", "a:*"), pipeline.Step("closed", "b:*")]


@pytest.mark.parametrize(
    ("plant", "steps"),
    [
        (a_raising_reducer_loses_the_event, BROKEN),
        (fails_closed_fails_open, BROKEN),
        (fan_out_shares_one_seq, STEPS),
        (fan_out_skips_a_seq, STEPS),
        (time_follows_the_wall_clock, STEPS),
        (scopes_see_the_old_topic, STEPS),
        (reducers_run_backwards, STEPS),
        (fan_out_starts_over, STEPS),
        (events_are_offered_twice, STEPS),
        (star_stops_at_colons, STEPS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_pipeline_s_property_finds(monkeypatch, plant, steps):
    topics, times = ["a:x", "b:x", "a:y:z"] * 5, [500, 900, 3] * 5
    pipeline.check_pipeline(steps, topics, times, paced=True)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        pipeline.check_pipeline(steps, topics, times, paced=True)


@pytest.mark.parametrize(
    ("plant", "pattern", "topic"),
    [
        (star_stops_at_colons, "agent:*", "agent:log:info"),
        (dots_are_wild, "a.b:*", "axb:c"),
        (patterns_match_anywhere, "a:b", "a:bc"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_pattern_property_finds(monkeypatch, plant, pattern, topic):
    patterns.check_pattern(pattern, topic)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        patterns.check_pattern(pattern, topic)
