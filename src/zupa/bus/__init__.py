"""The bus room: `ReducerEventBus`, its queue, worker, reducer pipeline, subscriptions and statistics."""

from zupa.bus._bus import ReducerEventBus
from zupa.bus._ingest import SystemClock
from zupa.bus._patterns import Pattern
from zupa.bus._stream import EventStream

__all__ = ["EventStream", "Pattern", "ReducerEventBus", "SystemClock"]
