"""Types of the public surface, checked by mypy in `make check`; never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import assert_type

import zupa
from zupa import BusConfig, Event, EventBus, EventExporter, EventStream, ReducerEventBus, RuntimeResource
from zupa.engine import EngineExecutor, Graph, RunResult
from zupa.otel import ConsoleTreeExporter, OtelEventExporter
from zupa.ports import Reducer
from zupa.reducers import redact
from zupa.testing import InMemoryEventExporter


def accepts_bus(bus: EventBus) -> None: ...


def accepts_exporter(exporter: EventExporter) -> None: ...


def accepts_resource(resource: RuntimeResource) -> None: ...


def accepts_reducer(reducer: Reducer) -> None: ...


bus = ReducerEventBus(BusConfig(max_queue_size=10, max_export_batch_size=10))
accepts_bus(bus)
accepts_resource(bus)
accepts_exporter(InMemoryEventExporter())
accepts_exporter(ConsoleTreeExporter())
accepts_reducer(redact())

bus.emit("engine", "node_started", {"node": "plan"})
bus.emit("engine", name="node_started", payload={"node": "plan"}, metadata={"a": 1})
bus.emit("engine:node_started", {"node": "plan"})
bus.emit(Event("engine", "node_started"))


def keep(event: Event) -> Event | None:
    return event


@bus.use(pattern="engine:*")
def scoped(event: Event) -> list[Event]:
    return [event, event.replace(name="copy")]


async def handler(event: Event) -> None: ...


assert_type(scoped(Event("a", "b")), list[Event])
assert_type(bus.use(keep, "engine:*"), Callable[[], None])
assert_type(bus.subscribe("agent:*", handler), Callable[[], None])
assert_type(bus.stream("engine:*"), EventStream)
assert_type(bus.force_flush(5_000), bool)
assert_type(bus.shutdown(2_000), bool)
assert_type(bus.statistics().dropped, dict[str, int])
assert_type(zupa.configure("service").bus, ReducerEventBus)
assert_type(EngineExecutor(Graph("g")).invoke_sync({}), RunResult)


async def read() -> None:
    async for event in bus.stream():
        assert_type(event, Event)
    async with bus as entered:
        assert_type(entered, ReducerEventBus)


def otel(spans: Any, resource: Any) -> None:
    accepts_exporter(OtelEventExporter(spans, resource=resource))
