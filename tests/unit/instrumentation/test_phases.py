"""Every phase of runs, steps and nodes: its event, its outcome on the span, and one end for every start."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from opentelemetry.trace import StatusCode

from zupa import CheckpointError, RecursionLimitError
from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer, RetryPolicy


async def nothing(ctx):
    return None


async def fails(ctx):
    raise ValueError("no such city")


async def waits(ctx):
    if ctx.resume_value is None:
        raise GraphInterrupt("approval needed", {"amount": 3})


def outcomes(observed):
    return {span.name: span.attributes["zupa.outcome"] for span in observed.spans}


def statuses(observed):
    return {span.name: span.status.status_code for span in observed.spans}


def test_completed(observed):
    EngineExecutor(Graph("g").add_node("a", lambda ctx: {"k": 1})).invoke_sync()
    assert outcomes(observed) == {"invoke_workflow g": "completed", "step 1": "completed", "a": "completed"}
    assert set(statuses(observed).values()) == {StatusCode.UNSET}
    assert all("error.type" not in span.attributes for span in observed.spans)
    assert (observed.span("a").attributes["zupa.attempt"], observed.span("a").attributes["zupa.attempt.max"]) == (1, 1)


def test_failed_is_an_error_on_every_level_and_one_exception_record(observed):
    with pytest.raises(ValueError, match="no such city"):
        EngineExecutor(Graph("g").add_node("a", fails)).invoke_sync()
    assert outcomes(observed) == dict.fromkeys(["invoke_workflow g", "step 1", "a"], "error")
    for span in observed.spans:
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "no such city"
        assert span.attributes["error.type"] == "ValueError"
    (record,) = [log for log in observed.logs if log.event_name == "exception"]
    assert record.attributes["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "no such city"
    assert "in fails" in record.attributes["exception.stacktrace"]
    node = observed.span("a")
    assert (record.trace_id, record.span_id) == (node.context.trace_id, node.context.span_id)
    assert record.severity_text == "ERROR"
    assert observed.names("run") == ["run_started", "run_failed"]
    observed.assert_every_start_has_one_end()


def test_a_failed_node_cancels_its_siblings(observed):
    graph = Graph("g").add_node("start", nothing).add_node("bad", fails)

    async def forever(ctx):
        await asyncio.get_running_loop().create_future()

    graph.add_node("slow", forever).add_edge("start", "slow").add_edge("start", "bad")
    with pytest.raises(ValueError, match="no such city"):
        asyncio.run(EngineExecutor(graph).invoke())
    slow = observed.span("slow")
    assert slow.attributes["zupa.outcome"] == "cancelled"
    assert slow.status.status_code is StatusCode.UNSET
    assert "error.type" not in slow.attributes
    assert observed.span("bad").attributes["zupa.outcome"] == "error"
    assert observed.span("step 2").attributes["zupa.outcome"] == "error"
    assert len([log for log in observed.logs if log.event_name == "exception"]) == 1
    observed.assert_every_start_has_one_end()


def test_interrupted_is_no_error(observed):
    checkpointer = InMemoryCheckpointer()
    graph = Graph("g").add_node("before", nothing).add_node("approve", waits).add_node("beside", nothing)
    graph.add_edge("before", "approve").add_edge("before", "beside")
    result = EngineExecutor(graph, checkpointer=checkpointer).invoke_sync(thread_id="t")
    assert result.status == "interrupted"
    assert outcomes(observed) == {
        "invoke_workflow g": "interrupted",
        "step 1": "completed",
        "before": "completed",
        "step 2": "interrupted",
        "approve": "interrupted",
        "beside": "completed",
    }
    assert set(statuses(observed).values()) == {StatusCode.UNSET}
    assert observed.span("approve").attributes["zupa.interrupt.reason"] == "approval needed"
    run = observed.span("invoke_workflow g")
    assert run.attributes["zupa.interrupt.reason"] == "approval needed"
    assert run.attributes["zupa.checkpoint.id"] == result.checkpoint.checkpoint_id
    assert "zupa.node.goto" not in observed.span("step 2").attributes
    assert [log for log in observed.logs if log.event_name == "exception"] == []
    assert observed.names("run") == ["run_started", "run_interrupted"]
    observed.assert_every_start_has_one_end()


def test_retries_are_events_and_the_span_counts_its_attempts(observed):
    async def flaky(ctx):
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")

    graph = Graph("g").add_node("call", flaky, retry=RetryPolicy(max_attempts=4, initial_delay_s=0.001, backoff=2))
    EngineExecutor(graph).invoke_sync()
    first, second = observed.named("node_retry")
    assert (first.payload["attempt"], second.payload["attempt"]) == (1, 2)
    assert (first.payload["delay_s"], second.payload["delay_s"]) == (0.001, 0.002)
    assert first.payload["error"]["type"] == "ConnectionError"
    assert first.payload["error"]["message"] == "attempt 1"
    span = observed.span("call")
    assert {first.span_id, second.span_id} == {span.context.span_id}
    assert (span.attributes["zupa.attempt"], span.attributes["zupa.attempt.max"]) == (3, 4)
    assert (span.attributes["zupa.outcome"], span.status.status_code) == ("completed", StatusCode.UNSET)
    warnings = [log for log in observed.logs if log.event_name == "engine.node_retry"]
    assert [log.severity_text for log in warnings] == ["WARN", "WARN"]
    assert warnings[0].attributes["zupa.retry.delay"] == 0.001
    assert [log for log in observed.logs if log.event_name == "exception"] == []
    observed.assert_every_start_has_one_end()


def test_attempts_that_run_out_are_a_failure(observed):
    graph = Graph("g").add_node("a", fails, retry=RetryPolicy(max_attempts=2, initial_delay_s=0))
    with pytest.raises(ValueError, match="no such city"):
        EngineExecutor(graph).invoke_sync()
    assert len(observed.named("node_retry")) == 1
    assert observed.span("a").attributes["zupa.attempt"] == 2
    assert observed.span("a").attributes["error.type"] == "ValueError"
    assert len([log for log in observed.logs if log.event_name == "exception"]) == 1


def test_checkpoints_are_events_of_the_step_that_wrote_them(observed):
    checkpointer = InMemoryCheckpointer()
    EngineExecutor(Graph("g").add_node("a", nothing), checkpointer=checkpointer).invoke_sync(thread_id="t")
    newest, first = asyncio.run(checkpointer.history("t"))
    saved = observed.named("checkpoint_saved")
    assert [event.payload["checkpoint_id"] for event in saved] == [first.checkpoint_id, newest.checkpoint_id]
    assert [event.payload["checkpoint_source"] for event in saved] == ["input", "loop"]
    assert [event.payload["step"] for event in saved] == [0, 1]
    assert saved[1].payload["checkpoint_parent_id"] == first.checkpoint_id
    assert saved[0].span_id == observed.span("invoke_workflow g").context.span_id
    assert saved[1].span_id == observed.span("step 1").context.span_id


@pytest.mark.parametrize("sync", [False, True], ids=["async node", "sync node in a thread"])
def test_a_cancelled_run_ends_everything_as_cancelled(observed, sync):
    async def main():
        loop, entered = asyncio.get_running_loop(), asyncio.Event()
        release = threading.Event()

        async def node(ctx):
            entered.set()
            await loop.create_future()

        def blocking(ctx):
            loop.call_soon_threadsafe(entered.set)
            release.wait(10)

        graph = Graph("g").add_node("a", blocking if sync else node).add_node("b", nothing)
        graph.set_entrypoint("a", "b")
        task = asyncio.ensure_future(EngineExecutor(graph).invoke())
        await entered.wait()
        task.cancel()
        loop.call_later(0.01, release.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert outcomes(observed) == {
        "invoke_workflow g": "cancelled",
        "step 1": "cancelled",
        "a": "cancelled",
        "b": "completed",
    }
    assert set(statuses(observed).values()) == {StatusCode.UNSET}
    assert observed.names("run") == ["run_started", "run_cancelled"]
    observed.assert_every_start_has_one_end()


def test_a_run_that_is_cancelled_while_it_waits_for_a_retry(observed):
    async def main():
        failed = asyncio.Event()
        policy = RetryPolicy(max_attempts=9, initial_delay_s=60, max_delay_s=60, retry_on=lambda _: not failed.set())
        task = asyncio.ensure_future(EngineExecutor(Graph("g").add_node("a", fails, retry=policy)).invoke())
        await failed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert observed.span("a").attributes["zupa.outcome"] == "cancelled"
    assert observed.span("a").attributes["zupa.attempt"] == 1
    assert len(observed.named("node_retry")) == 1
    observed.assert_every_start_has_one_end()


def test_a_run_whose_loop_was_closed_under_it_is_closed_without_an_error(observed):
    loop = asyncio.new_event_loop()
    entered = []

    async def node(ctx):
        entered.append(True)
        await loop.create_future()

    task = loop.create_task(EngineExecutor(Graph("g").add_node("a", node)).invoke())
    while not entered:
        loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    inner = [other for other in asyncio.all_tasks(loop) if other is not task]
    for other in inner:
        other._log_destroy_pending = False
        other.get_coro().close()  # as garbage collection does, in whatever context it runs
    task.get_coro().close()
    loop.close()
    del task, inner, other
    gc.collect()
    assert outcomes(observed) == {"invoke_workflow g": "closed", "step 1": "closed", "a": "closed"}
    assert set(statuses(observed).values()) == {StatusCode.UNSET}
    observed.assert_every_start_has_one_end()


def test_errors_of_the_engine_itself_fail_the_run(observed):
    graph = Graph("g").add_node("a", nothing).add_edge("a", "a")
    with pytest.raises(RecursionLimitError):
        EngineExecutor(graph, recursion_limit=2).invoke_sync()
    run = observed.span("invoke_workflow g")
    assert run.attributes["error.type"] == "zupa.errors.RecursionLimitError"
    assert [span.attributes["zupa.outcome"] for span in observed.spans if span.name == "a"] == ["completed"] * 2
    observed.assert_every_start_has_one_end()


def test_a_step_whose_checkpoint_cannot_be_stored_has_failed_though_its_nodes_have_not(observed):
    class Full(InMemoryCheckpointer):
        async def put(self, checkpoint, ledger_events=()):
            if checkpoint.step:
                raise CheckpointError("disk full")
            await super().put(checkpoint, ledger_events)

    with pytest.raises(CheckpointError, match="disk full"):
        EngineExecutor(Graph("g").add_node("a", nothing), checkpointer=Full()).invoke_sync()
    assert outcomes(observed) == {"invoke_workflow g": "error", "step 1": "error", "a": "completed"}
    assert len(observed.named("checkpoint_saved")) == 1
    observed.assert_every_start_has_one_end()


def test_a_base_exception_of_a_node_ends_everything(observed):
    def leave(ctx):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        EngineExecutor(Graph("g").add_node("a", leave)).invoke_sync()
    assert observed.span("a").attributes["zupa.outcome"] == "error"
    assert observed.span("a").attributes["error.type"] == "SystemExit"
    observed.assert_every_start_has_one_end()
