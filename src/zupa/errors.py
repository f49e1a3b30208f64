"""The errors that zupa raises, as a tree.

::

    ZupaError
    ├── ConfigurationError (ValueError)   a setting is unusable; raised at construction, names the setting
    ├── InvalidEventError (ValueError)    a name or payload breaks the grammar; raised by a strict bus only
    ├── PatternError (ValueError)         a subscription pattern cannot match anything
    ├── LifecycleError                    resources failed to start or stop; carries every failure
    └── EngineError
        ├── GraphValidationError (ValueError)  the graph cannot run: unknown node, no entrypoint, ...
        ├── NodeNotFoundError (LookupError)    a task names a node that the graph does not have
        ├── RecursionLimitError                the run took more super-steps than allowed
        ├── InvalidUpdateError                 two writes of one super-step cannot be merged
        └── CheckpointError                    nothing to resume, or a checkpoint cannot be stored

`zupa.engine.GraphInterrupt` is control flow, not an error of this tree's kind, but derives from `EngineError` so
that one ``except`` clause can catch all that a run raises.

Telemetry never breaks the application: after construction, a bus that is not strict raises none of these into its
caller. What would have been an error is counted in `EventBus.statistics` instead.
"""

from __future__ import annotations

from collections.abc import Sequence


class ZupaError(Exception):
    """Base of every error that zupa raises on purpose."""


class ConfigurationError(ZupaError, ValueError):
    """A setting is unusable. The message names the setting, its value and what is allowed."""


class InvalidEventError(ZupaError, ValueError):
    """An event's name or payload breaks the grammar of `zupa.event`."""


class PatternError(ZupaError, ValueError):
    """A pattern can never match a topic."""


class LifecycleError(ZupaError):
    """One or more resources failed to start or stop.

    Attributes:
        errors: ``(resource name, error)`` pairs in the order in which they happened.
    """

    def __init__(self, action: str, errors: Sequence[tuple[str, BaseException]]) -> None:
        self.errors: tuple[tuple[str, BaseException], ...] = tuple(errors)
        detail = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in self.errors)
        super().__init__(f"{len(self.errors)} resource(s) failed to {action}: {detail}")


class EngineError(ZupaError):
    """Base of what the engine raises."""


class GraphValidationError(EngineError, ValueError):
    """The graph cannot run as it was described."""


class NodeNotFoundError(EngineError, LookupError):
    """A task names a node that the graph does not have."""


class RecursionLimitError(EngineError):
    """The run took more super-steps than `recursion_limit` allows."""


class InvalidUpdateError(EngineError):
    """Two writes of one super-step cannot be merged by their channel."""


class CheckpointError(EngineError):
    """There is nothing to resume, or a checkpoint cannot be stored or read."""
