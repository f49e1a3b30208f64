"""Subscribers of each kind: isolation, ordering, own queues, event loops, and unsubscribing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest
from tests.stress.kit import Calls, Gate, check_ledgers, wait_until

from zupa import ConfigurationError, PatternError

ERRORS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


def numbers(events):
    return [event.payload["n"] for event in events]


def emit(bus, count, topic="a:b"):
    for n in range(count):
        bus.emit(topic, {"n": n})


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("queued", [None, 100])
def test_a_subscriber_that_raises_hurts_nobody(make_bus, error, queued):
    bus, seen = make_bus(), []

    def broken(event):
        raise error("broken")

    bus.subscribe("*", broken, max_queue_size=queued)
    bus.subscribe("*", seen.append)
    emit(bus, 5)
    assert bus.force_flush(10_000)
    statistics = bus.statistics()
    assert numbers(seen) == list(range(5))
    assert (statistics.subscribers["broken"].errors, statistics.subscribers["broken"].delivered) == (5, 0)
    assert statistics.worker_restarts == 0
    check_ledgers(statistics)


def test_unsubscribe_is_idempotent_and_works_during_dispatch(make_bus):
    bus, seen = make_bus(), []

    def first(event):
        remove_second()
        remove_second()
        seen.append("first")

    bus.subscribe("*", first)
    remove_second = bus.subscribe("*", lambda event: seen.append("second"))
    bus.subscribe("*", lambda event: seen.append("third"))
    emit(bus, 2)
    assert bus.force_flush(10_000)
    assert seen == ["first", "third"] * 2


def test_a_subscriber_made_during_dispatch_gets_the_next_event(make_bus):
    bus, seen = make_bus(), []

    def first(event):
        if event.payload["n"] == 0:
            bus.subscribe("*", seen.append)

    bus.subscribe("*", first)
    emit(bus, 3)
    assert bus.force_flush(10_000)
    assert numbers(seen) == [1, 2]


def test_subscribers_are_called_in_order_with_what_matches(make_bus):
    bus, seen = make_bus(), []
    for name, pattern in (("exact", "a:b"), ("prefix", "a:*"), ("other", "z:*"), ("all", "*")):
        bus.subscribe(pattern, lambda event, name=name: seen.append((name, event.topic)))
    bus.emit("a", "b")
    bus.emit("a", "c")
    assert bus.force_flush(10_000)
    assert seen == [(x, "a:b") for x in ("exact", "prefix", "all")] + [(x, "a:c") for x in ("prefix", "all")]


def test_a_slow_subscriber_gets_a_thread_of_its_own(make_bus):
    bus = make_bus(slow_subscriber_millis=2)
    release, threads, quick_threads = threading.Event(), [], []

    def slow(event):
        threads.append(threading.current_thread().name)
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.005)
        if event.payload["n"] >= 5:
            release.wait(20)

    remove = bus.subscribe("*", slow)
    bus.subscribe("*", lambda event: quick_threads.append(threading.current_thread().name))
    emit(bus, 5)
    assert bus.force_flush(10_000)
    assert threads[0] == "zupa-bus"
    assert threads[-1].startswith("zupa-subscriber-")
    for n in range(5, 20):
        bus.emit("a", "b", {"n": n})
    wait_until(lambda: len(quick_threads) == 20)
    assert set(quick_threads) == {"zupa-bus"}
    release.set()
    assert bus.force_flush(10_000)
    (statistics,) = (value for name, value in bus.statistics().subscribers.items() if "slow" in name)
    assert statistics.delivered == 20
    remove()
    emit(bus, 1)
    assert bus.force_flush(10_000)
    assert len(threads) == 20


def test_a_queue_of_its_own_evicts_the_oldest_and_counts_them(make_bus):
    bus, seen, gate = make_bus(), [], Gate()
    bus.subscribe("*", lambda event: seen.append(gate(event)), max_queue_size=10, name="small")
    bus.emit("a", "b", {"n": -1})
    assert gate.held.wait(10)
    emit(bus, 100)
    wait_until(lambda: bus.statistics().delivered == 101)
    assert bus.statistics().subscribers["small"].missed == 90
    assert bus.statistics().subscribers["small"].queued == 10
    gate.open()
    assert bus.force_flush(10_000)
    assert numbers(seen) == [-1, *range(90, 100)]
    statistics = bus.statistics().subscribers["small"]
    assert (statistics.delivered, statistics.missed, statistics.queued) == (11, 90, 0)


def test_an_async_handler_runs_on_the_loop_it_was_subscribed_in(make_bus):
    bus = make_bus()

    async def main():
        seen, loop = [], asyncio.get_running_loop()

        async def handler(event):
            await asyncio.sleep(0)
            seen.append((event.payload["n"], asyncio.get_running_loop() is loop))

        bus.subscribe("*", handler)
        emit(bus, 50)
        assert await bus.aflush(10_000)
        return seen

    assert asyncio.run(main()) == [(n, True) for n in range(50)]


def test_an_async_handler_without_a_loop_runs_on_the_bus_s(make_bus):
    bus, seen = make_bus(), []

    class Handler:
        async def __call__(self, event):
            await asyncio.sleep(0)
            seen.append((event.payload["n"], threading.current_thread().name))

    bus.subscribe("*", Handler())
    emit(bus, 20)
    assert bus.force_flush(10_000)
    assert seen == [(n, "zupa-async") for n in range(20)]
    bus.shutdown()
    wait_until(lambda: not [x for x in threading.enumerate() if x.name == "zupa-async" and x.is_alive()])


CANCELLED = pytest.param(
    asyncio.CancelledError,
    marks=pytest.mark.skipif(
        sys.version_info < (3, 11), reason="before Task.cancelling a handler's own cancellation cannot be told apart"
    ),
)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, CANCELLED])
def test_an_async_handler_that_raises_goes_on(make_bus, error):
    bus, seen = make_bus(), []

    async def broken(event):
        if event.payload["n"] % 2:
            raise error("broken")
        seen.append(event)

    bus.subscribe("*", broken, name="broken")
    emit(bus, 6)
    assert bus.force_flush(10_000)
    assert numbers(seen) == [0, 2, 4]
    statistics = bus.statistics().subscribers["broken"]
    assert (statistics.delivered, statistics.errors) == (3, 3)


def test_a_coroutine_from_a_plain_function_is_an_error(make_bus):
    bus = make_bus()

    async def coroutine():
        raise AssertionError("never run")

    bus.subscribe("*", lambda event: coroutine(), name="plain")
    emit(bus, 1)
    assert bus.force_flush(10_000)
    assert bus.statistics().subscribers["plain"].errors == 1


@pytest.mark.parametrize("state", ["idle", "awaiting", "scheduled"])
def test_a_loop_that_was_closed_is_survived(make_bus, state):
    """Kills: flushes and shutdowns that wait for the answer of a loop that does not exist any more."""
    bus, seen = make_bus(), []
    entered = threading.Event()

    async def handler(event):
        entered.set()
        if state == "awaiting":
            await asyncio.Event().wait()

    async def main():
        bus.subscribe("*", handler, name="gone")
        emit(bus, 3)
        if state == "scheduled":
            # The loop is blocked, so what the worker schedules on it never runs.
            wait_until(lambda: bus.statistics().subscribers["gone"].queued == 3)
            asyncio.get_running_loop().stop()
        else:
            await asyncio.get_running_loop().run_in_executor(None, entered.wait, 10)

    bus.subscribe("*", seen.append)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    try:
        if state == "scheduled":
            loop.run_forever()
        else:
            loop.run_until_complete(task)
        for item in asyncio.all_tasks(loop):
            item.cancel()
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(item)
    finally:
        loop.close()
    emit(bus, 3)
    started = time.monotonic()
    bus.force_flush(10_000)
    assert time.monotonic() - started < 5
    assert bus.force_flush(10_000)
    assert time.monotonic() - started < 5
    gone = bus.statistics().subscribers["gone"]
    assert gone.queued == 0
    assert gone.delivered + gone.errors + gone.missed >= 3
    assert len(seen) == 6
    bus.shutdown(10_000)
    assert time.monotonic() - started < 5


def test_a_flush_that_blocks_the_loop_of_an_async_subscriber_does_not_hang(make_bus):
    bus, seen = make_bus(), []

    async def main():
        async def handler(event):
            seen.append(event)

        bus.subscribe("*", handler)
        emit(bus, 3)
        started = time.monotonic()
        bus.force_flush(10_000)
        assert time.monotonic() - started < 5
        assert await bus.aflush(10_000)
        assert len(seen) == 3
        await bus.aclose()

    asyncio.run(main())


def test_an_async_context_manager_flushes(make_bus):
    bus, seen = make_bus(), []

    async def main():
        async def handler(event):
            seen.append(event)

        async with bus:
            bus.subscribe("*", handler)
            emit(bus, 3)

    asyncio.run(main())
    assert len(seen) == 3


def test_a_cancelled_aclose_leaves_nothing_unexplained(make_bus):
    """Kills: a bus that stays half shut down, so that nobody counts what it holds."""
    gate = Gate()
    bus = make_bus()
    bus.use(gate)
    calls = Calls(bus)
    calls.emit("a", "b")
    assert gate.held.wait(10)

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bus.aclose(), 0.05)

    asyncio.run(main())
    statistics = bus.statistics()
    assert (statistics.queued, statistics.in_flight) == (0, 0)
    assert statistics.dropped == {"shutdown_timeout": 1}
    gate.open()


def test_equal_names_are_numbered(make_bus):
    bus = make_bus()
    for _ in range(2):
        bus.subscribe("*", lambda event: None, name="same")
    assert list(bus.statistics().subscribers) == ["same", "same#2"]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "10"])
def test_unusable_arguments_are_refused_at_once(make_bus, size):
    bus = make_bus()
    with pytest.raises(ConfigurationError, match="max_queue_size"):
        bus.subscribe("*", print, max_queue_size=size)
    with pytest.raises(ConfigurationError, match="max_queue_size"):
        bus.stream("*", max_queue_size=size)
    with pytest.raises(ConfigurationError, match="callable"):
        bus.subscribe("*", 5)
    with pytest.raises(PatternError):
        bus.subscribe("nothing", print)
    assert bus.statistics().subscribers == {}
