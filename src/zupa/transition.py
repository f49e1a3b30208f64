"""`Transition`: the one record of a run, step or node changing phase, whatever the engine.

Instrumentation makes transitions on the engine's thread, so a transition only holds references and numbers; turning
it into an event's payload (`to_payload`) happens in the bus's worker. Each terminal transition carries all that one
span needs, so that nobody joins starts to ends and a dropped start costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from zupa.normalize import clean_text, normalize, safe_str

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

    def to_payload(self) -> tuple[dict[str, Any], list[str]]:
        """Return the fields that are set as plain data, and why it is not whole, as `zupa.normalize.normalize` does.

        Trace id, span id and flags are left out: they become the event's own trace context. Ids of other spans are
        hexadecimal strings, because a payload's integers are 64-bit and signed.

        Only what user code can put in (attributes, events, errors) takes the long way through `normalize`: this runs
        for every transition, on a thread that competes with the engine for the GIL.
        """
        payload: dict[str, Any] = {}
        for name, value in msgspec.structs.asdict(self).items():
            if not value or name in _SPECIAL:
                continue
            if value.__class__ is str:
                payload[name] = value if value.isascii() else clean_text(value)
            elif name in _SEQUENCES:
                payload[name] = [
                    item if item.__class__ is str and item.isascii() else safe_str(item, 1024) for item in value
                ]
            else:
                payload[name] = value
        if self.step is not None:
            payload["step"] = self.step
        if self.parent_span_id:
            payload["parent_span_id"] = f"{self.parent_span_id:016x}"
            if self.parent_is_remote:
                payload["parent_is_remote"] = True
        if self.links:
            payload["links"] = [_link(link) for link in self.links]
        foreign = self._foreign()
        if not foreign:
            return payload, []
        plain, reasons = normalize(foreign)
        payload.update(plain)
        return payload, reasons

    def _foreign(self) -> dict[str, Any]:
        """What user code put in."""
        foreign: dict[str, Any] = {}
        if self.error is not None:
            foreign["error"] = self.error
        if self.attributes:
            foreign["attributes"] = self.attributes
        if self.span_events:
            foreign["span_events"] = [
                {"name": name, "time_ns": time_ns, "attributes": attributes or {}}
                for name, time_ns, attributes in self.span_events
            ]
        if self.status is not None:
            foreign["status"] = {"code": self.status[0], "description": self.status[1]}
        return foreign


def _link(link: TransitionLink) -> dict[str, str]:
    return {
        "trace_id": f"{link.trace_id:032x}",
        "span_id": f"{link.span_id:016x}",
        "kind": link.kind,
        "name": clean_text(link.name),
    }


_SEQUENCES: Final = frozenset({"namespace", "sources", "triggers", "goto", "writes", "tasks", "interrupt_ids"})
_SPECIAL: Final = frozenset(
    {
        "trace_id",
        "span_id",
        "trace_flags",
        "parent_span_id",
        "parent_is_remote",
        "links",
        "error",
        "attributes",
        "span_events",
        "status",
    }
)
