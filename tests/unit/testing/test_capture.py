import asyncio
import sys
import threading
import types

import pytest
from opentelemetry import trace

from zupa import BusConfig, BusStatistics, ExportResult, InvalidEventError, ReducerEventBus
from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer
from zupa.testing import Capture, InMemoryEventExporter
from zupa_instrumentation.engine import EngineInstrumentor


@pytest.fixture
def capture():
    with Capture() as capture:
        yield capture


def research(capture=None, *, fail=None):
    graph = Graph(name="research")

    def node(name):
        def body(ctx):
            if capture is not None:
                capture.clock.advance(2_000_000)
            if name == fail:
                raise LookupError("nothing found")
            return {name: True}

        return body

    for name in ("plan", "search", "browse", "answer"):
        graph.add_node(name, node(name))
    graph.add_edge("plan", "search")
    graph.add_edge("plan", "browse")
    graph.add_edge("search", "answer")
    graph.add_edge("browse", "answer")
    return EngineExecutor(graph)


def test_a_real_run_is_captured(capture):
    research().invoke_sync({})
    capture.assert_path(["plan", {"search", "browse"}, "answer"])
    assert capture.path() == ["plan", "search", "browse", "answer"]
    capture.assert_no_loss()


def test_ids_and_times_are_the_same_in_every_run():
    def spans():
        with Capture() as capture:
            engine = EngineExecutor(_chain(capture))
            engine.invoke_sync({})
            return [
                (span.name, span.context.trace_id, span.context.span_id, span.start_time, span.end_time)
                for span in capture.spans
            ]

    first = spans()
    assert first == spans()
    start = 1_700_000_000_000_000_000
    assert first == [
        ("one", 1, 3, start, start + 7),
        ("step 1", 1, 2, start, start + 7),
        ("two", 1, 5, start + 7, start + 14),
        ("step 2", 1, 4, start + 7, start + 14),
        ("invoke_workflow chain", 1, 1, start, start + 14),
    ]


def _chain(capture):
    graph = Graph(name="chain")
    graph.add_node("one", lambda ctx: capture.clock.advance(7))
    graph.add_node("two", lambda ctx: capture.clock.advance(7))
    graph.add_edge("one", "two")
    return graph


def test_the_tree_shows_what_ran(capture):
    with pytest.raises(LookupError):
        research(capture, fail="answer").invoke_sync({})
    lines = capture.tree().splitlines()
    assert lines[0] == f"trace {1:032x}"
    assert lines[1].startswith("✗ research")
    assert any("✓ plan  2 ms" in line for line in lines)
    assert any("✗ answer  2 ms" in line and "LookupError: nothing found" in line for line in lines)


def test_a_failed_path_shows_the_tree(capture):
    research().invoke_sync({})
    with pytest.raises(AssertionError, match=r"(?s)another path.*✓ research"):
        capture.assert_path(["plan", "answer"])


def test_an_interrupt_and_its_resumption_are_two_runs(capture):
    graph = Graph(name="approval")

    @graph.node
    def ask(ctx):
        if ctx.resume_value is None:
            raise GraphInterrupt("approve?")
        return {}

    engine = EngineExecutor(graph, checkpointer=InMemoryCheckpointer())
    thread_id = engine.invoke_sync({}).thread_id
    engine.resume_sync("yes", thread_id=thread_id)
    capture.assert_path(["ask", "ask"])
    capture.assert_path(["ask"], run=0)
    capture.assert_path(["ask"], run=1)
    assert [event.name for event in capture.events if event.name.startswith("run_")] == [
        "run_started",
        "run_interrupted",
        "run_started",
        "run_resumed",
        "run_completed",
    ]


def test_a_nested_graph_is_a_run_of_its_own(capture):
    inner = EngineExecutor(_chain(capture))
    graph = Graph(name="outer")

    @graph.node
    async def delegate(ctx):
        await inner.invoke({})

    EngineExecutor(graph).invoke_sync({})
    capture.assert_path(["delegate"])
    capture.assert_path(["one", "two"], run=1)


def test_the_real_reducers_run(capture):
    capture.bus.use(lambda event: None if event.name == "secret" else event.replace(payload={"seen": True}))
    capture.bus.emit("agent", "secret")
    capture.bus.emit("agent", "note", {"text": "x"})
    assert [(event.topic, event.payload) for event in capture.events] == [("agent:note", {"seen": True})]
    assert capture.statistics().filtered == 1


