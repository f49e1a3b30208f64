"""Runs the stress scripts, each in a process of its own, and judges what they report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and POSIX signals")


def run(module, *arguments, timeout=110):
    """Run a script; return the finished process and how long it took."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "instrumentation"), str(ROOT)])
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", f"tests.stress.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return process, time.monotonic() - started


def facts_of(process):
    assert process.returncode == 0, process.stderr[-4_000:]
    return msgspec.json.decode(process.stdout.splitlines()[-1])


def test_fork():
    process, _ = run("fork")
    facts = facts_of(process)
    assert facts["failures"] == [], process.stderr[-4_000:]
    assert facts["forks"] >= 100 or "ZUPA_STRESS_FORKS" in os.environ
    assert facts["discarded"] > 0  # some children were forked with events in the queue, else nothing was tested
    assert facts["flushed"]
    assert facts["emitted"] == facts["calls"]


def test_reentrancy():
    process, _ = run("reentrancy")
    facts = facts_of(process)
    assert facts["signals"] > 100
    assert facts["finalised"] > 1_000
    assert facts["flushed"]
    assert facts["emitted"] == facts["calls"]
    assert facts["left"] == 0
    assert facts["restarts"] == 0
    assert facts["exported"] == facts["received"]
    assert "Exception ignored" not in process.stderr, process.stderr[-4_000:]


def names(path):
    return path.read_text(encoding="utf-8").split() if path.exists() else []


ALL = [f"event_{index}" for index in range(1_000)]


@pytest.mark.parametrize(
    ("scenario", "code", "expected", "output"),
    [
        ("plain", 0, [*ALL, "shutdown"], ""),
        ("raising", 5, [*ALL, "shutdown"], ""),
        ("late", 0, [*ALL, "shutdown"], "counted\n"),
        ("early", 0, [*ALL, "early", "shutdown"], ""),
        ("first_in_atexit", 0, [*ALL[:5], "shutdown"], "flushed\n"),
        ("gone", 0, [], ""),
        ("multiprocessing_fork", 0, [*ALL[:3], "shutdown", "parent", "shutdown"], ""),
        ("multiprocessing_spawn", 0, [*ALL[:3], "shutdown"], ""),
    ],
)
def test_the_end_of_a_process(tmp_path, scenario, code, expected, output):
    process, seconds = run("exits", scenario, str(tmp_path / "names"))
    assert process.returncode == code, process.stderr
    assert process.stdout == output
    assert "Traceback" not in process.stderr
    found = names(tmp_path / "names")
    assert found == expected, Counter(found)
    assert seconds < 10


@pytest.mark.parametrize(("scenario", "code"), [("hanging", 7), ("several", 0)])
def test_the_end_of_a_process_whose_exporter_hangs(tmp_path, scenario, code):
    _, base = run("exits", "plain", str(tmp_path / "base"))
    process, seconds = run("exits", scenario, str(tmp_path / "names"))
    assert process.returncode == code, process.stderr
    assert seconds < base + 1.0 + 0.5
    assert "Traceback" not in process.stderr
    assert names(tmp_path / "names") == (["healthy", "shutdown"] if scenario == "several" else [])
