#!/usr/bin/env python3
"""Run the unit and contract tests against the built wheel, installed in a new environment, far from the source tree.

Builds the sdist and from it the wheel, so that what is missing from either fails here and not at a user's.
Usage: ``make wheel-test``. Arguments go to pytest. The Python that runs this needs `build` and `hatchling`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("unit", "contract")

# Loaded before any test: the run is void if `zupa` came from anywhere else than the installed wheel.
GUARD = """\
import sysconfig
from pathlib import Path

import pytest


def pytest_sessionstart():
    import zupa
    import zupa_instrumentation

    site = Path(sysconfig.get_path("purelib")).resolve()
    for package in (zupa, zupa_instrumentation):
        home = Path(next(iter(package.__path__))).resolve()
        if home.parent != site:
            pytest.exit(f"{package.__name__} comes from {home}, not from the wheel in {site}", returncode=3)
"""


def main() -> int:
    """Build, install, test; return pytest's exit status."""
    with tempfile.TemporaryDirectory(prefix="zupa-wheel-") as directory:
        work = Path(directory)
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", ROOT]
        subprocess.run(build, check=True)
        (wheel,) = (work / "dist").glob("*.whl")
        print(f"wheel-test: built {wheel.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        python = work / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
        subprocess.run([*pip, f"{wheel}[test]"], check=True)

        # pyproject.toml for pytest's settings; the tests themselves, and nothing else of the tree.
        tree = work / "tree"
        tree.mkdir()
        (tree / "conftest.py").write_text(GUARD, encoding="utf-8")
        shutil.copy(ROOT / "pyproject.toml", tree)
        shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        suites = [f"tests/{name}" for name in SUITES if any((tree / "tests" / name).rglob("test_*.py"))]
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, *sys.argv[1:]]
        return subprocess.run(command, cwd=tree, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
