import asyncio
import threading
import time

import pytest

from zupa import BusConfig, ConfigurationError, LifecycleError, PatternError, ReducerEventBus
from zupa.runtime import AgentRuntime, TelemetrySink
from zupa.testing import InMemoryEventExporter


@pytest.fixture
def bus():
    # A long delay: what arrives was flushed, not merely due.
    with ReducerEventBus(BusConfig(schedule_delay_millis=3_600_000, linger_millis=0)) as bus:
        yield bus


def test_an_exporter_gets_the_events_of_the_pattern_until_aclose(bus):
    exporter = InMemoryEventExporter()

    async def scenario():
        bus.emit("engine", "too_early")
        assert bus.force_flush(5_000)
        sink = TelemetrySink(bus, exporter)
        sink.start()
        sink.start()
        bus.emit("engine", "node_started")
        bus.emit("agent", "log:info")
        bus.emit("engine", "node_completed")
        await sink.aclose()
        bus.emit("engine", "too_late")
        await sink.aclose()

    asyncio.run(scenario())
    assert bus.force_flush(5_000)
    assert [event.topic for event in exporter.events] == ["engine:node_started", "engine:node_completed"]
    assert exporter.is_shut_down
    assert bus.statistics().exported == {}


def test_it_sees_what_the_reducers_left(bus):
    exporter = InMemoryEventExporter()
    bus.use(lambda event: event.replace(payload={"secret": "[redacted]"}))

    async def scenario():
        async with AgentRuntime(TelemetrySink(bus, exporter, pattern="*", name="sink")):
            bus.emit("engine", "x", {"secret": "hunter2"})
            assert list(bus.statistics().exported) == ["sink"]

    asyncio.run(scenario())
    assert [event.payload for event in exporter.events] == [{"secret": "[redacted]"}]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_gets_the_events_of_the_pattern_until_aclose(bus, is_async):
    seen = []

    def handler(event):
        seen.append(event.topic)

    async def async_handler(event):
        seen.append(event.topic)

    async def scenario():
        sink = TelemetrySink(bus, async_handler if is_async else handler, pattern="agent:*")
        async with AgentRuntime(sink):
            bus.emit("agent", "log:info")
            bus.emit("engine", "x")
        bus.emit("agent", "too_late")
        assert await bus.aflush(5_000)

    asyncio.run(scenario())
    assert seen == ["agent:log:info"]
    assert bus.statistics().subscribers == {}


def test_in_a_runtime_it_closes_before_the_bus_and_loses_nothing():
    exporter = InMemoryEventExporter()
    bus = ReducerEventBus(BusConfig(schedule_delay_millis=3_600_000))

    async def scenario():
        async with AgentRuntime(bus, TelemetrySink(bus, exporter)):
            for _ in range(1_000):
                bus.emit("engine", "x")

    asyncio.run(scenario())
    assert len(exporter.events) == 1_000
    assert bus.statistics().imbalance == 0


def test_it_closes_after_the_bus_was_shut_down(bus):
    exporter = InMemoryEventExporter()

    async def scenario():
        sink = TelemetrySink(bus, exporter)
        sink.start()
        bus.emit("engine", "x")
        bus.shutdown()
        await sink.aclose()

    asyncio.run(scenario())
    assert len(exporter.events) == 1


def test_a_hanging_exporter_holds_up_neither_aclose_nor_the_loop():
    release = threading.Event()

    class Hanging(InMemoryEventExporter):
        def export(self, batch):
            release.wait()
            return super().export(batch)

    async def scenario():
        config = BusConfig(linger_millis=0, schedule_delay_millis=0, shutdown_timeout_millis=100)
        async with ReducerEventBus(config) as bus:
            sink = TelemetrySink(bus, Hanging(), flush_timeout_millis=1)  # so that detaching takes the time
            sink.start()
            bus.emit("engine", "x")
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    await asyncio.sleep(0.005)
                    turns += 1

            counting = asyncio.ensure_future(count())
            started = time.monotonic()
            await sink.aclose()
            assert time.monotonic() - started < 5
            counting.cancel()
            assert turns >= 5

    try:
        asyncio.run(asyncio.wait_for(scenario(), 20))
    finally:
        release.set()


def test_without_start_aclose_does_nothing_and_start_still_works(bus):
    exporter = InMemoryEventExporter()

    async def scenario():
        sink = TelemetrySink(bus, exporter)
        await sink.aclose()
        assert not exporter.is_shut_down
        sink.start()
        bus.emit("engine", "x")
        await sink.aclose()

    asyncio.run(scenario())
    assert len(exporter.events) == 1


def test_a_closed_sink_does_not_start_again(bus):
    async def scenario():
        sink = TelemetrySink(bus, InMemoryEventExporter(), name="jaeger")
        sink.start()
        await sink.aclose()
        with pytest.raises(LifecycleError, match=r"jaeger: .*make a new TelemetrySink"):
            sink.start()

    asyncio.run(scenario())


def test_unusable_arguments_are_refused(bus):
    with pytest.raises(ConfigurationError, match="target=int is unusable"):
        TelemetrySink(bus, 5)
    with pytest.raises(PatternError):
        TelemetrySink(bus, print, pattern="engine").start()
