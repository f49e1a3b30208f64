"""Running the tasks of one super-step, and not leaving before the last of them has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from zupa.engine._interrupt import GraphInterrupt
from zupa.engine._types import NodeResult

Outcome = NodeResult | GraphInterrupt


async def run_all(coroutines: Iterable[Coroutine[Any, Any, NodeResult]]) -> list[Outcome]:
    """Run *coroutines* in parallel, each in its own copy of the context, and return their outcomes in order.

    A `GraphInterrupt` is an outcome: the others go on. Any other error, or a cancellation from outside, cancels the
    others; it is raised once **all** have ended, so nothing of a step outlives it. Of several errors the first in
    order is raised.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    ended = asyncio.get_running_loop().create_future()
    remaining = len(tasks)

    def on_done(task: asyncio.Task[NodeResult]) -> None:
        nonlocal remaining
        remaining -= 1
        if (remaining == 0 or _has_failed(task)) and not ended.done():
            ended.set_result(None)

    for task in tasks:
        task.add_done_callback(on_done)
    try:
        await ended
    except asyncio.CancelledError:
        await _cancel_all(tasks)
        raise
    failed = next((task for task in tasks if task.done() and _has_failed(task)), None)
    if failed is not None and await _cancel_all(tasks):
        raise asyncio.CancelledError
    if failed is not None:
        failed.result()
    return [_outcome(task) for task in tasks]


def _has_failed(task: asyncio.Task[NodeResult]) -> bool:
    if task.cancelled():
        return True
    error = task.exception()
    return error is not None and not isinstance(error, GraphInterrupt)


def _outcome(task: asyncio.Task[NodeResult]) -> Outcome:
    error = task.exception()
    return error if isinstance(error, GraphInterrupt) else task.result()


async def _cancel_all(tasks: list[asyncio.Task[NodeResult]]) -> bool:
    """Cancel and await *tasks*; return True when this was itself cancelled meanwhile, which is passed on to them."""
    again = False
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            again = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asyncio would otherwise log it as never retrieved
    return again
