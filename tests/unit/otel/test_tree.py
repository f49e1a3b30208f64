"""Trees from events, and their printing."""

from __future__ import annotations

import io
import random

import pytest

from zupa.event import Event
from zupa.otel import ConsoleTreeExporter, build_trees, render_tree
from zupa.ports import ExportResult

T0 = 1_700_000_000_000_000_000
MS = 1_000_000


def ev(kind, phase, span_id, parent=0, start=0, end=10, *, trace_id=1, run="r1", **payload):
    fields = {"kind": kind, "phase": phase, "run_id": run, "start_ns": T0 + start * MS, **payload}
    if phase != "started":
        fields["end_ns"] = T0 + end * MS
    if parent:
        fields["parent_span_id"] = f"{parent:016x}"
    return Event("engine", f"{kind}_{phase}", fields, trace_id=trace_id, span_id=span_id, trace_flags=1)


def a_run():
    return [
        ev("run", "completed", 1, 0, 0, 1500, graph="research"),
        ev("step", "completed", 2, 1, 0, 100, step=0),
        ev("node", "completed", 3, 2, 0, 90, node="plan", attempt=2),
        ev("step", "failed", 4, 1, 110, 300, step=1, error={"type": "ValueError", "message": "no\nhits"}),
        ev("node", "failed", 6, 4, 120, 200, node="search", sources=["plan", "x"], error={"type": "E", "message": "m"}),
        ev("node", "interrupted", 5, 4, 115, 300, node="ask", interrupt_reason="approve?"),
    ]


EXPECTED = """\
trace 00000000000000000000000000000001
✓ research  1.5 s
├─ ✓ step 0  100 ms
│  └─ ✓ plan  90 ms  attempt 2
└─ ✗ step 1  190 ms  ValueError: no
   ├─ ⏸ ask  185 ms  interrupted: approve?
   └─ ✗ search  80 ms  ← plan, x  E: m
"""


def test_a_run_as_text():
    (tree,) = build_trees(a_run())
    assert tree.complete
    assert render_tree(tree) == EXPECTED


def test_the_order_of_arrival_makes_no_difference():
    shuffled = a_run()
    for seed in range(20):
        random.Random(seed).shuffle(shuffled)
        assert render_tree(build_trees(shuffled)[0]) == EXPECTED


def test_a_start_that_comes_after_its_end_changes_nothing():
    late = [*a_run(), ev("node", "started", 3, 2, 0, node="plan"), ev("run", "started", 1, graph="research")]
    assert render_tree(build_trees(late)[0]) == EXPECTED


def test_what_has_not_ended_is_running_and_the_tree_incomplete():
    (tree,) = build_trees([ev("run", "started", 1, graph="g"), ev("node", "completed", 2, 1, 0, 2, node="a")])
    assert not tree.complete
    assert render_tree(tree).splitlines() == [f"trace {1:032x}  (incomplete)", "… g  running", "└─ ✓ a  2 ms"]


def test_nodes_without_their_parent_are_shown_below_a_stand_in():
    (tree,) = build_trees(
        [ev("node", "completed", 9, 8, 5, 6, node="b"), ev("node", "completed", 7, 6, 1, 2, node="a")]
    )
    assert render_tree(tree).splitlines()[1:] == ["(parent not seen)", "├─ ✓ a  1 ms", "└─ ✓ b  1 ms"]
    assert not tree.complete


def test_a_run_below_a_web_request_is_a_root():
    (tree,) = build_trees([ev("run", "completed", 1, 0xABC, graph="g")])
    assert tree.complete
    assert tree.roots[0].name == "g"


def test_a_nested_run_hangs_below_its_node():
    events = [
        ev("run", "completed", 1, 0, 0, 9, graph="outer"),
        ev("node", "completed", 2, 1, 1, 8, node="sub"),
        ev("run", "completed", 3, 2, 2, 7, graph="inner", run="r2", parent_exec_id="e2"),
    ]
    assert render_tree(build_trees(events)[0]).splitlines()[1:] == [
        "✓ outer  9 ms",
        "└─ ✓ sub  7 ms",
        "   └─ ✓ inner  5 ms",
    ]


def test_parents_in_a_circle_lose_nothing():
    (tree,) = build_trees(
        [
            ev("node", "completed", 1, 2, 0, 1, node="a"),
            ev("node", "completed", 2, 1, 0, 1, node="b"),
            ev("node", "completed", 3, 3, 0, 1, node="c"),
        ]
    )
    text = render_tree(tree)
    assert all(f"✓ {name}" in text for name in "abc")


def test_a_very_deep_chain_is_rendered():
    depth = 5_000
    events = [ev("run", "completed", 1, graph="g")]
    events += [ev("node", "completed", i, i - 1, i, i + 1, node="n") for i in range(2, depth)]
    assert len(render_tree(build_trees(events)[0]).splitlines()) == depth


def test_resume_links_logs_and_colours():
    resumed = ev("run", "completed", 1, graph="g", links=[{"trace_id": f"{7:032x}", "span_id": "01", "kind": "resume"}])
    note = Event("agent", "log:info", {"message": "hello\nworld"}, trace_id=1, span_id=1)
    (tree,) = build_trees([resumed, note])
    lines = render_tree(tree, color=True).splitlines()
    assert lines[1] == f"\x1b[32m✓ g  10 ms  resumes trace {7:032x}\x1b[0m"
    assert lines[2].strip() == "· agent:log:info hello"
    assert "\x1b" not in render_tree(tree)


