"""The argument parser of `zupa`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 when the command did what it says, 1 when it did not, 2 for unusable arguments.
    """
    parser = argparse.ArgumentParser(prog="zupa", description="Observability for agent runtimes, on OpenTelemetry.")
    parser.add_argument("--version", action="version", version=f"zupa {version('zupa-otel')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run an agent graph, instrumented, and show its trace",
        description="Run an agent graph with parallel nodes, a retry, a failing branch, and an interrupt that a second "
        "process resumes. Prints the trace; sends it by OTLP too where OTEL_EXPORTER_OTLP_ENDPOINT is set.",
    )
    demo.add_argument("--resume", nargs=2, metavar=("DATABASE", "THREAD"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from zupa.cli._demo import run_demo  # noqa: PLC0415 - `zupa --help` should not import an SDK

    return run_demo(options.resume)
