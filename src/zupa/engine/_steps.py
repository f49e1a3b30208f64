"""From checkpoint to super-step, and from a super-step's outcomes to the next checkpoint."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from zupa.engine._algorithm import apply_writes, merge_routes, route, schedule
from zupa.engine._barrier import Outcome
from zupa.engine._graph import Graph
from zupa.engine._interrupt import GraphInterrupt
from zupa.engine._types import NodeResult, Run, Step, Task
from zupa.ports import Checkpoint, CheckpointSource, LedgerEvent

SOURCES: Final = "sources"
"""Checkpoint metadata: next task to the nodes that scheduled it."""

ROUTES: Final = "routes"
"""Checkpoint metadata of an interrupted step: each task, in task order, to where it routed so far."""

INTERRUPTS: Final = "interrupts"
"""Checkpoint metadata of an interrupted step: what it waits for, in task order."""


def plan(graph: Graph, run: Run, checkpoint: Checkpoint) -> Step:
    """Return the super-step that *checkpoint* has scheduled."""
    index = checkpoint.step + 1
    sources = checkpoint.metadata.get(SOURCES, {})
    names = tuple(dict.fromkeys(checkpoint.next_tasks))
    tasks = []
    for position, name in enumerate(names):
        node = graph.nodes[name]
        tasks.append(
            Task(
                exec_id=f"{run.run_id}-{index}-{position}",
                node=name,
                kind=node.kind,
                step=index,
                max_attempts=1 if node.retry is None else node.retry.max_attempts,
                sources=tuple(sources.get(name, ())),
                # Alone in its step it keeps nobody waiting, so a sync caller saves the change of threads.
                inline=run.inline and len(names) == 1,
            )
        )
    return Step(index, tuple(tasks))


def commit(
    graph: Graph, run: Run, step: Step, outcomes: Sequence[Outcome]
) -> tuple[Checkpoint, tuple[LedgerEvent, ...]]:
    """Reduce a step's outcomes into the checkpoint that follows it, and its ledger events."""
    assert run.checkpoint is not None, "a step follows a checkpoint"
    ended = list(zip(step.tasks, outcomes, strict=True))
    done = [(task, outcome) for task, outcome in ended if isinstance(outcome, NodeResult)]
    waiting = [(task, outcome) for task, outcome in ended if isinstance(outcome, GraphInterrupt)]
    values, writes = apply_writes(
        graph, run.values, [(f"node {task.node!r}", result.state_diff) for task, result in done]
    )
    for task, result in done:
        task.goto = route(graph, task, result, values)
    routes = merge_routes(run.checkpoint.metadata.get(ROUTES, {}), step.tasks)
    if waiting:
        sources = {task.node: list(task.sources) for task, _ in waiting}
        metadata = {
            SOURCES: sources,
            ROUTES: routes,
            INTERRUPTS: [{"node": t.node, "reason": i.reason, "payload": i.payload} for t, i in waiting],
        }
    else:
        sources = schedule(routes)
        metadata = {SOURCES: sources}
    checkpoint = follow(
        run,
        CheckpointSource.INTERRUPT if waiting else CheckpointSource.LOOP,
        step=run.checkpoint.step if waiting else step.index,
        values=values,
        next_tasks=tuple(sources),
        writes=writes,
        metadata=metadata,
    )
    return checkpoint, tuple(event for _, result in done for event in result.ledger_events)


def follow(run: Run, source: CheckpointSource, **changes: Any) -> Checkpoint:
    """Return the checkpoint that comes after the run's newest one."""
    previous = run.checkpoint
    return Checkpoint(
        checkpoint_id=uuid.uuid4().hex,
        thread_id=run.thread_id,
        parent_checkpoint_id=None if previous is None else previous.checkpoint_id,
        source=source,
        created_at_ns=time.time_ns(),
        **{"step": 0 if previous is None else previous.step, **changes},
    )
