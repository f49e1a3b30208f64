"""The execution stage: what happens to the events of one slice, on whatever thread works on it.

Separate from the worker's thread so that a successor can go on with a slice whose thread is blocked or dead: all
progress is in the `Slice`, and the stage itself only holds what outlives slices.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

from zupa.bus._assemble import Assembler, Stamp
from zupa.bus._dispatch import Dispatcher
from zupa.bus._flush import FlushRequest
from zupa.bus._incidents import IncidentLog
from zupa.bus._ledger import Ledger
from zupa.bus._reducers import Registration, apply
from zupa.bus._subscriptions import DEFAULT_MAILBOX_SIZE, Subscription
from zupa.config import BusConfig
from zupa.errors import InvalidEventError
from zupa.event import Event
from zupa.ports import Clock


class SupersededError(BaseException):
    """Raised in a worker thread that was replaced while user code blocked it."""


class Slice:
    """Events on their way, with all the state that a successor needs to go on."""

    __slots__ = (
        "charges", "degraded", "delivered", "depths", "dropped", "filtered", "item_index", "items", "marker",
        "offered", "output_index", "outputs", "route", "route_index",
    )  # fmt: skip

    def __init__(self, items: list[tuple[Any, ...]], marker: FlushRequest | None) -> None:
        self.items = items
        self.marker = marker
        self.item_index = 0
        self.outputs: list[Event] = []
        self.charges: list[int] = []
        self.depths: list[int] = []
        self.offered = False
        self.output_index = 0
        self.route: tuple[Subscription, ...] = ()
        self.route_index = 0
        self.delivered = self.filtered = self.degraded = 0
        self.dropped: dict[str, int] = {}

    def successor(self) -> Slice:
        """Return a copy for the thread that takes over; what the old thread still writes goes nowhere."""
        other = Slice(self.items, self.marker)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.outputs, other.charges, other.depths = list(self.outputs), list(self.charges), list(self.depths)
        other.dropped = dict(self.dropped)
        return other


class ExecutionStage:
    """Reduces events and hands them to exporters and subscribers.

    Attributes:
        depth: How deep in a chain of emits from within reducers and subscribers the thread is; 0 outside user code.
        user_code_since: Monotonic time in ns at which user code was entered, 0 outside.
        generation: Grows whenever another thread takes over; one that sees it change raises `SupersededError`.
    """

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        config: BusConfig,
        clock: Clock,
        incidents: IncidentLog,
        identity: tuple[str, int],
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._config = config
        self._clock = clock
        self._incidents = incidents
        self._boot_id, self._pid = identity
        self._assembler = Assembler()
        self._slow_ns = int(config.slow_subscriber_millis * 1e6)
        self._timestamp = 0
        self._suspicious = False
        self.depth = 0
        self.user_code_since = 0
        self.generation = 0

    def process(self, work: Slice, generation: int) -> None:
        """Work through what is left of *work*.

        Raises:
            SupersededError: another thread has taken over while user code ran.
        """
        if work.item_index < len(work.items):
            # One clock reading a slice: all of it is dequeued at this moment. Never back, whatever the wall clock does.
            self._timestamp = max(self._timestamp, self._clock.time_ns())
            stamp = Stamp(self._timestamp, self._boot_id, self._pid)
            reducers = self._dispatcher.reducers
            while work.item_index < len(work.items):
                item = work.items[work.item_index]
                work.item_index += 1
                self._reduce(work, item, stamp, reducers, generation)
        if not work.offered:
            work.offered = True
            if work.outputs:
                for processor in self._dispatcher.processors:
                    processor.offer(work.outputs, work.charges)
        if self._dispatcher.subscriptions:
            self._dispatch(work, generation)

    def _reduce(
        self,
        work: Slice,
        item: tuple[Any, ...],
        stamp: Stamp,
        reducers: tuple[Registration, ...],
        generation: int,
    ) -> None:
        ledger = self._ledger
        try:
            event, degraded = self._assembler.assemble(item, ledger.seq + 1, stamp)
        except InvalidEventError as error:
            self._drop(work, "invalid_event")
            self._incidents.report("invalid_event", "an event was dropped: %s", error)
            return
        ledger.seq += 1
        work.degraded += degraded
        outputs, failed_closed = [event], False
        if reducers:
            self.depth = item[6] + 1
            self.user_code_since = monotonic_ns()
            try:
                outputs, failed_closed = apply(event, reducers, self._reducer_failed)
            finally:
                if self.generation == generation:  # else they are the successor's
                    self.depth = self.user_code_since = 0
            if self.generation != generation:
                raise SupersededError
        if not outputs:
            if failed_closed:
                self._drop(work, "reducer_error")
            else:
                work.filtered += 1
            return
        if len(outputs) > 1 or outputs[0] is not event:
            outputs = self._adopt(outputs, event)
            if not outputs:
                self._drop(work, "invalid_event")
                return
        work.delivered += 1
        work.outputs.extend(outputs)
        work.charges.extend([item[7]] * len(outputs))
        work.depths.extend([item[6] + 1] * len(outputs))

    def _adopt(self, outputs: list[Event], source: Event) -> list[Event]:
        ledger = self._ledger
        adopted: list[Event] = []
        for output in outputs:
            if output is source and not adopted:
                adopted.append(source)
                continue
            seq = source.seq if not adopted else ledger.seq + 1
            try:
                adopted.append(self._assembler.adopt(output, source, seq))
            except InvalidEventError as error:
                self._incidents.report("invalid_event", "a reducer made an event that was dropped: %s", error)
            else:
                ledger.seq = max(ledger.seq, seq)
        return adopted

    def _dispatch(self, work: Slice, generation: int) -> None:
        while work.output_index < len(work.outputs):
            event = work.outputs[work.output_index]
            if work.route_index == 0:
                work.route = self._dispatcher.routes(event.topic)
            if work.route:
                self.depth = work.depths[work.output_index]
                self.user_code_since = started = monotonic_ns()
                try:
                    while work.route_index < len(work.route):
                        subscription = work.route[work.route_index]
                        work.route_index += 1
                        before = monotonic_ns() if self._suspicious else 0
                        subscription.deliver(event)
                        if self.generation != generation:
                            raise SupersededError
                        if before and monotonic_ns() - before > self._slow_ns:
                            self._promote(subscription)
                finally:
                    if self.generation == generation:
                        self.depth = self.user_code_since = 0
                # Timing every handler would cost more than most handlers do: only look closer after a slow event.
                self._suspicious = monotonic_ns() - started > self._slow_ns
            work.output_index += 1
            work.route_index = 0

    def _promote(self, subscription: Subscription) -> None:
        if self._dispatcher.promote(subscription, DEFAULT_MAILBOX_SIZE) is not None:
            self._incidents.report(
                f"slow:{subscription.name}",
                "subscriber %s took longer than slow_subscriber_millis=%s and now has a queue and thread of its own",
                subscription.name,
                self._config.slow_subscriber_millis,
            )

    @staticmethod
    def _drop(work: Slice, reason: str) -> None:
        work.dropped[reason] = work.dropped.get(reason, 0) + 1

    def _reducer_failed(self, registration: Registration, error: BaseException) -> None:
        consequence = "the event was dropped" if registration.fails_closed else "the event passed on unchanged"
        self._incidents.report(
            f"reducer:{registration.name}",
            "reducer %s raised %s; %s",
            registration.name,
            error,
            consequence,
            error=error,
        )
