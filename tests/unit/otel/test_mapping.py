"""What becomes of an event: names, attributes, status, links, severity, trace context; checked as encoded OTLP."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PBSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as PBStatus
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from tests.support.otlp_receiver import attributes_of, value_of

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.otel import DEFAULT_MAPPING, Limits, Mapping, Row, Signal, UnmappableError, map_event, to_log_record, to_span
from zupa.transition import TERMINAL_PHASES, Transition, TransitionLink

RESOURCE = Resource({"service.name": "test"})
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0x00F067AA0BA902B7
START = 1_700_000_000_000_000_000
END = START + 5_000_000


def transition(kind="node", phase="completed", **fields):
    """An engine event as the bus makes it: the transition's payload after normalisation."""
    given = {
        "engine": "zupa",
        "run_id": "run-1",
        "exec_id": "exec-1",
        "graph": "research",
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_flags": 1,
        "start_ns": START,
        "end_ns": END,
        **fields,
    }
    record = Transition(kind=kind, phase=phase, **given)
    payload, degraded = record.to_payload()
    assert not degraded
    return Event(
        channel="engine",
        name=f"{kind}_{phase}",
        payload=payload,
        seq=7,
        timestamp=END + 10,
        occurred_at=END + 1,
        trace_id=record.trace_id,
        span_id=record.span_id,
        trace_flags=record.trace_flags,
        boot_id="00000000000000aa",
        pid=42,
    )


def encoded_span(event, **options):
    request = encode_spans([to_span(event, RESOURCE, **options)])
    (span,) = request.resource_spans[0].scope_spans[0].spans
    return span


def encoded_log(event, **options):
    request = encode_logs([to_log_record(event, RESOURCE, **options)])
    (log,) = request.resource_logs[0].scope_logs[0].log_records
    return log


def user_event(topic, payload=None, **fields):
    channel, _, name = topic.partition(":")
    return Event(channel, name, payload or {}, seq=3, timestamp=END, occurred_at=START, boot_id="b", pid=1, **fields)


# -- spans ---------------------------------------------------------------------------------------------------------
def test_a_completed_node_is_a_span_with_exactly_these_fields():
    event = transition(
        node="plan",
        node_kind="node",
        thread_id="thread-9",
        step=0,
        attempt=2,
        max_attempts=3,
        namespace=["outer"],
        sources=["start"],
        triggers=("branch:to:plan",),
        goto=["search"],
        writes=["plan"],
        parent_span_id=0xB7AD6B7169203331,
        attributes={"k": 1, "ratio": 0.5, "zupa.node.name": "not ours"},
        trace_state="vendor=abc",
    )
    span = encoded_span(event)
    assert span.name == "plan"
    assert span.kind == PBSpan.SPAN_KIND_INTERNAL
    assert span.trace_id.hex() == f"{TRACE:032x}"
    assert span.span_id.hex() == f"{SPAN:016x}"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.trace_state == "vendor=abc"
    assert span.flags == 0x100
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (START, END)
    assert span.status.code == PBStatus.STATUS_CODE_UNSET
    assert attributes_of(span) == {
        "zupa.engine": "zupa",
        "zupa.kind": "node",
        "zupa.outcome": "completed",
        "zupa.run.id": "run-1",
        "zupa.exec.id": "exec-1",
        "zupa.graph": "research",
        "zupa.node.name": "plan",
        "zupa.node.kind": "node",
        "gen_ai.conversation.id": "thread-9",
        "zupa.step": 0,
        "zupa.attempt": 2,
        "zupa.attempt.max": 3,
        "zupa.namespace": ["outer"],
        "zupa.node.sources": ["start"],
        "zupa.node.triggers": ["branch:to:plan"],
        "zupa.node.goto": ["search"],
        "zupa.node.writes": ["plan"],
        "k": 1,
        "ratio": 0.5,
    }


def test_the_scope_names_zupa_and_the_schema():
    group = encode_spans([to_span(transition(node="a"), RESOURCE)]).resource_spans[0].scope_spans[0]
    assert group.scope.name == "zupa"
    assert group.schema_url == "https://opentelemetry.io/schemas/1.44.0"


