"""Every exporter keeps the contract of `EventExporter`, and the contract finds those that do not."""

from __future__ import annotations

import io
import threading

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.stress.kit import Recorder
from tests.support.otlp_receiver import OtlpReceiver

from zupa.otel import ConsoleTreeExporter, OtelEventExporter
from zupa.ports import ExportResult
from zupa.testing import InMemoryEventExporter
from zupa.testing.contracts import example_batch, verify_exporter


@pytest.mark.parametrize(
    "make",
    [
        Recorder,
        InMemoryEventExporter,
        lambda: ConsoleTreeExporter(io.StringIO()),
        lambda: OtelEventExporter(InMemorySpanExporter(), InMemoryLogRecordExporter(), resource=Resource({})),
    ],
    ids=["recorder", "in memory", "console", "OpenTelemetry in memory"],
)
def test_the_contract(make):
    verify_exporter(make)


def test_the_contract_over_otlp():
    with OtlpReceiver() as receiver:
        verify_exporter(
            lambda: OtelEventExporter(
                OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces"),
                OTLPLogExporter(f"{receiver.http_endpoint}/v1/logs"),
                resource=Resource({}),
            )
        )


class Lazy(Recorder):
    def export(self, batch):
        return None


class Failing(Recorder):
    def export(self, batch):
        return ExportResult.FAILURE


class Vandal(Recorder):
    def export(self, batch):
        batch[0].payload["text"] = "changed"
        return ExportResult.SUCCESS


class Unflushed(Recorder):
    def force_flush(self, timeout_millis=0):
        return None


class Sleeper(Recorder):
    def shutdown(self, timeout_millis=0):
        threading.Event().wait(timeout_millis / 1e3 * 2)


class Overcounting(Recorder):
    def export(self, batch):
        return ExportResult(rejected=len(batch) + 1)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Lazy, "must return an ExportResult"),
        (Failing, "though its destination is up"),
        (Vandal, "changed the events"),
        (Unflushed, "force_flush returned None"),
        (Sleeper, "shutdown"),
        (Overcounting, "rejected"),
    ],
)
def test_the_contract_finds(make, problem):
    with pytest.raises(AssertionError, match=problem):
        verify_exporter(make, timeout_millis=50)


def test_the_example_batch_is_ordered_and_plain():
    batch = example_batch()
    assert [event.seq for event in batch] == list(range(1, len(batch) + 1))
    assert Recorder().export(batch).success
