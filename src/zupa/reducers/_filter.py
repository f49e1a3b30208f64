"""`filter_events`: keep the events for which a predicate holds."""

from __future__ import annotations

from collections.abc import Callable

from zupa.event import Event
from zupa.reducers._settings import check_callable


class FilterEvents:
    """What `filter_events` returns."""

    name = "filter_events"

    def __init__(self, predicate: Callable[[Event], object]) -> None:
        check_callable("filter_events(predicate)", predicate)
        self._predicate = predicate

    def __call__(self, event: Event) -> Event | None:
        return event if self._predicate(event) else None

    def __repr__(self) -> str:
        return f"filter_events({getattr(self._predicate, '__qualname__', type(self._predicate).__qualname__)})"


def filter_events(predicate: Callable[[Event], object]) -> FilterEvents:
    """Keep the events for which *predicate* returns something true; the bus counts the others as ``filtered``.

    A predicate that raises keeps the event: the bus isolates the failure and passes the event on.

    Raises:
        ConfigurationError: *predicate* cannot be called.
    """
    return FilterEvents(predicate)
