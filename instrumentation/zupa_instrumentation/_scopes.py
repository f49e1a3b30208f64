"""Scopes: what `Recorder` keeps of a run, step or node while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from zupa.span import NodeSpan
from zupa.transition import Transition

if TYPE_CHECKING:
    from zupa_instrumentation._recorder import Recorder


class Scope:
    """An open span: its identity, the transition that opened it, and a monotonic time to measure from."""

    __slots__ = ("context", "opened", "start_mono_ns")

    def __init__(self, context: SpanContext, opened: Transition, start_mono_ns: int) -> None:
        self.context = context
        self.opened = opened
        self.start_mono_ns = start_mono_ns


class RunScope(Scope):
    """An open run. It stays with the recorder that opened it, so that its end goes where its start went.

    Attributes:
        step: The open super-step, or None.
        node_spans: Node to its newest span before the open step: what edges lead from.
    """

    __slots__ = ("node_spans", "recorder", "step")

    def __init__(self, recorder: Recorder, context: SpanContext, opened: Transition, start_mono_ns: int) -> None:
        super().__init__(context, opened, start_mono_ns)
        self.recorder = recorder
        self.step: StepScope | None = None
        self.node_spans: dict[str, SpanContext] = {}

    @property
    def run_id(self) -> str:
        """The engine's id of the run."""
        return self.opened.run_id

    def ended_node(self, node: str) -> SpanContext | None:
        """Return the newest span of *node*, the open step included."""
        if self.step is not None and node in self.step.ended:
            return self.step.ended[node]
        return self.node_spans.get(node)


class StepScope(Scope):
    """An open super-step.

    Attributes:
        ended: Spans of the nodes that have ended in it. They become sources of edges when the step ends: until then
            one of them would stand in for its own earlier execution.
    """

    __slots__ = ("ended",)

    def __init__(self, context: SpanContext, opened: Transition, start_mono_ns: int) -> None:
        super().__init__(context, opened, start_mono_ns)
        self.ended: dict[str, SpanContext] = {}


class NodeScope(Scope):
    """An open node execution. `token` is what `detach` wants back."""

    __slots__ = ("run", "span", "token")

    def __init__(self, run: RunScope, context: SpanContext, opened: Transition, start_mono_ns: int) -> None:
        super().__init__(context, opened, start_mono_ns)
        self.run = run
        self.span = NodeSpan(context)
        self.token: Any = None
