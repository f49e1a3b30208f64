"""The dispatcher: the registry of reducers, subscriptions and exporters, and the routes between them.

Registries are copy-on-write tuples: a change during dispatch is seen by the next event, never by the one on its way,
except that an unsubscribed handler is not called again. Routes are cached by topic.
"""

from __future__ import annotations

import threading
from typing import Final

from zupa.bus._batch import BatchProcessor
from zupa.bus._reducers import Registration
from zupa.bus._subscriptions import InlineSubscription, Subscription, ThreadSubscription

_ROUTE_CACHE_LIMIT: Final = 4096


class Dispatcher:
    """See the module's text. Any thread may register; only the worker reads routes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reducers: tuple[Registration, ...] = ()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.processors: tuple[BatchProcessor, ...] = ()
        self._routes: dict[str, tuple[Subscription, ...]] = {}

    def routes(self, topic: str) -> tuple[Subscription, ...]:
        """Return the subscriptions for *topic*, in order of subscription."""
        routes = self._routes
        found = routes.get(topic)
        if found is None:
            found = tuple(item for item in self.subscriptions if item.pattern.matches(topic))
            if len(routes) >= _ROUTE_CACHE_LIMIT:
                routes.clear()
            routes[topic] = found
        return found

    def add_reducer(self, item: Registration) -> None:
        with self._lock:
            self.reducers = (*self.reducers, item)

    def remove_reducer(self, item: Registration) -> None:
        with self._lock:
            self.reducers = tuple(other for other in self.reducers if other is not item)

    def add_subscription(self, item: Subscription) -> None:
        with self._lock:
            self.subscriptions = (*self.subscriptions, item)
            self._routes = {}

    def remove_subscription(self, key: object) -> None:
        """Close and forget the subscription that was made with *key*, whatever stands for it now."""
        with self._lock:
            removed = [item for item in self.subscriptions if item.key is key]
            self.subscriptions = tuple(item for item in self.subscriptions if item.key is not key)
            self._routes = {}
        for item in removed:
            item.close()

    def promote(self, item: Subscription, capacity: int) -> ThreadSubscription | None:
        """Give the slow *item* a thread of its own; None when it has one or is gone."""
        if not isinstance(item, InlineSubscription):
            return None
        promoted = ThreadSubscription(item.name, item.pattern, item.handler, item.on_error, capacity)
        promoted.delivered, promoted.errors, promoted.key = item.delivered, item.errors, item.key
        with self._lock:
            if item not in self.subscriptions:
                return None
            self.subscriptions = tuple(promoted if other is item else other for other in self.subscriptions)
            self._routes = {}
        return promoted

    def add_processor(self, item: BatchProcessor) -> None:
        with self._lock:
            self.processors = (*self.processors, item)

    def remove_processor(self, item: BatchProcessor) -> None:
        with self._lock:
            self.processors = tuple(other for other in self.processors if other is not item)

    def reset_after_fork(self) -> None:
        """Rebuild locks and queues in a forked child; registrations stay."""
        self._lock = threading.RLock()
        self._routes = {}
        for registration in self.reducers:
            registration.calls = registration.filtered = registration.errors = 0
        for subscription in self.subscriptions:
            subscription.reset_after_fork()
        self.subscriptions = tuple(item for item in self.subscriptions if item.active)
        for processor in self.processors:
            processor.reset_after_fork()
