#!/usr/bin/env python3
"""Rewrite constraints.txt: the newest versions that the oldest supported Python can install, all extras included.

Newer Pythons install the same versions; packages that only the oldest needs (exceptiongroup, tomli) are listed for it.
Usage: ``make lock PYTHON=python3.10``, then ``make check test`` with that Python and with the newest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
EXTRAS = "test,check"


def main() -> int:
    """Resolve in an empty environment and write the file; return the exit status."""
    if sys.version_info[:2] != OLDEST:
        print(f"lock: needs Python {OLDEST[0]}.{OLDEST[1]}: a newer one finds versions that the oldest cannot install")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        pip = [work / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        report = work / "report.json"
        resolve = ["--dry-run", "--ignore-installed", "--report", report, f"{ROOT}[{EXTRAS}]"]
        subprocess.run([*pip, *resolve], check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in installs}
    del pins["zupa-otel"]
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (ROOT / "constraints.txt").write_text("".join(lines), encoding="utf-8")
    print(f"lock: {len(lines)} versions in constraints.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