def test_events_in_nodes_are_logs_of_the_node(capture):
    graph = Graph(name="g")

    @graph.node
    def talk(ctx):
        capture.bus.emit("agent", "log:info", {"message": "hello"})
        trace.get_current_span().set_attribute("mine", 1)

    EngineExecutor(graph).invoke_sync({})
    (log,) = [log for log in capture.logs if log.log_record.event_name == "agent.log.info"]
    (span,) = [span for span in capture.spans if span.name == "talk"]
    assert log.log_record.span_id == span.context.span_id
    assert span.attributes["mine"] == 1
    assert "agent:log:info hello" in capture.tree()


def test_the_bus_is_strict(capture):
    with pytest.raises(InvalidEventError):
        capture.bus.emit("no channel", "x")


def test_clear_forgets_events_and_not_ids(capture):
    research().invoke_sync({})
    capture.clear()
    assert capture.events == ()
    research().invoke_sync({})
    assert {span.context.trace_id for span in capture.spans} == {2}


def test_loss_is_an_error_that_names_it():
    capture = Capture(config=BusConfig(max_queue_size=1, max_export_batch_size=1, linger_millis=0))
    entered, release = threading.Event(), threading.Event()

    def hold(event):
        entered.set()
        release.wait()
        return event

    with capture:
        capture.bus.use(hold)
        capture.bus.emit("a", "first")
        assert entered.wait(5)
        for _ in range(3):
            capture.bus.emit("a", "more")
        release.set()
        with pytest.raises(AssertionError, match=r"events were lost: dropped\[queue_full\]=[23]"):
            capture.assert_no_loss()


def test_a_failing_exporter_is_a_loss(capture):
    class Broken:
        def export(self, batch):
            raise OSError("no route")

        def force_flush(self, timeout_millis=0):
            return True

        def shutdown(self, timeout_millis=0):
            pass

    capture.bus.add_exporter(Broken(), name="broken")
    capture.bus.emit("a", "b")
    with pytest.raises(AssertionError, match=r"broken\.failed=1"):
        capture.assert_no_loss()


def test_a_subscriber_that_missed_events_is_a_loss(capture):
    entered, release = threading.Event(), threading.Event()

    def hold(event):
        entered.set()
        release.wait()

    capture.bus.subscribe("a:*", hold, name="slow", max_queue_size=1)
    capture.bus.emit("a", "b")
    assert entered.wait(5)
    for _ in range(3):
        capture.bus.emit("a", "b")
    with pytest.raises(AssertionError, match="slow"):
        capture.drain(10)
    release.set()
    with pytest.raises(AssertionError, match=r"events were lost: slow\.missed=2"):
        capture.assert_no_loss()


def test_books_that_do_not_balance_are_a_loss(capture, monkeypatch):
    monkeypatch.setattr(capture.bus, "statistics", lambda: BusStatistics(emitted=3, delivered=2))
    with pytest.raises(AssertionError, match="events were lost: imbalance=1"):
        capture.assert_no_loss()


def test_what_a_receiver_rejects_is_a_loss(capture):
    exporter = InMemoryEventExporter()
    exporter.result = ExportResult(rejected=1)
    capture.bus.add_exporter(exporter, name="picky")
    capture.bus.emit("a", "b")
    with pytest.raises(AssertionError, match=r"events were lost: picky\.rejected=1"):
        capture.assert_no_loss()


def test_moving_the_clock_far_loses_nothing(capture, monkeypatch):
    entered, release = threading.Event(), threading.Event()
    export = capture.exporter.export

    def hold(batch):
        entered.set()
        release.wait()
        return export(batch)

    monkeypatch.setattr(capture.exporter, "export", hold)
    capture.bus.emit("a", "b")
    assert entered.wait(5)
    capture.clock.advance(3_600_000_000_000)
    assert capture.statistics().exported["InMemoryEventExporter"].in_flight == 1
    release.set()
    capture.assert_no_loss()
    assert len(capture.events) == 1


def test_a_bus_that_cannot_be_drained_is_an_error(capture):
    entered, release = threading.Event(), threading.Event()

    def hold(event):
        entered.set()
        release.wait()

    capture.bus.subscribe("a:b", hold)
    capture.bus.emit("a", "b")
    assert entered.wait(5)
    with pytest.raises(AssertionError, match=r"could not be drained: force_flush\(10\)"):
        capture.drain(10)
    release.set()
    assert len(capture.drain()) == 1


def test_async_subscribers_are_drained_by_adrain(capture):
    seen = []

    async def scenario():
        async def handler(event):
            seen.append(event.name)

        capture.bus.subscribe("a:*", handler)
        capture.bus.emit("a", "b")
        with pytest.raises(AssertionError, match="adrain"):
            capture.drain()
        assert len(await capture.adrain()) == 1

    asyncio.run(scenario())
    assert seen == ["b"]
    assert [event.name for event in capture.events] == ["b"]  # though the subscriber's loop is closed


