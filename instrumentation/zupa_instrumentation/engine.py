"""Instrument `zupa.engine.EngineExecutor`: every run, step and node emits its transitions.

Usage::

    from zupa_instrumentation.engine import EngineInstrumentor

    EngineInstrumentor().instrument(bus=bus)   # or zupa.configure(), or opentelemetry-instrument
    ...
    EngineInstrumentor().uninstrument()

The engine's own run, step and task coroutines are wrapped, so there is one code path for sync and async calls and an
end for every start, also on cancellation. A node's span is current inside the node's body and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar, Token
from typing import Any, Final

import msgspec
import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from zupa import _wiring
from zupa.engine import EngineExecutor, GraphInterrupt
from zupa.errors import ConfigurationError
from zupa.ports import EventBus
from zupa.semconv import CHECKPOINT_NODE_SPANS, CHECKPOINT_TRACEPARENT
from zupa_instrumentation._guard import HookFailures
from zupa_instrumentation._identity import parent_based, parse_traceparent, traceparent
from zupa_instrumentation._recorder import Recorder
from zupa_instrumentation._scopes import NodeScope, RunScope

Wrapped = Callable[..., Awaitable[Any]]

_SEAMS: Final = ("_execute_run", "_execute_step", "_execute_task", "_retry_wait", "_save_checkpoint")

_NONE: Final = (None, None)

_run_scope: ContextVar[RunScope | None] = ContextVar("zupa_run_scope", default=None)
_node_scope: ContextVar[NodeScope | None] = ContextVar("zupa_node_scope", default=None)


class EngineInstrumentor(BaseInstrumentor):  # type: ignore[misc] # opentelemetry-instrumentation hides its types
    """Makes `EngineExecutor` emit. A singleton, as all OpenTelemetry instrumentors are.

    Attributes:
        failures: What went wrong in our own hooks: counted, logged at most once in 30 s, never seen by the engine.
    """

    failures: HookFailures
    _recorder: Recorder | None = None
    _settings: Mapping[str, Any]
    _wrappers: dict[str, tuple[object, Any]]

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(self, "failures"):  # the singleton's __init__ runs at every call
            self.failures = HookFailures()
            self._settings = {}
            self._wrappers = {}

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing to check: the engine is in the same distribution."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Start to emit. Calling it again only changes the settings that are given.

        Args:
            **kwargs: ``bus`` (an `EventBus`; the process's default bus when not given), ``sampler`` (parent, trace id
                and span name to bool, asked for each run), ``clock``, ``id_generator``, and what `BaseInstrumentor`
                takes.

        Raises:
            ConfigurationError: ``bus`` is not an event bus.
        """
        if self.is_instrumented_by_opentelemetry:
            self._configure(**kwargs)
            return
        super().instrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        self._configure(**kwargs)
        hooks = (self._run, self._step, self._task, self._retry, self._checkpoint)
        for seam, hook in zip(_SEAMS, hooks, strict=True):
            self._wrap(seam, hook)

    def _wrap(self, seam: str, hook: Callable[..., Awaitable[Any]]) -> None:
        token, wrappers = object(), self._wrappers

        def current_hook(wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Awaitable[Any]:
            if wrappers.get(seam, _NONE)[0] is not token:
                # Uninstrumented, but somebody has wrapped this wrapper, so it could not be taken away.
                return wrapped(*args, **kwargs)
            return hook(wrapped, instance, args, kwargs)

        wrappers[seam] = (token, None)  # before the first call can come
        wrappers[seam] = (token, wrapt.wrap_function_wrapper(EngineExecutor, seam, current_hook))

    def _uninstrument(self, **kwargs: Any) -> None:
        for seam, (_, wrapper) in self._wrappers.items():
            installed: Any = EngineExecutor.__dict__.get(seam)
            if installed is not None and installed is wrapper:
                setattr(EngineExecutor, seam, installed.__wrapped__)
        self._wrappers.clear()
        self._settings = {}
        self._recorder = None

    def _configure(self, **kwargs: Any) -> None:
        settings = {**self._settings, **{key: value for key, value in kwargs.items() if value is not None}}
        self._recorder = _make_recorder(settings)
        self._settings = settings

    # -- the hooks: each runs the original exactly once, whatever happens in our own code -----------------------------

    async def _run(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Any:
        run = args[0]
        scope = self.failures.call(self._open_run, run)
        if scope is None:
            return await wrapped(*args, **kwargs)
        token = _run_scope.set(scope)
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            self.failures.call(self._close_run, scope, run, error, None)
            raise
        finally:
            _reset(_run_scope, token)
        self.failures.call(self._close_run, scope, run, None, result)
        return result

    async def _step(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Any:
        run, step = args[0], args[1]
        scope = _scope_of(run)
        if scope is None:
            return await wrapped(*args, **kwargs)
        self.failures.call(self._open_step, scope, step)
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            self.failures.call(self._close_step, scope, run, error)
            raise
        self.failures.call(self._close_step, scope, run, None)
        return result

    async def _task(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Any:
        run, task = args[0], args[1]
        run_scope = _scope_of(run)
        scope = None if run_scope is None else self.failures.call(self._open_node, run_scope, task)
        if scope is None:
            return await wrapped(*args, **kwargs)
        token = _node_scope.set(scope)
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            self.failures.call(self._leave_node, scope)
            self.failures.call(self._close_node, scope, task, error, None)
            raise
        finally:
            _reset(_node_scope, token)
        self.failures.call(self._leave_node, scope)
        self.failures.call(self._close_node, scope, task, None, result)
        return result

    async def _retry(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Any:
        self.failures.call(self._record_retry, *args)
        return await wrapped(*args, **kwargs)

    async def _checkpoint(self, wrapped: Wrapped, instance: Any, args: Any, kwargs: Any) -> Any:
        run = args[0]
        scope = _scope_of(run)
        if scope is None or instance.checkpointer is None:  # nothing is stored
            return await wrapped(*args, **kwargs)
        marked = self.failures.call(self._mark_checkpoint, scope, args[1])
        if marked is not None:
            args = (run, marked, *args[2:])
        result = await wrapped(*args, **kwargs)
        self.failures.call(self._record_checkpoint, scope, args[1])
        return result

    # -- our own code: may fail, guarded ------------------------------------------------------------------------------

    def _open_run(self, run: Any) -> RunScope | None:
        if self._recorder is None or not is_instrumentation_enabled():
            return None
        resumed, checkpoint_id = None, ""
        spans: Mapping[str, Any] = {}
        if run.resumed_from is not None:
            metadata = run.resumed_from.metadata
            checkpoint_id = run.resumed_from.checkpoint_id
            resumed = parse_traceparent(metadata.get(CHECKPOINT_TRACEPARENT))
            spans = metadata.get(CHECKPOINT_NODE_SPANS) or {}
        scope = self._recorder.open_run(
            run.run_id,
            run.graph_name,
            run.thread_id or "",
            resumed_from=resumed,
            checkpoint_id=checkpoint_id,
            enclosing=_node_scope.get(),
        )
        for node, text in spans.items():
            if (context := parse_traceparent(text)) is not None:
                scope.node_spans[node] = context
        return scope

    def _close_run(self, scope: RunScope, run: Any, error: BaseException | None, result: Any) -> None:
        reason = ""
        if error is not None:
            phase = _phase_of(error)
        elif result.status == "interrupted":
            phase, reason = "interrupted", str(getattr(result.interrupt, "reason", "") or "")
        else:
            phase = "completed"
        checkpoint_id = "" if run.checkpoint is None else run.checkpoint.checkpoint_id
        failure = error if phase == "failed" else None
        scope.recorder.close_run(scope, phase, failure, reason=reason, checkpoint_id=checkpoint_id)

    def _open_step(self, scope: RunScope, step: Any) -> None:
        scope.recorder.open_step(scope, step.index, tuple(task.node for task in step.tasks))

    def _close_step(self, scope: RunScope, run: Any, error: BaseException | None) -> None:
        if error is not None:
            phase = _phase_of(error)
            scope.recorder.close_step(scope, phase, error if phase == "failed" else None)
            return
        interrupted = run.checkpoint.source == "interrupt"
        goto = () if interrupted else run.checkpoint.next_tasks
        scope.recorder.close_step(scope, "interrupted" if interrupted else "completed", goto=goto)

    def _open_node(self, scope: RunScope, task: Any) -> NodeScope:
        return scope.recorder.open_node(
            scope,
            task.exec_id,
            task.node,
            node_kind=task.kind,
            sources=task.sources,
            max_attempts=task.max_attempts,
        )

    def _leave_node(self, scope: NodeScope) -> None:
        scope.run.recorder.leave_node(scope)

    def _close_node(self, scope: NodeScope, task: Any, error: BaseException | None, result: Any) -> None:
        phase = "completed" if error is None else _phase_of(error)
        scope.run.recorder.close_node(
            scope,
            phase,
            error if phase == "failed" else None,
            attempt=task.attempt,
            goto=task.goto,
            writes=() if result is None else tuple(result.state_diff),
            reason=str(error.reason) if isinstance(error, GraphInterrupt) else "",
        )

    def _record_retry(self, run: Any, task: Any, error: BaseException, delay_s: float) -> None:
        scope = _node_scope.get()
        # A run that is not observed (suppressed) may be nested in a node that is.
        if scope is not None and scope.opened.exec_id == task.exec_id:
            scope.run.recorder.retry(scope, error, task.attempt, delay_s)

    def _mark_checkpoint(self, scope: RunScope, checkpoint: Any) -> Any:
        """Keep with *checkpoint* what a run that continues from it links to: this run, and its newest nodes."""
        metadata = checkpoint.metadata
        sources = {name for names in metadata.get("sources", {}).values() for name in names}
        spans = {
            node: traceparent(context)
            for node in sources.union(metadata.get("routes", ()))
            if (context := scope.ended_node(node)) is not None
        }
        marks = {CHECKPOINT_TRACEPARENT: traceparent(scope.context), CHECKPOINT_NODE_SPANS: spans}
        return msgspec.structs.replace(checkpoint, metadata={**metadata, **marks})

    def _record_checkpoint(self, scope: RunScope, checkpoint: Any) -> None:
        scope.recorder.checkpoint_saved(
            scope,
            checkpoint.checkpoint_id,
            checkpoint.parent_checkpoint_id or "",
            checkpoint.step,
            checkpoint.source.value,
        )


def _make_recorder(settings: Mapping[str, Any]) -> Recorder:
    bus = settings.get("bus")
    if bus is None:
        bus = _wiring.get_bus()
    if not isinstance(bus, EventBus):
        raise ConfigurationError(f"bus={bus!r} is no event bus: pass a zupa.ReducerEventBus, or nothing")
    return Recorder(
        "zupa",
        bus,
        settings.get("clock"),
        settings.get("id_generator"),
        settings.get("sampler", parent_based),
    )


def _phase_of(error: BaseException) -> str:
    """Interrupts are control flow; a cancelled node is not a failed one; a closed generator is neither."""
    if isinstance(error, GraphInterrupt):
        return "interrupted"
    name = type(error).__name__
    if name == "CancelledError":  # asyncio's, or that of a library on top of it
        return "cancelled"
    return "closed" if isinstance(error, GeneratorExit) else "failed"


def _scope_of(run: Any) -> RunScope | None:
    scope = _run_scope.get()
    return scope if scope is not None and scope.run_id == run.run_id else None


def _reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    try:
        variable.reset(token)
    except ValueError:
        # The coroutine was closed in another context (garbage collection, generator-based runners): nothing of ours
        # is visible there, so there is nothing to take back.
        return
