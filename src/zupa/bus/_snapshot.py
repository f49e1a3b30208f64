"""Snapshots of a bus's statistics."""

from __future__ import annotations

from zupa.bus._dispatch import Dispatcher
from zupa.bus._ledger import Ledger
from zupa.bus._queue import IngestQueue
from zupa.statistics import BusStatistics


def snapshot(
    ledger: Ledger, queue: IngestQueue, dispatcher: Dispatcher, *, worker_restarts: int, boot_id: str, pid: int
) -> BusStatistics:
    """Return what *ledger* and *queue* say at one moment. Any thread."""
    with ledger.lock:
        # An event that is refused turns from queued into dropped under this lock; those that find the queue full are
        # counted without it, but were never queued.
        queued = len(queue)
        dropped = ledger.dropped()
        delivered, filtered, in_flight = ledger.delivered, ledger.filtered, ledger.in_flight
        fanned_out, degraded, seq = ledger.fanned_out, ledger.degraded, ledger.seq
        high_watermark = ledger.high_watermark = max(ledger.high_watermark, queued)
    return BusStatistics(
        emitted=delivered + filtered + sum(dropped.values()) + queued + in_flight,
        delivered=delivered,
        filtered=filtered,
        fanned_out=fanned_out,
        dropped=dropped,
        queued=queued,
        in_flight=in_flight,
        degraded=degraded,
        seq=seq,
        queue_capacity=queue.capacity,
        high_watermark=queue.capacity if "queue_full" in dropped else high_watermark,
        reducers={item.name: item.statistics() for item in dispatcher.reducers},
        subscribers={item.name: item.statistics() for item in dispatcher.subscriptions},
        exported={item.name: item.statistics() for item in dispatcher.processors},
        worker_restarts=worker_restarts,
        boot_id=boot_id,
        pid=pid,
    )
