"""The table that says which event becomes what: `Row`, `Mapping`, `DEFAULT_MAPPING`. Pure data and functions."""

from __future__ import annotations

import collections.abc
import enum
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from opentelemetry._logs import SeverityNumber

from zupa import semconv
from zupa.errors import ConfigurationError
from zupa.transition import TERMINAL_PHASES

Payload: TypeAlias = collections.abc.Mapping[str, Any]
Attributes: TypeAlias = dict[str, Any]


class Signal(enum.Enum):
    """What an event becomes."""

    SPAN = "span"
    LOG = "log"
    NONE = "none"


def payload_attributes(payload: Payload) -> Attributes:
    """The payload's fields under their own names, but for `message`, which is the log record's body."""
    return {key: value for key, value in payload.items() if key != "message" or not isinstance(value, str)}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the events of one topic.

    Attributes:
        signal: A span, a log record, or nothing. A span needs a payload with `start_ns` and `end_ns` and a valid
            trace context of its own in the event; without them the event becomes a log record, so nothing is lost.
        span_name: Payload to the span's name; without it the name is the topic. A payload's `span_name` wins.
        attributes: Payload to attributes.
        severity: Of the log record; None derives it from the event's name (see `severity_of`).
        event_name: EventName of the log record; "" derives it from the topic: ``agent:log:info``, ``agent.log.info``.
        exception_log: A failed span's error is also written as a log record, as the conventions ask. True on one kind
            of row only, or the same exception is recorded once per level that it passed through.
    """

    signal: Signal = Signal.LOG
    span_name: Callable[[Payload], str] | None = None
    attributes: Callable[[Payload], Attributes] = payload_attributes
    severity: SeverityNumber | None = None
    event_name: str = ""
    exception_log: bool = False


class Mapping(msgspec.Struct, frozen=True):
    """Topic to `Row`. Looked up as the exact topic, then ``channel:*``, then ``*``.

    Attributes:
        rows: The table.
    """

    rows: dict[str, Row]

    def __post_init__(self) -> None:
        if "*" not in self.rows:
            raise ConfigurationError("a Mapping needs a row for '*': it says what becomes of all other events")

    def row(self, channel: str, name: str) -> Row:
        """The row for an event of *channel* and *name*."""
        rows = self.rows
        return rows.get(f"{channel}:{name}") or rows.get(f"{channel}:*") or rows["*"]

    def with_row(self, topic: str, row: Row) -> Mapping:
        """Return a copy in which *topic* (exact, ``channel:*`` or ``*``) has *row*.

        Raises:
            ConfigurationError: *topic* holds a wildcard in another place, so it could never match.
        """
        if "*" in topic and not (topic == "*" or (topic.endswith(":*") and topic.count("*") == topic.count(":") == 1)):
            raise ConfigurationError(f"{topic!r} can match nothing: use an exact topic, 'channel:*' or '*'")
        return Mapping({**self.rows, topic: row})


_SEVERITIES: Final = {
    "trace": SeverityNumber.TRACE,
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warn": SeverityNumber.WARN,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
    "fatal": SeverityNumber.FATAL,
}


def severity_of(name: str) -> SeverityNumber:
    """Severity by an event's name: its last segment if that is a level, ERROR for ``*_failed``, else INFO."""
    last = name.rpartition(":")[2].lower()
    if last == "failed" or last.endswith("_failed"):
        return SeverityNumber.ERROR
    return _SEVERITIES.get(last, SeverityNumber.INFO)


# -- the engine's events -------------------------------------------------------------------------------------------
_FIELDS: Final = {
    "engine": semconv.ENGINE,
    "kind": semconv.KIND,
    "run_id": semconv.RUN_ID,
    "exec_id": semconv.EXEC_ID,
    "graph": semconv.GRAPH,
    "node": semconv.NODE,
    "node_kind": semconv.NODE_KIND,
    "thread_id": semconv.GEN_AI_CONVERSATION_ID,
    "step": semconv.STEP,
    "attempt": semconv.ATTEMPT,
    "max_attempts": semconv.MAX_ATTEMPTS,
    "namespace": semconv.NAMESPACE,
    "parent_exec_id": semconv.PARENT_EXEC_ID,
    "sources": semconv.SOURCES,
    "triggers": semconv.TRIGGERS,
    "goto": semconv.GOTO,
    "writes": semconv.WRITES,
    "tasks": semconv.TASKS,
    "interrupt_reason": semconv.INTERRUPT_REASON,
    "interrupt_ids": semconv.INTERRUPT_IDS,
    "checkpoint_id": semconv.CHECKPOINT_ID,
    "checkpoint_parent_id": semconv.CHECKPOINT_PARENT_ID,
    "checkpoint_source": semconv.CHECKPOINT_SOURCE,
    "delay_s": semconv.RETRY_DELAY,
}
"""Payload field of a transition to attribute."""

