"""`Transition`: the one record of a run, step or node changing phase, whatever the engine.

Instrumentation makes transitions on the engine's thread, so a transition only holds references and numbers; turning
it into an event's payload (`to_payload`) happens in the bus's worker. Each terminal transition carries all that one
span needs, so that nobody joins starts to ends and a dropped start costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

TERMINAL_PHASES: Final = frozenset({"completed", "failed", "interrupted", "cancelled", "closed", "abandoned"})


class TransitionLink(msgspec.Struct, frozen=True):
    """A link from a run or node to an earlier span. `kind` is ``edge`` or ``resume``."""

    trace_id: int
    span_id: int
    kind: str
    name: str = ""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One phase change. Emitted as ``engine:{kind}_{phase}``.

    Attributes:
        engine: ``"zupa"``, ``"langgraph"``, ...
        kind: ``run``, ``step`` or ``node``.
        phase: ``started``, ``resumed``, ``retry``, ``skipped``, or one of `TERMINAL_PHASES`.
        run_id: The run, one per call of the engine. New for a resumed run.
        exec_id: Unique per execution of a run, step or node: what starts and ends have in common.
        graph: Name of the graph.
        node: Name of the node; "" for runs and steps.
        node_kind: ``node``, ``task``, ``send``, ``tool``, ``agent``, ...: how the engine came to run it.
        thread_id: Conversation or session, where the engine has one.
        step: Super-step, where the engine has one.
        attempt: Number of the (last) attempt, from 1.
        max_attempts: Attempts that the retry policy allows.
        namespace: Path of enclosing graphs.
        parent_exec_id: The enclosing node execution of a nested run.
        sources: Nodes whose output led here.
        triggers: The engine's own names of what triggered the node.
        goto: Routing decision: nodes that run next because of this one.
        writes: Names (never values) of the state keys written.
        tasks: Nodes of a step.
        error: The exception, or None. The worker turns it into type, message and stack trace.
        interrupt_reason: Why the run waits.
        interrupt_ids: The engine's ids of the interrupts.
        checkpoint_id: The checkpoint that was written, or that a resumed run started from.
        checkpoint_parent_id: The checkpoint before the one that was written.
        checkpoint_source: Why it was written: ``input``, ``loop``, ``interrupt``.
        trace_id, span_id, trace_flags, trace_state: The span of this run, step or node.
        parent_span_id: Its parent, 0 for a root.
        parent_is_remote: The parent lives in another process.
        start_ns, end_ns: Unix time in ns. `end_ns` is `start_ns` plus a monotonic interval, so it never precedes it.
        links: Edges and resumed runs.
        span_name: What the user renamed the span to, or "".
        attributes: What user code set on the node's span.
        span_events: ``(name, time_ns, attributes)`` that user code added to the node's span.
        status: ``(code, description)`` that user code set on the node's span; code as in OpenTelemetry's StatusCode.
        delay_s: Pause before the next attempt.
    """

    __event_bytes__: ClassVar[int] = 512
    """Estimated size for the ingest queue's byte bound: a transition holds ids, names and references only."""

    engine: str
    kind: str
    phase: str
    run_id: str
    exec_id: str
    graph: str = ""
    node: str = ""
    node_kind: str = ""
    thread_id: str = ""
    step: int | None = None
    attempt: int = 0
    max_attempts: int = 0
    namespace: Sequence[str] = ()
    parent_exec_id: str = ""
    sources: Sequence[str] = ()
    triggers: Sequence[str] = ()
    goto: Sequence[str] = ()
    writes: Sequence[str] = ()
    tasks: Sequence[str] = ()
    error: BaseException | None = None
    interrupt_reason: str = ""
    interrupt_ids: Sequence[str] = ()
    checkpoint_id: str = ""
    checkpoint_parent_id: str = ""
    checkpoint_source: str = ""
    trace_id: int = 0
    span_id: int = 0
    trace_flags: int = 0
    trace_state: str = ""
    parent_span_id: int = 0
    parent_is_remote: bool = False
    start_ns: int = 0
    end_ns: int = 0
    links: Sequence[TransitionLink] = ()
    span_name: str = ""
    attributes: Mapping[str, Any] | None = None
    span_events: Sequence[tuple[str, int, Mapping[str, Any] | None]] = ()
    status: tuple[int, str] | None = None
    delay_s: float | None = None

    def to_payload(self) -> dict[str, Any]:
        """Return the fields that are set, as an event payload.

        Trace id, span id and flags are left out: they become the event's own trace context. Ids of other spans are
        hexadecimal strings, because a payload's integers are 64-bit and signed.
        """
        payload: dict[str, Any] = {
            name: value
            for name in _PLAIN_FIELDS
            if (value := getattr(self, name)) is not None and value not in ("", (), 0)
        }
        if self.step is not None:
            payload["step"] = self.step
        if self.parent_span_id:
            payload["parent_span_id"] = f"{self.parent_span_id:016x}"
            if self.parent_is_remote:
                payload["parent_is_remote"] = True
        if self.links:
            payload["links"] = [
                {"trace_id": f"{x.trace_id:032x}", "span_id": f"{x.span_id:016x}", "kind": x.kind, "name": x.name}
                for x in self.links
            ]
        if self.span_events:
            payload["span_events"] = [
                {"name": name, "time_ns": time_ns, "attributes": dict(attributes or {})}
                for name, time_ns, attributes in self.span_events
            ]
        if self.status is not None:
            payload["status"] = {"code": self.status[0], "description": self.status[1]}
        return payload


_PLAIN_FIELDS: Final = (
    "engine",
    "kind",
    "phase",
    "run_id",
    "exec_id",
    "graph",
    "node",
    "node_kind",
    "thread_id",
    "attempt",
    "max_attempts",
    "namespace",
    "parent_exec_id",
    "sources",
    "triggers",
    "goto",
    "writes",
    "tasks",
    "error",
    "interrupt_reason",
    "interrupt_ids",
    "checkpoint_id",
    "checkpoint_parent_id",
    "checkpoint_source",
    "trace_state",
    "start_ns",
    "end_ns",
    "span_name",
    "attributes",
    "delay_s",
)
