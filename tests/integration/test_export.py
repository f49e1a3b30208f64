"""Events over real OTLP, gRPC and HTTP: from `configure` with standard variables to a receiver's protobuf messages."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap

import pytest
from tests.support.otlp_receiver import OtlpReceiver, attributes_of

PREAMBLE = """
import os, sys
import zupa
from zupa.engine import EngineExecutor, Graph
from opentelemetry import trace

def body(ctx):
    with trace.get_tracer("user").start_as_current_span("GET /x"):
        zupa.get_bus().emit("agent", "log:info", {"message": "hello", "n": 1})
    return {"k": 1}

def run(name="g"):
    return EngineExecutor(Graph(name).add_node("a", body)).invoke_sync()
"""

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


def environment(receiver, protocol, **more):
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ZUPA_"))}
    return inherited | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol} | more


def script(body, environ):
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(body)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(body, environ):
    done = script(body, environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@PROTOCOLS
def test_configure_and_one_run_make_one_trace(protocol):
    with OtlpReceiver() as receiver:
        check(
            """
            zupa.configure("travel-agent")
            run()
            """,
            environment(
                receiver,
                protocol,
                OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test,service.name=loses",
                OTEL_EXPORTER_OTLP_HEADERS="x-api-key=sesame",
            ),
        )
        # The process has exited: what has not arrived by now never will.
        spans, logs = {span.name: span for span in receiver.spans}, receiver.logs
        assert sorted(span.name for span in receiver.spans) == ["GET /x", "a", "invoke_workflow g", "step 1"]
        assert len({span.trace_id for span in receiver.spans}) == 1
        assert not spans["invoke_workflow g"].parent_span_id
        assert spans["step 1"].parent_span_id == spans["invoke_workflow g"].span_id
        assert spans["a"].parent_span_id == spans["step 1"].span_id
        assert spans["GET /x"].parent_span_id == spans["a"].span_id
        assert attributes_of(spans["a"])["zupa.node.writes"] == ["k"]
        assert sorted(log.event_name for log in logs) == [
            "agent.log.info",
            "engine.node_started",
            "engine.run_started",
            "engine.step_started",
        ]
        (hello,) = [log for log in logs if log.event_name == "agent.log.info"]
        assert hello.body.string_value == "hello"
        assert attributes_of(hello)["n"] == 1
        assert (hello.trace_id, hello.span_id) == (spans["GET /x"].trace_id, spans["GET /x"].span_id)
        resource = receiver.resource_attributes
        assert resource["service.name"] == "travel-agent"
        assert resource["deployment.environment"] == "test"
        assert {headers.get("x-api-key") for headers in receiver.headers} == {"sesame"}


@PROTOCOLS
def test_the_bus_and_the_foreign_spans_share_the_resource(protocol):
    with OtlpReceiver() as receiver:
        check("handle = zupa.configure('one'); run(); assert handle.shutdown(10_000)", environment(receiver, protocol))
        groups = [group for request in receiver._trace_requests for group in request.resource_spans]
        assert {attributes_of(group.resource)["service.name"] for group in groups} == {"one"}
        assert {scope.scope.name for group in groups for scope in group.scope_spans} == {"zupa", "user"}


def test_always_off_sends_no_spans_and_all_log_records():
    with OtlpReceiver() as receiver:
        check("zupa.configure('one'); run()", environment(receiver, "grpc", OTEL_TRACES_SAMPLER="always_off"))
        assert receiver.spans == []
        assert len(receiver.logs) == 4


def test_disabled_sends_nothing():
    with OtlpReceiver() as receiver:
        check("zupa.configure('one'); run()", environment(receiver, "grpc", OTEL_SDK_DISABLED="true"))
        assert receiver.requests == 0


POISON = """
class Rude:
    def __str__(self):
        raise RuntimeError("no")
    __repr__ = __str__

