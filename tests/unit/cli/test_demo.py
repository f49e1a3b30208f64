"""`zupa demo` on a terminal: what it prints, without any collector."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from zupa.cli import main


@pytest.fixture(scope="module")
def demo():
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ZUPA_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "zupa", "demo"],
        env=environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_it_succeeds_and_says_nothing_on_stderr(demo):
    assert (demo.returncode, demo.stderr) == (0, "")


def test_it_shows_the_tree_of_both_runs(demo):
    text = re.sub(r"  \d[\d.]* (?:ns|µs|ms|s)\b", "", demo.stdout)  # without durations
    first, second = text.split("== process 2")
    for line in (
        "⏸ trip-planner  interrupted: approval needed",
        "├─ ✓ step 1",
        "│  └─ ✓ plan",
        "│  ├─ ✓ search_flights  attempt 2  ← plan",
        "│  ├─ ✓ search_hotels  ← plan",
        "│  └─ ✓ check_visa  ← plan",
        "│     └─ ✗ visa-check  TimeoutError: the consulate of Lisbon did not answer",
        "│           └─ ✗ ask_consulate  TimeoutError: the consulate of Lisbon did not answer",
        "└─ ⏸ step 3  interrupted",
        "   └─ ⏸ approve  ← search_flights, search_hotels, check_visa  interrupted: approval needed",
    ):
        assert first.splitlines().count(line) == 1, (line, first)
    trace_id = re.search(r"^trace ([0-9a-f]{32})$", first, re.MULTILINE).group(1)
    for line in (
        f"✓ trip-planner  resumes trace {trace_id}",
        "│  └─ ✓ approve  ← search_flights, search_hotels, check_visa",
        "   └─ ✓ book  ← approve",
    ):
        assert second.splitlines().count(line) == 1, (line, second)
    assert "(incomplete)" not in text
    assert "agent:log:info entering node search_flights" in first


def test_it_accounts_for_every_event(demo):
    lines = [line for line in demo.stdout.splitlines() if line.startswith("statistics: ")]
    balanced = "dropped=0 queued=0 in_flight=0 imbalance=0 exported: ConsoleTreeExporter"
    assert lines == [
        f"statistics: emitted=31 delivered=31 filtered=0 fanned_out=6 {balanced}=37/37",
        f"statistics: emitted=13 delivered=13 filtered=0 fanned_out=2 {balanced}=15/15",
    ]


def test_it_shows_no_secret(demo):
    assert "sk-demo" not in demo.stdout + demo.stderr


def test_the_console_script_is_the_same_program():
    (script,) = entry_points(group="console_scripts", name="zupa")
    assert script.load() is main


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"zupa {version('zupa-otel')}\n"


@pytest.mark.parametrize("arguments", [[], ["juggle"], ["demo", "--resume", "one"]])
def test_unusable_arguments_are_explained(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage: zupa" in capsys.readouterr().err


def test_help_names_the_demo_and_imports_no_sdk():
    call = "try: main(['--help'])\nexcept SystemExit: print('zupa.otel' in sys.modules)"
    code = f"import sys; from zupa.cli import main\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "run an agent graph, instrumented, and show its trace" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_resuming_what_is_not_there_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "zupa", "demo", "--resume", str(tmp_path / "none.sqlite"), "t"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be resumed" in done.stderr
