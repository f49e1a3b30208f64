"""`Recorder`: from what an engine does to `Transition` events, with right parents, links and outcomes.

Engine-neutral: a target's module calls `open_run`, `open_step`, `open_node` and their `close_` twins at its engine's
seams, and never touches ids, clocks or the bus. Everything here runs on the engine's thread, so it stays lean: a scope
keeps the transition that opened it, and the one that closes it is a changed copy, which is one C call. Turning
transitions into payloads, spans and log records is the bus's worker's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace
from opentelemetry import context as context_api
from opentelemetry.trace import SpanContext

from zupa.ports import Clock, EventBus
from zupa.semconv import ENGINE_CHANNEL, LINK_EDGE, LINK_RESUME, LINK_USER, OPERATION_INVOKE_WORKFLOW
from zupa.span import current_node, set_node_in_context
from zupa.transition import Transition, TransitionLink
from zupa_instrumentation._identity import (
    IdGenerator,
    RandomIds,
    Sampler,
    SystemTime,
    child_context,
    current_parent,
    parent_based,
    run_context,
)
from zupa_instrumentation._scopes import NodeScope, RunScope, Scope, StepScope


class Recorder:
    """See the module's text.

    Args:
        engine: Name of the engine, for `Transition.engine`.
        bus: Where the events go.
        clock: Time of starts and ends; the system's when not given.
        ids: Source of span and trace ids; random when not given.
        sampler: Decides about runs; when not given, they follow their parents, and new traces are sampled.

    Concurrency: any thread; a scope belongs to the thread or task that opened it.
    """

    def __init__(
        self,
        engine: str,
        bus: EventBus,
        clock: Clock | None = None,
        ids: IdGenerator | None = None,
        sampler: Sampler = parent_based,
    ) -> None:
        self._engine = engine
        self.bus = bus
        clock = clock or SystemTime()
        self._time_ns = clock.time_ns
        self._monotonic_ns = clock.monotonic_ns
        self._ids = ids or RandomIds()
        self._sampler = sampler

    # -- runs ----------------------------------------------------------------------------------------------------

    def open_run(
        self,
        run_id: str,
        graph: str,
        thread_id: str,
        *,
        resumed_from: SpanContext | None = None,
        checkpoint_id: str = "",
        enclosing: NodeScope | None = None,
    ) -> RunScope:
        """Open a run below the span that is current here, or as a new trace where there is none.

        Args:
            run_id: Unique per call of the engine.
            graph: Name of the graph.
            thread_id: Conversation, or "".
            resumed_from: The span of the interrupted run that this one continues.
            checkpoint_id: Where it continues from.
            enclosing: The node in whose body this run was started.
        """
        start_ns, start_mono_ns = self._time_ns(), self._monotonic_ns()
        outer = current_parent()
        context = run_context(self._ids, self._sampler, outer, f"{OPERATION_INVOKE_WORKFLOW} {graph}")
        opened = Transition(
            engine=self._engine,
            kind="run",
            phase="started",
            run_id=run_id,
            exec_id=run_id,
            graph=graph,
            thread_id=thread_id,
            namespace=() if enclosing is None else (*enclosing.opened.namespace, enclosing.opened.node),
            parent_exec_id="" if enclosing is None else enclosing.opened.exec_id,
            checkpoint_id=checkpoint_id,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=int(context.trace_flags),  # a plain number, not the API's subclass
            trace_state=context.trace_state.to_header() if context.trace_state else "",
            parent_span_id=0 if outer is None else outer.span_id,
            parent_is_remote=outer is not None and outer.is_remote,
            start_ns=start_ns,
            links=()
            if resumed_from is None
            else (TransitionLink(resumed_from.trace_id, resumed_from.span_id, LINK_RESUME),),
        )
        run = RunScope(self, context, opened, start_mono_ns)
        self._emit("run_started", opened)
        if checkpoint_id:
            self._emit("run_resumed", replace(opened, phase="resumed"))
        return run

    def close_run(
        self,
        run: RunScope,
        phase: str,
        error: BaseException | None = None,
        *,
        reason: str = "",
        checkpoint_id: str = "",
    ) -> None:
        """Close *run* with *phase*, one of `zupa.transition.TERMINAL_PHASES`; an open step goes with it."""
        try:
            if run.step is not None:
                self.close_step(run, phase if phase != "completed" else "abandoned", error)
        finally:
            closed = replace(
                run.opened,
                phase=phase,
                error=error,
                interrupt_reason=reason,
                checkpoint_id=checkpoint_id,
                end_ns=self._end_ns(run),
            )
            self._emit(f"run_{phase}", closed)

    # -- steps ---------------------------------------------------------------------------------------------------

    def open_step(self, run: RunScope, index: int, tasks: Sequence[str]) -> StepScope:
        """Open super-step *index* of *run*."""
        start_ns, start_mono_ns = self._time_ns(), self._monotonic_ns()
        context = child_context(self._ids, run.context)
        of_run = run.opened
        opened = Transition(
            engine=self._engine,
            kind="step",
            phase="started",
            run_id=of_run.run_id,
            exec_id=f"{of_run.run_id}/{index}",
            graph=of_run.graph,
            thread_id=of_run.thread_id,
            step=index,
            tasks=tasks,
            namespace=of_run.namespace,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=of_run.trace_flags,
            trace_state=of_run.trace_state,
            parent_span_id=of_run.span_id,
            start_ns=start_ns,
        )
        step = run.step = StepScope(context, opened, start_mono_ns)
        self._emit("step_started", opened)
        return step

    def close_step(
        self, run: RunScope, phase: str, error: BaseException | None = None, *, goto: Sequence[str] = ()
    ) -> None:
        """Close the open step of *run*; *goto* names what runs next."""
        step, run.step = run.step, None
        if step is not None:
            run.node_spans.update(step.ended)
            closed = replace(step.opened, phase=phase, error=error, goto=goto, end_ns=self._end_ns(step))
            self._emit(f"step_{phase}", closed)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def open_node(
        self,
        run: RunScope,
        exec_id: str,
        node: str,
        *,
        node_kind: str = "node",
        sources: Iterable[str] = (),
        triggers: Sequence[str] = (),
        max_attempts: int = 1,
    ) -> NodeScope:
        """Open a node below the open step of *run* (or the run), and make its span current here.

        The caller must call `leave_node` in the same context, and `close_node`.
        """
        start_ns, start_mono_ns = self._time_ns(), self._monotonic_ns()
        parent: Scope = run.step or run
        context = child_context(self._ids, parent.context)
        sources = tuple(sources)
        spans = run.node_spans
        of_run = run.opened
        opened = Transition(
            engine=self._engine,
            kind="node",
            phase="started",
            run_id=of_run.run_id,
            exec_id=exec_id,
            graph=of_run.graph,
            node=node,
            node_kind=node_kind,
            thread_id=of_run.thread_id,
            step=parent.opened.step,
            namespace=of_run.namespace,
            sources=sources,
            triggers=triggers,
            max_attempts=max_attempts,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=of_run.trace_flags,
            trace_state=of_run.trace_state,
            parent_span_id=parent.context.span_id,
            start_ns=start_ns,
            links=[
                TransitionLink(source.trace_id, source.span_id, LINK_EDGE, name)
                for name in sources
                if (source := spans.get(name)) is not None
            ],
        )
        scope = NodeScope(run, context, opened, start_mono_ns)
        self._emit("node_started", opened)
        scope.token = context_api.attach(set_node_in_context(scope.span))
        return scope

    def leave_node(self, scope: NodeScope) -> None:
        """Make current what was current before `open_node`."""
        token, scope.token = scope.token, None
        # Not current: the engine's coroutine was closed in another context (garbage collection after its loop was
        # closed). There is nothing to take back there, and OpenTelemetry would log an error.
        if token is not None and current_node() is scope.span:
            context_api.detach(token)

    def close_node(
        self,
        scope: NodeScope,
        phase: str,
        error: BaseException | None = None,
        *,
        attempt: int = 1,
        goto: Sequence[str] = (),
        writes: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        """Close the node; what was set on its span goes with it."""
        end_ns = self._end_ns(scope)
        opened, span, run = scope.opened, scope.span, scope.run
        span.finish()
        (run.node_spans if run.step is None else run.step.ended)[opened.node] = scope.context
        closed = replace(
            opened,
            phase=phase,
            error=error,
            attempt=attempt,
            goto=goto,
            writes=writes,
            interrupt_reason=reason,
            end_ns=end_ns,
            attributes=span.attributes or None,
            span_events=span.events,
            span_name=span.name,
            status=span.status,
        )
        if span.links:
            user = (TransitionLink(link.trace_id, link.span_id, LINK_USER) for link in span.links)
            closed = replace(closed, links=(*opened.links, *user))
        self._emit(f"node_{phase}", closed)

    def retry(self, scope: NodeScope, error: BaseException, attempt: int, delay_s: float) -> None:
        """Attempt *attempt* failed and another follows after *delay_s*."""
        self._emit("node_retry", replace(scope.opened, phase="retry", error=error, attempt=attempt, delay_s=delay_s))

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_saved(self, run: RunScope, checkpoint_id: str, parent_id: str, step: int, source: str) -> None:
        """A checkpoint was stored."""
        owner = (run.step or run).opened
        transition = replace(
            owner,
            kind="checkpoint",
            phase="saved",
            step=step,
            tasks=(),
            links=(),
            parent_span_id=0,
            start_ns=0,
            checkpoint_id=checkpoint_id,
            checkpoint_parent_id=parent_id,
            checkpoint_source=source,
        )
        self._emit("checkpoint_saved", transition)

    # -- plumbing ------------------------------------------------------------------------------------------------

    def _end_ns(self, scope: Scope) -> int:
        return scope.opened.start_ns + max(0, self._monotonic_ns() - scope.start_mono_ns)

    def _emit(self, name: str, transition: Transition) -> None:
        self.bus.emit(ENGINE_CHANNEL, name, transition)