def test_an_exporter_that_cannot_flush_does_not_stand_in_the_way(capture):
    class Unwilling(InMemoryEventExporter):
        def force_flush(self, timeout_millis=0):
            return False

    capture.bus.add_exporter(Unwilling())
    capture.bus.emit("a", "b")
    assert len(capture.events) == 1


def test_what_was_captured_outlives_the_bus():
    with Capture() as capture:
        research().invoke_sync({})
        capture.bus.shutdown()
        capture.assert_path(["plan", {"search", "browse"}, "answer"])
    assert capture.path() == ["plan", "search", "browse", "answer"]
    assert asyncio.run(capture.adrain()) == capture.events


def test_without_with_nothing_is_instrumented():
    capture = Capture()
    research().invoke_sync({})
    capture.bus.emit("a", "b")
    assert [event.topic for event in capture.events] == ["a:b"]
    with pytest.raises(AssertionError, match="no run was captured"):
        capture.assert_path(["plan"])
    capture.bus.shutdown()


class TestRestoring:
    def test_an_engine_that_was_not_instrumented_is_not_afterwards(self):
        original = EngineExecutor.__dict__["_execute_run"]
        with Capture():
            assert EngineInstrumentor().is_instrumented_by_opentelemetry
            assert EngineExecutor.__dict__["_execute_run"] is not original
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry
        assert EngineExecutor.__dict__["_execute_run"] is original

    @pytest.mark.parametrize("uninstrumented_inside", [False, True])
    def test_an_engine_that_was_instrumented_emits_where_it_did(self, uninstrumented_inside):
        with ReducerEventBus(BusConfig(linger_millis=0)) as bus:
            topics = []
            bus.subscribe("engine:run_*", lambda event: topics.append(event.topic))
            EngineInstrumentor().instrument(bus=bus)
            try:
                with Capture() as capture:
                    research().invoke_sync({})
                    if uninstrumented_inside:
                        EngineInstrumentor().uninstrument()
                assert bus.force_flush(5_000)
                assert topics == []
                assert len(capture.path()) == 4
                research().invoke_sync({})
                assert bus.force_flush(5_000)
                assert topics == ["engine:run_started", "engine:run_completed"]
                assert len(capture.path()) == 4
            finally:
                EngineInstrumentor().uninstrument()
        assert "__wrapped__" not in vars(EngineExecutor.__dict__["_execute_run"])

    def test_one_capture_inside_another(self):
        with Capture() as outer:
            with Capture() as inner:
                research().invoke_sync({})
            assert outer.events == ()
            research().invoke_sync({})
        assert len(inner.path()) == len(outer.path()) == 4

    def test_it_is_restored_when_the_test_fails(self):
        with pytest.raises(ZeroDivisionError), Capture() as capture:
            _ = 1 / 0
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry
        assert capture.exporter.is_shut_down

    def test_a_test_may_uninstrument_by_itself(self):
        with Capture():
            EngineInstrumentor().uninstrument()
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry

    def test_targets_that_are_not_installed_are_passed_over(self, install):
        install("zupa_instrumentation.engine:EngineInstrumentor", "zupa_instrumentation.no_such_target:Instrumentor")
        with Capture() as capture:
            research().invoke_sync({})
        assert len(capture.path()) == 4

    def test_when_one_target_fails_the_others_are_restored(self, install, monkeypatch):
        broken = types.ModuleType("zupa_instrumentation.zz_broken")
        broken.Instrumentor = Broken
        monkeypatch.setitem(sys.modules, broken.__name__, broken)
        install("zupa_instrumentation.engine:EngineInstrumentor", "zupa_instrumentation.zz_broken:Instrumentor")
        with pytest.raises(OSError, match="broken"), Capture():
            pytest.fail("the body must not run")
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry

    @pytest.fixture
    def install(self, tmp_path, monkeypatch):
        """Installs a distribution with these instrumentors, for as long as the test runs."""

        def install(*values):
            metadata = tmp_path / "other-0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0\n")
            lines = [f"target{number} = {value}" for number, value in enumerate(values)]
            (metadata / "entry_points.txt").write_text("\n".join(["[opentelemetry_instrumentor]", *lines]) + "\n")
            monkeypatch.syspath_prepend(str(tmp_path))

        return install


class Broken:
    is_instrumented_by_opentelemetry = False

    def instrument(self, **settings):
        assert EngineInstrumentor().is_instrumented_by_opentelemetry
        raise OSError("broken")
