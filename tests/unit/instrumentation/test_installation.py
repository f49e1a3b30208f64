"""instrument() and uninstrument(): any number of times, in any order, beside others who wrap the same methods."""

from __future__ import annotations

import asyncio
import functools
from importlib.metadata import entry_points

import pytest
import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from zupa import ConfigurationError
from zupa.default import replace_default_bus
from zupa.engine import EngineExecutor, Graph
from zupa_instrumentation.engine import EngineInstrumentor

SEAMS = ("_execute_run", "_execute_step", "_execute_task", "_retry_wait", "_save_checkpoint")
EVENTS_OF_A_RUN = 6


def run(name="g"):
    return EngineExecutor(Graph(name).add_node("a", lambda ctx: {"k": 1})).invoke_sync()


@pytest.fixture
def originals():
    """The five methods as they are; put back afterwards, whatever the test has done to them."""
    found = {seam: EngineExecutor.__dict__[seam] for seam in SEAMS}
    assert not any(isinstance(function, wrapt.ObjectProxy) for function in found.values())
    yield found
    for seam, function in found.items():
        setattr(EngineExecutor, seam, function)


def installed():
    return {seam: EngineExecutor.__dict__[seam] for seam in SEAMS}


def test_uninstrument_restores_the_very_same_functions(originals, instrumentor, make_observed):
    for _ in range(2):
        instrumentor.instrument(bus=make_observed().bus)
        assert all(installed()[seam] is not originals[seam] for seam in SEAMS)
        instrumentor.uninstrument()
        assert all(installed()[seam] is originals[seam] for seam in SEAMS)


def test_without_instrumentation_nothing_is_emitted(instrumentor, make_observed):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus)
    instrumentor.uninstrument()
    run()
    assert observed.events == []


def test_instrument_again_works(instrumentor, make_observed):
    observed = make_observed()
    for _ in range(3):
        instrumentor.instrument(bus=observed.bus)
        instrumentor.uninstrument()
    instrumentor.instrument(bus=observed.bus)
    run()
    assert len(observed.events) == EVENTS_OF_A_RUN


def test_instrument_twice_doubles_nothing(instrumentor, make_observed, caplog):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus)
    wrapped = installed()
    EngineInstrumentor().instrument(bus=observed.bus)
    assert installed() == wrapped
    run()
    assert len(observed.events) == EVENTS_OF_A_RUN
    assert caplog.records == []


def test_instrument_with_another_bus_moves_there(instrumentor, make_observed):
    first, second = make_observed(), make_observed()
    instrumentor.instrument(bus=first.bus)
    instrumentor.instrument(bus=second.bus)
    run()
    assert (len(first.events), len(second.events)) == (0, EVENTS_OF_A_RUN)


def test_settings_that_are_not_given_again_stay(instrumentor, make_observed):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus, sampler=lambda parent, trace_id, name: False)
    instrumentor.instrument()  # as opentelemetry-instrument does
    run()
    assert len(observed.events) == EVENTS_OF_A_RUN
    assert observed.spans == []


def test_settings_do_not_outlive_uninstrument(instrumentor, make_observed):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus, sampler=lambda parent, trace_id, name: False)
    instrumentor.uninstrument()
    instrumentor.instrument(bus=observed.bus)
    run()
    assert len(observed.spans) == 3


def test_a_run_under_way_ends_on_the_bus_where_it_started(instrumentor, make_observed):
    first, second = make_observed(), make_observed()

    def rebind(ctx):
        instrumentor.instrument(bus=second.bus)

    instrumentor.instrument(bus=first.bus)
    EngineExecutor(Graph("g").add_node("a", rebind)).invoke_sync()
    first.assert_every_start_has_one_end()
    assert len(first.events) == EVENTS_OF_A_RUN
    assert second.events == []