@pytest.mark.parametrize(
    ("fields", "name", "attributes"),
    [
        (
            {"kind": "run", "thread_id": "t"},
            "invoke_workflow research",
            {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": "research",
                "gen_ai.conversation.id": "t",
            },
        ),
        ({"kind": "run", "graph": ""}, "invoke_workflow", {"gen_ai.operation.name": "invoke_workflow"}),
        ({"kind": "step", "step": 0, "tasks": ["a", "b"]}, "step 0", {"zupa.step.tasks": ["a", "b"]}),
        ({"node": "search"}, "search", {}),
        (
            {"node": "writer", "node_kind": "agent"},
            "invoke_agent writer",
            {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "writer"},
        ),
        (
            {"node": "web", "node_kind": "tool"},
            "execute_tool web",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "web"},
        ),
        ({"node": "search", "span_name": "renamed"}, "renamed", {"zupa.node.name": "search"}),
        (
            {"kind": "run", "span_name": "renamed"},
            "renamed",
            {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": "research"},
        ),
    ],
)
def test_span_names_and_conventional_attributes(fields, name, attributes):
    span = encoded_span(transition(**fields))
    assert span.name == name
    assert attributes.items() <= attributes_of(span).items()
    if "gen_ai.operation.name" not in attributes:
        assert "gen_ai.operation.name" not in attributes_of(span)
    if not fields.get("thread_id"):
        assert "gen_ai.conversation.id" not in attributes_of(span)


@pytest.mark.parametrize("kind", ["run", "step", "node"])
@pytest.mark.parametrize("phase", sorted(TERMINAL_PHASES))
def test_only_a_failure_is_an_error(kind, phase):
    span = encoded_span(transition(kind, phase, node="n" if kind == "node" else "", error=ValueError("boom")))
    found = attributes_of(span)
    if phase == "failed":
        assert (span.status.code, span.status.message) == (PBStatus.STATUS_CODE_ERROR, "boom")
        assert (found["zupa.outcome"], found["error.type"]) == ("error", "ValueError")
    else:
        assert (span.status.code, span.status.message) == (PBStatus.STATUS_CODE_UNSET, "")
        assert found["zupa.outcome"] == phase
        assert "error.type" not in found
    assert not any(key.startswith("exception.") for key in found)


@pytest.mark.parametrize(
    ("phase", "status", "expected"),
    [
        ("completed", (2, "half done"), (2, "half done")),
        ("completed", (1, ""), (1, "")),
        ("completed", (0, ""), (0, "")),
        ("interrupted", (2, "waited too long"), (2, "waited too long")),
        ("failed", (1, "ignored"), (1, "")),
        ("failed", (2, "mine"), (2, "mine")),
        ("failed", (2, ""), (2, "boom")),
    ],
)
def test_the_status_that_user_code_set_is_final(phase, status, expected):
    error = ValueError("boom") if phase == "failed" else None
    span = encoded_span(transition(phase=phase, node="n", status=status, error=error))
    assert (span.status.code, span.status.message) == expected


def test_a_failure_without_an_error_still_has_an_error_type():
    assert attributes_of(encoded_span(transition(phase="failed", node="n")))["error.type"] == "_OTHER"


def test_links_say_whether_they_are_edges_or_resumes():
    span = encoded_span(
        transition(
            "run",
            links=[
                TransitionLink(TRACE, 0x11, "edge", "plan"),
                TransitionLink(2**128 - 1, 2**64 - 1, "resume"),
            ],
        )
    )
    edge, resume = span.links
    assert (edge.trace_id.hex(), edge.span_id.hex()) == (f"{TRACE:032x}", f"{0x11:016x}")
    assert attributes_of(edge) == {"zupa.link.kind": "edge", "zupa.node.name": "plan"}
    assert (resume.trace_id.hex(), resume.span_id.hex()) == ("f" * 32, "f" * 16)
    assert attributes_of(resume) == {"zupa.link.kind": "resume"}


def test_span_events_and_a_remote_parent():
    span = encoded_span(
        transition(
            node="n",
            parent_span_id=5,
            parent_is_remote=True,
            span_events=[("cache miss", START + 3, {"key": "k"}), ("done", START + 4, None)],
        )
    )
    assert [(e.name, e.time_unix_nano, attributes_of(e)) for e in span.events] == [
        ("cache miss", START + 3, {"key": "k"}),
        ("done", START + 4, {}),
    ]
    assert span.flags == 0x300


