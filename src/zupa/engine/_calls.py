"""Calling what may be sync or async: nodes from a run, and a run from sync code."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zupa.engine._graph import Node
from zupa.engine._types import NodeContext
from zupa.errors import EngineError

_T = TypeVar("_T")
_on_loop_thread = threading.local()


async def call_node(node: Node, context: NodeContext, *, inline: bool) -> Any:
    """Call *node* in the current contextvars context and return what it returns.

    Args:
        node: Whose function to call.
        context: Its argument.
        inline: A sync function runs on this thread, and blocks the loop; otherwise on a thread of the loop's
            default executor, in a copy of the context.

    When cancelled while a sync function runs, this waits for it to return, because a thread cannot be stopped.
    """
    if node.is_async:
        returned: Any = node.function(context)
    elif inline:
        returned = _call_inline(node, context)
    else:
        returned = await _call_in_thread(node, context)
    return await returned if inspect.isawaitable(returned) else returned


def _call_inline(node: Node, context: NodeContext) -> Any:
    _on_loop_thread.inline = True
    try:
        return node.function(context)
    finally:
        _on_loop_thread.inline = False


async def _call_in_thread(node: Node, context: NodeContext) -> Any:
    variables = contextvars.copy_context()
    cancelled = threading.Event()

    def body() -> Any:
        if cancelled.is_set():  # it was still waiting for a thread
            return None
        try:
            return variables.run(node.function, context)
        except StopIteration as error:
            # A future cannot carry it: before Python 3.12 the waiting side would hang for ever.
            raise RuntimeError(f"node {node.name!r} raised StopIteration") from error

    future = asyncio.get_running_loop().run_in_executor(None, body)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.set()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # asyncio would otherwise log it as never retrieved
        raise


async def call_maybe_async(function: Callable[[_T], object | Awaitable[object]], argument: _T) -> None:
    """Call a hook and await what it returns, where that is awaitable."""
    returned = function(argument)
    if inspect.isawaitable(returned):
        await returned


def run_in_new_loop(main: Callable[[], Coroutine[Any, Any, _T]], *, instead: str) -> _T:
    """Run *main* to its end in an event loop of its own.

    A sync node that runs on the loop's own thread may call this too: it then gets a thread for the nested loop.

    Raises:
        EngineError: an event loop runs in this thread; the message says what to do *instead*.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    if getattr(_on_loop_thread, "inline", False):
        variables = contextvars.copy_context()
        with ThreadPoolExecutor(1, thread_name_prefix="zupa-nested-run") as pool:
            return pool.submit(variables.run, lambda: asyncio.run(main())).result()
    raise EngineError(
        f"an event loop is running in this thread, and a blocking run would stop it; write `{instead}` in async code"
    )
