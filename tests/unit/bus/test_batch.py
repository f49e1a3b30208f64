"""The batch processor: sizes, delays, deadlines against hanging exporters, and every exporter's ledger."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from tests.stress.kit import Recorder, check_ledgers, elapsed, emit, hanging, ledger, wait_until

from zupa import ConfigurationError
from zupa.ports import ExportResult

HOUR = 3_600_000


def test_a_full_batch_is_exported_without_waiting_for_the_delay(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder, schedule_delay_millis=HOUR, max_export_batch_size=10)
    emit(bus, 25)
    recorder.wait_for(20)
    assert recorder.batches == [10, 10]
    wait_until(lambda: ledger(bus).queued == 5)
    assert bus.force_flush(10_000)
    assert recorder.batches == [10, 10, 5]
    assert [event.payload["index"] for event in recorder.events] == list(range(25))


def test_the_delay_exports_a_partial_batch(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder, schedule_delay_millis=50)
    started = time.monotonic()
    emit(bus, 3)
    recorder.wait_for(3)
    assert time.monotonic() - started >= 0.045


def test_export_is_never_concurrent_whoever_flushes(make_bus):
    recorder = Recorder()
    bus = make_bus(recorder, max_export_batch_size=7, schedule_delay_millis=0)

    def flush():
        for _ in range(20):
            emit(bus, 20)
            assert bus.force_flush(10_000)

    threads = [threading.Thread(target=flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bus.force_flush(10_000)
    assert recorder.concurrent == 0
    assert len(recorder.events) == 4 * 20 * 20
    assert max(recorder.batches) <= 7


@pytest.mark.parametrize("count", [1, 40])
def test_a_hanging_exporter_does_not_hold_up_a_flush(make_bus, count):
    recorder = hanging()
    bus = make_bus(recorder, max_export_batch_size=8)
    emit(bus, count)
    ok, seconds = elapsed(lambda: bus.force_flush(200))
    assert ok is False
    assert seconds < 1
    ok, seconds = elapsed(lambda: asyncio.run(bus.aflush(200)))
    assert ok is False
    assert seconds < 1
    recorder.gate.set()
    assert bus.force_flush(10_000)
    assert ledger(bus).exported == count


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_hanging_exporter_does_not_hold_up_a_shutdown(make_bus, asynchronous):
    recorder, healthy = hanging(), Recorder()
    bus = make_bus(recorder, max_export_batch_size=8, shutdown_timeout_millis=300)
    bus.add_exporter(healthy, name="healthy")
    emit(bus, 20)
    assert recorder.entered.wait(10)
    if asynchronous:
        _, seconds = elapsed(lambda: asyncio.run(bus.aclose()))
    else:
        ok, seconds = elapsed(lambda: bus.shutdown(300))
        assert ok is False
    assert 0.25 < seconds < 1
    stuck = ledger(bus)
    assert (stuck.failed, stuck.dropped, stuck.queued, stuck.in_flight) == (8, {"shutdown_timeout": 12}, 0, 0)
    assert ledger(bus, "healthy").exported == 20
    assert healthy.shutdowns == 1
    recorder.gate.set()
    wait_until(lambda: recorder.shutdowns == 1, "the exporter that came back is released")
    assert ledger(bus).exported == 0


def test_what_the_worker_still_holds_at_the_deadline_is_counted(make_bus):
    release = threading.Event()
    bus = make_bus(Recorder())
    bus.use(lambda event: event if release.wait(20) else None)
    emit(bus, 300)
    ok, seconds = elapsed(lambda: bus.shutdown(300))
    assert ok is False
    assert seconds < 1
    statistics = bus.statistics()
    check_ledgers(statistics)
    assert statistics.emitted == 300
    assert statistics.dropped == {"shutdown_timeout": 300}
    assert (statistics.queued, statistics.in_flight) == (0, 0)
    release.set()
    wait_until(
        lambda: (
            not any(x.name == "zupa-bus" and x.is_alive() for x in threading.enumerate() if x is bus._worker._thread)
        )
    )
    assert bus.statistics().emitted == 300
    assert bus.statistics().dropped == {"shutdown_timeout": 300}


def test_an_export_that_takes_too_long_is_counted_once(make_bus, caplog):
    caplog.set_level(logging.WARNING, "zupa.bus")
    recorder = hanging()
    bus = make_bus(recorder, export_timeout_millis=50, max_export_batch_size=5, schedule_delay_millis=0)
    emit(bus, 5)
    assert recorder.entered.wait(10)
    wait_until(lambda: ledger(bus).failed == 5)
    assert ledger(bus).last_error == "timeout"
    emit(bus, 3)
    bus.force_flush(100)
    recorder.gate.set()
    assert bus.force_flush(10_000)
    after = ledger(bus)
    assert (after.offered, after.failed, after.exported, after.batches) == (8, 5, 3, 2)
    assert len([x for x in caplog.records if "timeout" in x.getMessage()]) == 1


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("result", "expected", "error"),
    [
        (lambda batch: ExportResult.SUCCESS, (4, 0, 0), ""),
        (lambda batch: ExportResult(rejected=1, error_type="bad_data"), (3, 0, 1), "bad_data"),
        (lambda batch: ExportResult(rejected=99), (0, 0, 4), ""),
        (lambda batch: ExportResult(rejected=-5), (4, 0, 0), ""),
        (lambda batch: ExportResult.FAILURE, (0, 4, 0), "export_failed"),
        (lambda batch: ExportResult(success=False, error_type="unavailable"), (0, 4, 0), "unavailable"),
        (lambda batch: ExportResult(success=False), (0, 4, 0), "export_failed"),
        (lambda batch: None, (0, 4, 0), "invalid_result:NoneType"),
        (lambda batch: True, (0, 4, 0), "invalid_result:bool"),
        (lambda batch: _raise(ValueError("no")), (0, 4, 0), "ValueError"),
        (lambda batch: _raise(SystemExit(3)), (0, 4, 0), "SystemExit"),
        (lambda batch: _raise(KeyboardInterrupt()), (0, 4, 0), "KeyboardInterrupt"),
        (lambda batch: _raise(GeneratorExit()), (0, 4, 0), "GeneratorExit"),
    ],
)
def test_what_an_exporter_answers_is_counted(make_bus, result, expected, error):
    bus = make_bus(Recorder(result), schedule_delay_millis=HOUR)
    emit(bus, 4)
    assert bus.force_flush(10_000)
    found = ledger(bus)
    assert (found.exported, found.failed, found.rejected) == expected
    assert found.last_error == error
    emit(bus, 1)  # the thread has survived
    assert bus.force_flush(10_000)
    assert ledger(bus).batches == 2


def test_a_failing_exporter_is_logged_once(make_bus, caplog):
    caplog.set_level(logging.WARNING, "zupa.bus")
    bus = make_bus(Recorder(lambda batch: ExportResult.FAILURE), max_export_batch_size=1, schedule_delay_millis=0)
    emit(bus, 30)
    assert bus.force_flush(10_000)
    assert ledger(bus).failed == 30
    lines = [x for x in caplog.records if "lost a batch" in x.getMessage()]
    assert len(lines) == 1


def test_the_queue_of_an_exporter_is_bounded_and_counts(make_bus):
    recorder, healthy = hanging(), Recorder()
    bus = make_bus(recorder, max_queue_size=50, max_export_batch_size=10, linger_millis=0)
    bus.add_exporter(healthy, name="healthy")
    for _ in range(20):
        emit(bus, 10)
        wait_until(lambda: bus.statistics().queued == bus.statistics().in_flight == 0)
    stuck = ledger(bus)
    assert (stuck.offered, stuck.queued, stuck.in_flight, stuck.dropped) == (200, 50, 10, {"queue_full": 140})
    healthy.wait_for(200)
    recorder.gate.set()


def test_the_bytes_of_an_exporter_s_queue_are_bounded(make_bus):
    recorder = hanging()
    bus = make_bus(recorder, max_queue_bytes=64 * 1024, max_export_batch_size=1, linger_millis=0)
    for _ in range(20):
        bus.emit("a", "b", {"text": "x" * 10 * 1024})
        wait_until(lambda: bus.statistics().queued == bus.statistics().in_flight == 0)
    recorder.entered.wait(10)
    stuck = ledger(bus)
    assert stuck.dropped == {"bytes_full": 20 - stuck.queued - stuck.in_flight}
    assert stuck.queued == 6
    recorder.gate.set()
    assert bus.force_flush(10_000)


def test_exporters_have_patterns(make_bus):
    all_events, some = Recorder(), Recorder()
    bus = make_bus(all_events)
    bus.add_exporter(some, pattern="engine:*", name="some")
    emit(bus, 3, "engine:x")
    emit(bus, 2, "agent:x")
    assert bus.force_flush(10_000)
    assert ledger(bus, "some").offered == ledger(bus, "some").exported == len(some.events) == 3
    assert len(all_events.events) == 5


def test_what_is_no_exporter_is_refused(make_bus):
    with pytest.raises(ConfigurationError, match="lacks export"):
        make_bus(object())


def test_a_logging_handler_may_read_the_statistics(make_bus):
    """Kills: logging while the exporter's lock is held, which deadlocks against a handler that reads statistics."""
    logger = logging.getLogger("zupa.bus")
    recorder = hanging()
    bus = make_bus(recorder, max_queue_size=4, linger_millis=0)
    in_handler, seen = threading.Event(), []

    class Handler(logging.Handler):
        def emit(self, record):
            if "too slow or stuck" in record.getMessage():
                reader = threading.Thread(target=lambda: seen.append(bus.statistics()))
                reader.start()
                reader.join(5)
                assert not reader.is_alive(), "the reader waits for the thread that logs"
                in_handler.set()

    handler = Handler()
    logger.addHandler(handler)
    try:
        for _ in range(20):
            emit(bus, 4)
            wait_until(lambda: bus.statistics().queued == 0)
        assert in_handler.wait(10)
    finally:
        logger.removeHandler(handler)
    assert seen
    recorder.gate.set()
