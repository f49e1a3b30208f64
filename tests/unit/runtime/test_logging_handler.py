import asyncio
import logging
import threading

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from zupa import BusConfig, InvalidEventError, ReducerEventBus
from zupa.runtime import BusLoggingHandler
from zupa.testing import Capture


def fail():
    raise LookupError("gone")


class Hostile:
    def __str__(self):
        raise ZeroDivisionError


@pytest.fixture
def capture():
    capture = Capture()
    yield capture
    capture.bus.shutdown()


@pytest.fixture
def logger_of(capture):
    """Gives loggers, by name, that have the handler and nothing else."""
    touched = []

    def logger_of(name, level=1, **settings):
        logger = logging.getLogger(name)
        touched.append((logger, logger.level, logger.propagate))
        handler = BusLoggingHandler(capture.bus, **settings)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
        return logger

    yield logger_of
    for logger, level, propagate in touched:
        logger.handlers.clear()
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (1, "debug"),
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (25, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "critical"),
        (90, "critical"),
    ],
)
def test_each_level_is_a_topic(capture, logger_of, level, name):
    logger_of("app").log(level, "x")
    assert [event.topic for event in capture.events] == [f"agent:log:{name}"]


def test_a_record_becomes_a_payload(capture, logger_of):
    logger_of("app.orders", channel="shop").info("order %s of %d", "A", 2, extra={"order": {"id": 5}, "logger": "mine"})
    (event,) = capture.events
    payload = dict(event.payload)
    assert payload.pop("code.line.number") > 0
    assert payload == {
        "message": "order A of 2",
        "logger": "app.orders",
        "code.file.path": __file__,
        "code.function.name": "test_a_record_becomes_a_payload",
        "order": {"id": 5},
    }
    assert event.channel == "shop"
    (log,) = capture.logs
    assert log.log_record.body == "order A of 2"
    assert log.log_record.attributes["code.function.name"] == "test_a_record_becomes_a_payload"


def test_exceptions_and_stacks_are_carried(capture, logger_of):
    logger = logger_of("app")
    try:
        fail()
    except LookupError:
        logger.exception("failed")
    logger.info("here", stack_info=True)
    logger.error("no exception", exc_info=True)  # noqa: LOG014 - on purpose
    failed, here, none = (event.payload for event in capture.events)
    assert (failed["error"]["type"], failed["error"]["message"]) == ("LookupError", "gone")
    assert "test_exceptions_and_stacks" in here["code.stacktrace"]
    assert "error" not in none


def test_the_current_span_goes_with_it(capture, logger_of):
    span = NonRecordingSpan(SpanContext(7, 9, is_remote=False))
    token = context_api.attach(set_span_in_context(span))
    try:
        logger_of("app").info("inside")
    finally:
        context_api.detach(token)
    assert [(event.trace_id, event.span_id) for event in capture.events] == [(7, 9)]
    assert not trace.get_current_span().get_span_context().is_valid


def test_arguments_that_do_not_fit_degrade(capture, logger_of):
    logger = logger_of("app")
    logger.info("%d apples", "many")
    logger.info("%s", Hostile())
    logger.info(Hostile())
    messages = [(event.payload["message"], event.payload["format_error"]) for event in capture.events]
    assert messages == [
        ("%d apples", "TypeError"),
        ("%s", "ZeroDivisionError"),
        ("<unprintable Hostile: ZeroDivisionError>", "ZeroDivisionError"),
    ]


@pytest.mark.parametrize(
    "name", ["zupa", "zupa.bus", "opentelemetry.sdk.trace", "grpc._channel", "urllib3.connectionpool"]
)
def test_loggers_of_the_export_are_ignored(capture, logger_of, name):
    logger_of(name).error("x")
    assert capture.events == ()


@pytest.mark.parametrize("name", ["zupaland", "zupa_app", "myapp.zupa", "root"])
def test_loggers_with_a_similar_name_are_not(capture, logger_of, name):
    logger_of(name).error("x")
    assert len(capture.events) == 1


