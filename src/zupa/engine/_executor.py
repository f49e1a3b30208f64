"""`EngineExecutor`: runs a graph in super-steps (Pregel).

One super-step: all next tasks run in parallel on one read-only state; a barrier waits for all; their writes are
reduced in task order; routes are decided on the new state; ledger events and checkpoint are saved in one atomic put.

The underscored coroutines that take a `Run` are seams: instrumentation wraps them, and they are looked up through
``self`` at each call. The engine itself knows nothing of telemetry.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from zupa.engine._algorithm import apply_writes, check_result, initial_values, snapshot, targets
from zupa.engine._barrier import run_all
from zupa.engine._calls import call_maybe_async, call_node, run_in_new_loop
from zupa.engine._graph import Graph
from zupa.engine._interrupt import GraphInterrupt
from zupa.engine._steps import commit, follow, plan
from zupa.engine._types import NodeContext, NodeResult, Run, RunResult, Step, Task
from zupa.errors import CheckpointError, ConfigurationError, InvalidUpdateError, RecursionLimitError
from zupa.ports import Checkpoint, Checkpointer, CheckpointSource, LedgerEvent

DEFAULT_RECURSION_LIMIT: Final = 50


class EngineExecutor:
    """Runs a `Graph`, one *run* for each call, on *threads* of execution that outlive runs in the checkpointer.

    A thread whose newest checkpoint has next tasks (it was interrupted, failed or was killed) is continued there; a
    new or finished thread starts at the entrypoint, with the state that it had. A step that fails stores nothing, so
    its nodes run again when the thread is continued: nodes run at least once.

    Args:
        graph: Validated here; do not change it afterwards.
        checkpointer: Where threads live. Without one, nothing outlives a run and `resume` is impossible.
        recursion_limit: Super-steps that one run may take; at least 1.
        on_step_complete: Sync or async, called with the checkpoint after each super-step (an interrupted one
            included) has been saved. It is part of the run: what it raises ends the run.
        name: Name of the runs; by default the graph's.

    Raises:
        GraphValidationError, ConfigurationError: at construction.

    Concurrency: any number of runs at once, in any threads and event loops, but one at a time for each thread id:
    of two at once, the later checkpoint wins.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        checkpointer: Checkpointer | None = None,
        recursion_limit: int = DEFAULT_RECURSION_LIMIT,
        on_step_complete: Callable[[Checkpoint], object | Awaitable[object]] | None = None,
        name: str | None = None,
    ) -> None:
        graph.validate()
        if isinstance(recursion_limit, bool) or not isinstance(recursion_limit, int) or recursion_limit < 1:
            raise ConfigurationError(f"recursion_limit={recursion_limit!r} is unusable: it must be a whole number >= 1")
        self.graph = graph
        self.checkpointer = checkpointer
        self.recursion_limit = recursion_limit
        self.on_step_complete = on_step_complete
        self.name: str = graph.name if name is None else name

    async def invoke(
        self,
        input: Any = None,  # noqa: A002 - the word that users of graph engines know
        *,
        thread_id: str | None = None,
        context: Any = None,
    ) -> RunResult:
        """Run the graph until it is done or interrupted.

        Args:
            input: Channel name to write, applied before the first step. On an unfinished thread it is applied as
                `resume` would; pass None there to go on as before (the input of the failed run is already stored).
            thread_id: The thread; by default a new one.
            context: Any object; nodes find it in `NodeContext.context`. Never stored.

        Raises:
            RecursionLimitError: the graph did not come to an end.
            NodeNotFoundError: something names a node that does not exist.
            InvalidUpdateError: a write is unusable.
            CheckpointError: a checkpoint cannot be stored or read.
            Exception: whatever a node raises, unchanged.
        """
        return await self._start(input, thread_id, context)

    async def resume(self, payload: Any = None, *, thread_id: str, context: Any = None) -> RunResult:
        """Continue a thread that waits.

        Args:
            payload: The nodes that run now find it in `NodeContext.resume_value`. A mapping is also written to its
                channels. It is stored with the first step that succeeds, so a failed resume can be repeated.
            thread_id: The thread.
            context: As for `invoke`.

        Raises:
            CheckpointError: there is no such thread, or it is complete.
            Exception: as for `invoke`.
        """
        return await self._start(payload, thread_id, context, must_continue=True)

    def invoke_sync(
        self,
        input: Any = None,  # noqa: A002 - see invoke
        *,
        thread_id: str | None = None,
        context: Any = None,
    ) -> RunResult:
        """Do what `invoke` does, from sync code, in an event loop of its own.

        A sync node that is alone in its step runs on the calling thread.

        Raises:
            EngineError: an event loop runs in this thread.
            Exception: as for `invoke`.
        """
        return run_in_new_loop(
            lambda: self._start(input, thread_id, context, inline=True), instead="await engine.invoke(...)"
        )

    def resume_sync(self, payload: Any = None, *, thread_id: str, context: Any = None) -> RunResult:
        """Do what `resume` does, from sync code. See `invoke_sync`."""
        return run_in_new_loop(
            lambda: self._start(payload, thread_id, context, must_continue=True, inline=True),
            instead="await engine.resume(...)",
        )

    async def _start(
        self, given: Any, thread_id: str | None, context: Any, *, must_continue: bool = False, inline: bool = False
    ) -> RunResult:
        found = None
        if self.checkpointer is not None and thread_id is not None:
            found = await self.checkpointer.get(thread_id)
        unfinished = found if found is not None and found.next_tasks else None
        if must_continue and unfinished is None:
            raise CheckpointError(self._why_not_resumable(thread_id, found))
        run = Run(
            run_id=uuid.uuid4().hex,
            thread_id=uuid.uuid4().hex if thread_id is None else thread_id,
            graph_name=self.name,
            input=given,
            input_keys=tuple(given) if isinstance(given, Mapping) else (),
            resumed_from=unfinished,
            checkpoint=found,
            context=context,
            values=initial_values(self.graph) | (found.values if found is not None else {}),
            resume_value=given if unfinished is not None else None,
            inline=inline,
        )
        return await self._execute_run(run)

    def _why_not_resumable(self, thread_id: str | None, found: Checkpoint | None) -> str:
        if self.checkpointer is None:
            return f"thread {thread_id!r} cannot be resumed: the engine has no checkpointer; pass checkpointer=..."
        if found is None:
            return f"thread {thread_id!r} cannot be resumed: it has no checkpoint; start it with invoke()"
        return f"thread {thread_id!r} cannot be resumed: it is complete; start it again with invoke()"

    async def _execute_run(self, run: Run) -> RunResult:
        """Take super-steps until nothing is left to do. Seam: one whole run."""
        await self._apply_input(run)
        interrupt: GraphInterrupt | None = None
        while interrupt is None and run.checkpoint is not None and run.checkpoint.next_tasks:
            if run.steps >= self.recursion_limit:
                raise RecursionLimitError(
                    f"the run on thread {run.thread_id!r} of graph {run.graph_name!r} took {run.steps} super-steps, "
                    f"its recursion_limit; still to run: {', '.join(run.checkpoint.next_tasks)}; look for a cycle "
                    "that never ends, or pass a larger EngineExecutor(recursion_limit=...)"
                )
            step = plan(self.graph, run, run.checkpoint)
            run.steps += 1
            interrupt = await self._execute_step(run, step)
            run.resume_value = None
        assert run.checkpoint is not None, "_apply_input has saved one"
        return RunResult(
            run_id=run.run_id,
            thread_id=run.thread_id,
            status="completed" if interrupt is None else "interrupted",
            values=dict(run.values),
            checkpoint=run.checkpoint,
            interrupt=interrupt,
            steps=run.steps,
        )

    async def _apply_input(self, run: Run) -> None:
        """Write the input, and save a new or restarted thread at its entrypoint."""
        writes: dict[str, Any] = {}
        if isinstance(run.input, Mapping):
            run.values, writes = apply_writes(self.graph, run.values, [("the input", run.input)])
        if run.resumed_from is not None:
            where = f"the next tasks of the checkpoint of thread {run.thread_id!r}"
            targets(self.graph, where, run.resumed_from.next_tasks)
            return
        if run.input is not None and not isinstance(run.input, Mapping):
            raise InvalidUpdateError(
                f"the input is a {type(run.input).__name__}; pass a mapping of channel to value, or None"
            )
        await self._save_checkpoint(
            run,
            follow(run, CheckpointSource.INPUT, values=run.values, next_tasks=self.graph.entrypoints, writes=writes),
            (),
        )

    async def _execute_step(self, run: Run, step: Step) -> GraphInterrupt | None:
        """Run the tasks, commit what they did. Return the interrupt that ends the run, or None. Seam: one step.

        An interrupted step is not done: it keeps its number, its completed tasks keep their writes and routes, and
        the tasks that interrupted are the next ones. When they complete, the step's routes are taken together, so a
        fan-in behind the step still runs once. (Conditional edges of a completed task see the state as it was when
        the step was interrupted.)
        """
        outcomes = await run_all(self._execute_task(run, task) for task in step.tasks)
        await self._save_checkpoint(run, *commit(self.graph, run, step, outcomes))
        if self.on_step_complete is not None and run.checkpoint is not None:
            await call_maybe_async(self.on_step_complete, run.checkpoint)
        return next((outcome for outcome in outcomes if isinstance(outcome, GraphInterrupt)), None)

    async def _execute_task(self, run: Run, task: Task) -> NodeResult:
        """Call the node until it succeeds or may not be retried. Seam: one node, in its own contextvars context."""
        node = self.graph.nodes[task.node]
        while True:
            context = NodeContext(
                state=snapshot(run.values),
                context=run.context,
                thread_id=run.thread_id,
                run_id=run.run_id,
                node=task.node,
                step=task.step,
                attempt=task.attempt,
                resume_value=run.resume_value,
            )
            try:
                returned = await call_node(node, context, inline=task.inline)
            except GraphInterrupt as interrupt:
                interrupt.node = task.node
                raise
            except Exception as error:
                if node.retry is None or not node.retry.should_retry(error, task.attempt):
                    raise
                await self._retry_wait(run, task, error, node.retry.delay_s(task.attempt))
                task.attempt += 1
            else:
                result = check_result(self.graph, task, returned)
                task.goto = self.graph.edges(task.node) if result.next_tasks is None else tuple(result.next_tasks)
                return result

    async def _retry_wait(self, run: Run, task: Task, error: BaseException, delay_s: float) -> None:  # noqa: ARG002 - for who wraps it
        """Sleep between a failed attempt and the next. Seam: a retry."""
        await asyncio.sleep(delay_s)

    async def _save_checkpoint(self, run: Run, checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent]) -> None:
        """Store *checkpoint* and its ledger events in one put, and go on from it. Seam: a wrapper may add metadata."""
        if self.checkpointer is not None:
            await self.checkpointer.put(checkpoint, ledger_events)
        run.checkpoint = checkpoint
        run.values = checkpoint.values
