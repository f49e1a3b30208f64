from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

import msgspec
import pytest

from zupa.engine import END, Append, BinaryOperator, EngineExecutor, Graph, GraphValidationError, LastValue


def noop(ctx):
    return None


class State(TypedDict, total=False):
    messages: Annotated[list[str], Append()]
    total: Annotated[int, "a comment", BinaryOperator(int.__add__, 10)]
    shorthand: Annotated[list[str], Append]
    topic: str


@dataclass
class DataState:
    messages: Annotated[list[str], Append()]
    tags: list[str] = field(default_factory=lambda: ["new"])
    topic: str = "none"


class StructState(msgspec.Struct):
    messages: Annotated[list[str], Append()]
    tags: list[str] = msgspec.field(default_factory=lambda: ["new"])
    topic: str = "none"


def test_typed_dict_carries_channels():
    channels = Graph(state=State).channels
    assert {key: type(channel) for key, channel in channels.items()} == {
        "messages": Append,
        "total": BinaryOperator,
        "shorthand": Append,
        "topic": LastValue,
    }


@pytest.mark.parametrize("state", [DataState, StructState])
def test_field_defaults_are_first_values_and_are_not_shared_between_runs(state):
    def grow(ctx):
        return {"messages": "hi", "tags": [*ctx.state["tags"], "seen"]}

    engine = EngineExecutor(Graph(state=state).add_node("grow", grow))
    for _ in range(2):
        assert engine.invoke_sync().values == {"messages": ["hi"], "tags": ["new", "seen"], "topic": "none"}


def test_not_required_is_looked_through():
    typing_extensions = pytest.importorskip("typing_extensions")
    annotations = {"messages": typing_extensions.NotRequired[Annotated[list, Append()]]}
    state = typing_extensions.TypedDict("Partial", annotations)
    assert isinstance(Graph(state=state).channels["messages"], Append)


def test_typed_state_runs():
    def speak(ctx):
        return {"messages": ["a", "b"], "total": 5, "topic": "billing"}

    result = EngineExecutor(Graph(state=State).add_node("speak", speak)).invoke_sync({"messages": "in"})
    assert result.values == {"messages": ["in", "a", "b"], "total": 15, "shorthand": [], "topic": "billing"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": int}, "describes no channels"),
        ({"state": {"a": int}}, "describes no channels"),
        ({"channels": {"a": int}}, r"channels\['a'\] is .*int.*, not a channel"),
        ({"channels": {"a": BinaryOperator}}, "write an instance"),
        ({"channels": {}, "state": State}, "pass one of them"),
    ],
)
def test_unusable_state_is_refused(arguments, message):
    with pytest.raises(GraphValidationError, match=message):
        Graph(**arguments)


def test_unreadable_annotations_are_refused():
    class Local(TypedDict):
        value: NowhereDefined  # noqa: F821

    with pytest.raises(GraphValidationError, match=r"annotations of Local cannot be read: .*NowhereDefined"):
        Graph(state=Local)


def test_decorator_forms():
    graph = Graph()

    @graph.node
    def first(ctx):
        return {"first": 1}

    @graph.node("second", kind="tool")
    async def whatever(ctx):
        return None

    @graph.node(kind="agent")
    def third(ctx):
        return None

    assert [(node.name, node.kind, node.is_async) for node in graph.nodes.values()] == [
        ("first", "node", False),
        ("second", "tool", True),
        ("third", "agent", False),
    ]
    assert first(None) == {"first": 1}, "the decorator returns the function itself"


def test_async_callables_are_seen_as_such():
    class Callable:
        async def __call__(self, ctx):
            return {"who": "object"}

    async def plain(ctx, who):
        return {"who": who}

    graph = Graph().add_node("object", Callable()).add_node("partial", functools.partial(plain, who="partial"))
    assert all(node.is_async for node in graph.nodes.values())
    assert EngineExecutor(graph).invoke_sync().values == {"who": "object"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: g.add_node("", noop), "cannot name a node"),
        (lambda g: g.add_node(END, noop), "cannot name a node"),
        (lambda g: g.add_node(3, noop), "cannot name a node"),
        (lambda g: g.add_node("a", noop).add_node("a", noop), "'a' exists already"),
        (lambda g: g.add_node("a", "b"), "pass a function"),
        (lambda g: g.add_node("a", noop, kind="wizard"), "kind 'wizard'.*node, agent, tool"),
        (lambda g: g.set_entrypoint(), "at least one"),
        (lambda g: g.add_conditional_edges("a", "b"), "router of 'a'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(build, message):
    with pytest.raises(GraphValidationError, match=message):
        build(Graph())


def test_async_router_is_refused():
    async def router(state):
        return None

    with pytest.raises(GraphValidationError, match="pass a sync function"):
        Graph().add_conditional_edges("a", router)


def test_validate_lists_all_problems_and_the_executor_validates():
    graph = Graph("broken").add_node("a", noop).add_edge("a", "b").add_edge("c", "a").set_entrypoint("d")
    graph.add_conditional_edges("e", lambda state: None)
    with pytest.raises(GraphValidationError) as caught:
        EngineExecutor(graph)
    for part in (
        "'broken'",
        "entrypoint 'd'",
        "'a' -> 'b' leads to no node",
        "'c' -> 'a' starts at no node",
        "start at 'e'",
        "nodes: 'a'",
    ):
        assert part in str(caught.value)


def test_a_graph_without_nodes_cannot_run():
    with pytest.raises(GraphValidationError, match="has no nodes"):
        Graph().validate()


def test_a_good_graph_validates():
    Graph().add_node("a", noop).add_node("b", noop).add_edge("a", "b").add_edge("b", END).validate()
