"""Instrumentation: one module a target. Each makes an engine emit its node transitions on a zupa bus.

`zupa_instrumentation.engine` instruments `zupa.engine.EngineExecutor`. For an engine of your own, use `Recorder`.
"""

from zupa_instrumentation._recorder import Recorder
from zupa_instrumentation._scopes import NodeScope, RunScope, StepScope

__all__ = ["NodeScope", "Recorder", "RunScope", "StepScope"]