def test_a_run_under_way_is_ended_after_uninstrument(instrumentor, make_observed):
    observed = make_observed()
    instrumentor.instrument(bus=observed.bus)
    graph = Graph("g").add_node("a", lambda ctx: instrumentor.uninstrument()).add_node("b", lambda ctx: None)
    EngineExecutor(graph.add_edge("a", "b")).invoke_sync()
    observed.assert_every_start_has_one_end()
    assert [span.name for span in observed.spans] == ["a", "step 1", "invoke_workflow g"]


def test_what_is_no_bus_is_refused_and_nothing_is_wrapped(originals, instrumentor):
    with pytest.raises(ConfigurationError, match="is no event bus"):
        instrumentor.instrument(bus=object())
    assert installed() == originals
    assert not instrumentor.is_instrumented_by_opentelemetry


def test_the_default_bus_is_used_when_none_is_given(instrumentor, make_observed):
    observed = make_observed()
    previous = replace_default_bus(observed.bus)
    try:
        instrumentor.instrument()
        run()
    finally:
        replace_default_bus(previous)
    assert len(observed.events) == EVENTS_OF_A_RUN


def plain_wrapper(original, calls):
    @functools.wraps(original)
    async def foreign(self, *args, **kwargs):
        calls.append(original.__name__)
        return await original(self, *args, **kwargs)

    return foreign


def hidden_wrapper(original, calls):
    async def foreign(self, *args, **kwargs):
        calls.append("hidden")
        return await original.__get__(self)(*args, **kwargs)

    return foreign


@pytest.mark.parametrize("wrap", [plain_wrapper, hidden_wrapper])
def test_who_wrapped_over_us_stays_and_nothing_is_doubled(originals, instrumentor, make_observed, wrap):
    observed, calls = make_observed(), []
    instrumentor.instrument(bus=observed.bus)
    foreign = wrap(EngineExecutor.__dict__["_execute_task"], calls)
    EngineExecutor._execute_task = foreign
    instrumentor.uninstrument()
    assert EngineExecutor.__dict__["_execute_task"] is foreign
    assert all(installed()[seam] is originals[seam] for seam in SEAMS if seam != "_execute_task")
    run()
    assert len(calls) == 1
    assert observed.events == []
    instrumentor.instrument(bus=observed.bus)
    run()
    assert len(calls) == 2
    assert len(observed.events) == EVENTS_OF_A_RUN
    observed.assert_every_start_has_one_end()
    instrumentor.uninstrument()
    assert EngineExecutor.__dict__["_execute_task"] is foreign


def test_who_wrapped_before_us_is_restored(originals, instrumentor, make_observed):
    observed, calls = make_observed(), []
    foreign = plain_wrapper(originals["_execute_run"], calls)
    EngineExecutor._execute_run = foreign
    instrumentor.instrument(bus=observed.bus)
    run()
    instrumentor.uninstrument()
    assert EngineExecutor.__dict__["_execute_run"] is foreign
    assert calls == ["_execute_run"]
    assert len(observed.events) == EVENTS_OF_A_RUN


def test_subclasses_of_the_engine_are_observed(instrumentor, make_observed):
    class Own(EngineExecutor):
        pass

    observed = make_observed()
    instrumentor.instrument(bus=observed.bus)
    asyncio.run(Own(Graph("g").add_node("a", lambda ctx: None)).invoke())
    assert len(observed.events) == EVENTS_OF_A_RUN


def test_the_entry_point_loads_and_works(instrumentor, make_observed):
    (entry_point,) = entry_points(group="opentelemetry_instrumentor", name="zupa_engine")
    found = entry_point.load()
    assert found is EngineInstrumentor
    assert isinstance(found(), BaseInstrumentor)
    assert found() is instrumentor
    assert found().instrumentation_dependencies() == ()
    observed = make_observed()
    found().instrument(bus=observed.bus, skip_dep_check=True)
    run()
    assert len(observed.events) == EVENTS_OF_A_RUN
