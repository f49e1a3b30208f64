"""`ForeignSpans`: the spans that other libraries make inside nodes, where the application has no SDK of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler


class ForeignSpans:
    """Exports other libraries' spans in batches, through exporters of its own.

    An exporter instance belongs to one thread: sharing the bus's would make concurrent exports. The first instance
    installs OpenTelemetry's global TracerProvider, which can be set once a process; later instances take its spans
    over. Its resource and sampler are those of the first.

    Concurrency: any thread.
    """

    def __init__(self, exporters: Iterable[SpanExporter], resource: Resource, sampler: Sampler) -> None:
        """Take ownership of *exporters*. Nothing is exported before `connect`."""
        self._pipeline = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        for exporter in exporters:
            self._pipeline.add_span_processor(BatchSpanProcessor(exporter))
        if _switch.provider is None:
            provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
            provider.add_span_processor(_switch)
            _switch.provider = provider
            trace.set_tracer_provider(provider)
        self._closing = threading.Event()
        # Started now, because a process that is exiting can start no threads (Python 3.12).
        self._closer = self._start_closer()

    def connect(self) -> None:
        """Let spans come here from now on."""
        _switch.target = self._pipeline

    def flush(self, timeout_millis: float) -> bool:
        """Return True when all spans that have ended are exported within *timeout_millis*."""
        # On a thread that can be left behind, because the SDK's processors do not keep deadlines.
        thread = threading.Thread(target=self._pipeline.force_flush, name="zupa-foreign-flush", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is exiting
            return False
        thread.join(timeout_millis / 1e3)
        return not thread.is_alive()

    def begin_shutdown(self) -> None:
        """Take no more spans, and export what is left, in the background."""
        if _switch.target is self._pipeline:
            _switch.target = None
        if not self._closing.is_set() and not self._closer.is_alive():  # a forked child
            self._closer = self._start_closer()
        self._closing.set()

    def finish_shutdown(self, timeout_millis: float) -> bool:
        """Wait for what `begin_shutdown` began; False when *timeout_millis* did not suffice. Idempotent."""
        self._closer.join(max(0.01, timeout_millis / 1e3))
        return not self._closer.is_alive()

    def _start_closer(self) -> threading.Thread:
        thread = threading.Thread(target=self._close, name="zupa-foreign-shutdown", daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        self._closing.wait()
        self._pipeline.shutdown()


class _Switch(SpanProcessor):
    """The processor of our global provider. Both stay for ever; where the spans go changes."""

    target: SpanProcessor | None = None
    provider: TracerProvider | None = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if (target := self.target) is not None:
            target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if (target := self.target) is not None:
            target.on_end(span)

    def shutdown(self) -> None:
        if (target := self.target) is not None:
            target.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self.target
        return target is None or target.force_flush(timeout_millis)


_switch: Final = _Switch()


def is_our_provider(provider: object) -> bool:
    """Whether *provider* is the one that `ForeignSpans` installed, and not the application's."""
    return provider is not None and provider is _switch.provider
