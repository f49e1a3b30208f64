"""`BusStatistics`: an immutable snapshot of what a bus has done, for which the conservation law holds."""

from __future__ import annotations

import msgspec


class ReducerStatistics(msgspec.Struct, frozen=True):
    """Counts of one reducer. `calls` = events offered; `filtered` = it returned None; `errors` = it raised."""

    calls: int = 0
    filtered: int = 0
    errors: int = 0


class SubscriberStatistics(msgspec.Struct, frozen=True):
    """Counts of one subscriber, in events: handled, raised, evicted from its own full queue, waiting in it."""

    delivered: int = 0
    errors: int = 0
    missed: int = 0
    queued: int = 0


class ExporterStatistics(msgspec.Struct, frozen=True):
    """The ledger of one exporter: offered = exported + failed + rejected + sum(dropped) + queued + in_flight.

    Attributes:
        offered: Events that passed the reducers and matched the exporter's pattern.
        exported: Events in batches that the exporter reported as delivered.
        failed: Events in batches that failed, raised, or were abandoned at the export timeout.
        rejected: Events that the receiver refused (partial success).
        dropped: Events that were never handed over, by reason.
        queued: Events that wait for the next batch.
        in_flight: Events in the batch that is being exported.
        batches: Calls of `export` that have returned.
        last_error: The `error.type` of the newest failure, or "".
    """

    offered: int = 0
    exported: int = 0
    failed: int = 0
    rejected: int = 0
    dropped: dict[str, int] = {}
    queued: int = 0
    in_flight: int = 0
    batches: int = 0
    last_error: str = ""


class BusStatistics(msgspec.Struct, frozen=True):
    """A consistent snapshot: at every moment, in every process and for every boot id, ::

        emitted == delivered + filtered + sum(dropped.values()) + queued + in_flight

    Every term counts calls of `emit`. An emitted event is *delivered* when at least one event that came of it passed
    all reducers, and *filtered* when none did. `fanned_out` counts the additional events that reducers made of one.

    Attributes:
        emitted: Calls of `emit` that took effect, the dropped ones included.
        delivered: Passed the reducers; handed to subscribers and exporters.
        filtered: A reducer returned None (or an empty list) for it.
        fanned_out: Events beyond the first that reducers made of one; not part of the law.
        dropped: Reason to count: `queue_full`, `bytes_full`, `already_shutdown`, `invalid_event`, `reducer_error`
            (a reducer that fails closed raised), `reentrant` (feedback loop), `fork_discarded`, `shutdown_timeout`,
            `internal_error` (the worker's thread died, or was replaced, with the event in its hands).
        queued: Waiting in the ingest queue.
        in_flight: Taken by the worker, not yet through.
        degraded: Events whose payload could not be carried whole (cycles, huge integers, raising ``__str__``, ...).
        seq: The newest sequence number.
        queue_capacity: `max_queue_size`.
        high_watermark: The largest number of events that were ever queued at once.
        reducers: Name to counts.
        subscribers: Name to counts.
        exported: Exporter name to its ledger.
        worker_restarts: How often the worker thread had to be started again.
        boot_id: This ledger's identity; a forked child starts a new one.
        pid: Process id.
    """

    emitted: int = 0
    delivered: int = 0
    filtered: int = 0
    fanned_out: int = 0
    dropped: dict[str, int] = {}
    queued: int = 0
    in_flight: int = 0
    degraded: int = 0
    seq: int = 0
    queue_capacity: int = 0
    high_watermark: int = 0
    reducers: dict[str, ReducerStatistics] = {}
    subscribers: dict[str, SubscriberStatistics] = {}
    exported: dict[str, ExporterStatistics] = {}
    worker_restarts: int = 0
    boot_id: str = ""
    pid: int = 0

    @property
    def dropped_total(self) -> int:
        """All drops, whatever the reason."""
        return sum(self.dropped.values())

    @property
    def imbalance(self) -> int:
        """What the conservation law leaves unexplained: 0, always."""
        return self.emitted - (self.delivered + self.filtered + self.dropped_total + self.queued + self.in_flight)
