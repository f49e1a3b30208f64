"""The bus as an async iterator: order, gaps, its end, and that a forgotten stream unsubscribes."""

from __future__ import annotations

import asyncio
import gc

import pytest
from tests.stress.kit import wait_until


def emit(bus, count):
    for n in range(count):
        bus.emit("a", "b", {"n": n})


def test_a_stream_yields_what_matches_from_now_on(make_bus):
    bus = make_bus()

    async def main():
        bus.emit("a", "before")
        await bus.aflush(10_000)
        stream = bus.stream("a:*")
        for n in range(100):
            bus.emit("a", "b", {"n": n})
            bus.emit("z", "z")
        return [(await anext(stream)).payload["n"] for _ in range(100)]

    assert asyncio.run(main()) == list(range(100))


def test_a_waiting_stream_is_woken_by_each_event(make_bus):
    bus = make_bus(linger_millis=0)

    async def main():
        stream = bus.stream()
        for n in range(200):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            bus.emit("a", "b", {"n": n})
            event = await asyncio.wait_for(waiting, 10)
            assert event.payload["n"] == n

    asyncio.run(main())


def test_a_slow_reader_is_told_exactly_what_it_missed(make_bus):
    bus = make_bus()

    async def main():
        stream = bus.stream(max_queue_size=10)
        emit(bus, 100)
        assert await bus.aflush(10_000)
        gap = await anext(stream)
        assert gap.topic == "bus:gap"
        assert gap.payload == {"missed": 90, "first_seq": 1, "last_seq": 90}
        assert [(await anext(stream)).seq for _ in range(4)] == [91, 92, 93, 94]
        emit(bus, 7)
        assert await bus.aflush(10_000)
        gap = await anext(stream)
        assert gap.payload == {"missed": 3, "first_seq": 95, "last_seq": 97}
        assert [(await anext(stream)).seq for _ in range(10)] == list(range(98, 108))
        assert stream.missed == 93

    asyncio.run(main())


@pytest.mark.parametrize("waiting", [False, True])
def test_a_stream_ends_when_the_bus_shuts_down(make_bus, waiting):
    bus = make_bus()

    async def main():
        seen = []

        async def read():
            async for event in bus.stream():
                seen.append(event.payload["n"])  # noqa: PERF401 - what came before the end counts

        task = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        emit(bus, 5)
        if waiting:
            assert await bus.aflush(10_000)
        await bus.aclose()
        await asyncio.wait_for(task, 10)
        return seen

    assert asyncio.run(main()) == list(range(5))


def test_a_stream_of_a_bus_that_is_shut_down_ends_at_once(make_bus):
    bus = make_bus()
    bus.shutdown()

    async def main():
        return [event async for event in bus.stream()]

    assert asyncio.run(main()) == []


def test_aclose_unsubscribes_and_lets_the_rest_be_read(make_bus):
    bus = make_bus()

    async def main():
        async with bus.stream() as stream:
            emit(bus, 3)
            assert await bus.aflush(10_000)
        await stream.aclose()
        assert bus.statistics().subscribers == {}
        emit(bus, 3)
        assert await bus.aflush(10_000)
        return [event.payload["n"] async for event in stream]

    assert asyncio.run(main()) == [0, 1, 2]


def test_a_forgotten_stream_unsubscribes(make_bus):
    bus = make_bus()
    stream = bus.stream()
    assert len(bus.statistics().subscribers) == 1
    del stream
    gc.collect()
    wait_until(lambda: bus.statistics().subscribers == {})


def test_a_reader_whose_loop_is_gone_costs_nothing(make_bus):
    bus = make_bus()
    stream = bus.stream()

    async def main():
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(main())
    emit(bus, 5)
    assert bus.force_flush(10_000)
    assert bus.statistics().delivered == 5


def test_two_streams_are_independent(make_bus):
    bus = make_bus()

    async def main():
        first, second = bus.stream("a:*"), bus.stream("a:*", max_queue_size=1)
        emit(bus, 10)
        assert await bus.aflush(10_000)
        assert [(await anext(first)).seq for _ in range(10)] == list(range(1, 11))
        gap, last = await anext(second), await anext(second)
        assert (gap.payload["missed"], last.seq) == (9, 10)

    asyncio.run(main())