def test_fields_that_a_reducer_added_become_attributes():
    event = transition(node="n")
    event = event.replace(payload={**event.payload, "tenant": "acme", "cost": {"usd": 0.25}})
    found = attributes_of(encoded_span(event))
    assert found["tenant"] == "acme"
    assert found["cost"] == {"usd": 0.25}


def test_what_was_degraded_says_so():
    event = transition(node="n").replace(metadata={"degraded": ["cycle"]})
    assert attributes_of(encoded_span(event))["zupa.event.degraded"] == ["cycle"]


def test_an_unsampled_run_gives_no_span_but_keeps_its_exception():
    event = transition(phase="failed", node="n", error=ValueError("boom"), trace_flags=0)
    mapped = map_event(event, RESOURCE)
    assert mapped.span is None
    assert encoded_log(event).event_name == "exception"
    assert map_event(transition(node="n", trace_flags=0), RESOURCE).log is None


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_id": 0, "span_id": 0},
        {"start_ns": 0},
        {"end_ns": 0},
        {"end_ns": START - 1},
    ],
)
def test_an_end_without_a_span_of_its_own_becomes_one_log_record(changes):
    event = transition(phase="failed", node="n", error=ValueError("boom"), **changes)
    mapped = map_event(event, RESOURCE)
    assert mapped.span is None
    log = encoded_log(event)
    assert log.event_name == "engine.node_failed"
    assert log.severity_number == SeverityNumber.ERROR.value
    assert attributes_of(log)["exception.message"] == "boom"


def test_limits_drop_the_users_attributes_first_and_count_them():
    event = transition(
        node="n",
        attributes={f"k{i}": "x" * 50 for i in range(20)},
        span_events=[(f"e{i}", START, {}) for i in range(5)],
        links=[TransitionLink(TRACE, i + 1, "edge") for i in range(5)],
    )
    limits = Limits(span_attributes=12, span_events=2, span_links=3, span_value_length=10)
    span = encoded_span(event, limits=limits)
    found = attributes_of(span)
    assert len(found) == 12
    total = len(attributes_of(encoded_span(event)))
    assert span.dropped_attributes_count == total - 12
    assert "zupa.node.name" in found
    assert found["k0"] == "x" * 10
    assert (len(span.events), span.dropped_events_count) == (2, 3)
    assert (len(span.links), span.dropped_links_count) == (3, 2)


# -- log records ---------------------------------------------------------------------------------------------------
def test_a_failed_node_also_gives_its_exception_once():
    log = encoded_log(transition(phase="failed", node="n", error=ValueError("boom")))
    assert log.event_name == "exception"
    assert (log.severity_number, log.severity_text) == (SeverityNumber.ERROR.value, "ERROR")
    assert (log.trace_id.hex(), log.span_id.hex(), log.flags) == (f"{TRACE:032x}", f"{SPAN:016x}", 1)
    found = attributes_of(log)
    assert found["exception.type"] == "ValueError"
    assert found["exception.message"] == "boom"
    assert "ValueError: boom" in found["exception.stacktrace"]
    assert (found["zupa.node.name"], found["zupa.run.id"]) == ("n", "run-1")
    for kind in ("run", "step"):
        assert map_event(transition(kind, "failed", error=ValueError("boom")), RESOURCE).log is None
    for phase in ("interrupted", "cancelled", "closed", "abandoned"):
        assert map_event(transition(phase=phase, node="n", error=ValueError("boom")), RESOURCE).log is None


def test_an_error_that_a_reducer_redacted_still_maps():
    event = transition(phase="failed", node="n", error=ValueError("secret"))
    event = event.replace(payload={**event.payload, "error": "[redacted]"})
    span = encoded_span(event)
    assert (span.status.message, attributes_of(span)["error.type"]) == ("[redacted]", "_OTHER")
    assert attributes_of(encoded_log(event))["exception.message"] == "[redacted]"


