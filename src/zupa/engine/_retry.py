"""`RetryPolicy`: which errors of a node are tried again, and when."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from zupa.errors import ConfigurationError


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Try a failed node again after ``initial_delay_s * backoff ** (attempt - 1)`` seconds.

    `GraphInterrupt` and cancellation are control flow and are never retried, whatever `retry_on` says.

    Attributes:
        max_attempts: Attempts in all, the first included; at least 1.
        initial_delay_s: Pause after the first failure, in seconds.
        backoff: Factor from one pause to the next; at least 1.
        max_delay_s: Longest pause, jitter included, in seconds.
        jitter: Share of the pause that is random, 0 to 1: 0.1 makes it 90 % to 110 %.
        retry_on: An exception class, a tuple of them, or a predicate of the error.

    Raises:
        ConfigurationError: at construction, naming the setting.
    """

    max_attempts: int = 3
    initial_delay_s: float = 0.05
    backoff: float = 2.0
    max_delay_s: float = 5.0
    jitter: float = 0.0
    retry_on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = (Exception,)

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ConfigurationError(f"RetryPolicy.max_attempts={self.max_attempts!r} must be a whole number >= 1")
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                limit = f">= {low:g}" if high == _LARGEST else f"from {low:g} to {high:g}"
                raise ConfigurationError(f"RetryPolicy.{name}={value!r} must be a number {limit}")
        classes = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        for item in classes:
            is_class = isinstance(item, type) and issubclass(item, Exception)
            if not is_class and (isinstance(self.retry_on, tuple) or isinstance(item, type) or not callable(item)):
                raise ConfigurationError(
                    f"RetryPolicy.retry_on={self.retry_on!r} must be exception classes or a predicate of the error"
                )

    def should_retry(self, error: Exception, attempt: int) -> bool:
        """Whether another attempt follows after attempt number *attempt*, from 1, failed with *error*."""
        if attempt >= self.max_attempts:
            return False
        if isinstance(self.retry_on, tuple | type):
            return isinstance(error, self.retry_on)
        return bool(self.retry_on(error))

    def delay_s(self, attempt: int) -> float:
        """Return the pause in seconds after attempt number *attempt*, from 1, failed."""
        try:
            delay = self.initial_delay_s * float(self.backoff) ** (attempt - 1)
        except OverflowError:
            delay = self.max_delay_s if self.initial_delay_s else 0.0
        if self.jitter:
            delay *= 1 + random.uniform(-self.jitter, self.jitter)  # noqa: S311 - spreads load, guards nothing
        return min(delay, self.max_delay_s)


_LARGEST = 1e9
_BOUNDS = (
    ("initial_delay_s", 0, _LARGEST),
    ("backoff", 1, _LARGEST),
    ("max_delay_s", 0, _LARGEST),
    ("jitter", 0, 1),
)
