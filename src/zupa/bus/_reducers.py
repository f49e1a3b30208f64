"""The reducer pipeline: registrations, and the pure walk of one event through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from zupa.bus._patterns import Pattern
from zupa.event import Event
from zupa.ports import ReducerFunction
from zupa.statistics import ReducerStatistics

MAX_FAN_OUT: Final = 10_000
"""Events that one emitted event may become: a runaway reducer must not fill the memory."""


class Registration:
    """One registered reducer and its counts. Only the worker writes the counts."""

    __slots__ = ("calls", "errors", "fails_closed", "filtered", "matches", "name", "pattern", "reducer")

    def __init__(self, reducer: ReducerFunction, pattern: Pattern | None, name: str) -> None:
        self.reducer = reducer
        self.pattern = pattern
        self.matches = None if pattern is None or pattern.matches_everything else pattern.matches
        self.name = name
        self.fails_closed = bool(getattr(reducer, "fails_closed", False))
        self.calls = self.filtered = self.errors = 0

    def statistics(self) -> ReducerStatistics:
        """Return a snapshot of the counts."""
        return ReducerStatistics(calls=self.calls, filtered=self.filtered, errors=self.errors)


ErrorCallback = Callable[[Registration, BaseException], None]


def apply(
    event: Event, registrations: tuple[Registration, ...], on_error: ErrorCallback, start: int = 0
) -> tuple[list[Event], bool]:
    """Walk *event* through *registrations* from index *start*.

    Returns:
        The events that came of it, in order, and whether a reducer that fails closed raised on the way.

    A reducer that raises, or returns something that is no event, is reported to *on_error* and passed over; the event
    goes on unchanged. One that fails closed takes the event with it.
    """
    for index in range(start, len(registrations)):
        registration = registrations[index]
        if registration.matches is not None and not registration.matches(event.topic):
            continue
        registration.calls += 1
        try:
            result: Any = registration.reducer(event)
            if result.__class__ is Event:
                event = result
                continue
            if result is None:
                registration.filtered += 1
                return [], False
            items = _checked(result)
        except BaseException as error:  # noqa: BLE001 - SystemExit from user code must not end the worker
            registration.errors += 1
            on_error(registration, error)
            if registration.fails_closed:
                return [], True
            continue
        if not items:
            registration.filtered += 1
        return _fan_out(items, registrations, on_error, index + 1)
    return [event], False


def _fan_out(
    items: list[Event], registrations: tuple[Registration, ...], on_error: ErrorCallback, start: int
) -> tuple[list[Event], bool]:
    events: list[Event] = []
    failed_closed = False
    for item in items:
        produced, closed = apply(item, registrations, on_error, start)
        events.extend(produced)
        failed_closed = failed_closed or closed
        if len(events) > MAX_FAN_OUT:
            del events[MAX_FAN_OUT:]
            on_error(registrations[start - 1], ValueError(f"one event became more than {MAX_FAN_OUT}; the rest is cut"))
            break
    return events, failed_closed


def _checked(result: Any) -> list[Event]:
    if isinstance(result, Event):
        return [result]
    if isinstance(result, list | tuple):
        for item in result:
            if not isinstance(item, Event):
                break
        else:
            return list(result)
    raise TypeError(
        f"a reducer returned {type(result).__name__}; it must return an Event, a list or tuple of Events, or None"
    )
