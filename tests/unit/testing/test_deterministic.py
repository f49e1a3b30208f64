from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.sdk.trace import TracerProvider

from zupa.testing import IncrementalIds, ManualClock


def test_the_clock_stands_still_until_it_is_moved():
    clock = ManualClock(start_ns=100)
    before = clock.monotonic_ns()
    assert [clock.time_ns(), clock.time_ns()] == [100, 100]
    clock.advance(5)
    assert clock.time_ns() == 105
    assert clock.monotonic_ns() == before + 5


def test_every_reading_takes_a_step():
    clock = ManualClock(start_ns=100, step_ns=10)
    assert [clock.time_ns(), clock.time_ns()] == [100, 110]
    first = clock.monotonic_ns()
    assert clock.monotonic_ns() == first + 10
    assert clock.time_ns() == 140


def test_the_wall_clock_may_step_back_and_the_monotonic_one_does_not():
    clock = ManualClock(start_ns=100)
    before = clock.monotonic_ns()
    clock.set_time(40)
    assert clock.time_ns() == 40
    assert clock.monotonic_ns() == before


@pytest.mark.parametrize(
    "act",
    [
        lambda: ManualClock(start_ns=-1),
        lambda: ManualClock(step_ns=-1),
        lambda: ManualClock().advance(-1),
        lambda: ManualClock().set_time(-1),
    ],
)
def test_negative_times_are_refused(act):
    with pytest.raises(ValueError, match="must be 0 or more nanoseconds"):
        act()


def test_steps_are_not_lost_between_threads():
    clock = ManualClock(start_ns=0, step_ns=1)
    with ThreadPoolExecutor(8) as pool:
        readings = [
            reading for part in pool.map(lambda _: [clock.time_ns() for _ in range(500)], range(8)) for reading in part
        ]
    assert sorted(readings) == list(range(4000))


def test_ids_count_from_1():
    ids = IncrementalIds()
    assert [ids.generate_trace_id(), ids.generate_trace_id()] == [1, 2]
    assert [ids.generate_span_id(), ids.generate_span_id(), ids.generate_span_id()] == [1, 2, 3]


def test_the_sdk_takes_the_ids():
    provider = TracerProvider(id_generator=IncrementalIds(), shutdown_on_exit=False)
    with provider.get_tracer("test").start_as_current_span("first") as span:
        context = span.get_span_context()
    assert (context.trace_id, context.span_id) == (1, 1)
