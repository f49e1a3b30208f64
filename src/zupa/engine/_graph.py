"""`Graph`: nodes, the edges between them, and the channels of their state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args, overload

import msgspec

from zupa.engine._channels import Channel, LastValue, channels_of, check_channels
from zupa.engine._retry import RetryPolicy
from zupa.engine._types import NodeFunction, NodeKind, Router
from zupa.errors import GraphValidationError

END: Final = "__end__"
"""An edge or route to END schedules nothing: the same as no edge, but it says so."""

_F = TypeVar("_F", bound=Callable[..., Any])
_LAST_VALUE: Final = LastValue()


class Node(msgspec.Struct, frozen=True):
    """A node as it was added. `is_async` is decided once; a sync callable may still return an awaitable."""

    name: str
    function: NodeFunction
    kind: str
    retry: RetryPolicy | None
    is_async: bool


class Graph:
    """A description of what to run; `EngineExecutor` runs it.

    ::

        graph = Graph("support", channels={"messages": Append(), "topic": LastValue()})

        @graph.node
        async def classify(ctx: NodeContext) -> dict[str, Any]: ...

        graph.add_node("answer", answer, retry=RetryPolicy(max_attempts=3))
        graph.add_conditional_edges("classify", lambda state: "answer" if state["topic"] else END)

    A node follows the ``next_tasks`` that it returns, or else all its edges: static ones first, then conditional
    ones, each in order of addition. A node that several tasks of a step name runs once.

    Args:
        name: Name of runs in telemetry.
        channels: Key of the state to channel. Writes to other keys are errors.
        state: In place of *channels*, a TypedDict, dataclass or `msgspec.Struct` class whose annotations may carry
            channels: ``Annotated[list[str], Append()]``. With neither, every key is a `LastValue`.

    Raises:
        GraphValidationError: at construction and from each ``add_``, when an argument alone is wrong; from
            `validate`, when the whole is.

    Concurrency: build it in one thread, and do not change it once an executor has it.
    """

    def __init__(
        self, name: str = "graph", *, channels: Mapping[str, Channel] | None = None, state: type | None = None
    ) -> None:
        if channels is not None and state is not None:
            raise GraphValidationError("channels= and state= both describe the state: pass one of them")
        self.name = name
        self._channels: dict[str, Channel] | None = None
        if state is not None:
            self._channels = channels_of(state)
        elif channels is not None:
            self._channels = check_channels(channels)
        self._nodes: dict[str, Node] = {}
        self._edges: dict[str, list[str]] = {}
        self._routers: dict[str, list[Router]] = {}
        self._entrypoints: tuple[str, ...] = ()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Name to node, in order of addition."""
        return MappingProxyType(self._nodes)

    @property
    def channels(self) -> Mapping[str, Channel] | None:
        """The declared channels; None when any key may be written."""
        return None if self._channels is None else MappingProxyType(self._channels)

    @property
    def entrypoints(self) -> tuple[str, ...]:
        """Where a run starts: what `set_entrypoint` said, or the node that was added first."""
        return self._entrypoints or tuple(self._nodes)[:1]

    def edges(self, node: str) -> tuple[str, ...]:
        """Return the static targets of *node*, END left out."""
        return tuple(target for target in self._edges.get(node, ()) if target != END)

    def routers(self, node: str) -> tuple[Router, ...]:
        """Return the conditional edges of *node*."""
        return tuple(self._routers.get(node, ()))

    def channel(self, key: str) -> Channel | None:
        """Return the channel of *key*, or None when the graph declares its channels and *key* is none of them."""
        return _LAST_VALUE if self._channels is None else self._channels.get(key)

    def add_node(
        self, name: str, function: NodeFunction, *, retry: RetryPolicy | None = None, kind: NodeKind = "node"
    ) -> Graph:
        """Add a node and return the graph.

        Args:
            name: Unique in the graph.
            function: Sync or async; takes a `NodeContext`, returns a mapping of writes, a `NodeResult` or None.
            retry: What to do when it raises; None never retries.
            kind: What the node is, for telemetry.
        """
        if not isinstance(name, str) or not name or name == END:
            raise GraphValidationError(f"{name!r} cannot name a node: use a non-empty str other than {END!r}")
        if name in self._nodes:
            raise GraphValidationError(f"node {name!r} exists already: names are unique in a graph")
        if not callable(function):
            raise GraphValidationError(f"node {name!r} is {function!r}: pass a function that takes a NodeContext")
        if kind not in get_args(NodeKind):
            raise GraphValidationError(f"node {name!r} has kind {kind!r}: use one of {', '.join(get_args(NodeKind))}")
        self._nodes[name] = Node(name, function, kind, retry, _is_async(function))
        return self

    @overload
    def node(self, function: _F) -> _F: ...

    @overload
    def node(
        self, function: str | None = None, *, retry: RetryPolicy | None = None, kind: NodeKind = "node"
    ) -> Callable[[_F], _F]: ...

    def node(
        self, function: _F | str | None = None, *, retry: RetryPolicy | None = None, kind: NodeKind = "node"
    ) -> _F | Callable[[_F], _F]:
        """Add the decorated function: ``@graph.node``, ``@graph.node("name")`` or ``@graph.node(retry=...)``."""
        if function is not None and not isinstance(function, str):
            self.add_node(_name_of(function), function, retry=retry, kind=kind)
            return function
        name = function

        def decorate(decorated: _F) -> _F:
            self.add_node(_name_of(decorated) if name is None else name, decorated, retry=retry, kind=kind)
            return decorated

        return decorate

    def add_edge(self, source: str, target: str) -> Graph:
        """Run *target* in the super-step after each one that ran *source*. Several edges fan out."""
        targets = self._edges.setdefault(source, [])
        if target not in targets:
            targets.append(target)
        return self

    def add_conditional_edges(self, source: str, router: Router) -> Graph:
        """Run what *router* names in the super-step after *source*.

        Args:
            source: Name of a node.
            router: A sync function of the state **after** the super-step (all its writes reduced, those of parallel
                nodes included); returns a name, several, or None (or END) for nothing.
        """
        if not callable(router) or _is_async(router):
            raise GraphValidationError(
                f"the router of {source!r} is {router!r}: pass a sync function of the state; "
                "what must be awaited belongs in a node, which can return NodeResult(next_tasks=...)"
            )
        self._routers.setdefault(source, []).append(router)
        return self

    def set_entrypoint(self, *names: str) -> Graph:
        """Start runs at *names*, in parallel where there are several."""
        if not names:
            raise GraphValidationError("set_entrypoint() needs at least one node name")
        self._entrypoints = tuple(dict.fromkeys(names))
        return self

    def validate(self) -> None:
        """Check that the graph can run. `EngineExecutor` does so at construction.

        Raises:
            GraphValidationError: listing everything that is wrong.
        """
        problems = [f"entrypoint {name!r} is not a node" for name in self._unknown(self.entrypoints)]
        if not self._nodes:
            problems.append("it has no nodes: call add_node() first")
        for source, targets in self._edges.items():
            problems += [f"edge {source!r} -> {targets[0]!r} starts at no node" for _ in self._unknown([source])]
            problems += [
                f"edge {source!r} -> {target!r} leads to no node"
                for target in self._unknown(name for name in targets if name != END)
            ]
        problems += [
            f"conditional edges start at {name!r}, which is not a node" for name in self._unknown(self._routers)
        ]
        if problems:
            known = ", ".join(map(repr, self._nodes)) or "none"
            raise GraphValidationError(f"graph {self.name!r} cannot run: {'; '.join(problems)} (nodes: {known})")

    def _unknown(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self._nodes]


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object with an async __call__


def _name_of(function: object) -> str:
    return str(getattr(function, "__name__", ""))
