"""The rules of a super-step as pure functions: no clock, no task, no I/O.

What is applied in which order never depends on which node finished first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET

from zupa.engine._graph import END, Graph
from zupa.engine._types import NodeResult, Task
from zupa.errors import InvalidUpdateError, NodeNotFoundError
from zupa.ports import LedgerEvent

_COPIED: Final = frozenset({list, dict, set})


def initial_values(graph: Graph) -> dict[str, Any]:
    """Return the first value of each channel that has one."""
    pairs = ((key, channel.initial()) for key, channel in (graph.channels or {}).items())
    return {key: value for key, value in pairs if value is not UNSET}


def snapshot(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a read-only view that one node may have to itself.

    Built-in containers are copied one level deep, so that ``ctx.state["messages"].append(...)`` changes neither the
    run's state nor what a parallel node sees.
    """
    return MappingProxyType({key: value.copy() if type(value) in _COPIED else value for key, value in values.items()})


def apply_writes(
    graph: Graph, values: Mapping[str, Any], diffs: Iterable[tuple[str, Mapping[str, Any]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reduce writes into a new state.

    Args:
        graph: Says which channel a key has.
        values: The state before; not changed.
        diffs: ``(writer, key to write)`` in task order.

    Returns:
        The new state, and for each key the list of its writes in task order.

    Raises:
        InvalidUpdateError: a key is no channel, or a channel refuses its writes.
    """
    writes: dict[str, list[Any]] = {}
    for writer, diff in diffs:
        check_keys(graph, writer, diff)
        for key, write in diff.items():
            writes.setdefault(key, []).append(write)
    result = dict(values)
    for key, items in writes.items():
        channel = graph.channel(key)
        assert channel is not None, "check_keys has seen the key"
        try:
            result[key] = channel.reduce(result.get(key, UNSET), items)
        except Exception as error:
            raise InvalidUpdateError(
                f"channel {key!r} ({type(channel).__name__}) cannot merge {len(items)} write(s) of one super-step: "
                f"{type(error).__name__}: {error}"
            ) from error
    return result, dict(writes)


def check_keys(graph: Graph, writer: str, diff: Mapping[str, Any]) -> None:
    """Raise `InvalidUpdateError` when *diff* writes a key that is no channel of *graph*."""
    for key in diff:
        if not isinstance(key, str) or graph.channel(key) is None:
            known = ", ".join(map(repr, graph.channels or ())) or "any str"
            raise InvalidUpdateError(
                f"{writer} wrote {key!r}, which is no channel of graph {graph.name!r}; "
                f"declare it, or write one of: {known}"
            )


def check_result(graph: Graph, task: Task, returned: object) -> NodeResult:
    """Turn what a node returned into a complete `NodeResult`, or raise an error that names the node.

    Raises:
        InvalidUpdateError: a wrong type, an unknown key, or a ledger event that is none.
        NodeNotFoundError: a next task does not exist.
    """
    writer = f"node {task.node!r}"
    result = returned if isinstance(returned, NodeResult) else NodeResult({} if returned is None else returned)  # type: ignore[arg-type]
    if not isinstance(result.state_diff, Mapping):
        raise InvalidUpdateError(
            f"{writer} returned a {type(result.state_diff).__name__} as its writes; "
            "return a mapping of channel to value, a NodeResult, or None"
        )
    check_keys(graph, writer, result.state_diff)
    events = tuple(result.ledger_events)
    for event in events:
        if not isinstance(event, LedgerEvent):
            raise InvalidUpdateError(f"{writer} returned {event!r} as a ledger event; use LedgerEvent(type, data)")
    return NodeResult(
        result.state_diff,
        None if result.next_tasks is None else targets(graph, f"next_tasks of {writer}", result.next_tasks),
        tuple(
            msgspec.structs.replace(event, node=event.node or task.node, step=event.step or task.step)
            for event in events
        ),
    )


def targets(graph: Graph, where: str, names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return *names* as known nodes, in order, without repeats and END; `NodeNotFoundError` says *where* else."""
    names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name != END and name not in graph.nodes:
            known = ", ".join(map(repr, graph.nodes))
            raise NodeNotFoundError(
                f"{where} name(s) {name!r}, which graph {graph.name!r} does not have (nodes: {known})"
            )
    return tuple(dict.fromkeys(name for name in names if name != END))


def route(graph: Graph, task: Task, result: NodeResult, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where *task* leads, now that the state of its whole super-step is known."""
    if result.next_tasks is not None:
        return tuple(result.next_tasks)
    names = list(graph.edges(task.node))
    for router in graph.routers(task.node):
        names += targets(graph, f"a conditional edge of node {task.node!r}", router(snapshot(values)))
    return tuple(dict.fromkeys(names))


def merge_routes(earlier: Mapping[str, Sequence[str]], tasks: Iterable[Task]) -> dict[str, list[str]]:
    """Add where *tasks* lead to the routes that an interrupted step had already taken, keeping its task order."""
    routes = {node: list(names) for node, names in earlier.items()}
    for task in tasks:
        routes[task.node] = list(task.goto)
    return routes


def schedule(routes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return each next task with its sources: the union of all routes in task order, each target once."""
    planned: dict[str, list[str]] = {}
    for source, names in routes.items():
        for name in names:
            planned.setdefault(name, []).append(source)
    return planned
