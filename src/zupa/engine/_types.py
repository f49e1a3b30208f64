"""The plain data of the engine: what nodes get and return, and what a run consists of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from zupa.engine._interrupt import GraphInterrupt
from zupa.ports import Checkpoint, LedgerEvent


class NodeContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is called with.

    Attributes:
        state: The state before this super-step, read-only, the same for all its nodes. Built-in lists, dicts and sets
            in it are copies of the node's own (one level deep); other objects are shared, so do not change them.
        context: The user's own object, as passed to `EngineExecutor.invoke`. Never stored.
        thread_id: The conversation or session.
        run_id: This run.
        node: The node's name.
        step: Super-step of the thread, from 1.
        attempt: From 1; larger when the node is retried.
        resume_value: What was passed to `EngineExecutor.resume`, in the first super-step after it; else None.
    """

    state: Mapping[str, Any]
    context: Any
    thread_id: str
    run_id: str
    node: str
    step: int
    attempt: int
    resume_value: Any = None


class NodeResult(msgspec.Struct, frozen=True):
    """What a node may return instead of a plain mapping.

    Attributes:
        state_diff: Channel name to write.
        next_tasks: Nodes to run next, in place of the node's edges; empty ends this branch, None follows the edges.
        ledger_events: Recorded with the step's checkpoint, all of them, in task order.
    """

    state_diff: Mapping[str, Any] = {}
    next_tasks: str | Iterable[str] | None = None
    ledger_events: Iterable[LedgerEvent] = ()


NodeReturn: TypeAlias = Mapping[str, Any] | NodeResult | None
NodeFunction: TypeAlias = Callable[[NodeContext], NodeReturn | Awaitable[NodeReturn]]
Router: TypeAlias = Callable[[Mapping[str, Any]], str | Iterable[str] | None]
NodeKind: TypeAlias = Literal["node", "agent", "tool"]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, unless it raised.

    Attributes:
        run_id: This run.
        thread_id: The thread that it belongs to; pass it to `resume`.
        status: ``"completed"``, or ``"interrupted"`` when the thread waits for `resume`.
        values: The state, channel name to value.
        checkpoint: The newest checkpoint.
        interrupt: What the thread waits for; of several in one super-step the first in task order (the checkpoint's
            ``metadata["interrupts"]`` has all).
        steps: Super-steps of this run.
    """

    run_id: str
    thread_id: str
    status: Literal["completed", "interrupted"]
    values: dict[str, Any]
    checkpoint: Checkpoint
    interrupt: GraphInterrupt | None = None
    steps: int = 0


@dataclass(eq=False)
class Run:
    """One call of `invoke` or `resume`. Changed by the executor only, between tasks.

    Attributes:
        run_id: 32 hex digits, new for each call.
        thread_id: The thread that it belongs to.
        graph_name: The executor's name.
        input: What `invoke` or `resume` was given.
        input_keys: Channel names that the input writes.
        resumed_from: The unfinished checkpoint that this run continues, or None.
        checkpoint: The newest checkpoint of the thread; None before the first.
        context: The user's own object.
        values: The live state.
        steps: Super-steps that this run has begun.
        resume_value: For the nodes of the first super-step of a continued run.
        inline: It was started by `invoke_sync` or `resume_sync`.
    """

    run_id: str
    thread_id: str
    graph_name: str
    input: Any = None
    input_keys: tuple[str, ...] = ()
    resumed_from: Checkpoint | None = None
    checkpoint: Checkpoint | None = None
    context: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    resume_value: Any = None
    inline: bool = False


@dataclass(eq=False)
class Task:
    """One node of one super-step, all its attempts included.

    Attributes:
        exec_id: Unique per execution.
        node: The node's name.
        kind: The node's kind.
        step: Super-step of the thread, from 1.
        attempt: The attempt that runs or ran last, from 1.
        max_attempts: What the retry policy allows.
        sources: Nodes of the previous step that scheduled it; empty at an entrypoint.
        goto: Nodes that it routed to. Static edges and explicit next tasks are known when the node has returned,
            conditional edges when its super-step has.
        inline: A sync node runs on the event loop's own thread.
    """

    exec_id: str
    node: str
    kind: str = "node"
    step: int = 0
    attempt: int = 1
    max_attempts: int = 1
    sources: tuple[str, ...] = ()
    goto: tuple[str, ...] = ()
    inline: bool = False


@dataclass(eq=False)
class Step:
    """One super-step: tasks that run in parallel on the same state. `index` counts in the thread, from 1."""

    index: int
    tasks: tuple[Task, ...]
