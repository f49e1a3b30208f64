"""What import-linter cannot see: which modules import `opentelemetry.sdk`, and that `__all__` is the truth."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import zupa
import zupa.bus
import zupa.engine
import zupa.otel
import zupa.reducers
import zupa.runtime
import zupa.testing
import zupa_instrumentation

ALLOWED = ("otel/", "testing/", "_wiring.py")
FORBIDDEN = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def offenders(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted(root.rglob("*.py"))
        if not str(path.relative_to(root)).startswith(ALLOWED)
        for name in imported_modules(path)
        if name.startswith(FORBIDDEN)
    ]


def test_sdk_is_imported_only_where_it_may_be():
    assert offenders(Path(zupa.__file__).parent) == []
    assert offenders(Path(zupa_instrumentation.__file__).parent) == []


def test_the_check_can_fail(tmp_path):
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus" / "bad.py").write_text("from opentelemetry.sdk.trace import ReadableSpan\n", encoding="utf-8")

    assert offenders(tmp_path) == ["bus/bad.py imports opentelemetry.sdk.trace.ReadableSpan"]


@pytest.mark.parametrize(
    "module", [zupa, zupa.bus, zupa.engine, zupa.otel, zupa.reducers, zupa.runtime, zupa.testing, zupa_instrumentation]
)
def test_all_is_sorted_and_importable(module):
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
