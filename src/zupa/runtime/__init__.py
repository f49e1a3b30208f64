"""The runtime room: one lifecycle for an agent's resources, and ways of an application onto the bus."""

from zupa.runtime._agent_runtime import AgentRuntime
from zupa.runtime._logger import BusLogger
from zupa.runtime._logging_handler import BusLoggingHandler
from zupa.runtime._telemetry_sink import TelemetrySink

__all__ = ["AgentRuntime", "BusLogger", "BusLoggingHandler", "TelemetrySink"]
