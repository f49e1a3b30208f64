"""`NodeSpan`: the light span that is current inside a node's body, and `current_node`.

It implements the OpenTelemetry API's `Span`, so whatever instruments httpx, a database or a model client inside the
node hangs its spans below it, and ``trace.get_current_span().set_attribute(...)`` lands on it. Unlike an SDK span it
takes no lock and feeds no processor: the node's terminal transition carries what was set here to the bus.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context

from zupa.normalize import error_type, safe_str
from zupa.semconv import EXCEPTION_MESSAGE, EXCEPTION_TYPE

SPAN_KEY: str = next(iter(set_span_in_context(INVALID_SPAN, Context())))
"""Key of the current span. It is private to OpenTelemetry, but a context with nothing but a span in it shows it."""

_NODE_KEY = context_api.create_key("zupa-current-node")

MAX_ATTRIBUTES = 128
"""OpenTelemetry's default OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT; events and links have the same limit."""


class NodeSpan(Span):
    """The span of one node execution.

    Attributes:
        context: Its identity.
        attributes: What user code set; at most `MAX_ATTRIBUTES` keys.
        events: ``(name, time_ns, attributes)`` in the order in which they were added.
        links: Span contexts that user code linked to.
        name: What user code renamed the span to, or "".
        status: ``(code, description)`` or None.
        dropped: Attributes and events beyond the limit, counted.

    Concurrency: any thread; each method is one dict or list operation, atomic under the GIL. Nothing raises. After
    `end` (called by the instrumentation only) changes are ignored, as the OpenTelemetry specification says.
    """

    __slots__ = ("attributes", "context", "dropped", "ended", "events", "links", "name", "status")

    def __init__(self, context: SpanContext) -> None:
        self.context: SpanContext = context
        self.attributes: dict[str, Any] = {}
        self.events: list[tuple[str, int, Mapping[str, Any] | None]] = []
        self.links: list[SpanContext] = []
        self.name: str = ""
        self.status: tuple[int, str] | None = None
        self.dropped: int = 0
        self.ended: bool = False

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return not self.ended

    def set_attribute(self, key: str, value: Any) -> None:
        if self.ended:
            return
        if len(self.attributes) >= MAX_ATTRIBUTES and key not in self.attributes:
            self.dropped += 1
            return
        self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        if self.ended:
            return
        if len(self.events) >= MAX_ATTRIBUTES:
            self.dropped += 1
            return
        self.events.append((name, time.time_ns() if timestamp is None else timestamp, attributes))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        if self.ended:
            return
        if len(self.links) >= MAX_ATTRIBUTES:
            self.dropped += 1
            return
        self.links.append(context)

    def update_name(self, name: str) -> None:
        if not self.ended:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.ended:
            return
        if isinstance(status, Status):
            code, description = status.status_code, status.description
        else:
            code = status
        # OpenTelemetry: OK is final, and UNSET never overrides.
        if code is StatusCode.UNSET or (self.status is not None and self.status[0] == StatusCode.OK.value):
            return
        self.status = (code.value, description or "")

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - deprecated by the specification, kept for the API's signature
    ) -> None:
        details = {EXCEPTION_TYPE: error_type(exception), EXCEPTION_MESSAGE: safe_str(exception, 4096)}
        self.add_event("exception", {**details, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the node's own end ends the span, whoever calls this inside it."""

    def finish(self) -> None:
        """Ignore all further changes. Called by the instrumentation when the node has ended."""
        self.ended = True


def set_node_in_context(span: NodeSpan, context: Context | None = None) -> Context:
    """Return a context in which *span* is both the current span and the current node."""
    values = dict(context_api.get_current() if context is None else context)
    values[SPAN_KEY] = values[_NODE_KEY] = span
    return Context(values)


def current_node(context: Context | None = None) -> Span:
    """Return the span of the node that is running here, even below spans that other libraries opened inside it.

    Outside a node this is OpenTelemetry's invalid span, whose methods do nothing, so callers need no check.
    """
    span = context_api.get_value(_NODE_KEY, context)
    return span if isinstance(span, Span) else INVALID_SPAN
