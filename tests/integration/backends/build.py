#!/usr/bin/env python3
"""Build the real backends of the tests, Collector and Jaeger, from Go modules with checksum verification on.

Binaries go to a cache outside the clone, keyed by the hash of the build files, so that a second run costs nothing:
``$XDG_CACHE_HOME/zupa-otel/backends/<hash>``; ``ZUPA_BACKENDS_DIR`` names another directory, e.g. of a CI cache.
Cold, both builds take about seven minutes and 5 GB of Go caches.

Usage: ``build.py`` builds what is missing; ``build.py --print-directory`` says where the binaries belong.
Without a Go toolchain it says so and succeeds: the tests that need a backend skip themselves.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD_FILES = ("builder.yaml", "jaeger/go.mod", "jaeger/go.sum")
COLLECTOR_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.159.0"
JAEGER_PACKAGE = "github.com/jaegertracing/jaeger/cmd/jaeger"


def cache_directory() -> Path:
    """Where the binaries of these build files belong. It need not exist."""
    if override := os.environ.get("ZUPA_BACKENDS_DIR"):
        return Path(override)
    digest = hashlib.sha256(f"{COLLECTOR_BUILDER} {JAEGER_PACKAGE}".encode())
    for name in BUILD_FILES:
        digest.update((HERE / name).read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "zupa-otel" / "backends" / digest.hexdigest()[:16]


def go(*arguments: str, cwd: Path) -> None:
    """Run the Go tool in *cwd*. A build must depend on the build files alone, hence the fixed settings."""
    settings = {"GOFLAGS": "-mod=mod", "CGO_ENABLED": "0", "GOWORK": "off"}
    subprocess.run(["go", *arguments], cwd=cwd, env={**os.environ, **settings}, check=True)


def build_collector(work: Path) -> Path:
    """Build the Collector in *work*; return the binary."""
    shutil.copy(HERE / "builder.yaml", work)
    go("run", COLLECTOR_BUILDER, "--config", "builder.yaml", cwd=work)
    return work / "_build" / "otelcol-zupa"


def build_jaeger(work: Path) -> Path:
    """Build Jaeger in *work*; return the binary."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / "jaeger" / name, work)
    go("build", "-trimpath", "-ldflags=-s -w", "-o", "jaeger", JAEGER_PACKAGE, cwd=work)
    return work / "jaeger"


BACKENDS: dict[str, Callable[[Path], Path]] = {"otelcol-zupa": build_collector, "jaeger": build_jaeger}


def main() -> int:
    """Build what is missing; return the exit status."""
    directory = cache_directory()
    if sys.argv[1:] == ["--print-directory"]:
        print(directory)
        return 0
    missing = [name for name in BACKENDS if not (directory / name).is_file()]
    if not missing:
        print(f"backends: all there, in {directory}")
        return 0
    if shutil.which("go") is None:
        print(f"backends: SKIPPED, no `go` on PATH to build {' and '.join(missing)}; install Go 1.26 or newer")
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    for name in missing:
        print(f"backends: building {name} (minutes on a new machine, seconds with warm caches)", flush=True)
        started = time.monotonic()
        # In the cache directory itself, so that the last step is an atomic rename: two builders cannot disturb each
        # other, and an interrupted build leaves no half binary behind.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory) as work:
            try:
                binary = BACKENDS[name](Path(work))
            except subprocess.CalledProcessError as error:
                print(f"backends: FAILED to build {name} (exit status {error.returncode}, see above); run me again")
                return 1
            binary.replace(directory / name)
        print(f"backends: {name} took {time.monotonic() - started:.0f} s", flush=True)
    print(f"backends: in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
