from __future__ import annotations

import asyncio

import pytest

from zupa.engine import EngineExecutor, Graph, GraphInterrupt, RetryPolicy
from zupa.errors import ConfigurationError


class Recorder(EngineExecutor):
    """Records pauses instead of sleeping: the seam is looked up through self."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.pauses = []

    async def _retry_wait(self, run, task, error, delay_s):
        self.pauses.append((task.node, task.attempt, type(error), delay_s))


def failing(times, error=OSError, attempts=None):
    def node(ctx):
        if attempts is not None:
            attempts.append(ctx.attempt)
        if ctx.attempt <= times:
            raise error(f"attempt {ctx.attempt}")
        return {"attempt": ctx.attempt}

    return node


def engine_of(node, policy):
    return Recorder(Graph().add_node("a", node, retry=policy))


@pytest.mark.parametrize("is_async", [True, False])
def test_a_failed_node_is_tried_again_with_growing_pauses(is_async):
    node = failing(2)

    async def async_node(ctx):
        return node(ctx)

    engine = engine_of(async_node if is_async else node, RetryPolicy(max_attempts=3, initial_delay_s=0.5, backoff=3))
    assert engine.invoke_sync().values == {"attempt": 3}
    assert engine.pauses == [("a", 1, OSError, 0.5), ("a", 2, OSError, 1.5)]


def test_the_last_error_is_raised_unchanged():
    engine = engine_of(failing(9), RetryPolicy(max_attempts=2))
    with pytest.raises(OSError, match="attempt 2"):
        engine.invoke_sync()


def test_without_a_policy_nothing_is_retried():
    attempts = []
    engine = engine_of(failing(9, attempts=attempts), None)
    with pytest.raises(OSError, match="attempt 1"):
        engine.invoke_sync()
    assert attempts == [1]


@pytest.mark.parametrize("error", [GraphInterrupt, asyncio.CancelledError])
def test_control_flow_is_never_retried(error):
    attempts = []
    engine = engine_of(failing(1, error, attempts), RetryPolicy(retry_on=lambda error: True))
    try:
        assert engine.invoke_sync().status == "interrupted"
    except asyncio.CancelledError:
        assert error is asyncio.CancelledError
    assert (attempts, engine.pauses) == ([1], [])


@pytest.mark.parametrize(
    ("retry_on", "retried"),
    [
        ((KeyError, OSError), True),
        ((KeyError,), False),
        (OSError, True),
        (KeyError, False),
        (lambda error: "attempt 1" in str(error), True),
        (lambda error: False, False),
    ],
)
def test_retry_on(retry_on, retried):
    engine = engine_of(failing(1), RetryPolicy(retry_on=retry_on))
    if retried:
        assert engine.invoke_sync().values == {"attempt": 2}
    else:
        with pytest.raises(OSError, match="attempt 1"):
            engine.invoke_sync()


def test_each_attempt_has_its_own_snapshot():
    def node(ctx):
        ctx.state["items"].append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError
        return {"seen": ctx.state["items"]}

    assert engine_of(node, RetryPolicy()).invoke_sync({"items": []}).values["seen"] == [2]


def test_a_wrong_result_is_not_retried():
    attempts = []

    def node(ctx):
        attempts.append(1)
        return "text"

    with pytest.raises(Exception, match="returned a str"):
        engine_of(node, RetryPolicy()).invoke_sync()
    assert attempts == [1]


def test_the_real_pause_can_be_cancelled():
    async def main():
        failed = asyncio.Event()

        async def node(ctx):
            failed.set()
            raise OSError

        graph = Graph().add_node("a", node, retry=RetryPolicy(initial_delay_s=3600, max_delay_s=3600))
        run = asyncio.create_task(EngineExecutor(graph).invoke())
        await failed.wait()
        await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 10)

    asyncio.run(main())


def test_pauses_are_bounded():
    policy = RetryPolicy(max_attempts=10_000, initial_delay_s=1, backoff=10, max_delay_s=7)
    assert [policy.delay_s(n) for n in (1, 2, 9_999)] == [1, 7, 7]
    assert RetryPolicy(initial_delay_s=0, max_attempts=10_000, backoff=1e9).delay_s(9_999) == 0


def test_jitter_stays_in_its_share():
    policy = RetryPolicy(initial_delay_s=1, jitter=0.25)
    pauses = {policy.delay_s(1) for _ in range(200)}
    assert len(pauses) > 1
    assert all(0.75 <= pause <= 1.25 for pause in pauses)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", 1.5),
        ("max_attempts", True),
        ("initial_delay_s", -1),
        ("backoff", 0.5),
        ("max_delay_s", float("nan")),
        ("jitter", 1.1),
        ("jitter", "1"),
        ("retry_on", BaseException),
        ("retry_on", (OSError, "x")),
        ("retry_on", 3),
    ],
)
def test_unusable_settings_are_named(name, value):
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy\.{name}="):
        RetryPolicy(**{name: value})
