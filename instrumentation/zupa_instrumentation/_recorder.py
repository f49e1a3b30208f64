"""`Recorder`: from what an engine does to `Transition` events, with right parents, links and outcomes.

Engine-neutral: a target's module calls `open_run`, `open_step`, `open_node` and their `close_` twins at its engine's
seams, and never touches ids, clocks or the bus. Everything here runs on the engine's thread, so it stays lean; turning
transitions into payloads, spans and log records is the bus's worker's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.trace import SpanContext

from zupa.ports import Clock, EventBus
from zupa.semconv import ENGINE_CHANNEL, LINK_EDGE, OPERATION_INVOKE_WORKFLOW
from zupa.span import current_node, set_node_in_context
from zupa.transition import Transition, TransitionLink
from zupa_instrumentation._identity import (
    Identity,
    IdGenerator,
    RandomIds,
    Sampler,
    SystemTime,
    always_sampled,
    child_context,
    current_parent,
    new_root_context,
)
from zupa_instrumentation._scopes import NodeScope, RunScope, StepScope


class Recorder:
    """See the module's text.

    Args:
        engine: Name of the engine, for `Transition.engine`.
        bus: Where the events go.
        clock: Time of starts and ends; the system's when not given.
        ids: Source of span and trace ids; random when not given.
        sampler: Decides about new traces; all are sampled when not given.

    Concurrency: any thread; a scope belongs to the thread or task that opened it.
    """

    def __init__(
        self,
        engine: str,
        bus: EventBus,
        clock: Clock | None = None,
        ids: IdGenerator | None = None,
        sampler: Sampler = always_sampled,
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
        outer = current_parent()
        if outer is None:
            context = new_root_context(self._ids, self._sampler, f"{OPERATION_INVOKE_WORKFLOW} {graph}")
        else:
            context = child_context(self._ids, outer)
        run = RunScope(self, Identity(context, outer, self._time_ns(), self._monotonic_ns()), run_id, graph, thread_id)
        if enclosing is not None:
            run.namespace = (*enclosing.run.namespace, enclosing.common["node"])
            run.parent_exec_id = enclosing.common["exec_id"]
        if resumed_from is not None:
            run.links = (TransitionLink(resumed_from.trace_id, resumed_from.span_id, "resume"),)
        self._emit_run(run, "started", checkpoint_id=checkpoint_id)
        if checkpoint_id:
            self._emit_run(run, "resumed", checkpoint_id=checkpoint_id)
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
            self._emit_run(
                run, phase, error=error, interrupt_reason=reason, checkpoint_id=checkpoint_id, end_ns=self._end_ns(run)
            )

    def _emit_run(self, run: RunScope, phase: str, **fields: Any) -> None:
        self._emit(
            run,
            kind="run",
            phase=phase,
            run_id=run.run_id,
            exec_id=run.exec_id,
            graph=run.graph,
            thread_id=run.thread_id,
            namespace=run.namespace,
            parent_exec_id=run.parent_exec_id,
            links=run.links,
            **fields,
        )

    # -- steps ---------------------------------------------------------------------------------------------------

    def open_step(self, run: RunScope, index: int, tasks: Sequence[str]) -> StepScope:
        """Open super-step *index* of *run*."""
        context = child_context(self._ids, run.context)
        identity = Identity(context, run.context, self._time_ns(), self._monotonic_ns())
        step = run.step = StepScope(identity, f"{run.run_id}/{index}", index, tasks, dict(run.node_spans))
        self._emit_step(run, step, "started")
        return step

    def close_step(
        self, run: RunScope, phase: str, error: BaseException | None = None, *, goto: Sequence[str] = ()
    ) -> None:
        """Close the open step of *run*; *goto* names what runs next."""
        step, run.step = run.step, None
        if step is not None:
            self._emit_step(run, step, phase, error=error, goto=goto, end_ns=self._end_ns(step))

    def _emit_step(self, run: RunScope, step: StepScope, phase: str, **fields: Any) -> None:
        self._emit(
            step,
            kind="step",
            phase=phase,
            run_id=run.run_id,
            exec_id=step.exec_id,
            graph=run.graph,
            thread_id=run.thread_id,
            step=step.index,
            tasks=step.tasks,
            namespace=run.namespace,
            **fields,
        )

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
        parent: Identity = run.step or run
        context = child_context(self._ids, parent.context)
        # Not the run's newest spans: a node of this step that has already ended would stand in for its last run.
        earlier = run.node_spans if run.step is None else run.step.node_spans
        sources = tuple(sources)
        links = [
            TransitionLink(source.trace_id, source.span_id, LINK_EDGE, name)
            for name in sources
            if (source := earlier.get(name)) is not None
        ]
        common = {
            "run_id": run.run_id,
            "exec_id": exec_id,
            "graph": run.graph,
            "node": node,
            "node_kind": node_kind,
            "thread_id": run.thread_id,
            "step": None if run.step is None else run.step.index,
            "namespace": run.namespace,
            "sources": sources,
            "triggers": triggers,
            "max_attempts": max_attempts,
            "links": links,
        }
        scope = NodeScope(Identity(context, parent.context, self._time_ns(), self._monotonic_ns()), run, common)
        self._emit(scope, kind="node", phase="started", **common)
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
        span = scope.span
        span.finish()
        scope.run.node_spans[scope.common["node"]] = scope.context
        fields = dict(scope.common)
        if span.links:
            fields["links"] = [*fields["links"], *(TransitionLink(x.trace_id, x.span_id, "user") for x in span.links)]
        self._emit(
            scope,
            kind="node",
            phase=phase,
            error=error,
            attempt=attempt,
            goto=goto,
            writes=writes,
            interrupt_reason=reason,
            end_ns=self._end_ns(scope),
            attributes=span.attributes or None,
            span_events=span.events,
            span_name=span.name,
            status=span.status,
            **fields,
        )

    def retry(self, scope: NodeScope, error: BaseException, attempt: int, delay_s: float) -> None:
        """Attempt *attempt* failed and another follows after *delay_s*."""
        self._emit(scope, kind="node", phase="retry", error=error, attempt=attempt, delay_s=delay_s, **scope.common)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_saved(self, run: RunScope, checkpoint_id: str, parent_id: str, step: int, source: str) -> None:
        """A checkpoint was written."""
        owner: Identity = run.step or run
        transition = Transition(
            engine=self._engine,
            kind="checkpoint",
            phase="saved",
            run_id=run.run_id,
            exec_id=run.exec_id,
            graph=run.graph,
            thread_id=run.thread_id,
            step=step,
            checkpoint_id=checkpoint_id,
            checkpoint_parent_id=parent_id,
            checkpoint_source=source,
            trace_id=owner.context.trace_id,
            span_id=owner.context.span_id,
            trace_flags=int(owner.context.trace_flags),  # a plain number, not the API's subclass
        )
        self.bus.emit(ENGINE_CHANNEL, "checkpoint_saved", transition)

    # -- plumbing ------------------------------------------------------------------------------------------------

    def _end_ns(self, identity: Identity) -> int:
        return identity.start_ns + max(0, self._monotonic_ns() - identity.start_mono_ns)

    def _emit(self, identity: Identity, *, kind: str, phase: str, **fields: Any) -> None:
        context = identity.context
        transition = Transition(
            engine=self._engine,
            kind=kind,
            phase=phase,
            trace_id=context.trace_id,
            span_id=context.span_id,
            trace_flags=int(context.trace_flags),
            trace_state=context.trace_state.to_header() if context.trace_state else "",
            parent_span_id=identity.parent_span_id,
            parent_is_remote=identity.parent_is_remote,
            start_ns=identity.start_ns,
            **fields,
        )
        self.bus.emit(ENGINE_CHANNEL, f"{kind}_{phase}", transition)
