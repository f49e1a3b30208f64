"""`TelemetrySink`: where telemetry leaves the application, as one more subscriber of the bus."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from zupa.errors import ConfigurationError, LifecycleError
from zupa.ports import EventBus, EventExporter, Subscriber, Unregister

DEFAULT_FLUSH_TIMEOUT_MILLIS: Final = 2_000.0


class TelemetrySink:
    """A `RuntimeResource` that hands the events of one pattern to an exporter or a handler while it is started.

    Nothing that emits knows of it, and the bus knows it by its pattern alone. An exporter gets batches, on a thread of
    its own, through the bus's batch processor (see `EventBus.add_exporter`); a handler gets single events (see
    `EventBus.subscribe`). Either sees what the reducers left.

    Args:
        bus: Where the events come from.
        target: An `EventExporter`, owned by the sink from now on, or a handler, sync or async.
        pattern: Which events; the engine's by default.
        name: Its name in the bus's statistics; by default that of *target*.
        flush_timeout_millis: How long `aclose` waits for events that were emitted before.

    Raises:
        ConfigurationError: *target* is neither.
        PatternError: in `start`, when *pattern* can never match.
    """

    def __init__(
        self,
        bus: EventBus,
        target: EventExporter | Subscriber,
        *,
        pattern: str = "engine:*",
        name: str | None = None,
        flush_timeout_millis: float = DEFAULT_FLUSH_TIMEOUT_MILLIS,
    ) -> None:
        self._exports = callable(getattr(target, "export", None))
        if not self._exports and not callable(target):
            raise ConfigurationError(
                f"target={type(target).__name__} is unusable: "
                "pass a zupa.EventExporter or a callable that takes one Event"
            )
        self._bus = bus
        self._target = target
        self._pattern = pattern
        self._name = name
        self._flush_timeout_millis = flush_timeout_millis
        self._detach: Unregister | None = None
        self._closed = False

    def start(self) -> None:
        """Subscribe. Idempotent.

        Raises:
            LifecycleError: the sink was closed: its exporter has been shut down, so make a new one.
            PatternError: the pattern can never match.
            ConfigurationError: the exporter lacks one of the methods of `EventExporter`.
        """
        if self._closed:
            failure = RuntimeError("it was closed, which shuts its exporter down; make a new TelemetrySink")
            raise LifecycleError("start", [(self._name or type(self).__name__, failure)])
        if self._detach is not None:
            return
        if self._exports:
            exporter = cast("EventExporter", self._target)
            self._detach = self._bus.add_exporter(exporter, name=self._name, pattern=self._pattern)
        else:
            handler = cast("Subscriber", self._target)
            self._detach = self._bus.subscribe(self._pattern, handler, name=self._name)

    async def aclose(self) -> None:
        """Deliver what was emitted before this call, then unsubscribe; an exporter is flushed and shut down.

        What cannot be delivered in `flush_timeout_millis` (and the bus's `shutdown_timeout_millis` for the exporter) is
        counted in the bus's statistics. Idempotent; without `start` it does nothing.
        """
        detach, self._detach = self._detach, None
        if detach is None:
            return
        self._closed = True
        try:
            await self._bus.aflush(self._flush_timeout_millis)
        finally:
            if self._exports:
                # Detaching waits for the exporter, which must not hold up the event loop.
                await asyncio.to_thread(detach)
            else:
                detach()
