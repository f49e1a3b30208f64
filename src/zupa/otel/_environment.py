"""Exporters and samplers from OpenTelemetry's standard environment variables, as the SDK's own configurator reads them.

Which exporters there are, this module decides; where they send, with which headers and certificates, they read
from the process environment themselves. No value of a variable but those that select a component gets into a message,
because headers hold credentials.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.util._importlib_metadata import entry_points

from zupa.config import parse_boolean
from zupa.errors import ConfigurationError

_logger = logging.getLogger(__name__)

_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_SAMPLERS: Final = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": DEFAULT_ON,
    "parentbased_always_off": DEFAULT_OFF,
}
_RATIO_SAMPLERS: Final = {"traceidratio": TraceIdRatioBased, "parentbased_traceidratio": ParentBasedTraceIdRatio}


class SignalExporters(msgspec.Struct, frozen=True):
    """What the environment asks for.

    Attributes:
        spans: One exporter per name in OTEL_TRACES_EXPORTER.
        logs: One exporter per name in OTEL_LOGS_EXPORTER.
    """

    spans: tuple[SpanExporter, ...] = ()
    logs: tuple[LogRecordExporter, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.spans or self.logs)


def build_exporters(
    environ: Mapping[str, str] | None = None, *, spans: bool = True, logs: bool = True
) -> SignalExporters:
    """Build the exporters that OTEL_TRACES_EXPORTER and OTEL_LOGS_EXPORTER name.

    Without the variable a signal goes to OTLP if any endpoint variable for it is set, and nowhere if none is: a
    library must not start to send data to localhost because it was imported.

    Args:
        environ: Selects the exporters; None is the process environment.
        spans: Build those for spans.
        logs: Build those for log records.

    Raises:
        ConfigurationError: a variable names an exporter or protocol that does not exist, or the exporter cannot be
            built from its own variables.
    """
    environ = os.environ if environ is None else environ
    return SignalExporters(
        spans=tuple(_build(name, "TRACES", SpanExporter) for name in exporter_names("TRACES", environ) if spans),
        logs=tuple(_build(name, "LOGS", LogRecordExporter) for name in exporter_names("LOGS", environ) if logs),
    )


def exporter_names(signal: str, environ: Mapping[str, str]) -> list[str]:
    """Return the entry point names that *environ* selects for *signal*, ``"TRACES"`` or ``"LOGS"``.

    Raises:
        ConfigurationError: the OTLP protocol is unknown.
    """
    if sdk_disabled(environ):
        return []
    text = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    if not text:
        endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        text = "otlp" if any(environ.get(variable, "").strip() for variable in endpoints) else "none"
    names = [name for part in text.split(",") if (name := part.strip())]
    selected = [_otlp(signal, environ) if name == "otlp" else name for name in names if name.lower() != "none"]
    return list(dict.fromkeys(selected))


def build_sampler(environ: Mapping[str, str] | None = None) -> Sampler:
    """Build the sampler that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name.

    An unknown name or an argument that cannot be read is warned of and replaced by the default, as the SDK does.
    Source: OTel spec, configuration/sdk-environment-variables.md.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    known = name.lower() or "parentbased_always_on"
    if known in _SAMPLERS:
        return _SAMPLERS[known]
    if known in _RATIO_SAMPLERS:
        try:
            return _RATIO_SAMPLERS[known](float(argument))
        except ValueError:
            _logger.warning("OTEL_TRACES_SAMPLER_ARG=%r is not a ratio from 0 to 1; using 1.0", argument)
            return _RATIO_SAMPLERS[known](1.0)
    try:
        for entry_point in entry_points(group="opentelemetry_traces_sampler", name=name):
            sampler = entry_point.load()(argument)
            if isinstance(sampler, Sampler):
                return sampler
    except Exception as error:  # noqa: BLE001 - somebody else's code: telemetry must not stop the application
        _logger.warning("sampler %r cannot be built: %s", name, type(error).__qualname__)
    allowed = ", ".join(sorted([*_SAMPLERS, *_RATIO_SAMPLERS]))
    _logger.warning("OTEL_TRACES_SAMPLER=%r is unknown (known: %s); using parentbased_always_on", name, allowed)
    return DEFAULT_ON


def sdk_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """True when OTEL_SDK_DISABLED says that there must be no telemetry."""
    return parse_boolean((os.environ if environ is None else environ).get("OTEL_SDK_DISABLED", ""))


def _otlp(signal: str, environ: Mapping[str, str]) -> str:
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(variable, "").strip()
        if protocol:
            if protocol not in _PROTOCOLS:
                raise ConfigurationError(f"{variable}={protocol!r} is unknown: use {' or '.join(_PROTOCOLS)}")
            return _PROTOCOLS[protocol]
    return _PROTOCOLS["grpc"]


# The SDK's OTLP exporters with a faster encoder. Imported when asked for: gRPC alone takes longer than all of zupa.
_FASTER: Final = {
    ("otlp_proto_grpc", "TRACES"): ("zupa.otel._otlp_grpc", "GrpcSpanExporter"),
    ("otlp_proto_grpc", "LOGS"): ("zupa.otel._otlp_grpc", "GrpcLogExporter"),
    ("otlp_proto_http", "TRACES"): ("zupa.otel._otlp_http", "HttpSpanExporter"),
    ("otlp_proto_http", "LOGS"): ("zupa.otel._otlp_http", "HttpLogExporter"),
}


def _load(name: str, signal: str, entry_point: Any) -> Any:
    if (name, signal) not in _FASTER:
        return entry_point.load()
    module, attribute = _FASTER[name, signal]
    return getattr(importlib.import_module(module), attribute)


def _build(name: str, signal: str, kind: type[Any]) -> Any:
    variable, group = f"OTEL_{signal}_EXPORTER", f"opentelemetry_{signal.lower()}_exporter"
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        installed = sorted({"none", *(entry_point.name for entry_point in entry_points(group=group))})
        raise ConfigurationError(f"{variable} names {name!r}, which is not installed: use {', '.join(installed)}")
    failure = ""
    try:
        exporter = _load(name, signal, found)()
    except Exception as error:  # noqa: BLE001 - somebody else's constructor
        failure = type(error).__qualname__
    # Raised outside the handler: the original error may quote a header, and a chained one would be printed with it.
    if failure:
        raise ConfigurationError(
            f"the exporter {name!r} that {variable} names cannot be built ({failure}): check the variables it reads, "
            "such as its endpoint, headers, timeout and certificates"
        )
    if not isinstance(exporter, kind):
        raise ConfigurationError(f"{variable} names {name!r}, which builds no {kind.__name__}")
    return exporter
