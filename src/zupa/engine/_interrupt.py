"""`GraphInterrupt`: how a node asks the run to wait for the outside world."""

from __future__ import annotations

from typing import Any

from zupa.errors import EngineError


class GraphInterrupt(EngineError):  # noqa: N818 - control flow, not an error
    """Raise it in a node to end the run at a checkpoint that `EngineExecutor.resume` continues.

    The other nodes of the same super-step finish first and their writes are kept. On resume the node runs again
    **from its first line**, with the payload in `NodeContext.resume_value`, so do side effects after the interrupt::

        async def approve(ctx: NodeContext) -> dict[str, Any]:
            if ctx.resume_value is None:
                raise GraphInterrupt("approval needed", {"amount": ctx.state["amount"]})
            return {"approved": ctx.resume_value}

    Attributes:
        reason: Why the run waits; short and low-cardinality.
        payload: Plain data for whoever answers. It is stored with the checkpoint.
        node: Name of the node that raised it; set by the engine.
    """

    def __init__(self, reason: str, payload: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.payload = payload
        self.node = ""
