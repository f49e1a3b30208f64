"""Identities of spans: ids, parents, sampling decisions, time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

from opentelemetry.trace import SpanContext, TraceFlags, TraceState, get_current_span

Sampler: TypeAlias = Callable[[SpanContext | None, int, str], bool]
"""Decides about a run: parent (None for a new trace), trace id and span name to whether it is sampled. What is below
the run follows it."""


class IdGenerator(Protocol):
    """The same methods as OpenTelemetry's SDK `IdGenerator`."""

    def generate_trace_id(self) -> int: ...

    def generate_span_id(self) -> int: ...


class RandomIds:
    """Uniformly random ids from the process's generator, which Python seeds anew in a forked child."""

    @staticmethod
    def generate_trace_id() -> int:
        """Return a random id that is not 0."""
        return random.getrandbits(128) or 1

    @staticmethod
    def generate_span_id() -> int:
        """Return a random id that is not 0."""
        return random.getrandbits(64) or 1


class SystemTime:
    """The machine's clocks. `monotonic_ns` is the finer `perf_counter_ns`: only differences of it are used."""

    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.perf_counter_ns)


def parent_based(parent: SpanContext | None, trace_id: int, name: str) -> bool:  # noqa: ARG001
    """Follow the parent and sample every new trace: OpenTelemetry's default, parentbased_always_on."""
    return parent is None or parent.trace_flags.sampled


def current_parent() -> SpanContext | None:
    """Return the current span's context, or None where there is none."""
    context = get_current_span().get_span_context()
    return context if context.is_valid else None


def run_context(ids: IdGenerator, sampler: Sampler, parent: SpanContext | None, name: str) -> SpanContext:
    """Return the context of a run: below *parent*, or the root of a new trace."""
    trace_id = ids.generate_trace_id() if parent is None else parent.trace_id
    flags = TraceFlags.get_default() if parent is None else parent.trace_flags
    sampled = sampler(parent, trace_id, name)
    flags = TraceFlags(flags | TraceFlags.SAMPLED if sampled else flags & ~TraceFlags.SAMPLED)
    state = None if parent is None else parent.trace_state
    return SpanContext(trace_id, ids.generate_span_id(), False, flags, state)


def child_context(ids: IdGenerator, parent: SpanContext) -> SpanContext:
    """Return the context of a child: same trace, flags and state as *parent*."""
    return SpanContext(parent.trace_id, ids.generate_span_id(), False, parent.trace_flags, parent.trace_state)


def traceparent(context: SpanContext) -> str:
    """Format *context* as a W3C traceparent."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def parse_traceparent(text: object) -> SpanContext | None:
    """Parse a W3C traceparent; None for anything else."""
    if not isinstance(text, str):
        return None
    parts = text.split("-")
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except (IndexError, ValueError):
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags), trace_state=TraceState())
    return context if context.is_valid else None
