from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from zupa.engine import Append, BinaryOperator, EngineExecutor, Graph, LastValue, NodeResult


async def run_finishing_in(order):
    """Run len(order) parallel nodes that finish one by one in *order*, which is returned as it really was."""
    turns = [asyncio.Event() for _ in order]
    turns[order[0]].set()
    finished = []

    def make(index):
        async def node(ctx):
            await turns[index].wait()
            finished.append(index)
            position = order.index(index) + 1
            if position < len(order):
                turns[order[position]].set()
            routes = {0: "x", 1: "y"}.get(index % 3, ["y", "x"])
            return NodeResult({"log": index, "folded": str(index), "last": index}, routes)

        return node

    channels = {"log": Append(), "last": LastValue(), "folded": BinaryOperator(str.__add__, ""), "after": Append()}
    graph = Graph(channels=channels)
    names = [f"n{index}" for index in range(len(order))]
    for index, name in enumerate(names):
        graph.add_node(name, make(index))
    for name in ("x", "y"):
        graph.add_node(name, lambda ctx: {"after": ctx.node})
    result = await EngineExecutor(graph.set_entrypoint(*names)).invoke()
    return finished, result.values


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.permutations(range(n))))
def test_what_parallel_nodes_leave_behind_does_not_depend_on_who_finishes_first(order):
    finished, values = asyncio.run(run_finishing_in(order))
    in_order = range(len(order))
    assert finished == list(order), "the scenario really finishes in another order"
    assert values == {
        "log": list(in_order),
        "folded": "".join(map(str, in_order)),
        "last": len(order) - 1,
        "after": ["x"] if len(order) == 1 else ["x", "y"],
    }
