"""Runs as trees, from events alone: pure functions over finished runs, steps and nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from zupa.event import Event
from zupa.transition import TERMINAL_PHASES

ORPHANS: Final = "(parent not seen)"

_MARKS: Final = {
    "completed": "✓",
    "failed": "✗",
    "interrupted": "⏸",
    "cancelled": "⊘",
    "closed": "■",
    "abandoned": "?",
    "running": "…",
    "": " ",
}
_ASCII: Final = str.maketrans(
    {
        "✓": "+",
        "✗": "x",
        "⏸": "=",
        "⊘": "/",
        "■": "#",
        "…": ".",
        "├": "|",
        "└": "`",
        "─": "-",
        "│": "|",
        "←": "<",
        "µ": "u",
    }
)
_COLORS: Final = {"failed": "31", "interrupted": "33", "cancelled": "33", "running": "33", "completed": "32"}


class TreeNode(msgspec.Struct):
    """A run, step or node in a tree.

    Attributes:
        span_id, parent_span_id: Own and parent's span; 0 where there is none.
        name: What to show.
        kind: ``run``, ``step``, ``node``; "" for the stand-in above orphans.
        phase: How it ended, or ``running`` when only its start was seen.
        start_ns, end_ns: Unix time in ns; `end_ns` is 0 while running.
        attempt: Number of the last attempt.
        sources: Nodes that led here.
        error: Type and message of the error, or "".
        detail: Why it waits, for an interrupted one.
        resumed_from: Trace id, in hexadecimal, of the run that this one continues, or "".
        is_root_run: A run that no other run contains.
        logs: Messages of other events that were emitted inside it.
        children: Ordered by start.
    """

    span_id: int = 0
    parent_span_id: int = 0
    name: str = ""
    kind: str = ""
    phase: str = ""
    start_ns: int = 0
    end_ns: int = 0
    attempt: int = 0
    sources: tuple[str, ...] = ()
    error: str = ""
    detail: str = ""
    resumed_from: str = ""
    is_root_run: bool = False
    logs: list[str] = []
    children: list[TreeNode] = []


class Tree(msgspec.Struct):
    """All that was seen of one trace.

    Attributes:
        trace_id: Of all nodes.
        roots: Runs first, by start; nodes whose parent was not seen are below one stand-in at the end.
        complete: Every node has ended and found its parent.
    """

    trace_id: int
    roots: list[TreeNode]
    complete: bool


def build_trees(events: Iterable[Event]) -> list[Tree]:
    """Build one tree per trace, in the order in which the traces began.

    Late and shuffled events make no difference: children are ordered by their start. A node that started and has not
    ended is shown as running. Events that are neither a start nor an end become log lines below the node they were
    emitted in. A run's parent may be a span that the bus never saw (a web request): the run is a root all the same.
    """
    traces: dict[int, dict[int, TreeNode]] = {}
    notes: list[tuple[Event, str]] = []
    for event in events:
        if not event.trace_id or not event.span_id:
            continue
        node = tree_node(event)
        if node is None:
            notes.append((event, _note(event)))
            continue
        nodes = traces.setdefault(event.trace_id, {})
        if node.span_id not in nodes or node.phase != "running":
            nodes[node.span_id] = node
    for event, note in notes:
        owner = traces.get(event.trace_id, {}).get(event.span_id)
        if owner is not None:
            owner.logs.append(note)
    trees = [_assemble(trace_id, nodes) for trace_id, nodes in traces.items()]
    return sorted(trees, key=lambda tree: min(node.start_ns for node in walk(tree.roots) if node.kind))


def tree_node(event: Event) -> TreeNode | None:
    """The node that *event* starts or ends, without its relatives; None for any other event."""
    payload = event.payload
    kind, phase = payload.get("kind"), payload.get("phase")
    if event.channel != "engine" or kind not in ("run", "step", "node") or not isinstance(phase, str):
        return None
    started = phase in ("started", "resumed")
    if not started and phase not in TERMINAL_PHASES:
        return None
    start = payload.get("start_ns")
    return TreeNode(
        span_id=event.span_id,
        parent_span_id=_hexadecimal(payload.get("parent_span_id")),
        name=_name(kind, payload),
        kind=kind,
        phase="running" if started else phase,
        start_ns=start if isinstance(start, int) else event.occurred_at,
        end_ns=0 if started or not isinstance(payload.get("end_ns"), int) else payload["end_ns"],
        attempt=payload["attempt"] if isinstance(payload.get("attempt"), int) else 0,
        sources=tuple(str(source) for source in payload.get("sources") or ()),
        error=_error(payload) if phase == "failed" else "",
        detail=str(payload.get("interrupt_reason") or "") if phase == "interrupted" else "",
        resumed_from=next((str(x.get("trace_id", "")) for x in _links(payload) if x.get("kind") == "resume"), ""),
        is_root_run=kind == "run" and not payload.get("parent_exec_id"),
    )


def walk(nodes: Iterable[TreeNode]) -> Iterator[TreeNode]:
    """All *nodes* and all that is below them."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def render_tree(tree: Tree, *, color: bool = False, ascii_only: bool = False) -> str:
    """Return *tree* as text, one line per node, with a newline at the end.

    Args:
        tree: One trace.
        color: With ANSI colours.
        ascii_only: With plain characters, for a stream that cannot carry others.
    """
    suffix = "" if tree.complete else "  (incomplete)"
    lines = [f"trace {tree.trace_id:032x}{suffix}"]
    # An own stack instead of recursion: a chain of nested graphs may be deeper than Python's limit.
    waiting: list[tuple[TreeNode, str, bool, bool]] = [(root, "", True, True) for root in reversed(tree.roots)]
    while waiting:
        node, indent, last, top = waiting.pop()
        branch = "" if top else "└─ " if last else "├─ "
        lines.append(indent + branch + _line(node, color=color))
        below = indent if top else indent + ("   " if last else "│  ")
        lines += [f"{below}{'│' if node.children else ' '}  · {note}" for note in node.logs]
        for index, child in enumerate(reversed(node.children)):
            waiting.append((child, below, index == 0, False))
    text = "\n".join(lines) + "\n"
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii") if ascii_only else text


