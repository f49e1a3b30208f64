from __future__ import annotations

import operator

import pytest
from msgspec import UNSET

from zupa.engine import Append, BinaryOperator, Channel, EngineExecutor, Graph, InvalidUpdateError, LastValue


def test_last_value():
    assert LastValue().initial() is UNSET
    assert LastValue().reduce(UNSET, [1, 2]) == 2


def test_last_value_default_is_copied():
    channel = LastValue([1])
    channel.initial().append(2)
    assert channel.initial() == [1]


@pytest.mark.parametrize(
    ("writes", "expected"),
    [(["x"], ["x"]), ([["x", "y"]], ["x", "y"]), ([("x",), "y"], ["x", "y"]), ([[["x"]]], [["x"]]), ([[]], [])],
)
def test_append_accepts_items_and_lists(writes, expected):
    assert Append().reduce(UNSET, writes) == expected


def test_append_leaves_the_old_list_alone():
    before = [1]
    assert Append().reduce(before, [2]) == [1, 2]
    assert before == [1]


def test_binary_operator_folds_in_order():
    channel = BinaryOperator(lambda old, new: f"({old}{new})", "0")
    assert channel.reduce(channel.initial(), ["a", "b"]) == "((0a)b)"
    assert channel.reduce(UNSET, ["a"]) == "(0a)"


def test_a_channel_of_ones_own():
    class Largest(Channel):
        def reduce(self, current, writes):
            return max(writes) if current is UNSET else max(current, *writes)

    graph = Graph(channels={"n": Largest()}).add_node("a", lambda ctx: {"n": 3})
    assert EngineExecutor(graph).invoke_sync({"n": 7}).values == {"n": 7}
    assert EngineExecutor(graph).invoke_sync({"n": 1}).values == {"n": 3}


def test_a_merge_that_fails_names_the_channel_and_keeps_the_cause():
    graph = Graph(channels={"n": BinaryOperator(operator.add, 0)}).add_node("a", lambda ctx: {"n": "text"})
    with pytest.raises(InvalidUpdateError, match=r"channel 'n' \(BinaryOperator\) cannot merge 1 write") as caught:
        EngineExecutor(graph).invoke_sync()
    assert isinstance(caught.value.__cause__, TypeError)
