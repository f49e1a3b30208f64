"""`dedupe`: drop repeats of an event within a time window."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Final

import msgspec

from zupa.event import Event
from zupa.ports import Clock
from zupa.reducers._settings import check_callable, check_count, check_number

# Deterministic: dicts that are equal give equal bytes, whatever the order of their keys.
_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


def _fingerprint(event: Event) -> Hashable:
    """16 bytes that stand for topic and payload, so that the payloads themselves need not be kept."""
    return blake2b(_encode((event.channel, event.name, event.payload)), digest_size=16).digest()


class Dedupe:
    """What `dedupe` returns. `suppressed` counts the repeats that were dropped."""

    name = "dedupe"

    def __init__(
        self, *, window_s: float, key: Callable[[Event], Hashable] | None, max_keys: int, clock: Clock | None
    ) -> None:
        self._window_s = check_number("dedupe(window_s)", window_s, above=0)
        check_callable("dedupe(key)", key, optional=True)
        self._key = _fingerprint if key is None else key
        self._max_keys = check_count("dedupe(max_keys)", max_keys)
        self._now = time.monotonic_ns if clock is None else clock.monotonic_ns
        self._window_ns = round(self._window_s * 1e9)
        self._seen: OrderedDict[Hashable, list[int]] = OrderedDict()  # [start of the window, repeats in it]
        self.suppressed: int = 0

    def __call__(self, event: Event) -> Event | None:
        key = self._key(event)
        now = self._now()
        entry = self._seen.get(key)
        if entry is None:
            self._seen[key] = [now, 0]
            if len(self._seen) > self._max_keys:
                self._seen.popitem(last=False)
            return event
        if now - entry[0] < self._window_ns:
            entry[1] += 1
            self.suppressed += 1
            return None
        repeats = entry[1]
        entry[:] = now, 0
        self._seen.move_to_end(key)  # ordered by start of window, so the oldest window is the first to be forgotten
        return event.replace(metadata={**event.metadata, "duplicates": repeats}) if repeats else event

    def __repr__(self) -> str:
        return f"dedupe(window_s={self._window_s}, suppressed={self.suppressed})"


def dedupe(
    *,
    window_s: float = 60,
    key: Callable[[Event], Hashable] | None = None,
    max_keys: int = 4096,
    clock: Clock | None = None,
) -> Dedupe:
    """Let the first of several equal events through, and the next one only after *window_s*.

    That next one carries ``metadata["duplicates"]``, the number of repeats that were dropped before it.

    Args:
        window_s: Length of the window, in seconds, from the event that opened it.
        key: What makes events equal. Default: topic and payload (not times, ids or trace context).
        max_keys: Windows remembered. The oldest is forgotten first; its event may then pass early.
        clock: Where time comes from (`monotonic_ns` only). Default: the system's.

    Raises:
        ConfigurationError: a setting is unusable.
    """
    return Dedupe(window_s=window_s, key=key, max_keys=max_keys, clock=clock)