def test_a_user_event_is_a_log_record_with_exactly_these_fields():
    event = user_event(
        "agent:log:info",
        {"message": "thinking", "tokens": 12, "nested": {"a": [1, None, b"\x00"]}, "zupa.event.seq": "forged"},
        trace_id=TRACE,
        span_id=SPAN,
        trace_flags=1,
        metadata={"degraded": ["string_cut"]},
    )
    log = encoded_log(event)
    assert log.event_name == "agent.log.info"
    assert value_of(log.body) == "thinking"
    assert (log.severity_number, log.severity_text) == (SeverityNumber.INFO.value, "INFO")
    assert (log.time_unix_nano, log.observed_time_unix_nano) == (START, END)
    assert (log.trace_id.hex(), log.span_id.hex(), log.flags) == (f"{TRACE:032x}", f"{SPAN:016x}", 1)
    assert attributes_of(log) == {
        "zupa.event.channel": "agent",
        "zupa.event.id": "b-1-3",
        "zupa.event.seq": 3,
        "zupa.event.degraded": ["string_cut"],
        "tokens": 12,
        "nested": {"a": [1, None, b"\x00"]},
    }


@pytest.mark.parametrize(
    ("topic", "severity"),
    [
        ("agent:log:debug", "DEBUG"),
        ("agent:log:info", "INFO"),
        ("agent:log:warn", "WARN"),
        ("agent:log:WARNING", "WARN"),
        ("agent:log:error", "ERROR"),
        ("agent:log:critical", "FATAL"),
        ("agent:log:fatal", "FATAL"),
        ("agent:log:trace", "TRACE"),
        ("agent:error", "ERROR"),
        ("agent:error:cleared", "INFO"),
        ("tool:call_failed", "ERROR"),
        ("tool:failed", "ERROR"),
        ("tool:called", "INFO"),
        ("engine:node_retry", "WARN"),
        ("engine:node_started", "INFO"),
        ("engine:interrupted", "INFO"),
    ],
)
def test_severity(topic, severity):
    log = encoded_log(user_event(topic))
    assert (log.severity_number, log.severity_text) == (SeverityNumber[severity].value, severity)


def test_starts_and_retries_are_log_records_with_conventional_names():
    started = encoded_log(transition(phase="started", node="plan", step=1, end_ns=0))
    assert started.event_name == "engine.node_started"
    assert {"zupa.node.name": "plan", "zupa.step": 1}.items() <= attributes_of(started).items()
    retry = encoded_log(transition(phase="retry", node="plan", error=OSError("reset"), delay_s=0.5, attempt=1))
    found = attributes_of(retry)
    assert retry.event_name == "engine.node_retry"
    assert (found["exception.type"], found["error.type"], found["zupa.retry.delay"]) == ("OSError", "OSError", 0.5)


def test_a_message_that_is_not_text_stays_an_attribute():
    log = encoded_log(user_event("agent:note", {"message": {"role": "user"}}))
    assert value_of(log.body) is None
    assert attributes_of(log)["message"] == {"role": "user"}


def test_an_event_without_a_trace_takes_none_from_the_thread_it_is_mapped_on():
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("worker")
    with tracer.start_as_current_span("ambient") as ambient:
        assert trace.get_current_span() is ambient
        log = encoded_log(user_event("agent:note"))
        own = encoded_log(user_event("agent:note", trace_id=1, span_id=2))
    assert (log.trace_id, log.span_id, log.flags) == (b"", b"", 0)
    assert (own.trace_id.hex(), own.span_id.hex(), own.flags) == (f"{1:032x}", f"{2:016x}", 0)


def test_log_limits():
    log = encoded_log(
        user_event("a:b", {f"k{i}": "x" * 9 for i in range(10)}), limits=Limits(log_attributes=5, log_value_length=4)
    )
    assert attributes_of(log).keys() == {"zupa.event.channel", "zupa.event.id", "zupa.event.seq", "k0", "k1"}
    assert attributes_of(log)["k0"] == "xxxx"
    assert log.dropped_attributes_count == 8


# -- poison --------------------------------------------------------------------------------------------------------
def _nested(levels):
    value = "bottom"
    for _ in range(levels):
        value = {"v": value}
    return value