cycle = []
cycle.append(cycle)
deep = []
for _ in range(10_000):
    deep = [deep]
poison = {"surrogate": "bad \\udc80 text", "cycle": cycle, "deep": deep, "huge": 10**400, "nan": float("nan"),
          "rude": Rude(), "\\udcff": 1, "good": "kept"}
"""


@PROTOCOLS
def test_one_poisoned_event_costs_none_of_its_batch(protocol):
    with OtlpReceiver() as receiver:
        out = check(
            POISON
            + textwrap.dedent("""
            handle = zupa.configure("poison", instrument=False)
            for index in range(512):
                handle.bus.emit("agent", "item", poison if index == 255 else {"index": index, "text": "x" * 20})
            assert handle.shutdown(20_000)
            s = handle.statistics()
            print(s.imbalance, s.delivered, s.degraded, s.dropped, s.exported["OtelEventExporter"].exported)
            """),
            environment(receiver, protocol),
        )
        assert out == "0 512 1 {} 512\n"
        records = [attributes_of(log) for log in receiver.logs]
        whole = [record for record in records if "index" in record]
        assert sorted(record["index"] for record in whole) == [index for index in range(512) if index != 255]
        assert {record["text"] for record in whole} == {"x" * 20}
        assert not any("zupa.event.degraded" in record for record in whole)
        (bad,) = [record for record in records if "index" not in record]
        assert bad["good"] == "kept"
        assert math.isnan(bad["nan"])
        assert bad["surrogate"] == "bad \ufffd text"
        reasons = " ".join(bad["zupa.event.degraded"])
        for reason in ("cycle", "too_deep", "integer_over_64_bits", "surrogates", "unprintable:RuntimeError"):
            assert reason in reasons, reasons
        assert sorted(record["zupa.event.seq"] for record in records) == list(range(1, 513))


FORK = """
handle = zupa.configure("fork", instrument=False)
bus = handle.bus

def child():
    bus.emit("agent", "from_child", {"pid": os.getpid()})
    return bus.force_flush(10_000)

bus.emit("agent", "before", {"pid": os.getpid()})
assert handle.force_flush(10_000)
"""

OS_FORK = """
pid = os.fork()
if pid == 0:
    os._exit(0 if child() else 1)
assert os.waitpid(pid, 0)[1] == 0
"""

MULTIPROCESSING_FORK = """
import multiprocessing
def main():
    bus.emit("agent", "from_child", {"pid": os.getpid()})  # sent when the child ends
process = multiprocessing.get_context("fork").Process(target=main)
process.start()
process.join()
assert process.exitcode == 0
"""


@PROTOCOLS
@pytest.mark.parametrize("fork", [OS_FORK, MULTIPROCESSING_FORK], ids=["os.fork", "multiprocessing"])
def test_a_forked_child_exports_its_own_events_and_the_parent_goes_on(protocol, fork):
    with OtlpReceiver() as receiver:
        done = script(
            FORK
            + fork
            + textwrap.dedent("""
            for index in range(3):
                bus.emit("agent", "after", {"pid": os.getpid()})
                assert handle.force_flush(10_000)
            s = handle.statistics()
            assert (s.imbalance, s.emitted, s.delivered, s.dropped_total) == (0, 4, 4, 0), s
            assert s.exported["OtelEventExporter"].exported == 4
            """),
            environment(receiver, protocol),
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        records = [(log.event_name, attributes_of(log)) for log in receiver.logs]
        assert sorted(name for name, _ in records) == [
            "agent.after",
            "agent.after",
            "agent.after",
            "agent.before",
            "agent.from_child",
        ]
        (child,) = [record for name, record in records if name == "agent.from_child"]
        (before,) = [record for name, record in records if name == "agent.before"]
        assert child["pid"] != before["pid"]
        assert child["zupa.event.id"].split("-")[0] != before["zupa.event.id"].split("-")[0]
        assert len({record["zupa.event.id"] for _, record in records}) == 5
