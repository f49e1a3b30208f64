"""`BusLogger`: messages of the application as events ``{channel}:log:{level}``."""

from __future__ import annotations

import sys
from typing import Any

from zupa.event import check_names
from zupa.ports import EventBus
from zupa.semconv import AGENT_CHANNEL


class BusLogger:
    """Emits messages on a bus: no lock, no I/O, no formatting on the caller's thread.

    Args:
        bus: Where the events go.
        channel: First part of their topics.

    Each event's payload holds the bound fields, the fields of the call, and ``message``.

    Raises:
        InvalidEventError: at construction, when *channel* breaks the grammar of `zupa.event`.

    Concurrency: as `EventBus.emit`.
    """

    __slots__ = ("_bus", "_channel", "_fields")

    def __init__(self, bus: EventBus, channel: str = AGENT_CHANNEL) -> None:
        check_names(channel, "log:info")
        self._bus = bus
        self._channel = channel
        self._fields: dict[str, Any] = {}

    def bind(self, /, **fields: Any) -> BusLogger:
        """Return a logger that adds *fields* to every event; those of a call win. This one stays as it is."""
        bound = BusLogger(self._bus, self._channel)
        bound._fields = {**self._fields, **fields}
        return bound

    def debug(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:debug``."""
        self._emit("log:debug", message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:info``."""
        self._emit("log:info", message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:warning``."""
        self._emit("log:warning", message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:error``."""
        self._emit("log:error", message, fields)

    def critical(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:critical``."""
        self._emit("log:critical", message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """Emit ``log:error`` with the exception that is being handled as the field ``error``, unless it is given."""
        error = sys.exc_info()[1]
        self._emit("log:error", message, fields if error is None else {"error": error, **fields})

    def _emit(self, name: str, message: str, fields: dict[str, Any]) -> None:
        self._bus.emit(self._channel, name, {**self._fields, **fields, "message": message})
