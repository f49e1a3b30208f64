"""`rate_limit`: a token bucket per topic, or per whatever key."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from zupa.event import Event
from zupa.ports import Clock
from zupa.reducers._settings import check_callable, check_count, check_number


def _topic(event: Event) -> Hashable:
    return event.topic


class RateLimit:
    """What `rate_limit` returns. `limited` counts the events that were not let through."""

    name = "rate_limit"

    def __init__(
        self,
        rate_per_s: float,
        *,
        burst: float | None,
        key: Callable[[Event], Hashable],
        max_keys: int,
        clock: Clock | None,
    ) -> None:
        self._rate_per_s = check_number("rate_limit(rate_per_s)", rate_per_s, above=0)
        # A bucket that holds less than one token would never let anything through.
        self._burst = (
            max(1.0, self._rate_per_s) if burst is None else check_number("rate_limit(burst)", burst, minimum=1)
        )
        check_callable("rate_limit(key)", key)
        self._key = key
        self._max_keys = check_count("rate_limit(max_keys)", max_keys)
        self._now = time.monotonic_ns if clock is None else clock.monotonic_ns
        self._buckets: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()  # tokens, and when they were counted
        self.limited: int = 0

    def __call__(self, event: Event) -> Event | None:
        key = self._key(event)
        now = self._now()
        tokens, then = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate_per_s / 1e9)
        passes = tokens > 1 - 1e-9  # sums of fractions fall short of whole numbers
        self._buckets[key] = (tokens - 1 if passes else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        if passes:
            return event
        self.limited += 1
        return None

    def __repr__(self) -> str:
        return f"rate_limit({self._rate_per_s}, burst={self._burst}, limited={self.limited})"


def rate_limit(
    rate_per_s: float,
    *,
    burst: float | None = None,
    key: Callable[[Event], Hashable] = _topic,
    max_keys: int = 1024,
    clock: Clock | None = None,
) -> RateLimit:
    """Let at most *rate_per_s* events a second through for each key, after a first *burst*.

    Args:
        rate_per_s: Events a second; may be below 1.
        burst: Events that may pass at once after a pause. Default: one second's worth, at least 1.
        key: What has a limit of its own. Default: the topic.
        max_keys: Keys remembered. The one that was used least recently is forgotten first, and starts with a full
            burst when it comes back: memory is bounded before precision is kept.
        clock: Where time comes from (`monotonic_ns` only). Default: the system's.

    Raises:
        ConfigurationError: a setting is unusable.
    """
    return RateLimit(rate_per_s, burst=burst, key=key, max_keys=max_keys, clock=clock)
