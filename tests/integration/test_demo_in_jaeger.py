"""The demo through the real Collector into the real Jaeger, read back: the main job, end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections import Counter

import pytest
from tests.integration.conftest import http_get

# Span to parent, for each of the two runs.
FIRST = {
    "invoke_workflow trip-planner": None,
    "step 1": "invoke_workflow trip-planner",
    "invoke_agent plan": "step 1",
    "step 2": "invoke_workflow trip-planner",
    "search_flights": "step 2",
    "GET /flights": "search_flights",
    "search_hotels": "step 2",
    "check_visa": "step 2",
    "invoke_workflow visa-check": "check_visa",
    "step 1 of visa-check": "invoke_workflow visa-check",
    "execute_tool ask_consulate": "step 1 of visa-check",
    "step 3": "invoke_workflow trip-planner",
    "approve": "step 3",
}
SECOND = {
    "invoke_workflow trip-planner": None,
    "step 3": "invoke_workflow trip-planner",
    "approve": "step 3",
    "step 4": "invoke_workflow trip-planner",
    "book": "step 4",
}
ERRORS = {"invoke_workflow visa-check", "step 1 of visa-check", "execute_tool ask_consulate"}
SECRET = "sk-demo-0123456789abcdef0123"


def value(any_value):
    ((kind, content),) = any_value.items() or (("none", None),)
    if kind == "arrayValue":
        return [value(item) for item in content.get("values", [])]
    return int(content) if kind == "intValue" else content


def attributes(item):
    return {pair["key"]: value(pair["value"]) for pair in item.get("attributes", [])}


class Trace:
    """The spans of one trace by name; the nested graph's "step 1" is told apart from the outer one's."""

    def __init__(self, spans):
        self.spans = spans
        self.by_id = {span["spanId"]: span for span in spans}
        assert len(self.by_id) == len(spans), "a span is doubled"
        self.by_name = {self.name(span): span for span in spans}
        assert len(self.by_name) == len(spans), sorted(span["name"] for span in spans)

    @staticmethod
    def name(span):
        nested = attributes(span).get("zupa.graph") == "visa-check" and span["name"].startswith("step")
        return f"{span['name']} of visa-check" if nested else span["name"]

    def parents(self):
        return {
            name: self.name(self.by_id[span["parentSpanId"]]) if span.get("parentSpanId") else None
            for name, span in self.by_name.items()
        }

    def outcomes(self):
        return {name: attributes(span).get("zupa.outcome") for name, span in self.by_name.items()}

    def links(self, name, kind):
        """``(trace id, span id)`` of the links of one kind."""
        links = self.by_name[name].get("links", [])
        return [(x["traceId"], x["spanId"]) for x in links if attributes(x).get("zupa.link.kind") == kind]

    def ids(self, *names):
        return [(self.by_name[name]["traceId"], self.by_name[name]["spanId"]) for name in names]


class Demo:
    """One run of the demo against the Collector, and what the backends hold of it."""

    def __init__(self, collector, jaeger, protocol):
        self.service = f"zupa-demo-{protocol.replace('/', '-')}"
        endpoint = collector.otlp_grpc_endpoint if protocol == "grpc" else collector.otlp_http_endpoint
        environ = {key: text for key, text in os.environ.items() if not key.startswith(("OTEL_", "ZUPA_"))}
        self.done = subprocess.run(
            [sys.executable, "-m", "zupa", "demo"],
            env=environ
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_RESOURCE_ATTRIBUTES": f"demo.instance={self.service}",
                "PYTHONIOENCODING": "utf-8",
            },
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert self.done.returncode == 0, self.done.stderr
        self.trace_ids = re.findall(r"^trace ([0-9a-f]{32})$", self.done.stdout, re.MULTILINE)
        assert len(set(self.trace_ids)) == 2
        self.first, self.second = (
            Trace(jaeger.wait_for_trace(trace_id, count))
            for trace_id, count in zip(self.trace_ids, (len(FIRST), len(SECOND)), strict=True)
        )
        self.records = [
            collector.wait_for_log_records(trace_id, count)
            for trace_id, count in zip(self.trace_ids, (26, 10), strict=True)
        ]


@pytest.fixture(scope="module", params=["grpc", "http/protobuf"])
def demo(request, collector, jaeger):
    return Demo(collector, jaeger, request.param)


def test_the_demo_says_nothing_on_stderr(demo):
    assert demo.done.stderr == ""
    lines = [line for line in demo.done.stdout.splitlines() if line.startswith("statistics: ")]
    assert [line.split("exported: ")[0].rstrip() for line in lines] == [
        "statistics: emitted=31 delivered=31 filtered=0 fanned_out=6 dropped=0 queued=0 in_flight=0 imbalance=0",
        "statistics: emitted=13 delivered=13 filtered=0 fanned_out=2 dropped=0 queued=0 in_flight=0 imbalance=0",
    ]
    assert "OtelEventExporter=37/37" in lines[0]
    assert "OtelEventExporter=15/15" in lines[1]


def test_two_runs_are_two_complete_traces_with_the_right_parents(demo):
    assert demo.first.parents() == FIRST
    assert demo.second.parents() == SECOND


def test_nothing_else_was_sent(demo, collector):
    mine = [
        span
        for document in collector.file_lines()
        for group in document.get("resourceSpans", [])
        if attributes(group["resource"]).get("demo.instance") == demo.service
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    assert Counter(span["traceId"] for span in mine) == {
        demo.trace_ids[0]: len(FIRST),
        demo.trace_ids[1]: len(SECOND),
    }


def test_jaeger_lists_these_two_traces_and_no_other(demo, jaeger):
    query = urllib.parse.urlencode(
        {
            "query.service_name": "zupa-demo",
            "query.start_time_min": "2020-01-01T00:00:00Z",
            "query.start_time_max": "2099-01-01T00:00:00Z",
            "query.num_traces": 100,
        }
    )
    status, body = http_get(f"{jaeger.query_base}/api/v3/traces?{query}")
    assert status == 200, body
    found = [
        span["traceId"]
        for group in json.loads(body)["result"]["resourceSpans"]
        if attributes(group["resource"]).get("demo.instance") == demo.service
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    assert Counter(found) == {demo.trace_ids[0]: len(FIRST), demo.trace_ids[1]: len(SECOND)}


def test_edges_lead_to_the_nodes_that_triggered_a_node(demo):
    searches = ("search_flights", "search_hotels", "check_visa")
    for name in searches:
        assert demo.first.links(name, "edge") == demo.first.ids("invoke_agent plan")
    assert demo.first.links("approve", "edge") == demo.first.ids(*searches)
    assert demo.second.links("approve", "edge") == demo.first.ids(*searches)  # across the resume
    assert demo.second.links("book", "edge") == demo.second.ids("approve")


def test_the_resumed_run_links_to_the_interrupted_one(demo):
    run = "invoke_workflow trip-planner"
    assert demo.second.links(run, "resume") == demo.first.ids(run)
    assert demo.first.links(run, "resume") == []
    assert attributes(demo.second.by_name[run])["gen_ai.conversation.id"] == "trip-42"


def test_outcomes(demo):
    first = dict.fromkeys(FIRST, "completed")
    first |= dict.fromkeys(ERRORS, "error")
    first |= dict.fromkeys(["invoke_workflow trip-planner", "step 3", "approve"], "interrupted")
    first["GET /flights"] = None
    assert demo.first.outcomes() == first
    assert demo.second.outcomes() == dict.fromkeys(SECOND, "completed")


def test_only_what_failed_is_an_error(demo):
    for trace in (demo.first, demo.second):
        for name, span in trace.by_name.items():
            failed = name in ERRORS
            assert (span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR")) is failed, name
            assert attributes(span).get("error.type") == ("TimeoutError" if failed else None), name


def test_the_retry_is_counted(demo):
    flights = attributes(demo.first.by_name["search_flights"])
    assert (flights["zupa.attempt"], flights["zupa.attempt.max"]) == (2, 3)
    assert flights["demo.flights.found"] == 3
    assert attributes(demo.first.by_name["search_hotels"])["zupa.attempt"] == 1


def test_the_resource_is_the_service(demo):
    for span in (*demo.first.spans, *demo.second.spans):
        resource = {pair["key"]: value(pair["value"]) for pair in span["resource"]}
        assert resource["service.name"] == "zupa-demo"
        assert resource["demo.instance"] == demo.service


def test_log_records_have_names_and_the_traces_ids(demo):
    names = [Counter(record["eventName"] for record in records) for records in demo.records]
    assert names[0] == {
        "engine.run_started": 2,
        "engine.step_started": 4,
        "engine.node_started": 6,
        "engine.node_retry": 1,
        "engine.checkpoint_saved": 4,
        "agent.log.info": 7,
        "agent.log.debug": 1,
        "exception": 1,
    }
    assert names[1] == {
        "engine.run_started": 1,
        "engine.run_resumed": 1,
        "engine.step_started": 2,
        "engine.node_started": 2,
        "engine.checkpoint_saved": 2,
        "agent.log.info": 2,
    }
    for trace, records in zip((demo.first, demo.second), demo.records, strict=True):
        assert {record["spanId"] for record in records} <= set(trace.by_id)
        ids = [attributes(record)["zupa.event.id"] for record in records if record["eventName"] != "exception"]
        assert len(ids) == len(set(ids))


def test_the_exception_is_one_record_of_the_node_that_raised_it(demo):
    (record,) = [record for record in demo.records[0] if record["eventName"] == "exception"]
    found = attributes(record)
    assert record["spanId"] == demo.first.by_name["execute_tool ask_consulate"]["spanId"]
    assert found["exception.type"] == "TimeoutError"
    assert found["exception.message"] == "the consulate of Lisbon did not answer"
    assert "in ask_consulate" in found["exception.stacktrace"]


def test_the_api_key_is_nowhere(demo, collector, jaeger):
    assert SECRET not in collector.file_path.read_text(encoding="utf-8")
    assert SECRET not in json.dumps([demo.first.spans, demo.second.spans])
    assert SECRET not in demo.done.stdout
    (record,) = [record for record in demo.records[0] if record["eventName"] == "agent.log.debug"]
    assert record["body"]["stringValue"] == "asking for hotels"
    assert attributes(record)["api_key"] != SECRET
