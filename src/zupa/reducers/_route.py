"""`route`: send events to another topic, instead of their own or besides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zupa.event import Event, check_names, split_topic
from zupa.reducers._rename import check_topic, fill
from zupa.reducers._settings import check_callable


class Route:
    """What `route` returns."""

    name = "route"

    def __init__(
        self, to: str | Callable[[Event], str | None], *, when: Callable[[Event], object] | None, copy: bool
    ) -> None:
        if not callable(to):
            check_topic("route(to)", to)
        check_callable("route(when)", when, optional=True)
        self._to = to
        self._when = when
        self._copy = copy

    def __call__(self, event: Event) -> Event | list[Event]:
        if self._when is not None and not self._when(event):
            return event
        topic = self._to(event) if callable(self._to) else fill(self._to, event.name)
        if topic is None:
            return event
        channel, name = split_topic(topic)
        if channel == event.channel and name == event.name:
            return event
        check_names(channel, name)
        routed = event.replace(channel=channel, name=name)
        return [event, routed] if self._copy else routed

    def __repr__(self) -> str:
        return f"route({'...' if callable(self._to) else repr(self._to)}, copy={self._copy})"


def route(
    to: str | Callable[[Event], str | None], *, when: Callable[[Event], Any] | None = None, copy: bool = False
) -> Route:
    """Send events to the topic *to*.

    Args:
        to: ``channel:name``; or ``channel:*``, where the ``*`` stands for the event's name; or a function from the
            event to a topic, None for "leave it where it is".
        when: Only the events for which it returns something true are routed. To choose by topic, register the route
            with a pattern instead: ``bus.use(route("audit:*"), pattern="engine:*")``.
        copy: Keep the original too; the copy follows it, with a sequence number of its own.

    Raises:
        ConfigurationError: a setting is unusable. (A function that returns a bad topic raises in the worker, where
            the bus isolates it: the event passes on unchanged and the failure is counted.)
    """
    return Route(to, when=when, copy=copy)