def test_records_made_while_instrumentation_is_suppressed_are_ignored(capture, logger_of):
    logger = logger_of("requests")
    with suppress_instrumentation():
        logger.error("inside")
    logger.error("outside")
    assert [event.payload["message"] for event in capture.events] == ["outside"]


@pytest.mark.parametrize("keeps_thread_names", [True, False])
def test_records_of_a_bus_thread_are_ignored(capture, logger_of, monkeypatch, keeps_thread_names):
    monkeypatch.setattr(logging, "logThreads", keeps_thread_names)
    logger = logger_of("app")
    for name in ("zupa-export-x", "zupaless"):
        thread = threading.Thread(target=logger.info, args=(name,), name=name)
        thread.start()
        thread.join()
    assert [event.payload["message"] for event in capture.events] == ["zupaless"]


def test_a_subscriber_that_logs_makes_no_loop(capture, logger_of):
    logger = logger_of("app")
    calls = []

    def handler(event):
        calls.append(event.payload["message"])
        logger.info("seen %s", event.topic)

    capture.bus.subscribe("agent:log:*", handler)
    capture.bus.subscribe("agent:log:*", handler, max_queue_size=10)
    logger.info("one")
    assert len(capture.events) == 1
    assert calls == ["one", "one"]


@pytest.mark.parametrize("on_own_loop", [True, False])
def test_an_async_subscriber_that_logs_makes_no_loop(capture, logger_of, on_own_loop):
    logger = logger_of("app")
    calls = []

    async def handler(event):
        calls.append(event.payload["message"])
        logger.info("seen %s", event.topic)

    async def scenario():
        capture.bus.subscribe("agent:log:*", handler)
        await go_on()

    async def go_on():
        logger.info("one")
        for _ in range(3):  # each flush would let another round of a loop through
            await capture.adrain()

    if on_own_loop:
        asyncio.run(scenario())
    else:
        capture.bus.subscribe("agent:log:*", handler)
        asyncio.run(go_on())
    assert calls == ["one"]
    assert len(capture.events) == 1


def test_a_failing_exporter_on_the_root_logger_makes_no_loop():
    """Everything at NOTSET, while the bus itself logs warnings about an exporter and its HTTP client logs too."""

    class Failing:
        def export(self, batch):
            logging.getLogger("some.http.client").debug("sending")
            logging.getLogger("urllib3").debug("connecting")
            raise OSError("no route")

        def force_flush(self, timeout_millis=0):
            return True

        def shutdown(self, timeout_millis=0):
            logging.getLogger("some.http.client").debug("closed")

    root = logging.getLogger()
    level = root.level
    with ReducerEventBus(BusConfig(linger_millis=0, schedule_delay_millis=0), exporters=[Failing()]) as bus:
        seen = []
        bus.subscribe("*", lambda event: seen.append((event.payload["logger"], event.payload["message"])))
        handler = BusLoggingHandler(bus)
        root.addHandler(handler)
        root.setLevel(logging.NOTSET)
        try:
            logging.getLogger("app").info("one")
            for _ in range(3):
                assert bus.force_flush(5_000)
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
        assert [item for item in seen if item[0] != "asyncio"] == [("app", "one")]
        assert bus.statistics().exported["Failing"].last_error == "OSError"


def test_the_level_of_the_handler_holds(capture, logger_of):
    logger = logger_of("app")
    logger.setLevel(1)
    logger.handlers[0].setLevel("ERROR")
    logger.warning("no")
    logger.error("yes")
    assert [event.payload["message"] for event in capture.events] == ["yes"]


def test_emit_never_raises_and_tells_the_standard_library(capture, monkeypatch):
    handler = BusLoggingHandler(capture.bus)
    told = []
    monkeypatch.setattr(handler, "handleError", told.append)
    record = logging.makeLogRecord({"name": None, "msg": "x"})
    handler.handle(record)
    assert told == [record]
    assert capture.events == ()


def test_a_channel_that_breaks_the_grammar_is_refused_at_construction(capture):
    with pytest.raises(InvalidEventError):
        BusLoggingHandler(capture.bus, "a:b")
