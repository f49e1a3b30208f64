"""Contracts: what every implementation of a port must do, as functions that tests of your own can call."""

from __future__ import annotations

import time
from collections.abc import Callable

from zupa.event import Event
from zupa.normalize import normalize
from zupa.ports import EventExporter, ExportResult

_HOSTILE = {
    "bytes": b"\x00\xff",
    "deep": {"a": [{"b": [1, {"c": None}]}]},
    "infinity": float("inf"),
    "nan": float("nan"),
    "large": 2**63 - 1,
    "mixed": [1, "two", 3.0, None, True],
    "surrogate": "\ud800",
    "object": object(),
    "": "an empty key",
}


def example_batch() -> list[Event]:
    """Return events of every kind that an exporter may meet: plain, hostile, of the engine, with and without trace."""
    hostile, reasons = normalize(_HOSTILE)
    node = {"engine": "zupa", "kind": "node", "phase": "completed", "node": "plan", "run_id": "r", "exec_id": "e"}
    drafts = [
        Event("agent", "said", {"text": "hello"}),
        Event("agent", "log:info", hostile, {"degraded": reasons}),
        Event("agent", "empty"),
        Event("engine", "node_completed", {**node, "start_ns": 1_000, "end_ns": 2_000}, trace_id=1, span_id=2),
        Event("engine", "node_completed", {"start_ns": "not a number"}),
        Event("engine", "node_started", node, trace_id=1, span_id=2, trace_flags=1),
    ]
    return [
        draft.replace(seq=seq, timestamp=2_000 + seq, occurred_at=1_000, boot_id="0123456789abcdef", pid=1)
        for seq, draft in enumerate(drafts, 1)
    ]


def verify_exporter(make: Callable[[], EventExporter], *, timeout_millis: float = 5_000) -> None:
    """Check that what *make* returns keeps the contract of `EventExporter`, with a destination that answers.

    Args:
        make: Returns a new exporter at each call.
        timeout_millis: What `force_flush` and `shutdown` are given; they may take half as long again.

    Raises:
        AssertionError: saying what is broken.
    """
    batch = example_batch()
    before = repr(batch)
    exporter = make()
    for part in (batch[:1], batch, batch * 80):
        result = exporter.export(part)
        assert isinstance(result, ExportResult), f"export returned {result!r}; it must return an ExportResult"
        assert result.success, f"export of {len(part)} events failed ({result.error_type}) though its destination is up"
        assert 0 <= result.rejected <= len(part), f"{result.rejected} of {len(part)} events rejected"
    assert repr(batch) == before, "export changed the events that it was given; others hold them too"
    flushed = _in_time("force_flush", timeout_millis, exporter.force_flush)
    assert flushed is True, f"force_flush returned {flushed!r} though everything was delivered"
    _in_time("shutdown", timeout_millis, exporter.shutdown)
    unused = make()
    _in_time("shutdown of an unused exporter", timeout_millis, unused.shutdown)


def _in_time(what: str, timeout_millis: float, call: Callable[[float], object]) -> object:
    started = time.monotonic()
    result = call(timeout_millis)
    seconds = time.monotonic() - started
    assert seconds <= timeout_millis * 1.5 / 1e3, f"{what}({timeout_millis}) took {seconds:.3f} s"
    return result
