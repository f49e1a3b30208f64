"""Events to OpenTelemetry: the mapping, exporters, and their configuration from the environment."""

from zupa.otel._console import ConsoleTreeExporter
from zupa.otel._environment import SignalExporters, build_exporters, build_sampler, sdk_disabled
from zupa.otel._exporter import OtelEventExporter
from zupa.otel._foreign import ForeignSpans, is_our_provider
from zupa.otel._mapping import DEFAULT_LIMITS, DEFAULT_SCOPE, Mapped, map_event, to_log_record, to_span
from zupa.otel._provider import ProviderEventExporter
from zupa.otel._resource import HashedResource, build_resource
from zupa.otel._table import DEFAULT_MAPPING, Mapping, Row, Signal, engine_attributes, payload_attributes
from zupa.otel._tree import Tree, TreeNode, build_trees, render_tree
from zupa.otel._values import Limits, UnmappableError

__all__ = [
    "DEFAULT_LIMITS",
    "DEFAULT_MAPPING",
    "DEFAULT_SCOPE",
    "ConsoleTreeExporter",
    "ForeignSpans",
    "HashedResource",
    "Limits",
    "Mapped",
    "Mapping",
    "OtelEventExporter",
    "ProviderEventExporter",
    "Row",
    "Signal",
    "SignalExporters",
    "Tree",
    "TreeNode",
    "UnmappableError",
    "build_exporters",
    "build_resource",
    "build_sampler",
    "build_trees",
    "engine_attributes",
    "is_our_provider",
    "map_event",
    "payload_attributes",
    "render_tree",
    "sdk_disabled",
    "to_log_record",
    "to_span",
]
