"""Every code block of the README runs: Python blocks as programs of their own, shell blocks for what they name."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines() if line.strip()]


def environment(**extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ZUPA_"))}
    return {**clean, **extra}


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(**extra), check=False)


def test_every_language_in_the_readme_is_handled():
    assert {"python", "bash", "text"} >= {language for language, _ in BLOCKS}
    assert len(PYTHON) >= 6


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(code, tmp_path):
    is_test = "def test_" in code
    script = tmp_path / ("test_block.py" if is_test else "block.py")
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    if is_test:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(script),
        ]

    result = run(command)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("line", SHELL)
def test_shell_line_does_what_it_says(line, tmp_path):
    words = shlex.split(line)
    extra = dict(word.split("=", 1) for word in words if "=" in word)
    command = [word for word in words if "=" not in word]
    if command[0] == "make":
        # Running `make test` inside `make test` would never end; that the target exists is what can be shown here.
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return
    assert command[0] == "zupa"
    from tests.support.otlp_receiver import OtlpReceiver

    with OtlpReceiver() as receiver:
        grpc = "4317" in extra["OTEL_EXPORTER_OTLP_ENDPOINT"]
        extra["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.grpc_endpoint if grpc else receiver.http_endpoint

        result = run([sys.executable, "-m", "zupa", *command[1:]], **extra)

        assert result.returncode == 0, result.stdout + result.stderr
        assert "imbalance=0" in result.stdout
        receiver.wait_for(n_spans=10, n_logs=10, timeout=10)


def test_settings_table_is_true():
    from zupa import BusConfig

    table = README.partition("## Settings")[2].partition("##")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? *\| `?([\w. ]+?)`? \|", table, re.MULTILINE)
    config = BusConfig()

    assert set(BusConfig.__struct_fields__) == {name for name, _, _ in rows}
    for name, _, default in rows:
        value = getattr(config, name)
        shown = {"64 MiB": 64 * 1024 * 1024, "DROP_NEWEST": "drop_newest", "False": False}.get(default, default)
        assert str(getattr(value, "value", value)) == str(shown), name
    for name, variable, _ in rows:
        if variable:
            assert getattr(BusConfig.from_env({variable: "1500"}), name) == 1500
