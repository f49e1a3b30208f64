"""zupa: an OpenTelemetry-integrated event bus for agent runtimes."""

from typing import TYPE_CHECKING, Any

from zupa.bus import EventStream, ReducerEventBus
from zupa.config import BusConfig, DropPolicy
from zupa.errors import (
    CheckpointError,
    ConfigurationError,
    EngineError,
    GraphValidationError,
    InvalidEventError,
    InvalidUpdateError,
    LifecycleError,
    NodeNotFoundError,
    PatternError,
    RecursionLimitError,
    ZupaError,
)
from zupa.event import Event
from zupa.ports import (
    Checkpoint,
    Checkpointer,
    Clock,
    EventBus,
    EventExporter,
    ExportResult,
    LedgerEvent,
    Reducer,
    RuntimeResource,
    Subscriber,
)
from zupa.span import NodeSpan, current_node
from zupa.statistics import BusStatistics, ExporterStatistics, ReducerStatistics, SubscriberStatistics
from zupa.transition import Transition, TransitionLink

if TYPE_CHECKING:
    from zupa._wiring import Telemetry, configure, get_bus

__version__ = "0.1.0"

__all__ = [
    "BusConfig",
    "BusStatistics",
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "Clock",
    "ConfigurationError",
    "DropPolicy",
    "EngineError",
    "Event",
    "EventBus",
    "EventExporter",
    "EventStream",
    "ExportResult",
    "ExporterStatistics",
    "GraphValidationError",
    "InvalidEventError",
    "InvalidUpdateError",
    "LedgerEvent",
    "LifecycleError",
    "NodeNotFoundError",
    "NodeSpan",
    "PatternError",
    "RecursionLimitError",
    "Reducer",
    "ReducerEventBus",
    "ReducerStatistics",
    "RuntimeResource",
    "Subscriber",
    "SubscriberStatistics",
    "Telemetry",
    "Transition",
    "TransitionLink",
    "ZupaError",
    "__version__",
    "configure",
    "current_node",
    "get_bus",
]


def __getattr__(name: str) -> Any:
    """Import the wiring, and with it OpenTelemetry's SDK, when it is first asked for."""
    if name in ("Telemetry", "configure", "get_bus"):
        from zupa import _wiring  # noqa: PLC0415

        return getattr(_wiring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
