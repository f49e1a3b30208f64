"""Makes zupa's entry points visible where zupa is run from its source tree and not installed."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import zupa
import zupa_instrumentation

ENTRY_POINTS = """\
[opentelemetry_instrumentor]
zupa_engine = zupa_instrumentation.engine:EngineInstrumentor

[pytest11]
zupa = zupa.testing.plugin
"""


@pytest.fixture(scope="session")
def import_path(tmp_path_factory):
    """The directories that a child process needs on its path to find zupa and its entry points."""
    roots = [str(Path(module.__file__).parents[1]) for module in (zupa, zupa_instrumentation)]
    if not any(point.value == "zupa.testing.plugin" for point in entry_points(group="pytest11")):
        root = tmp_path_factory.mktemp("installed")
        metadata = root / "zupa_otel-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: zupa-otel\nVersion: 0\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
        roots.append(str(root))
    return roots


@pytest.fixture(autouse=True)
def installed(import_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, *(root for root in import_path if root not in sys.path)])