def _assemble(trace_id: int, nodes: dict[int, TreeNode]) -> Tree:
    roots: list[TreeNode] = []
    orphans: list[TreeNode] = []
    circular = _in_circles(nodes)
    for node in sorted(nodes.values(), key=lambda node: (node.start_ns, node.span_id)):
        parent = nodes.get(node.parent_span_id)
        if parent is not None and node.span_id not in circular:
            parent.children.append(node)
        elif node.is_root_run or not node.parent_span_id:
            roots.append(node)
        else:
            orphans.append(node)
    complete = not orphans and all(node.phase != "running" for node in nodes.values())
    if orphans:
        roots.append(TreeNode(name=ORPHANS, start_ns=orphans[0].start_ns, children=orphans))
    return Tree(trace_id, roots, complete)


def _in_circles(nodes: dict[int, TreeNode]) -> set[int]:
    """Span ids that are among their own ancestors: linking those to their parents would lose them all."""
    settled: set[int] = set()
    circular: set[int] = set()
    for start in nodes:
        path: dict[int, int] = {}
        current = start
        while current in nodes and current not in settled and current not in path:
            path[current] = len(path)
            current = nodes[current].parent_span_id
        if current in path:
            circular.update(span_id for span_id, position in path.items() if position >= path[current])
        settled.update(path)
    return circular


def _line(node: TreeNode, *, color: bool) -> str:
    if not node.kind:
        return node.name
    parts = [f"{_MARKS.get(node.phase, '?')} {_clean(node.name)}"]
    parts.append(_duration(node.end_ns - node.start_ns) if node.end_ns else node.phase)
    if node.attempt > 1:
        parts.append(f"attempt {node.attempt}")
    if node.sources:
        parts.append("← " + ", ".join(_clean(source) for source in node.sources))
    if node.end_ns and node.phase not in ("completed", "failed"):
        parts.append(node.phase + (f": {_clean(node.detail)}" if node.detail else ""))
    if node.error:
        parts.append(_clean(node.error))
    if node.resumed_from:
        parts.append(f"resumes trace {_clean(node.resumed_from)}")
    text = "  ".join(parts)
    code = _COLORS.get(node.phase)
    return f"\x1b[{code}m{text}\x1b[0m" if color and code else text


def _name(kind: str, payload: Any) -> str:
    if payload.get("span_name"):
        return str(payload["span_name"])
    if kind == "step":
        return f"step {payload.get('step', '')}".rstrip()
    return str(payload.get("node" if kind == "node" else "graph") or kind)


def _error(payload: Any) -> str:
    error = payload.get("error")
    if isinstance(error, dict):
        return f"{error.get('type', 'error')}: {error.get('message', '')}".rstrip(": ")
    return str(error) if error else "failed"


def _note(event: Event) -> str:
    message = event.payload.get("message")
    return _clean(f"{event.topic} {message}" if isinstance(message, str) else event.topic)


def _links(payload: Any) -> list[Any]:
    return [link for link in payload.get("links") or () if isinstance(link, dict)]


def _hexadecimal(value: Any) -> int:
    try:
        return int(value, 16) if value else 0
    except (TypeError, ValueError):
        return 0


def _duration(nanoseconds: int) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}" if nanoseconds < 1e12 else f"{nanoseconds / size:.0f} {unit}"
    return f"{nanoseconds} ns"


def _clean(text: str) -> str:
    """One line, at most 200 characters, without what a terminal would obey."""
    line = text.splitlines()[0] if text.strip() else text.strip()
    return "".join(c if c.isprintable() else "\ufffd" for c in line[:200]) + ("…" if len(line) > 200 else "")
