"""`AgentRuntime`: resources with one lifecycle. It knows no bus, no engine and no sink, only start and aclose."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from zupa.errors import ConfigurationError, LifecycleError
from zupa.ports import RuntimeResource

_logger = logging.getLogger(__name__)

DEFAULT_STOP_TIMEOUT_MILLIS: Final = 5_000.0
"""Longer than a bus's `shutdown_timeout_millis`, so that a bus ends by its own deadline and counts its losses."""

R = TypeVar("R", bound=RuntimeResource)
_Failure = tuple[str, BaseException]


class _State(enum.Enum):
    NEW = "new"
    STARTED = "started"
    CLOSED = "closed"


class _Entry(NamedTuple):
    name: str
    resource: RuntimeResource
    stop_timeout_s: float


class AgentRuntime:
    """Starts resources in the order in which they were added and stops them in reverse.

    Add what others depend on first: the bus, then its sinks, then what emits. A runtime is itself a resource.

    Args:
        *resources: Added as by `add`, in this order.
        stop_timeout_millis: How long each resource may take to stop, unless `add` says otherwise.

    Raises:
        ConfigurationError: at construction and in `add`.

    Concurrency: one event loop. `start` and `aclose` wait for each other.
    """

    def __init__(self, *resources: RuntimeResource, stop_timeout_millis: float = DEFAULT_STOP_TIMEOUT_MILLIS) -> None:
        self._stop_timeout_s = _seconds(stop_timeout_millis)
        self._state = _State.NEW
        self._lock = asyncio.Lock()
        self._entries: list[_Entry] = []
        self._started: list[_Entry] = []
        for resource in resources:
            self.add(resource)

    def add(self, resource: R, name: str | None = None, *, stop_timeout_millis: float | None = None) -> R:
        """Add *resource* behind those that are there, and return it.

        Args:
            resource: Has `start` and `aclose`, each sync or async; see `zupa.ports.RuntimeResource`.
            name: Its name in errors; by default that of its class, numbered where it is taken.
            stop_timeout_millis: How long its `aclose` may take; the runtime's own setting when None.

        Raises:
            ConfigurationError: it lacks a method, was added before, or the runtime has been started.
        """
        if self._state is not _State.NEW:
            raise ConfigurationError("resources must be added before start(): this runtime has been started already")
        missing = [method for method in ("start", "aclose") if not callable(getattr(resource, method, None))]
        if missing:
            raise ConfigurationError(
                f"{type(resource).__name__} is no runtime resource: it lacks {' and '.join(missing)}(); "
                "see zupa.RuntimeResource"
            )
        if any(entry.resource is resource for entry in self._entries):
            raise ConfigurationError(f"this {type(resource).__name__} was added before; a resource is started once")
        timeout_s = self._stop_timeout_s if stop_timeout_millis is None else _seconds(stop_timeout_millis)
        self._entries.append(_Entry(self._unique_name(name or type(resource).__name__), resource, timeout_s))
        return resource

    async def start(self) -> None:
        """Start all resources, one after another. Idempotent.

        Where one fails, or the call is cancelled, those that had started are stopped in reverse order; the one that
        failed is not, it has to clean up after itself.

        Raises:
            LifecycleError: one failed: its error is `__cause__`, and first among `errors`, before those of the
                clean-up. Also when the runtime was closed before: make a new one.
        """
        async with self._lock:
            if self._state is _State.STARTED:
                return
            if self._state is _State.CLOSED:
                failure = RuntimeError("it was closed, and resources do not start twice; make a new AgentRuntime")
                raise LifecycleError("start", [(type(self).__name__, failure)])
            self._state = _State.STARTED
            name = ""
            try:
                for entry in self._entries:
                    name = entry.name
                    await _call(entry.resource.start)
                    self._started.append(entry)
            except BaseException as error:
                failures = await self._stop_started()
                if isinstance(error, Exception):
                    raise LifecycleError("start", [(name, error), *failures]) from error
                _report(failures)
                raise

    async def aclose(self) -> None:
        """Stop what was started, in reverse order, whatever fails. Idempotent; without `start` it does nothing.

        Each `aclose` gets `stop_timeout_millis` and runs in a task of its own; one that takes longer is cancelled and
        left behind. A sync one runs on the event loop's thread and cannot be interrupted, so it should be quick. When
        the caller is cancelled all resources are stopped nevertheless, and then the cancellation goes on.

        Raises:
            LifecycleError: with the error of every resource that failed or took too long.
        """
        async with self._lock:
            if self._state is not _State.STARTED:
                return
            if failures := await self._stop_started():
                raise LifecycleError("stop", failures)

    async def _stop_started(self) -> list[_Failure]:
        self._state = _State.CLOSED
        stopping = asyncio.ensure_future(self._stop_all())
        interrupted = False
        while not stopping.done():
            try:
                await asyncio.wait({stopping})
            except asyncio.CancelledError:
                interrupted = True
        failures = stopping.result()
        if interrupted:
            _report(failures)
            raise asyncio.CancelledError
        return failures

    async def _stop_all(self) -> list[_Failure]:
        failures: list[_Failure] = []
        while self._started:
            entry = self._started.pop()
            error = await _stop(entry)
            if error is not None:
                failures.append((entry.name, error))
        return failures

    def _unique_name(self, wanted: str) -> str:
        taken = {entry.name for entry in self._entries}
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}#{number}", number + 1
        return name

    async def __aenter__(self) -> AgentRuntime:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except LifecycleError as error:
            if exc is None:
                raise
            # What went wrong in the body matters more, and would be hidden.
            _report(error.errors)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.value}: {', '.join(entry.name for entry in self._entries)}>"


def _seconds(millis: float) -> float:
    if isinstance(millis, bool) or not isinstance(millis, int | float) or not 0 < millis < float("inf"):
        raise ConfigurationError(f"stop_timeout_millis={millis!r} is unusable: it must be a number > 0")
    return millis / 1e3


async def _call(method: Callable[[], Any]) -> None:
    result = method()
    if inspect.isawaitable(result):
        await result


async def _stop(entry: _Entry) -> BaseException | None:
    # Not asyncio.wait_for: it waits for the cancelled call, for ever where that ignores its cancellation.
    task = asyncio.ensure_future(_call(entry.resource.aclose))
    done, _ = await asyncio.wait({task}, timeout=entry.stop_timeout_s)
    if not done:
        task.add_done_callback(_retrieve)
        task.cancel()
        await asyncio.sleep(0)
        return TimeoutError(f"aclose() took longer than stop_timeout_millis={entry.stop_timeout_s * 1e3:g}")
    if task.cancelled():
        return asyncio.CancelledError("aclose() was cancelled from elsewhere")
    return task.exception()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take the exception of a task that nobody waits for, so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()


def _report(failures: list[_Failure] | tuple[_Failure, ...]) -> None:
    """Log failures that cannot be raised because something more important is being raised."""
    for name, error in failures:
        _logger.error("resource %s failed to stop: %s: %s", name, type(error).__name__, error, exc_info=error)
