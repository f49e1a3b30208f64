"""Nothing of a super-step outlives it: interrupts, failures and cancellation with siblings still running."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from zupa.engine import EngineExecutor, Graph, GraphInterrupt, InMemoryCheckpointer


def pair(first, second):
    return Graph().add_node("first", first).add_node("second", second).set_entrypoint("first", "second")


def test_siblings_of_an_interrupt_finish_and_their_writes_are_kept():
    async def main():
        interrupted = asyncio.Event()

        async def ask(ctx):
            interrupted.set()
            raise GraphInterrupt("ask")

        async def work(ctx):
            await interrupted.wait()
            for _ in range(3):
                await asyncio.sleep(0)
            return {"work": "done"}

        return await EngineExecutor(pair(ask, work)).invoke()

    result = asyncio.run(main())
    assert result.status == "interrupted"
    assert result.interrupt.node == "first"
    assert result.values == {"work": "done"}
    assert result.checkpoint.next_tasks == ("first",)


def test_a_failure_cancels_async_siblings_and_waits_for_their_cleanup():
    async def main():
        running, cleaned = asyncio.Event(), []

        async def fail(ctx):
            await running.wait()
            raise LookupError("mine")

        async def work(ctx):
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(True)

        store = InMemoryCheckpointer()
        with pytest.raises(LookupError, match="mine"):
            await EngineExecutor(pair(fail, work), checkpointer=store).invoke(thread_id="t")
        assert cleaned == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (await store.get("t")).next_tasks == ("first", "second"), "a failed step commits nothing"

    asyncio.run(main())


def test_a_failure_waits_for_sync_siblings():
    async def main():
        running, release, finished, logged = threading.Event(), threading.Event(), [], []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))

        async def fail(ctx):
            await asyncio.to_thread(running.wait, 10)
            asyncio.get_running_loop().call_later(0.01, release.set)
            raise LookupError("mine")

        def work(ctx):
            running.set()
            assert release.wait(10)
            finished.append(True)
            raise OSError("too late to matter")

        with pytest.raises(LookupError, match="mine"):
            await EngineExecutor(pair(fail, work)).invoke()
        assert finished == [True]
        gc.collect()
        assert logged == [], "the error of a sibling that was given up is no news"

    asyncio.run(main())


def test_an_interrupt_and_a_failure_in_one_step_are_a_failure():
    async def ask(ctx):
        raise GraphInterrupt("ask")

    async def fail(ctx):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        EngineExecutor(pair(ask, fail)).invoke_sync()


def test_of_several_failures_the_first_in_task_order_is_raised():
    async def main():
        async def early(ctx):
            raise LookupError("early")

        async def late(ctx):
            raise OSError("late")

        with pytest.raises(OSError, match="late"):
            await EngineExecutor(pair(late, early)).invoke()

    asyncio.run(main())


def test_a_node_that_raises_cancelled_error_cancels_the_run_and_its_siblings():
    async def main():
        cancelled = []

        async def quit_(ctx):
            raise asyncio.CancelledError

        async def work(ctx):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(EngineExecutor(pair(quit_, work)).invoke(), 10)
        assert cancelled == [True]

    asyncio.run(main())


def test_cancelling_a_run_cancels_and_awaits_all_its_tasks():
    async def main():
        running, release, ended = asyncio.Event(), threading.Event(), []

        def sync_work(ctx):
            assert release.wait(10)
            ended.append("sync")

        async def async_work(ctx):
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("async")
                release.set()

        run = asyncio.create_task(EngineExecutor(pair(sync_work, async_work)).invoke())
        await running.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert sorted(ended) == ["async", "sync"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_cancelling_twice_still_waits_for_a_node_that_cleans_up():
    async def main():
        running, cleaning, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

        async def stubborn(ctx):
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cleaning.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append("second cancellation arrived")
                    await release.wait()
                    ended.append("clean")
                raise

        run = asyncio.create_task(EngineExecutor(Graph().add_node("a", stubborn)).invoke())
        await running.wait()
        run.cancel()
        await cleaning.wait()
        run.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not run.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert ended == ["second cancellation arrived", "clean"]

    asyncio.run(main())


def test_a_cancelled_sync_node_that_has_no_thread_yet_never_starts():
    async def main():
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        running, release, started = asyncio.Event(), threading.Event(), []

        def first(ctx):
            loop.call_soon_threadsafe(running.set)
            assert release.wait(10)

        def second(ctx):
            started.append(True)

        run = asyncio.create_task(EngineExecutor(pair(first, second)).invoke())
        await running.wait()
        run.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert started == []

    asyncio.run(main())


def test_cancellation_while_siblings_of_a_failure_end_is_not_lost():
    async def main():
        cleaning, release = asyncio.Event(), asyncio.Event()
        running = asyncio.Event()

        async def fail(ctx):
            await running.wait()
            raise LookupError("mine")

        async def work(ctx):
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                await release.wait()

        run = asyncio.create_task(EngineExecutor(pair(fail, work)).invoke())
        await cleaning.wait()
        run.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
