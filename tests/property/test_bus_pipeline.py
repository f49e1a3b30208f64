"""The reducer pipeline and the sequence, against an interpreter of the same pipeline that is a dozen lines long."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_patterns import oracle
from tests.stress.kit import FakeClock, Recorder, check_ledgers, check_seqs, quick

from zupa import Event, ReducerEventBus

KINDS = (
    "keep",
    "mark",
    "none",
    "empty",
    "twice",
    "rename",
    "split",
    "raise",
    "exit",
    "junk",
    "closed",
    "bad_name",
    "wrap",
)
PATTERNS = (None, "*", "a:*", "b:*", "*:x", "a:x", "new:*")
TOPICS = ("a:x", "a:y:z", "b:x", "new:x")


@dataclass(frozen=True)
class Step:
    kind: str
    pattern: str | None


class Reduce:
    """The reducer of one step. What it does is decided by its kind alone."""

    def __init__(self, step, index):
        self.kind = step.kind
        self.index = index
        self.fails_closed = step.kind == "closed"

    def __call__(self, event):
        marked = event.replace(payload={"path": [*event.payload["path"], self.index]})
        if self.kind in ("raise", "closed"):
            raise ValueError("broken")
        if self.kind == "exit":
            raise SystemExit(1)
        return {
            "keep": event,
            "mark": marked,
            "none": None,
            "empty": [],
            "twice": [event, marked],
            "rename": event.replace(channel="new"),
            "split": (marked, Event("b", "x", {"path": ["new", self.index]})),
            "junk": 5,
            "bad_name": event.replace(name="no name"),
            "wrap": [marked],
        }[self.kind]


def expected(steps, topic):
    """What comes of one event: ``(outcome, [(topic, path), ...])``, by direct interpretation."""
    items, closed = [(topic, ())], False
    for index, step in enumerate(steps):
        after = []
        for name, path in items:
            marked = (name, (*path, index))
            if step.pattern is not None and not oracle(step.pattern, name):
                after.append((name, path))
            elif step.kind == "closed":
                closed = True
            elif step.kind in ("none", "empty"):
                pass
            elif step.kind == "twice":
                after += [(name, path), marked]
            elif step.kind == "split":
                after += [marked, ("b:x", ("new", index))]
            elif step.kind == "rename":
                after.append(("new:" + name.partition(":")[2], path))
            elif step.kind == "bad_name":
                after.append((name.partition(":")[0] + ":no name", path))
            elif step.kind in ("mark", "wrap"):
                after.append(marked)
            else:
                after.append((name, path))
        items = after
    good = [(name, path) for name, path in items if " " not in name]
    if good:
        return "delivered", good
    if items:
        return "invalid_event", []
    return ("reducer_error" if closed else "filtered"), []


def check_pipeline(steps, topics, times, *, paced=False) -> None:
    """The property: outcome, order, paths, sequence and time are what the interpreter says.

    *paced* has each event dequeued at the time at which it was emitted.
    """
    recorder, clock, seen = Recorder(), FakeClock(), []
    bus = ReducerEventBus(quick(linger_millis=0, slice_size=3), exporters=[recorder], clock=clock)
    for index, step in enumerate(steps):
        bus.use(Reduce(step, index), step.pattern)
    bus.subscribe("*", seen.append)
    wanted, counts = [], {"delivered": 0, "filtered": 0, "invalid_event": 0, "reducer_error": 0}
    for topic, time in zip(topics, times, strict=True):
        outcome, items = expected(steps, topic)
        counts[outcome] += 1
        wanted += [(name, path, time) for name, path in items]
        clock.now = time
        bus.emit(topic, {"path": []})
        if paced:
            assert bus.force_flush(20_000)
    assert bus.shutdown(20_000)
    found = [(event.topic, tuple(event.payload["path"]), event.occurred_at) for event in recorder.events]
    assert found == wanted, (steps, topics)
    assert seen == recorder.events, (steps, topics)
    check_sequence(bus, recorder, counts, len(topics))


def check_sequence(bus, recorder, counts, calls) -> None:
    """Sequence numbers are unique, increasing, and as many as events were accepted or made; the counters agree."""
    statistics = bus.statistics()
    check_ledgers(statistics)
    check_seqs(recorder.events)
    assert statistics.emitted == calls
    assert statistics.delivered == counts["delivered"]
    assert statistics.filtered == counts["filtered"]
    assert statistics.dropped == {x: counts[x] for x in ("invalid_event", "reducer_error") if counts[x]}
    assert statistics.fanned_out == len(recorder.events) - counts["delivered"]
    assert statistics.seq == calls + statistics.fanned_out, statistics
    if counts["delivered"] == calls:
        assert [event.seq for event in recorder.events] == list(range(1, statistics.seq + 1))


steps_strategy = st.lists(st.builds(Step, st.sampled_from(KINDS), st.sampled_from(PATTERNS)), max_size=6)
calls_strategy = st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(1, 1_000)), min_size=1, max_size=12)


@settings(max_examples=250, deadline=None)
@given(steps_strategy, calls_strategy)
def test_the_pipeline_does_what_its_interpreter_does(steps, calls):
    """Kills: a raising reducer that loses the event, fan-out without own seqs, scopes matched on the old topic."""
    check_pipeline(steps, [topic for topic, _ in calls], [time for _, time in calls])


def test_the_sequence_has_no_gap_over_fan_out():
    """Kills: a seq that fan-out skips or uses twice; time that goes back with the wall clock."""
    check_pipeline(
        [Step("twice", "a:*"), Step("split", "*:x")], ["a:x", "b:x", "a:y:z"] * 30, [5, 900, 3] * 30, paced=True
    )
