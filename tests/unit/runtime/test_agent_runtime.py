import asyncio
import gc
import logging
import threading

import pytest

from zupa import BusConfig, ConfigurationError, LifecycleError, ReducerEventBus
from zupa.runtime import AgentRuntime


class Resource:
    """Notes what is done to it; *starting* and *stopping* are what to raise or to await."""

    def __init__(self, log, name, *, starting=None, stopping=None):
        self.log, self.name, self.starting, self.stopping = log, name, starting, stopping

    async def start(self):
        await self._do("start", self.starting)

    async def aclose(self):
        await self._do("stop", self.stopping)

    async def _do(self, action, what):
        self.log.append(f"{action} {self.name}")
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            await what()


class SyncResource:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def start(self):
        self.log.append(f"start {self.name}")

    def aclose(self):
        self.log.append(f"stop {self.name}")


async def forever():
    await asyncio.Event().wait()


def test_resources_start_in_order_and_stop_in_reverse():
    log = []

    async def scenario():
        runtime = AgentRuntime(Resource(log, "a"))
        b = runtime.add(SyncResource(log, "b"))
        assert b.name == "b"
        runtime.add(Resource(log, "c"))
        async with runtime as entered:
            assert entered is runtime
            log.append("body")

    asyncio.run(scenario())
    assert log == ["start a", "start b", "start c", "body", "stop c", "stop b", "stop a"]


def test_start_and_aclose_are_idempotent():
    log = []

    async def scenario():
        runtime = AgentRuntime(Resource(log, "a"))
        await runtime.aclose()
        await runtime.start()
        await runtime.start()
        await runtime.aclose()
        await runtime.aclose()

    asyncio.run(scenario())
    assert log == ["start a", "stop a"]


def test_callers_at_the_same_time_wait_for_each_other():
    log = []

    async def scenario():
        runtime = AgentRuntime(Resource(log, "a", starting=lambda: asyncio.sleep(0)), Resource(log, "b"))
        await asyncio.gather(runtime.start(), runtime.start(), runtime.aclose(), runtime.aclose())

    asyncio.run(scenario())
    assert log == ["start a", "start b", "stop b", "stop a"]


def test_a_closed_runtime_does_not_start_again():
    async def scenario():
        runtime = AgentRuntime(Resource([], "a"))
        async with runtime:
            pass
        with pytest.raises(LifecycleError, match="make a new AgentRuntime"):
            await runtime.start()

    asyncio.run(scenario())


def test_a_failing_start_stops_what_had_started_and_tells_all_errors():
    log = []
    refused, stuck = OSError("port in use"), RuntimeError("stuck")

    async def scenario():
        runtime = AgentRuntime()
        runtime.add(Resource(log, "a", stopping=stuck), "first")
        runtime.add(Resource(log, "b"))
        runtime.add(Resource(log, "c", starting=refused), "server")
        runtime.add(Resource(log, "d"))
        with pytest.raises(LifecycleError) as caught:
            await runtime.start()
        await runtime.aclose()
        return caught.value

    error = asyncio.run(scenario())
    assert log == ["start a", "start b", "start c", "stop b", "stop a"]
    assert error.errors == (("server", refused), ("first", stuck))
    assert error.__cause__ is refused
    assert str(error) == "2 resource(s) failed to start: server: OSError: port in use; first: RuntimeError: stuck"


def test_every_resource_is_stopped_whatever_fails():
    log = []
    one, two = ValueError("one"), KeyError("two")

    async def scenario():
        runtime = AgentRuntime(Resource(log, "a", stopping=one), Resource(log, "b"), Resource(log, "c", stopping=two))
        await runtime.start()
        with pytest.raises(LifecycleError) as caught:
            await runtime.aclose()
        return caught.value

    error = asyncio.run(scenario())
    assert log[3:] == ["stop c", "stop b", "stop a"]
    assert error.errors == (("Resource#3", two), ("Resource", one))
    assert "failed to stop" in str(error)


def test_the_error_of_the_body_is_not_hidden(caplog):
    async def scenario():
        async with AgentRuntime(Resource([], "a", stopping=OSError("late"))):
            raise LookupError("the reason")

    with caplog.at_level(logging.ERROR), pytest.raises(LookupError, match="the reason"):
        asyncio.run(scenario())
    assert "resource Resource failed to stop: OSError: late" in caplog.text


