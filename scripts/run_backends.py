#!/usr/bin/env python3
"""Run the built Collector and Jaeger with the repository's configurations until Ctrl-C or until one of them ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ROOT / "tests" / "integration" / "backends"


def main() -> int:
    """Start both, wait, stop both."""
    builder = [sys.executable, str(BACKENDS / "build.py"), "--print-directory"]
    binaries = Path(subprocess.run(builder, capture_output=True, text=True, check=True).stdout.strip())
    commands = [
        [binaries / "jaeger", "--config", BACKENDS / "jaeger-config.yaml"],
        [binaries / "otelcol-zupa", "--config", ROOT / "collector-config.yaml"],
    ]
    missing = [str(command[0].name) for command in commands if not command[0].exists()]
    if missing:
        print(f"{' and '.join(missing)} not built: run `make backends` (it needs Go)", file=sys.stderr)
        return 1
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    print("OTLP: http://localhost:4317 (gRPC), http://localhost:4318 (HTTP)", flush=True)
    print("Jaeger: http://localhost:16686", flush=True)
    try:
        os.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
