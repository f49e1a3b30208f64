import pytest
from opentelemetry._logs import SeverityNumber

from zupa import InvalidEventError
from zupa.runtime import BusLogger
from zupa.testing import Capture


@pytest.fixture
def capture():
    capture = Capture()
    yield capture
    capture.bus.shutdown()


def fail():
    raise LookupError("gone")


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        ("debug", SeverityNumber.DEBUG),
        ("info", SeverityNumber.INFO),
        ("warning", SeverityNumber.WARN),
        ("error", SeverityNumber.ERROR),
        ("critical", SeverityNumber.FATAL),
    ],
)
def test_each_level_is_a_topic_and_a_severity(capture, level, severity):
    getattr(BusLogger(capture.bus), level)("hello", user=7)
    (event,) = capture.events
    assert event.topic == f"agent:log:{level}"
    assert event.payload == {"message": "hello", "user": 7}
    (log,) = capture.logs
    assert (log.log_record.body, log.log_record.severity_number) == ("hello", severity)
    assert log.log_record.attributes["user"] == 7


def test_exception_takes_the_one_that_is_being_handled(capture):
    logger = BusLogger(capture.bus)
    try:
        fail()
    except LookupError:
        logger.exception("failed", attempt=2)
    (event,) = capture.events
    assert event.topic == "agent:log:error"
    assert event.payload["attempt"] == 2
    error = event.payload["error"]
    assert (error["type"], error["message"]) == ("LookupError", "gone")
    assert "in fail" in error["stacktrace"]


def test_exception_outside_an_except_clause_and_with_an_own_error(capture):
    agent_log = BusLogger(capture.bus)
    agent_log.exception("none")
    try:
        fail()
    except LookupError:
        agent_log.exception("own", error="mine")
    assert [event.payload for event in capture.events] == [{"message": "none"}, {"error": "mine", "message": "own"}]


def test_bound_fields_are_in_every_event_and_those_of_the_call_win(capture):
    logger = BusLogger(capture.bus, "billing")
    bound = logger.bind(user=7, tenant="a").bind(tenant="b")
    bound.info("hello", user=8)
    logger.info("plain")
    assert [event.payload for event in capture.events] == [
        {"user": 8, "tenant": "b", "message": "hello"},
        {"message": "plain"},
    ]
    assert {event.channel for event in capture.events} == {"billing"}


def test_a_field_may_have_any_name(capture):
    BusLogger(capture.bus).bind(message="bound", self=1).info("the message", message="field", channel=2)
    (event,) = capture.events
    assert event.payload == {"message": "the message", "self": 1, "channel": 2}


def test_a_channel_that_breaks_the_grammar_is_refused_at_construction(capture):
    with pytest.raises(InvalidEventError):
        BusLogger(capture.bus, "a b")
