"""A state machine: the bus against a model that is a few lists, under any order of operations."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from tests.property.test_patterns import oracle
from tests.stress.kit import Recorder, check_ledgers, check_monotonic, check_seqs, quick

from zupa import ReducerEventBus
from zupa.ports import ExportResult

TOPICS = st.sampled_from(["a:x", "a:y:z", "b:x"])
PATTERNS = st.sampled_from(["*", "a:*", "*:x", "b:x"])


class BusMachine(RuleBasedStateMachine):
    """Kills: registrations that outlive their removal, results that are counted twice, flushes that do not cover."""

    reducers = Bundle("reducers")
    subscribers = Bundle("subscribers")

    def __init__(self):
        super().__init__()
        self.recorder = Recorder(lambda batch: ExportResult.FAILURE if self.failing else ExportResult.SUCCESS)
        self.bus = ReducerEventBus(quick(linger_millis=0), exporters=[self.recorder])
        self.failing = False
        self.alive = True
        self.before = self.bus.statistics()
        self.steps = []
        self.handlers = []
        self.calls = self.good = self.bad = self.filtered = self.lost = self.late = 0
        self.exported = self.failed = 0
        self.topics = []

    def settle(self):
        if self.alive:
            assert self.bus.force_flush(20_000)

    @rule(target=reducers, kind=st.sampled_from(["keep", "none", "raise", "exit", "closed"]), pattern=PATTERNS)
    def use(self, kind, pattern):
        def reduce(event):
            if kind in ("raise", "closed"):
                raise ValueError(kind)
            if kind == "exit":
                raise SystemExit(1)
            return None if kind == "none" else event

        reduce.fails_closed = kind == "closed"
        self.settle()
        step = (kind, pattern, object())
        self.steps.append(step)
        return step, self.bus.use(reduce, pattern)

    @rule(registered=consumes(reducers), twice=st.booleans())
    def unregister(self, registered, twice):
        step, remove = registered
        self.settle()
        self.steps.remove(step)
        for _ in range(1 + twice):
            remove()

    @rule(target=subscribers, pattern=PATTERNS, broken=st.booleans(), own=st.none() | st.just(1000))
    def subscribe(self, pattern, broken, own):
        handler = {"pattern": pattern, "seen": [], "expected": []}

        def handle(event):
            handler["seen"].append(event.topic)
            if broken:
                raise GeneratorExit

        self.settle()
        self.handlers.append(handler)
        return handler, self.bus.subscribe(pattern, handle, max_queue_size=own)

    @rule(subscribed=consumes(subscribers))
    def unsubscribe(self, subscribed):
        handler, remove = subscribed
        self.settle()
        self.handlers = [other for other in self.handlers if other is not handler]  # equal ones are not the same
        remove()
        remove()

    @rule(topic=TOPICS, count=st.integers(1, 40))
    def emit(self, topic, count):
        for _ in range(count):
            self.bus.emit(topic, {"x": 1})
        self.calls += count
        if not self.alive:
            self.late += count
            return
        for kind, pattern, _ in self.steps:
            if oracle(pattern, topic) and kind in ("none", "closed"):
                self.filtered += count if kind == "none" else 0
                self.lost += count if kind == "closed" else 0
                return
        self.good += count
        self.exported += 0 if self.failing else count
        self.failed += count if self.failing else 0
        self.topics += [topic] * count
        for handler in self.handlers:
            if oracle(handler["pattern"], topic):
                handler["expected"] += [topic] * count

    @rule(count=st.integers(1, 5))
    def emit_junk(self, count):
        for _ in range(count):
            self.bus.emit("no topic", "x")
        self.calls += count
        self.bad += count if self.alive else 0
        self.late += 0 if self.alive else count

    @rule()
    def toggle_failing(self):
        self.settle()
        self.failing = not self.failing

    @rule()
    def flush_and_compare(self):
        self.settle()
        statistics = self.bus.statistics()
        assert statistics.emitted == self.calls
        assert statistics.delivered == self.good
        assert statistics.filtered == self.filtered
        expected = {"invalid_event": self.bad, "reducer_error": self.lost, "already_shutdown": self.late}
        assert statistics.dropped == {reason: count for reason, count in expected.items() if count}
        ledger = statistics.exported["Recorder"]
        assert (ledger.exported, ledger.failed, ledger.offered) == (self.exported, self.failed, self.good)
        assert [event.topic for event in self.recorder.events] == self.topics
        check_seqs(self.recorder.events)
        for handler in self.handlers:
            assert handler["seen"] == handler["expected"]

    @precondition(lambda self: self.calls > 100)
    @rule()
    def shut_down(self):
        assert self.bus.shutdown(20_000)
        self.alive = False

    @invariant()
    def the_law_holds(self):
        statistics = self.bus.statistics()
        check_ledgers(statistics)
        check_monotonic(self.before, statistics)
        self.before = statistics

    def teardown(self):
        self.flush_and_compare()
        self.bus.shutdown(20_000)


BusMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_bus_machine = BusMachine.TestCase
