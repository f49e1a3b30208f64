"""Checks of reducer settings, each with the message that names the setting."""

from __future__ import annotations

from typing import Any

from zupa.errors import ConfigurationError


def check_number(setting: str, value: Any, *, above: float | None = None, minimum: float | None = None) -> float:
    """Return *value* when it is a finite number over *above*, at least *minimum*."""
    limit = f"a finite number > {above}" if above is not None else f"a finite number >= {minimum}"
    usable = isinstance(value, int | float) and not isinstance(value, bool) and -float("inf") < value < float("inf")
    if not usable or (above is not None and not value > above) or (minimum is not None and not value >= minimum):
        raise ConfigurationError(f"{setting}={value!r} is unusable: it must be {limit}")
    return float(value)


def check_count(setting: str, value: Any, minimum: int = 1) -> int:
    """Return *value* when it is a whole number of at least *minimum*."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{setting}={value!r} is unusable: it must be a whole number >= {minimum}")
    return value


def check_callable(setting: str, value: Any, *, optional: bool = False) -> None:
    """Refuse a *value* that cannot be called with an event."""
    if not callable(value) and not (optional and value is None):
        raise ConfigurationError(
            f"{setting} is a {type(value).__name__}, which cannot be called: give a function that takes an Event"
        )
