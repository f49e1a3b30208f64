"""Scopes: what `Recorder` keeps of a run, step or node while it is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from zupa.span import NodeSpan
from zupa.transition import TransitionLink
from zupa_instrumentation._identity import Identity

if TYPE_CHECKING:
    from zupa_instrumentation._recorder import Recorder


class RunScope(Identity):
    """An open run. It stays with the recorder that opened it, so that its end goes where its start went."""

    __slots__ = (
        "exec_id",
        "graph",
        "links",
        "namespace",
        "node_spans",
        "parent_exec_id",
        "recorder",
        "run_id",
        "step",
        "thread_id",
    )

    def __init__(self, recorder: Recorder, identity: Identity, run_id: str, graph: str, thread_id: str) -> None:
        super().__init__(identity.context, None, identity.start_ns, identity.start_mono_ns)
        self.parent_span_id, self.parent_is_remote = identity.parent_span_id, identity.parent_is_remote
        self.recorder = recorder
        self.run_id = self.exec_id = run_id
        self.graph = graph
        self.thread_id = thread_id
        self.step: StepScope | None = None
        self.node_spans: dict[str, SpanContext] = {}
        self.links: Sequence[TransitionLink] = ()
        self.namespace: Sequence[str] = ()
        self.parent_exec_id = ""


class StepScope(Identity):
    """An open super-step. `node_spans` are the newest spans of nodes before it: what its nodes' edges lead from."""

    __slots__ = ("exec_id", "index", "node_spans", "tasks")

    def __init__(
        self,
        identity: Identity,
        exec_id: str,
        index: int,
        tasks: Sequence[str],
        node_spans: Mapping[str, SpanContext],
    ) -> None:
        super().__init__(identity.context, None, identity.start_ns, identity.start_mono_ns)
        self.parent_span_id = identity.parent_span_id
        self.exec_id = exec_id
        self.index = index
        self.tasks = tasks
        self.node_spans = node_spans


class NodeScope(Identity):
    """An open node execution. `token` is what `detach` wants back."""

    __slots__ = ("common", "run", "span", "token")

    def __init__(self, identity: Identity, run: RunScope, common: Mapping[str, Any]) -> None:
        super().__init__(identity.context, None, identity.start_ns, identity.start_mono_ns)
        self.parent_span_id = identity.parent_span_id
        self.run = run
        self.common = common
        self.span = NodeSpan(identity.context)
        self.token: Any = None