_STRUCTURE: Final = frozenset(
    {
        "phase",
        "error",
        "trace_state",
        "parent_span_id",
        "parent_is_remote",
        "start_ns",
        "end_ns",
        "links",
        "span_name",
        "attributes",
        "span_events",
        "status",
    }
)
"""Fields that become part of a span or log record itself rather than attributes."""

_NO_ERROR: Final = frozenset({"interrupted", "cancelled", "closed", "abandoned"})
"""Phases in which an exception is how the engine said so, not an error."""


def engine_attributes(payload: Payload) -> Attributes:
    """A transition's fields under their conventional names, then fields that reducers added, then the user's own."""
    result: Attributes = {}
    extra: Attributes = {}
    for key, value in payload.items():
        name = _FIELDS.get(key)
        if name is not None:
            result[name] = value
        elif key not in _STRUCTURE and not (key == "message" and isinstance(value, str)):
            extra[key] = value
    for more in (extra, payload.get("attributes")):
        if isinstance(more, dict):
            for key, value in more.items():
                result.setdefault(key, value)
    return result


def _engine_log_attributes(payload: Payload) -> Attributes:
    result = engine_attributes(payload)
    if payload.get("phase") not in _NO_ERROR:
        result.update(exception_attributes(payload))
    return result


def exception_attributes(payload: Payload) -> Attributes:
    """`error.type` and `exception.*` of a payload's error; empty where there is none."""
    error = payload.get("error")
    if isinstance(error, dict):
        kind, message, stack = (error.get(key) for key in ("type", "message", "stacktrace"))
    else:
        kind, message, stack = None, error, None  # a reducer may have replaced it, by "[redacted]" for example
    if not error:
        return {}
    found = {
        semconv.ERROR_TYPE: kind or "_OTHER",
        semconv.EXCEPTION_TYPE: kind,
        semconv.EXCEPTION_MESSAGE: message,
        semconv.EXCEPTION_STACKTRACE: stack,
    }
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _run_name(payload: Payload) -> str:
    return f"{semconv.OPERATION_INVOKE_WORKFLOW} {payload.get('graph', '')}".rstrip()


def _run_attributes(payload: Payload) -> Attributes:
    first: Attributes = {semconv.GEN_AI_OPERATION_NAME: semconv.OPERATION_INVOKE_WORKFLOW}
    if payload.get("graph"):
        first[semconv.GEN_AI_WORKFLOW_NAME] = payload["graph"]
    return {**engine_attributes(payload), **first}


def _step_name(payload: Payload) -> str:
    return f"step {payload.get('step', '')}".rstrip()


_NODE_OPERATIONS: Final = {
    "agent": (semconv.OPERATION_INVOKE_AGENT, semconv.GEN_AI_AGENT_NAME),
    "tool": (semconv.OPERATION_EXECUTE_TOOL, semconv.GEN_AI_TOOL_NAME),
}


def _node_name(payload: Payload) -> str:
    node = payload.get("node") or "node"
    operation = _NODE_OPERATIONS.get(payload.get("node_kind", ""))
    return f"{operation[0]} {node}" if operation else f"{node}"


def _node_attributes(payload: Payload) -> Attributes:
    result = engine_attributes(payload)
    operation = _NODE_OPERATIONS.get(payload.get("node_kind", ""))
    if operation:
        result[semconv.GEN_AI_OPERATION_NAME] = operation[0]
        result[operation[1]] = payload.get("node", "")
    return result


_RUN: Final = Row(signal=Signal.SPAN, span_name=_run_name, attributes=_run_attributes)
_STEP: Final = Row(signal=Signal.SPAN, span_name=_step_name, attributes=engine_attributes)
_NODE: Final = Row(signal=Signal.SPAN, span_name=_node_name, attributes=_node_attributes, exception_log=True)
_ENGINE_LOG: Final = Row(attributes=_engine_log_attributes)

DEFAULT_MAPPING: Final = Mapping(
    {
        **{f"engine:run_{phase}": _RUN for phase in sorted(TERMINAL_PHASES)},
        **{f"engine:step_{phase}": _STEP for phase in sorted(TERMINAL_PHASES)},
        **{f"engine:node_{phase}": _NODE for phase in sorted(TERMINAL_PHASES)},
        "engine:node_retry": Row(attributes=_engine_log_attributes, severity=SeverityNumber.WARN),
        "engine:*": _ENGINE_LOG,
        "*": Row(),
    }
)
"""Terminal events of runs, steps and nodes become spans; everything else becomes a log record."""
