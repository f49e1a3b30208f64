"""Counts what OTLP receivers refuse of a request that they accepted (partial success).

The OTLP exporters of opentelemetry-python never look at the response's `partial_success`
(open-telemetry/opentelemetry-python#4803), so refused items would count as delivered. There is no public hook, so the
response is read where the exporters' own clients get it; with an exporter of another make nothing is counted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExporter

_logger = logging.getLogger(__name__)
_Client = TypeVar("_Client")


class _Response(Protocol):
    """What both kinds of OTLP response have in common."""

    partial_success: Any


class RejectionCounter:
    """Watches OTLP exporters and counts the items that their receivers refuse.

    Concurrency: any thread.
    """

    def __init__(self, exporters: Sequence[object]) -> None:
        self._lock = threading.Lock()
        self._rejected = 0
        self._message = ""
        for exporter in exporters:
            self._watch(exporter)

    def take(self) -> tuple[int, str]:
        """Return how many items were refused since the last call, and the newest reason that a receiver gave."""
        with self._lock:
            result = (self._rejected, self._message)
            self._rejected, self._message = 0, ""
        return result

    def _watch(self, exporter: Any) -> None:
        client = getattr(exporter, "_client", None)
        make_stub = getattr(exporter, "_stub", None)
        transport = getattr(client, "_transport", None)
        if make_stub is not None and hasattr(client, "Export"):
            # The exporter makes a new client whenever it reconnects, so its factory is wrapped as well.
            exporter._stub = lambda channel: self._watch_grpc(make_stub(channel))  # noqa: SLF001
            self._watch_grpc(client)
        elif transport is not None and hasattr(transport, "request"):
            response = ExportTraceServiceResponse if isinstance(exporter, SpanExporter) else ExportLogsServiceResponse
            transport.request = self._watch_http(transport.request, response)

    def _watch_grpc(self, client: _Client) -> _Client:
        original = client.Export  # type: ignore[attr-defined]

        def export(*args: Any, **kwargs: Any) -> Any:
            response = original(*args, **kwargs)
            self._read(lambda: response)
            return response

        client.Export = export  # type: ignore[attr-defined]
        return client

    def _watch_http(self, original: Callable[..., Any], message: type[Any]) -> Callable[..., Any]:
        def request(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            status = result.status_code
            if status is not None and 200 <= status < 300:
                self._read(lambda: message.FromString(result.content() or b""))
            return result

        return request

    def _read(self, response: Callable[[], _Response]) -> None:
        try:
            partial = response().partial_success
            rejected = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_log_records", 0)
            reason = partial.error_message
        except Exception:  # a receiver that answers in another format has still accepted the request
            _logger.debug("an OTLP response could not be read", exc_info=True)
            return
        if not rejected and not reason:
            return
        with self._lock:
            self._rejected += rejected
            self._message = reason
        _logger.warning("the OTLP receiver refused %d items: %s", rejected, reason[:500])
