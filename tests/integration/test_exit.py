"""A process that used `configure` ends in time, with its own exit code, whatever the collector does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from tests.support.otlp_receiver import OtlpReceiver

SHUTDOWN_S = 2.0
SLACK_S = 0.5
EVENTS = 3000

CHILD = """
import atexit, json, sys, time

@atexit.register  # before zupa is imported, so that it runs after zupa's own hooks
def report():
    s = bus.statistics()
    x = s.exported["OtelEventExporter"]
    print(json.dumps({
        "emitted": s.emitted, "delivered": s.delivered, "dropped": s.dropped, "queued": s.queued,
        "in_flight": s.in_flight, "imbalance": s.imbalance, "offered": x.offered, "exported": x.exported,
        "failed": x.failed, "rejected": x.rejected, "exporter_dropped": x.dropped, "exporter_queued": x.queued,
        "exporter_in_flight": x.in_flight, "hooks_done": time.monotonic()}), flush=True)

import zupa
from zupa import BusConfig
from opentelemetry import trace

handle = zupa.configure("exit", config=BusConfig(max_queue_size=EVENTS, max_export_batch_size=512))
bus = handle.bus
with trace.get_tracer("user").start_as_current_span("foreign"):
    for index in range(EVENTS):
        bus.emit("agent", "item", {"index": index})
print(json.dumps({"last_statement": time.monotonic()}), flush=True)
sys.exit(7)
"""


def run_child(receiver, protocol, code=CHILD):
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ZUPA_"))}
    environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    command = [sys.executable, "-c", code.replace("EVENTS", str(EVENTS))]
    child = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors = []
    reader = threading.Thread(target=lambda: errors.append(child.stderr.read()))
    reader.start()
    try:
        first = child.stdout.readline()
        rest = child.stdout.read()
        status = child.wait(30)
        ended = time.monotonic()  # the same clock as the child's: CLOCK_MONOTONIC is one for the machine
    finally:
        child.kill()
        child.wait()
        reader.join(10)
        child.stdout.close()
        child.stderr.close()
    assert first, errors
    return {
        "status": status,
        "stderr": errors[0],
        "seconds": ended - json.loads(first)["last_statement"],
        **json.loads(rest),
    }


def assert_accounted(result):
    assert result["imbalance"] == result["queued"] == result["in_flight"] == 0
    assert result["emitted"] == EVENTS
    assert result["exporter_queued"] == result["exporter_in_flight"] == 0
    assert result["offered"] == result["delivered"]
    accounted = result["exported"] + result["failed"] + result["rejected"] + sum(result["exporter_dropped"].values())
    assert result["offered"] == accounted


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("mode", ["refuse", "hang", "slow", "unavailable", "ok"])
def test_exit_is_in_time_and_everything_is_counted(mode, protocol):
    with OtlpReceiver(mode, delay_s=1.5) as receiver:
        result = run_child(receiver, protocol)
        arrived = len(receiver.logs)
    assert result["status"] == 7
    assert "Traceback" not in result["stderr"], result["stderr"]
    assert result["seconds"] < SHUTDOWN_S + SLACK_S, result
    assert_accounted(result)
    if mode == "ok":
        assert result["exported"] == arrived == EVENTS
        assert len(receiver.spans) == 1
    else:
        # Some loss is inevitable; none of it is silent.
        lost = result["failed"] + sum(result["exporter_dropped"].values())
        assert lost > 0
        assert result["exported"] == EVENTS - lost
        assert result["exported"] <= arrived
        assert "zupa" in result["stderr"] or "export" in result["stderr"].lower()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_explicit_deadline_is_kept_and_leaves_nothing_for_the_exit(protocol):
    with OtlpReceiver("hang") as receiver:
        result = run_child(
            receiver, protocol, CHILD.replace("sys.exit(7)", "sys.exit(7 if not handle.shutdown(500) else 0)")
        )
    assert result["status"] == 7
    assert result["seconds"] < 0.5 + SLACK_S, result
    assert_accounted(result)
    assert result["failed"] + sum(result["exporter_dropped"].values()) == EVENTS


def test_an_exception_of_the_application_keeps_its_own_traceback_and_code():
    with OtlpReceiver("refuse") as receiver:
        result = run_child(receiver, "grpc", CHILD.replace("sys.exit(7)", "raise KeyError('mine')"))
    assert result["status"] == 1
    assert result["stderr"].count("Traceback") == 1
    assert "KeyError: 'mine'" in result["stderr"]
    assert result["seconds"] < SHUTDOWN_S + SLACK_S