def test_a_resource_that_takes_too_long_is_left_behind():
    log = []

    async def scenario():
        runtime = AgentRuntime(Resource(log, "a"), stop_timeout_millis=60_000)
        runtime.add(Resource(log, "b", stopping=forever), "slow", stop_timeout_millis=20)
        await runtime.start()
        with pytest.raises(LifecycleError, match=r"slow: TimeoutError: .*stop_timeout_millis=20$") as caught:
            await runtime.aclose()
        assert len(caught.value.errors) == 1

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert log == ["start a", "start b", "stop b", "stop a"]


def test_a_resource_that_ignores_its_cancellation_is_left_behind():
    log = []

    async def scenario():
        release, cancelled = asyncio.Event(), asyncio.Event()

        async def stubborn():
            try:
                await release.wait()
            except asyncio.CancelledError:
                cancelled.set()
                await release.wait()
                raise OSError("at last") from None

        runtime = AgentRuntime(Resource(log, "a"))
        runtime.add(Resource(log, "b", stopping=stubborn), stop_timeout_millis=20)
        await runtime.start()
        with pytest.raises(LifecycleError, match="TimeoutError"):
            await runtime.aclose()
        assert cancelled.is_set()
        assert log[-1] == "stop a"
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        release.set()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        assert complaints == []

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_cancelled_start_stops_what_had_started():
    log = []

    async def scenario():
        waits = asyncio.Event()

        async def wait():
            waits.set()
            await forever()

        runtime = AgentRuntime(Resource(log, "a"), Resource(log, "b", starting=wait), Resource(log, "c"))
        task = asyncio.ensure_future(runtime.start())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await runtime.aclose()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert log == ["start a", "start b", "stop a"]


def test_a_cancelled_aclose_stops_everything_first(caplog):
    log = []

    async def scenario():
        waits, release = asyncio.Event(), asyncio.Event()

        async def wait():
            waits.set()
            await release.wait()
            log.append("released")
            raise OSError("and failed")

        runtime = AgentRuntime(Resource(log, "a"), Resource(log, "b", stopping=wait))
        await runtime.start()
        task = asyncio.ensure_future(runtime.aclose())
        await waits.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(scenario(), 10))
    assert log == ["start a", "start b", "stop b", "released", "stop a"]
    assert "and failed" in caplog.text


def test_a_resource_that_cancels_itself_is_a_failure_and_not_a_cancellation():
    log = []

    async def scenario():
        async with AgentRuntime(Resource(log, "a"), Resource(log, "b", stopping=asyncio.CancelledError())):
            pass

    with pytest.raises(LifecycleError, match="cancelled from elsewhere"):
        asyncio.run(scenario())
    assert log[-1] == "stop a"


def test_a_runtime_is_a_resource():
    log = []

    async def scenario():
        async with AgentRuntime(Resource(log, "a"), AgentRuntime(Resource(log, "b"), Resource(log, "c"))):
            pass

    asyncio.run(scenario())
    assert log == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


def test_a_bus_is_a_resource_and_drains():
    seen = []

    async def scenario():
        bus = ReducerEventBus(BusConfig())
        bus.subscribe("*", lambda event: seen.append((event.name, threading.current_thread().name)))
        async with AgentRuntime(bus):
            bus.emit("agent", "hello")
        bus.emit("agent", "too late")
        assert bus.statistics().dropped == {"already_shutdown": 1}

    asyncio.run(scenario())
    assert seen == [("hello", "zupa-bus")]


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (object(), r"object is no runtime resource: it lacks start and aclose\(\)"),
        (threading.Thread(), r"lacks aclose\(\)"),
    ],
)
def test_what_has_no_lifecycle_is_refused(resource, message):
    with pytest.raises(ConfigurationError, match=message):
        AgentRuntime(resource)


@pytest.mark.parametrize("millis", [0, -1, float("inf"), float("nan"), True, "5"])
def test_an_unusable_timeout_is_refused(millis):
    with pytest.raises(ConfigurationError, match="stop_timeout_millis="):
        AgentRuntime(stop_timeout_millis=millis)
    with pytest.raises(ConfigurationError, match="stop_timeout_millis="):
        AgentRuntime().add(SyncResource([], "a"), stop_timeout_millis=millis)


def test_a_resource_is_added_once_and_before_the_start():
    async def scenario():
        resource = Resource([], "a")
        runtime = AgentRuntime(resource)
        with pytest.raises(ConfigurationError, match="added before"):
            runtime.add(resource)
        async with runtime:
            with pytest.raises(ConfigurationError, match="before start"):
                runtime.add(Resource([], "b"))

    asyncio.run(scenario())


def test_repr_names_state_and_resources():
    runtime = AgentRuntime(SyncResource([], "a"), SyncResource([], "b"))
    assert repr(runtime) == "<AgentRuntime new: SyncResource, SyncResource#2>"
