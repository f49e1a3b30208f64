"""The composition root: `configure`, and the process's default bus. The one module that knows all rooms."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any

from opentelemetry import _logs as logs_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler

from zupa.bus import ReducerEventBus
from zupa.config import BusConfig
from zupa.default import default_bus, default_bus_or, replace_default_bus
from zupa.errors import ConfigurationError
from zupa.otel import (
    ForeignSpans,
    OtelEventExporter,
    ProviderEventExporter,
    build_exporters,
    build_resource,
    build_sampler,
    is_our_provider,
    sdk_disabled,
)
from zupa.ports import EventExporter, Unregister
from zupa.statistics import BusStatistics

_logger = logging.getLogger("zupa")

_lock = threading.RLock()
_handle: Telemetry | None = None
_exit_hooked = False

INSTRUMENTOR_GROUP = "opentelemetry_instrumentor"
INSTRUMENTATION_PACKAGE = "zupa_instrumentation."


def get_bus() -> ReducerEventBus:
    """Return the process's default bus: the one that `configure` wired, or a bus without exporters until then.

    Whoever emits on it before `configure` is called emits on the same bus as after.
    """
    bus = default_bus_or(ReducerEventBus)
    assert isinstance(bus, ReducerEventBus)
    return bus


def configure(
    service_name: str | None = None,
    *,
    bus: ReducerEventBus | None = None,
    config: BusConfig | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
    exporters: Iterable[EventExporter] | None = None,
    span_exporter: SpanExporter | None = None,
    log_exporter: LogRecordExporter | None = None,
    instrument: bool = True,
    set_global_providers: bool = True,
) -> Telemetry:
    """Wire bus, exporters and instrumentation, once a process. Standard ``OTEL_*`` variables fill in what is not given.

    Args:
        service_name: Wins over OTEL_SERVICE_NAME.
        bus: Use this bus instead of the default one.
        config: Settings of the default bus; `BusConfig.from_env()` when not given.
        resource_attributes: Added to those of OTEL_RESOURCE_ATTRIBUTES.
        exporters: Exporters of events, instead of those that the environment names.
        span_exporter: Any OpenTelemetry `SpanExporter`, instead of that of OTEL_TRACES_EXPORTER.
        log_exporter: Any OpenTelemetry `LogRecordExporter`, instead of that of OTEL_LOGS_EXPORTER.
        instrument: Instrument the engines that are installed.
        set_global_providers: Where the application has no OpenTelemetry SDK of its own, install one, so that spans
            which other libraries make inside nodes are exported too.

    Where the application has configured an SDK TracerProvider, zupa feeds its processors and adds no second pipeline.
    With OTEL_SDK_DISABLED=true nothing is exported and nothing instrumented; the bus itself works.

    Returns:
        A handle with `bus`, `force_flush()` and `shutdown()`. A second call replaces the first: its handle is shut
        down, but for the bus where that stays the same.

    Raises:
        ConfigurationError: naming the argument or variable that cannot be used.
    """
    global _handle
    if bus is not None and config is not None:
        raise ConfigurationError("configure() got both bus= and config=: the config of a bus is fixed when it is made")
    if exporters is not None and (span_exporter is not None or log_exporter is not None):
        raise ConfigurationError(
            "configure() got exporters= and span_exporter= or log_exporter=: pass one or the other"
        )
    with _lock:
        # What can be refused comes first, so that a refused call leaves the previous one in force.
        telemetry = Telemetry(bus or _default_bus_with(config))
        resource = build_resource(service_name, resource_attributes)
        sampler = build_sampler()
        if exporters is None and not sdk_disabled():
            exporters = _default_exporters(
                telemetry, resource, sampler, span_exporter, log_exporter, set_global_providers
            )
        previous, _handle = _handle, telemetry
        if previous is not None:
            previous.detach()
        replace_default_bus(telemetry.bus)
        if exporters is None or sdk_disabled():
            return telemetry
        telemetry.connect(exporters)
        if instrument:
            telemetry.instrument(lambda parent, trace_id, name: _is_sampled(sampler, parent, trace_id, name))
        telemetry.start()
        return telemetry


def _default_bus_with(config: BusConfig | None) -> ReducerEventBus:
    if config is None:
        return get_bus()
    current = default_bus()
    if current is not None and current.statistics().emitted:
        raise ConfigurationError(
            "configure(config=...) came after events were emitted on the default bus; call it first, "
            "or make a ReducerEventBus(config) and pass it as bus="
        )
    return ReducerEventBus(config)


class Telemetry:
    """What `configure` wired. A context manager that shuts down at the end.

    Attributes:
        bus: The bus.
        instrumented: Names of the targets that are instrumented.
        skipped: Targets that are not, with the reason.
    """

    def __init__(self, bus: ReducerEventBus) -> None:
        self.bus = bus
        self.instrumented: list[str] = []
        self.skipped: dict[str, str] = {}
        self._detach: list[Unregister] = []
        self._instrumentors: list[Any] = []
        self._foreign: ForeignSpans | None = None

    def statistics(self) -> BusStatistics:
        """`ReducerEventBus.statistics` of the bus."""
        return self.bus.statistics()

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Flush the bus, and the spans of other libraries where zupa exports them; one deadline for both."""
        deadline = time.monotonic() + timeout_millis / 1e3
        flushed = self.bus.force_flush(timeout_millis)
        return (self._foreign is None or self._foreign.flush(_left_millis(deadline))) and flushed

    def shutdown(self, timeout_millis: float | None = None) -> bool:
        """Stop instrumenting, then shut the bus and its exporters down; one deadline for everything. Idempotent."""
        global _handle  # noqa: PLW0603
        timeout = self.bus.exit_timeout_millis if timeout_millis is None else timeout_millis
        deadline = time.monotonic() + timeout / 1e3
        self._uninstrument()
        if self._foreign is not None:
            self._foreign.begin_shutdown()  # beside the bus's
        ok = self.bus.shutdown(timeout)
        if self._foreign is not None:
            ok = self._foreign.finish_shutdown(_left_millis(deadline)) and ok
        with _lock:
            if default_bus() is self.bus:
                replace_default_bus(None)
            if _handle is self:
                _handle = None
        return ok

    def connect(self, exporters: Iterable[EventExporter]) -> None:
        """Let the bus export through *exporters*, and other libraries' spans go to what we `own`."""
        self._detach += [self.bus.add_exporter(exporter) for exporter in exporters]
        if self._foreign is not None:
            self._foreign.connect()

    def own(self, foreign: ForeignSpans) -> None:
        """Remember that *foreign* is ours to connect, flush and shut down, at exit too."""
        self._foreign = foreign

    def start(self) -> None:
        """Start the bus."""
        self.bus.start()
        if self._foreign is not None:
            _shut_down_at_exit()  # after the bus has registered its own hook, so that ours runs first

    def detach(self) -> None:
        """Undo all but the bus, after the exporters have got what was emitted until now."""
        self._uninstrument()
        self.bus.force_flush(self.bus.exit_timeout_millis)
        for detach in self._detach:
            detach()
        self._detach.clear()
        if self._foreign is not None:
            self._foreign.begin_shutdown()
            self._foreign.finish_shutdown(self.bus.exit_timeout_millis)
            self._foreign = None

    def instrument(self, sampler: Any) -> None:
        """Instrument every installed target of ours; what cannot be is in `skipped`."""
        for entry_point in entry_points(group=INSTRUMENTOR_GROUP):
            if not entry_point.value.startswith(INSTRUMENTATION_PACKAGE):
                continue
            try:
                instrumentor = entry_point.load()()
                instrumentor.instrument(bus=self.bus, sampler=sampler)
            except ImportError as error:
                self.skipped[entry_point.name] = f"{error.name or error} is not installed"
            else:
                self.instrumented.append(entry_point.name)
                self._instrumentors.append(instrumentor)

    def _uninstrument(self) -> None:
        for instrumentor in self._instrumentors:
            if instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.uninstrument()
        self._instrumentors.clear()
        self.instrumented.clear()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _default_exporters(
    telemetry: Telemetry,
    resource: Resource,
    sampler: Sampler,
    span_exporter: SpanExporter | None,
    log_exporter: LogRecordExporter | None,
    set_global_providers: bool,
) -> list[EventExporter]:
    tracer_provider = trace.get_tracer_provider()
    applications = None
    if isinstance(tracer_provider, TracerProvider) and not is_our_provider(tracer_provider):
        applications = tracer_provider
    if applications is not None and span_exporter is None:
        logger_provider = logs_api.get_logger_provider()
        if isinstance(logger_provider, LoggerProvider):
            return [ProviderEventExporter(applications, logger_provider)]
        # Log records have no pipeline of the application's to go to: the environment says where, if anywhere.
        result: list[EventExporter] = [ProviderEventExporter(applications, None)]
        if logs := (build_exporters(spans=False).logs if log_exporter is None else (log_exporter,)):
            result.append(OtelEventExporter(None, logs, resource=applications.resource))
        return result
    from_environment = build_exporters(spans=span_exporter is None, logs=log_exporter is None)
    spans = from_environment.spans if span_exporter is None else (span_exporter,)
    logs = from_environment.logs if log_exporter is None else (log_exporter,)
    if not spans and not logs:
        _logger.warning(
            "zupa exports nothing: set OTEL_EXPORTER_OTLP_ENDPOINT (e.g. http://localhost:4317), or "
            "OTEL_TRACES_EXPORTER=console, or pass exporters= to zupa.configure()"
        )
        return []
    if set_global_providers and applications is None:
        telemetry.own(ForeignSpans(build_exporters(logs=False).spans, resource, sampler))
    own = span_exporter is None and log_exporter is None
    return [OtelEventExporter(spans, logs, resource=resource, rebuild=build_exporters if own else None)]


def _shut_down_at_exit() -> None:
    """Flush other libraries' spans at exit as well; the bus alone sees to itself. One deadline for both."""
    global _exit_hooked  # noqa: PLW0603 - one hook a process
    if not _exit_hooked:
        _exit_hooked = True
        atexit.register(_shutdown_handle)


def _shutdown_handle() -> None:
    if _handle is not None:
        _handle.shutdown()


def _left_millis(deadline: float) -> float:
    return max(0.0, (deadline - time.monotonic()) * 1e3)


def _is_sampled(sampler: Sampler, parent: trace.SpanContext | None, trace_id: int, name: str) -> bool:
    context = None if parent is None else trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    decision = sampler.should_sample(context, trace_id, name).decision
    return decision is Decision.RECORD_AND_SAMPLE
