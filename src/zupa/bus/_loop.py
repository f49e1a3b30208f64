"""The bus's own event loop, for async handlers that were subscribed where no loop was running."""

from __future__ import annotations

import asyncio
import threading


class LoopThread:
    """Runs an event loop on a daemon thread, from the first use of `loop` until `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, started if need be.

        Raises:
            RuntimeError: the interpreter is exiting and starts no more threads.
        """
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(loop,), name="zupa-async", daemon=True).start()
                self._loop = loop
            return self._loop

    def close(self) -> None:
        """Stop the loop; its thread closes it."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            if pending:
                loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        finally:
            loop.close()
