"""The plugin as users get it: through its entry point, in a pytest of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import zupa.testing

pytest_plugins = ["pytester"]

ENGINE = """
    from zupa.engine import EngineExecutor, Graph

    def engine():
        graph = Graph(name="support")
        graph.add_node("plan", lambda ctx: None)
        graph.add_node("answer", lambda ctx: None)
        graph.add_edge("plan", "answer")
        return EngineExecutor(graph)
"""


@pytest.fixture
def run(pytester, import_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(import_path))

    def run(tests):
        pytester.makepyfile(textwrap.dedent(ENGINE) + textwrap.dedent(tests))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider")

    return run


def test_the_fixture_captures_and_restores(run):
    result = run(
        """
    from zupa_instrumentation.engine import EngineInstrumentor

    def test_captured(zupa_capture):
        engine().invoke_sync({})
        zupa_capture.assert_path(["plan", "answer"])
        zupa_capture.assert_no_loss()
        assert {span.context.trace_id for span in zupa_capture.spans} == {1}

    def test_again_from_the_start(zupa_capture):
        assert zupa_capture.events == ()
        engine().invoke_sync({})
        assert {span.context.trace_id for span in zupa_capture.spans} == {1}

    def test_without():
        assert not EngineInstrumentor().is_instrumented_by_opentelemetry
"""
    )
    result.assert_outcomes(passed=3)


def test_a_failed_test_shows_the_tree(run):
    result = run(
        """
    def test_wrong(zupa_capture):
        engine().invoke_sync({})
        assert zupa_capture.path() == ["answer"]

    def test_nothing_to_show(zupa_capture):
        assert zupa_capture.path() == ["answer"]

    def test_right(zupa_capture):
        engine().invoke_sync({})
"""
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*- zupa_capture -*", "trace 0*1", "✓ support*", "*✓ plan*", "*✓ answer*"])
    assert result.stdout.str().count("- zupa_capture -") == 1


def test_a_report_survives_a_capture_that_cannot_be_drained(run):
    result = run(
        """
    def test_broken(zupa_capture):
        zupa_capture.drain = lambda *args: [][0]
        zupa_capture.bus.emit("a", "b")
        assert not "the reason of the failure"
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the reason of the failure*", "(not available: *"])


def test_the_plugin_itself_imports_nothing_heavy():
    """Measured without the package above it: what that imports is not the plugin's doing."""
    plugin = Path(zupa.testing.__file__).with_name("plugin.py")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('plugin', {str(plugin)!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('zupa', 'opentelemetry', 'msgspec')))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
