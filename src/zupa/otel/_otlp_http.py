"""The SDK's OTLP/HTTP exporters, with zupa's encoder in front.

Endpoint, headers, TLS, compression, deadlines, retries and self-metrics stay theirs. `export` is the SDK's own, but for
the call of the encoder and the limit on a request's size, which `OtelEventExporter` keeps by splitting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from zupa.otel._wire import encode_logs, encode_spans

_logger = logging.getLogger(__name__)

_STATUS_CODE = "http.response.status_code"


class HttpSpanExporter(OTLPSpanExporter):
    """`OTLPSpanExporter` over HTTP that encodes faster."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._shutdown:
            return super().export(spans)
        return SpanExportResult.SUCCESS if _send(self, spans, encode_spans) else SpanExportResult.FAILURE


class HttpLogExporter(OTLPLogExporter):
    """`OTLPLogExporter` over HTTP that encodes faster."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if self._shutdown:
            return super().export(batch)
        return LogRecordExportResult.SUCCESS if _send(self, batch, encode_logs) else LogRecordExportResult.FAILURE


def _send(exporter: Any, items: Sequence[Any], encode: Callable[[Any], bytes]) -> bool:
    with exporter._metrics.export_operation(len(items)) as result:  # noqa: SLF001 - we are its subclass
        try:
            data = encode(items)
        except Exception as error:  # noqa: BLE001 - as the SDK: a batch that cannot be encoded fails
            _logger.error("a batch of %d cannot be encoded: %s", len(items), type(error).__qualname__)  # noqa: TRY400
            result.error = error
            return False
        response = exporter._client.export(data)  # noqa: SLF001
        if response.success:
            return True
        result.error = response.error
        if response.status_code is not None:
            result.error_attrs = {_STATUS_CODE: response.status_code}
        return False