def test_a_terminal_is_not_at_the_mercy_of_names():
    (tree,) = build_trees([ev("run", "completed", 1, graph="\x1b[2Jevil\u202e" + "x" * 500)])
    text = render_tree(tree)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text) < 400


def test_odd_payloads_are_shown_as_far_as_they_go():
    events = [
        ev("node", "cancelled", 1, node="a", end=0).replace(
            payload={"kind": "node", "phase": "cancelled", "node": "a"}
        ),
        ev("node", "failed", 2, start=1, node="b", error="[redacted]", span_name="renamed"),
        ev("node", "failed", 3, start=2, node="c"),
        ev("node", "completed", 4, start=3, node="d", end=3).replace(trace_id=0),
        ev("node", "skipped", 5, node="e"),
        ev("node", "completed", 6, start=4, end=4, node="f"),
        ev("node", "completed", 7, start=5, end=2_000_005, node="g", parent_span_id="no hex"),
    ]
    (tree,) = build_trees(events)
    assert render_tree(tree).splitlines()[1:] == [
        "⊘ a  cancelled",
        "✗ renamed  9 ms  [redacted]",
        "✗ c  8 ms  failed",
        "✓ f  0 ns",
        "✓ g  2000 s",
    ]


def test_traces_are_separate_and_ordered_by_their_begin():
    trees = build_trees(
        [ev("run", "completed", 1, start=5, trace_id=8, graph="b"), ev("run", "completed", 1, trace_id=9, graph="a")]
    )
    assert [tree.trace_id for tree in trees] == [9, 8]


# -- the exporter --------------------------------------------------------------------------------------------------
def test_a_tree_is_printed_when_its_root_run_has_ended():
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream)
    root, *rest = a_run()
    assert exporter.export(rest) == ExportResult.SUCCESS
    assert stream.getvalue() == ""
    assert exporter.export([root]) == ExportResult.SUCCESS
    assert stream.getvalue() == EXPECTED
    assert exporter.force_flush()
    assert stream.getvalue() == EXPECTED


def test_what_is_left_is_printed_as_incomplete_by_flush_and_shutdown():
    for finish in (ConsoleTreeExporter.force_flush, ConsoleTreeExporter.shutdown):
        stream = io.StringIO()
        exporter = ConsoleTreeExporter(stream)
        exporter.export(a_run()[1:])
        finish(exporter, 1_000)
        assert "(incomplete)" in stream.getvalue()
        assert "plan" in stream.getvalue()


def test_another_run_of_the_same_trace_is_not_printed_before_its_end():
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream)
    other = [
        ev("run", "started", 10, graph="second", run="r2"),
        ev("node", "started", 11, 10, 1, node="sub", run="r2"),
        ev("run", "completed", 12, 11, 2, 3, graph="nested", run="r3", parent_exec_id="e11"),
        Event("agent", "note", {"message": "in nested"}, trace_id=1, span_id=12),
    ]
    exporter.export([*other, *reversed(a_run())])
    assert stream.getvalue() == EXPECTED
    stream.seek(0)
    stream.truncate()
    exporter.export(
        [
            ev("node", "completed", 11, 10, 1, 4, node="sub", run="r2"),
            ev("run", "completed", 10, graph="second", run="r2"),
        ]
    )
    assert stream.getvalue().splitlines()[1:] == [
        "✓ second  10 ms",
        "└─ ✓ sub  3 ms",
        "   └─ ✓ nested  1 ms",
        "         · agent:note in nested",
    ]
    assert exporter._count == 0


def test_memory_is_bounded_by_traces_and_by_events():
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream, max_traces=2)
    exporter.export([ev("node", "completed", 1, 9, trace_id=i, node=f"n{i}") for i in range(1, 5)])
    assert [f"n{i}" in stream.getvalue() for i in range(1, 5)] == [True, True, False, False]
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream, max_events=3)
    exporter.export([ev("node", "completed", i, 9, node=f"n{i}") for i in range(1, 6)])
    assert "n4" in stream.getvalue()
    assert "n5" not in stream.getvalue()
    assert exporter._count == 1


def test_a_stream_that_cannot_show_the_marks_gets_plain_ones():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert ConsoleTreeExporter(stream).export(reversed(a_run())) == ExportResult.SUCCESS
    lines = raw.getvalue().decode("ascii").splitlines()
    assert lines[1:3] == ["+ research  1.5 s", "|- + step 0  100 ms"]


def test_a_broken_stream_fails_the_batch_and_raises_nothing():
    stream = io.StringIO()
    stream.close()
    exporter = ConsoleTreeExporter(stream)
    assert exporter.export(list(reversed(a_run()))) == ExportResult(success=False, error_type="ValueError")
    exporter.export(a_run()[1:])
    assert not exporter.force_flush()
    exporter.shutdown()


def test_a_payload_that_was_never_normalised_is_rejected_alone():
    stream = io.StringIO()
    bad = ev("node", "completed", 77, 1, node="bad").replace(payload=["not a mapping"])
    assert ConsoleTreeExporter(stream).export([bad, *reversed(a_run())]).rejected == 1
    assert stream.getvalue() == EXPECTED


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("no_color", [True, False])
def test_colour_is_for_terminals(tty, no_color, monkeypatch):
    class Stream(io.StringIO):
        def isatty(self):
            return tty

    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Stream()
    ConsoleTreeExporter(stream).export(list(reversed(a_run())))
    assert ("\x1b[" in stream.getvalue()) is (tty and not no_color)


def test_standard_error_is_the_default(capsys):
    ConsoleTreeExporter().export(list(reversed(a_run())))
    captured = capsys.readouterr()
    assert captured.err == EXPECTED
    assert captured.out == ""
