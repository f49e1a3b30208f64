"""A small Pregel engine: graphs of nodes that run in super-steps, with checkpoints, interrupts and resume.

It knows no bus and no telemetry; ``zupa_instrumentation.engine`` is what makes it emit events.
"""

from __future__ import annotations

from zupa.engine._channels import Append, BinaryOperator, Channel, LastValue
from zupa.engine._checkpointers import InMemoryCheckpointer, SqliteCheckpointer
from zupa.engine._executor import EngineExecutor
from zupa.engine._graph import END, Graph
from zupa.engine._interrupt import GraphInterrupt
from zupa.engine._retry import RetryPolicy
from zupa.engine._types import NodeContext, NodeResult, Run, RunResult, Step, Task
from zupa.errors import (
    CheckpointError,
    EngineError,
    GraphValidationError,
    InvalidUpdateError,
    NodeNotFoundError,
    RecursionLimitError,
)
from zupa.ports import Checkpoint, Checkpointer, CheckpointSource, LedgerEvent

__all__ = [
    "END",
    "Append",
    "BinaryOperator",
    "Channel",
    "Checkpoint",
    "CheckpointError",
    "CheckpointSource",
    "Checkpointer",
    "EngineError",
    "EngineExecutor",
    "Graph",
    "GraphInterrupt",
    "GraphValidationError",
    "InMemoryCheckpointer",
    "InvalidUpdateError",
    "LastValue",
    "LedgerEvent",
    "NodeContext",
    "NodeNotFoundError",
    "NodeResult",
    "RecursionLimitError",
    "RetryPolicy",
    "Run",
    "RunResult",
    "SqliteCheckpointer",
    "Step",
    "Task",
]
