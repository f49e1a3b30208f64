"""`BusLoggingHandler`: records of the standard library's logging as events ``{channel}:log:{level}``."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Final

from opentelemetry import context as context_api

from zupa.event import check_names
from zupa.normalize import error_type, safe_str
from zupa.ports import EventBus
from zupa.semconv import AGENT_CHANNEL

# Source: OTel semantic conventions v1.44, registry/attributes/code.md (stable).
CODE_FILE_PATH: Final = "code.file.path"
CODE_FUNCTION_NAME: Final = "code.function.name"
CODE_LINE_NUMBER: Final = "code.line.number"
CODE_STACKTRACE: Final = "code.stacktrace"

FORMAT_ERROR: Final = "format_error"
"""Payload field: type of the error, where a record's message and arguments do not fit together."""

_OWN_LOGGERS: Final = ("zupa.", "opentelemetry", "grpc", "urllib3")
_OWN_NAMES: Final = "zupa-"
_LEVELS: Final = ((50, "log:critical"), (40, "log:error"), (30, "log:warning"), (20, "log:info"))
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class BusLoggingHandler(logging.Handler):
    """Emits each record on a bus; made for the root logger, at any level.

    The payload holds ``message``, ``logger``, where the call stands in the code (``code.*``), the exception as
    ``error``, and what was passed as ``extra``.

    Records that would come back as new records are ignored: those of zupa, OpenTelemetry, gRPC and urllib3, those
    made while OpenTelemetry instrumentation is suppressed, and those made on a thread or in an asyncio task of a bus (a
    subscriber that logs).

    Args:
        bus: Where the events go.
        channel: First part of their topics.
        level: Lesser records are ignored.

    Raises:
        InvalidEventError: at construction, when *channel* breaks the grammar of `zupa.event`.
    """

    def __init__(self, bus: EventBus, channel: str = AGENT_CHANNEL, level: int | str = logging.NOTSET) -> None:
        check_names(channel, "log:info")
        super().__init__(level)
        self._bus = bus
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Emit *record*. Never raises: what fails goes to `logging.Handler.handleError`."""
        try:
            if not _is_own(record):
                self._bus.emit(self._channel, _name_of(record.levelno), _payload(record))
        except Exception:  # noqa: BLE001 - the logging call must not fail
            self.handleError(record)


def _is_own(record: logging.LogRecord) -> bool:
    """Whether *record* is about the export of events, so that an event of it would lead to the next record."""
    name = record.name
    if name == "zupa" or name.startswith(_OWN_LOGGERS):
        return True
    # A record keeps no thread name where logging.logThreads is off.
    if (record.threadName or threading.current_thread().name).startswith(_OWN_NAMES):
        return True
    if context_api.get_value("suppress_instrumentation"):
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs on this thread
        return False
    return task is not None and task.get_name().startswith(_OWN_NAMES)


def _name_of(level: int) -> str:
    return next((name for least, name in _LEVELS if level >= least), "log:debug")


def _payload(record: logging.LogRecord) -> dict[str, Any]:
    payload = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    try:
        payload["message"] = record.getMessage()
    except Exception as error:  # noqa: BLE001 - e.g. "%d" % ("x",), or an argument whose __str__ raises
        payload["message"] = safe_str(record.msg)
        payload[FORMAT_ERROR] = error_type(error)
    payload["logger"] = record.name
    payload[CODE_FILE_PATH] = record.pathname
    payload[CODE_FUNCTION_NAME] = record.funcName
    payload[CODE_LINE_NUMBER] = record.lineno
    if record.stack_info:
        payload[CODE_STACKTRACE] = record.stack_info
    if record.exc_info and record.exc_info[1] is not None:
        payload["error"] = record.exc_info[1]
    return payload
