import pytest

from zupa import Event
from zupa.testing import assert_path, path_of


def run(run_id, *nodes, graph="support", phase="completed", namespace=()):
    """The events of one run; *nodes* are (name, step)."""
    common = {"run_id": run_id, "graph": graph, "namespace": list(namespace)}
    yield Event("engine", "run_started", {"kind": "run", "phase": "started", **common})
    for kind in ("started", "completed"):
        for node, step in nodes:
            step_field = {} if step is None else {"step": step}
            yield Event("engine", f"node_{kind}", {"kind": "node", "phase": kind, "node": node, **step_field, **common})
    yield Event("engine", f"run_{phase}", {"kind": "run", "phase": phase, **common})


FAN = list(run("r1", ("plan", 1), ("search", 2), ("browse", 2), ("answer", 3)))
LINE = list(run("r1", ("plan", 1), ("search", 2), ("answer", 3)))


def test_the_path_is_the_order_of_starts():
    assert path_of(FAN) == ["plan", "search", "browse", "answer"]
    assert path_of([]) == []


@pytest.mark.parametrize("parallel", [{"search", "browse"}, frozenset({"browse", "search"}), ["browse", "search"]])
def test_parallel_nodes_match_in_any_order(parallel):
    assert_path(FAN, ["plan", parallel, "answer"])


def test_a_list_may_name_a_node_twice_and_a_set_cannot_stand_for_it():
    events = list(run("r1", ("split", 1), ("work", 2), ("work", 2)))
    assert_path(events, ["split", ["work", "work"]])
    with pytest.raises(AssertionError, match="same step"):
        assert_path(events, ["split", {"work"}])


@pytest.mark.parametrize(
    ("events", "expected", "reason"),
    [
        (LINE, ["plan", "answer"], "element 1 should be answer and is search"),
        (LINE, ["plan", "search", "answer", "plan"], "element 3 should be plan and is missing"),
        (LINE, ["plan", "search"], "it went on with answer"),
        (LINE, ["search", "plan", "answer"], "element 0 should be search and is plan"),
        (LINE, ["plan", {"search", "answer"}], "ran one after another, not in one step"),
        (LINE, [], r"it went on with \{answer, plan, search\}"),
        (FAN, ["plan", "search", "browse", "answer"], "element 1: browse ran in the same step as search"),
        (FAN, ["plan", {"search"}, {"browse"}, "answer"], "element 1: browse ran in the same step as search"),
        (FAN, ["plan", {"search", "other"}, "answer"], r"should be \{other, search\} and is \{browse, search\}"),
        ([], ["plan"], "element 0 should be plan and is missing"),
    ],
)
def test_another_path_fails_and_says_where(events, expected, reason):
    with pytest.raises(AssertionError, match=reason):
        assert_path(events, expected)


def test_the_message_shows_both_paths():
    with pytest.raises(AssertionError) as caught:
        assert_path(FAN, ["plan", "answer"])
    message = str(caught.value)
    assert "expected: plan -> answer" in message
    assert "taken:    plan -> {browse, search} -> answer" in message


def test_engines_without_steps_show_an_order_only():
    events = list(run("r1", ("a", None), ("b", None), ("c", None)))
    assert_path(events, ["a", "b", "c"])
    assert_path(events, ["a", {"c", "b"}])


def test_an_interrupted_run_and_its_resumption_are_one_path_or_two():
    events = [*run("r1", ("ask", 1), ("wait", 2), phase="interrupted"), *run("r2", ("wait", 2), ("answer", 3))]
    assert_path(events, ["ask", "wait", "wait", "answer"])
    assert_path(events, ["ask", "wait"], run=0)
    assert_path(events, ["wait", "answer"], run=1)
    assert path_of(events, run=-1) == ["wait", "answer"]


@pytest.mark.parametrize(("number", "of"), [(None, "all runs that are not nested, of:"), (1, "run 1 of:")])
def test_a_failure_lists_the_runs_to_choose_from(number, of):
    events = [*run("r1", ("ask", 1), phase="interrupted"), *run("r2", ("draft", 1), graph="writer", namespace=["ask"])]
    with pytest.raises(AssertionError) as caught:
        assert_path(events, ["nothing"], run=number)
    listing = ["    0: support interrupted: ask", "    1: writer completed (nested): draft"]
    assert "\n".join([of, *listing]) in str(caught.value)


def test_runs_at_the_same_time_are_kept_apart():
    first = list(run("r1", ("a", 1), ("b", 2)))
    second = list(run("r2", ("c", 1), ("d", 2)))
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]
    assert_path(mixed, ["a", "b", "c", "d"])


def test_nested_runs_are_asked_for_by_number():
    inner = run("r2", ("draft", 1), graph="writer", namespace=["outer"])
    outer = list(run("r1", ("outer", 1), ("end", 2)))
    events = [*outer[:2], *inner, *outer[2:]]
    assert_path(events, ["outer", "end"])
    assert_path(events, ["draft"], run=1)


def test_a_run_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(AssertionError, match=r"there is no run 3: 1 were captured\n.*0: support completed: plan -> "):
        assert_path(LINE, ["plan"], run=3)


def test_nodes_without_a_start_are_pointed_out():
    events = [event for event in LINE if event.name != "node_started"]
    with pytest.raises(AssertionError, match=r"3 node\(s\) ended whose engine:node_started was not captured"):
        assert_path(events, ["plan", "search", "answer"])


def test_events_of_others_do_not_matter():
    events = [Event("agent", "log:info", {"kind": "node", "phase": "started", "node": "x", "run_id": "r1"}), *LINE]
    assert_path(events, ["plan", "search", "answer"])


@pytest.mark.parametrize("expected", ["plan", {"plan"}, [1], [[]], [["plan", 1]]])
def test_a_path_that_is_none_is_a_type_error(expected):
    with pytest.raises(TypeError, match="a path"):
        assert_path(LINE, expected)
