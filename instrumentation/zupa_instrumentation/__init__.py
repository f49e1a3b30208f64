"""Instrumentation: one module a target. Each makes an engine emit its node transitions on a zupa bus.

``zupa_instrumentation.engine`` instruments `zupa.engine.EngineExecutor`.
"""
