"""The path that a graph took, from events alone, and the assertion on it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from zupa.event import Event
from zupa.otel import build_trees, render_tree
from zupa.semconv import ENGINE_CHANNEL
from zupa.transition import TERMINAL_PHASES

PathElement: TypeAlias = str | Collection[str]
"""A node, or the nodes that run in parallel in one step, in any order: a set, or a list where a node runs twice."""


class _Execution(NamedTuple):
    node: str
    run_id: str
    step: int | None

    @property
    def super_step(self) -> tuple[str, int] | None:
        """What nodes that ran in parallel have in common; None for an engine without steps."""
        return None if self.step is None else (self.run_id, self.step)


class _Run(msgspec.Struct):
    run_id: str
    graph: str
    phase: str = "running"
    nested: bool = False
    executions: list[_Execution] = []
    ended: int = 0


def path_of(events: Iterable[Event], *, run: int | None = None) -> list[str]:
    """Return the names of the nodes that were executed, in the order in which they started.

    Args:
        events: Of one process, in order, from any engine that zupa instruments.
        run: The number of a run, in order of start, nested ones included; negative numbers count from the end. When
            None, all runs but nested ones, one after another: an interrupted run and its resumption are one path.

    A node that was retried is named once; one that is run again by a later step or run is named again.

    Raises:
        AssertionError: there is no such run.
    """
    return [execution.node for execution in _executions(_runs(events), run)]


def assert_path(events: Iterable[Event], expected: Sequence[PathElement], *, run: int | None = None) -> None:
    """Assert that the nodes were executed in exactly this order: ``["plan", {"search", "browse"}, "answer"]``.

    Args:
        events: As for `path_of`.
        expected: Names of nodes. A set (or a list, where a node runs more than once) stands for all nodes of one
            step, which ran in parallel and may have started in any order. A name alone stands for a node that ran
            alone in its step. Engines without steps show an order only, so there both ask for the order alone.
        run: As for `path_of`.

    Raises:
        AssertionError: the path was another one; the message shows both and the tree of what ran.
        TypeError: *expected* is no sequence of names and collections of names.
    """
    __tracebackhide__ = True
    events = list(events)
    wanted = _groups(expected)
    runs = _runs(events)
    taken = _executions(runs, run)
    difference = _difference(wanted, taken)
    if difference:
        lines = [
            f"the graph took another path: {difference}",
            f"  expected: {_text(wanted)}",
            f"  taken:    {_text(_by_step(taken))}",
            *_hints(runs, run),
            *(render_tree(tree).rstrip() for tree in build_trees(events)),
        ]
        raise AssertionError("\n".join(lines))


def _runs(events: Iterable[Event]) -> list[_Run]:
    """All runs, in the order in which they were first seen."""
    runs: dict[str, _Run] = {}
    for event in events:
        payload = event.payload
        kind, phase, run_id = payload.get("kind"), payload.get("phase"), payload.get("run_id")
        if event.channel != ENGINE_CHANNEL or not isinstance(run_id, str) or kind not in ("run", "step", "node"):
            continue
        run = runs.get(run_id)
        if run is None:
            run = runs[run_id] = _Run(run_id, str(payload.get("graph", "")), nested=bool(payload.get("namespace")))
        if kind == "run" and phase in TERMINAL_PHASES:
            run.phase = str(phase)
        elif kind == "node" and phase == "started":
            step = payload.get("step")
            run.executions.append(
                _Execution(str(payload.get("node", "")), run_id, step if isinstance(step, int) else None)
            )
        elif kind == "node" and phase in TERMINAL_PHASES:
            run.ended += 1
    return list(runs.values())


def _executions(runs: list[_Run], run: int | None) -> list[_Execution]:
    if run is None:
        return [execution for item in runs if not item.nested for execution in item.executions]
    try:
        return runs[run].executions
    except IndexError:
        raise AssertionError(
            "\n".join([f"there is no run {run}: {len(runs)} were captured", *_listing(runs)])
        ) from None


def _groups(expected: Sequence[PathElement]) -> list[list[str]]:
    if isinstance(expected, str) or not isinstance(expected, Sequence):
        raise TypeError(f"a path is a list such as ['plan', {{'search', 'browse'}}], got {expected!r}")
    groups: list[list[str]] = []
    for element in expected:
        names = [element] if isinstance(element, str) else list(element) if isinstance(element, Collection) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"a path's element is a node's name or a collection of names, got {element!r}")
        groups.append(names)
    return groups


def _by_step(taken: list[_Execution]) -> list[list[str]]:
    groups: list[list[str]] = []
    previous = None
    for execution in taken:
        if previous is not None and execution.super_step == previous:
            groups[-1].append(execution.node)
        else:
            groups.append([execution.node])
        previous = execution.super_step
    return groups


def _difference(wanted: list[list[str]], taken: list[_Execution]) -> str:
    """Return what the first difference is, or ""."""
    position = 0
    for number, names in enumerate(wanted):
        chunk = taken[position : position + len(names)]
        found = [execution.node for execution in chunk]
        if Counter(found) != Counter(names):
            return f"element {number} should be {_one(names)} and is {_one(found) if found else 'missing'}"
        position += len(names)
        steps = {execution.super_step for execution in chunk}
        if len(steps) > 1:
            return f"element {number}: {_one(names)} ran one after another, not in one step"
        follower = taken[position] if position < len(taken) else None
        if follower is not None and follower.super_step is not None and follower.super_step in steps:
            return f"element {number}: {follower.node} ran in the same step as {_one(names)}; write them as one set"
    rest = [execution.node for execution in taken[position:]]
    return f"it went on with {_one(rest)}" if rest else ""


def _one(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "{" + ", ".join(sorted(names)) + "}"


def _text(groups: list[list[str]]) -> str:
    return " -> ".join(_one(group) for group in groups) or "(nothing)"


def _hints(runs: list[_Run], run: int | None) -> list[str]:
    hints = []
    unseen = sum(item.ended for item in runs) - sum(len(item.executions) for item in runs)
    if unseen > 0:
        hints.append(
            f"  note: {unseen} node(s) ended whose engine:node_started was not captured; does a reducer drop it?"
        )
    if not runs:
        hints.append("  note: no run was captured; is the engine instrumented on this bus?")
    if len(runs) > 1:
        hints += [f"  run {run} of:" if run is not None else "  all runs that are not nested, of:", *_listing(runs)]
    return hints


def _listing(runs: list[_Run]) -> list[str]:
    return [
        f"    {number}: {item.graph or item.run_id} {item.phase}{' (nested)' if item.nested else ''}: "
        + _text(_by_step(item.executions))
        for number, item in enumerate(runs)
    ]
