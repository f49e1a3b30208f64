"""`ConsoleTreeExporter`: what an agent did, as a tree on the terminal, when it has done it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final, TextIO

from zupa.event import Event
from zupa.normalize import error_type
from zupa.otel._tree import build_trees, render_tree, tree_node
from zupa.ports import ExportResult

MAX_TRACES: Final = 256
MAX_EVENTS: Final = 20_000


class ConsoleTreeExporter:
    """Prints each run as a tree once it has ended; `force_flush` and `shutdown` print what is left, as incomplete.

    Memory is bounded: beyond `max_traces` traces or `max_events` events the oldest trace is printed as it is.

    Concurrency: any thread. Nothing raises: a stream that cannot be written to makes the batch count as failed.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        color: bool | None = None,
        max_traces: int = MAX_TRACES,
        max_events: int = MAX_EVENTS,
    ) -> None:
        """Print to *stream*.

        Args:
            stream: None is standard error, looked up at each print, so that redirecting it works.
            color: None means: if the stream is a terminal and NO_COLOR is not set.
            max_traces: Traces that may be waiting for their end.
            max_events: Events that may be waiting, over all traces.
        """
        self._stream = stream
        self._color = color
        self._max_traces = max(1, max_traces)
        self._max_events = max(1, max_events)
        self._lock = threading.Lock()
        self._waiting: dict[int, list[Event]] = {}
        self._count = 0

    def export(self, batch: Sequence[Event], /) -> ExportResult:
        """Collect *batch* and print the runs that have ended with it."""
        texts: list[str] = []
        rejected = 0
        with self._lock:
            for event in batch:
                try:
                    texts += self._collect(event)
                except Exception:  # noqa: BLE001 - a payload that was never normalised
                    rejected += 1
        failure = self._print(texts)
        if failure:
            return ExportResult(success=False, error_type=failure)
        return ExportResult(rejected=rejected, error_type="invalid_event" if rejected else "")

    def force_flush(self, timeout_millis: float = 30_000) -> bool:  # noqa: ARG002 - the port's signature
        """Print what is waiting. Returns False when the stream could not be written to."""
        with self._lock:
            texts = [text for trace_id in list(self._waiting) for text in self._take(trace_id)]
        return not self._print(texts)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Print what is waiting."""
        self.force_flush(timeout_millis)

    def _collect(self, event: Event) -> list[str]:
        if not event.trace_id or not event.span_id:
            return []
        node = tree_node(event)
        self._waiting.setdefault(event.trace_id, []).append(event)
        self._count += 1
        texts: list[str] = []
        if node is not None and node.is_root_run and node.phase != "running":
            texts += self._take(event.trace_id, only_run=str(event.payload.get("run_id", "")))
        while len(self._waiting) > self._max_traces or self._count > self._max_events:
            texts += self._take(next(iter(self._waiting)))
        return texts

    def _take(self, trace_id: int, only_run: str = "") -> list[str]:
        """Remove a trace's events and return its text; with *only_run* other root runs of the trace keep waiting."""
        events = self._waiting.pop(trace_id, [])
        self._count -= len(events)
        if only_run:
            events, kept = _split(events, only_run)
            if kept:
                self._waiting[trace_id] = kept
                self._count += len(kept)
        stream = self._target()
        ascii_only = not _can_encode(stream)
        color = _wants_color(stream) if self._color is None else self._color
        return [render_tree(tree, color=color, ascii_only=ascii_only) for tree in build_trees(events)]

    def _print(self, texts: list[str]) -> str:
        """Write *texts*; return the kind of the failure, or ""."""
        if not texts:
            return ""
        try:
            stream = self._target()
            stream.write("".join(texts))
            stream.flush()
        except Exception as error:  # noqa: BLE001 - a closed pipe, a closed file, an encoding
            return error_type(error)
        return ""

    def _target(self) -> Any:
        return sys.stderr if self._stream is None else self._stream


def _split(events: list[Event], run_id: str) -> tuple[list[Event], list[Event]]:
    """Split a trace into what goes with the run *run_id* and what belongs to other runs that have not ended.

    Two graphs that run inside one web request share a trace; nested runs belong to the run that contains them.
    """
    nodes = [(event, tree_node(event)) for event in events]
    parents = {node.span_id: node.parent_span_id for _, node in nodes if node is not None}
    running: dict[str, int] = {}
    for event, node in nodes:
        if node is not None and node.is_root_run:
            run = str(event.payload.get("run_id", ""))
            if node.phase == "running" and run != run_id:
                running[run] = node.span_id
            else:
                running.pop(run, None)
    others = set(running.values())
    mine: list[Event] = []
    kept: list[Event] = []
    for event in events:
        belongs = str(event.payload.get("run_id", "")) in running or _leads_to(event.span_id, others, parents)
        (kept if belongs else mine).append(event)
    return mine, kept


def _leads_to(span_id: int, targets: set[int], parents: dict[int, int]) -> bool:
    seen: set[int] = set()
    while targets and span_id and span_id not in seen:
        if span_id in targets:
            return True
        seen.add(span_id)
        span_id = parents.get(span_id, 0)
    return False


def _can_encode(stream: Any) -> bool:
    try:
        "✓├─⏸←".encode(getattr(stream, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _wants_color(stream: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    try:
        return bool(stream.isatty())
    except Exception:  # noqa: BLE001 - any object with a write method may be a stream
        return False
