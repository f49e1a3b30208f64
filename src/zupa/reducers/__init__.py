"""The batteries: ready-made reducers for `EventBus.use`.

Each is a factory that checks its settings (`zupa.errors.ConfigurationError` names the bad one) and returns a callable
object, ``Event -> Event | None`` or a list of events where it fans out, with a `name` for the bus's statistics. Which
events it sees is the bus's business: ``bus.use(sample(0.1), pattern="engine:*")``.

Concurrency: a bus calls its reducers from one worker thread, one event at a time, so reducers hold no locks; do not
share one reducer that keeps state between buses. The counters are plain integers and may be read from any thread.
"""

from zupa.reducers._dedupe import Dedupe, dedupe
from zupa.reducers._detectors import DEFAULT_DETECTORS, EMAIL, Detector
from zupa.reducers._enrich import Enrich, enrich
from zupa.reducers._filter import FilterEvents, filter_events
from zupa.reducers._keys import DEFAULT_KEYS
from zupa.reducers._rate_limit import RateLimit, rate_limit
from zupa.reducers._redact import Redact, redact
from zupa.reducers._rename import Rename, rename
from zupa.reducers._route import Route, route
from zupa.reducers._sample import Sample, sample
from zupa.reducers._truncate import Truncate, truncate

__all__ = [
    "DEFAULT_DETECTORS",
    "DEFAULT_KEYS",
    "EMAIL",
    "Dedupe",
    "Detector",
    "Enrich",
    "FilterEvents",
    "RateLimit",
    "Redact",
    "Rename",
    "Route",
    "Sample",
    "Truncate",
    "dedupe",
    "enrich",
    "filter_events",
    "rate_limit",
    "redact",
    "rename",
    "route",
    "sample",
    "truncate",
]