@pytest.mark.parametrize(
    "event",
    [
        user_event("a:b", {"k": object()}),
        user_event("a:b", {"k": "\ud800"}),
        user_event("a:b", {"\udfff": 1}),
        user_event("a:b", {"message": "\ud800"}),
        user_event("a:b", {"k": 2**63}),
        user_event("a:b", {"k": {1: 2}}),
        user_event("a:b", {"k": _nested(60)}),
        user_event("a:\ud800"),
        user_event("a:b", trace_id=-1, span_id=1),
        user_event("a:b", trace_id=2**128, span_id=1),
        user_event("a:b").replace(occurred_at=-1),
        user_event("a:b").replace(timestamp=2**64),
        user_event("a:b").replace(payload=[("k", 1)]),
        transition(node="n").replace(payload={"start_ns": START, "end_ns": END, "span_name": "\ud800"}),
        transition(node="n").replace(
            payload={"start_ns": START, "end_ns": END, "status": {"code": 2, "description": "\ud800"}}
        ),
        transition(node="n").replace(
            payload={"start_ns": START, "end_ns": END, "phase": "completed", "links": [{"trace_id": "xyz"}]}
        ),
        transition(node="n").replace(payload={"start_ns": START, "end_ns": END, "links": "no list"}),
        transition(node="n").replace(
            payload={"start_ns": START, "end_ns": END, "span_events": [{"name": "e", "time_ns": -5}]}
        ),
        transition(node="n").replace(payload={"start_ns": START, "end_ns": END, "parent_span_id": "f" * 17}),
    ],
    ids=lambda event: "",
)
def test_what_otlp_cannot_carry_is_refused_before_it_meets_a_batch(event):
    with pytest.raises(UnmappableError):
        map_event(event, RESOURCE)


def test_the_deepest_payload_that_passes_can_be_parsed_by_the_receiver():
    event = user_event("a:b", {"k": _nested(24)})
    request = encode_logs([to_log_record(event, RESOURCE)])
    parsed = type(request).FromString(request.SerializeToString())
    assert parsed.resource_logs[0].scope_logs[0].log_records[0].event_name == "a.b"
    with pytest.raises(UnmappableError, match="24 levels"):
        map_event(user_event("a:b", {"k": _nested(25)}), RESOURCE)


# -- the table -----------------------------------------------------------------------------------------------------
def test_users_add_rows_without_touching_the_default():
    mapping = (
        DEFAULT_MAPPING.with_row("shop:order_done", Row(signal=Signal.SPAN, span_name=lambda p: f"order {p['type']}"))
        .with_row("shop:*", Row(event_name="shop.any", severity=SeverityNumber.DEBUG))
        .with_row("noise:*", Row(signal=Signal.NONE))
    )
    payload = {"type": "b2b", "start_ns": START, "end_ns": END}
    event = user_event("shop:order_done", payload, trace_id=TRACE, span_id=SPAN, trace_flags=1)
    assert encoded_span(event, mapping=mapping).name == "order b2b"
    assert to_span(event, RESOURCE) is None
    other = encoded_log(user_event("shop:order:opened"), mapping=mapping)
    assert (other.event_name, other.severity_text) == ("shop.any", "DEBUG")
    nothing = map_event(user_event("noise:tick"), RESOURCE, mapping=mapping)
    assert (nothing.span, nothing.log) == (None, None)
    assert encoded_log(user_event("noise:tick")).event_name == "noise.tick"


def test_a_span_row_without_a_name_uses_the_topic():
    mapping = DEFAULT_MAPPING.with_row("shop:done", Row(signal=Signal.SPAN))
    event = user_event("shop:done", {"start_ns": START, "end_ns": END}, trace_id=1, span_id=2, trace_flags=1)
    span = encoded_span(event, mapping=mapping)
    assert span.name == "shop:done"
    assert "zupa.outcome" not in attributes_of(span)


@pytest.mark.parametrize("topic", ["shop:or*", "*:done", "a:b:*", "**"])
def test_rows_that_could_never_match_are_refused(topic):
    with pytest.raises(ConfigurationError, match="can match nothing"):
        DEFAULT_MAPPING.with_row(topic, Row())


def test_a_table_needs_a_last_resort():
    with pytest.raises(ConfigurationError, match=r"row for '\*'"):
        Mapping({"a:b": Row()})
