"""`python benchmarks [--quick] [--only emit,engine,...] [--report FILE]`; see README.md beside this."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Final

import emit
import engine
import memory
import sinks
import throughput
from _harness import Report, describe_machine
from _receiver import Receiver

SUITES: Final = {
    "emit": emit.run,
    "engine": engine.run,
    "sinks": sinks.run,
    "throughput": throughput.run,
    "memory": memory.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks", description="Ratios side by side, in one run.")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work? The numbers mean little")
    parser.add_argument("--only", type=_suites, default=list(SUITES), help=f"some of {','.join(SUITES)}")
    parser.add_argument("--report", type=Path, help="also write the Markdown to this file")
    options = parser.parse_args()

    # What is measured are the defaults, whatever the shell has set.
    for variable in [name for name in os.environ if name.startswith(("OTEL_", "ZUPA_"))]:
        del os.environ[variable]
    # Both sides warn when they drop on purpose here; the counts are in the tables.
    for name in ("opentelemetry", "zupa"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False

    report = Report()
    report.add("# Benchmarks", "", *describe_machine())
    if options.quick:
        report.add("- **Quick run: sizes are too small for conclusions**")
    with Receiver() as receiver:
        for name in options.only:
            SUITES[name](report, receiver, quick=options.quick)
    report.summary()
    if options.report is not None:
        report.write(options.report)


def _suites(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in SUITES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown benchmark {', '.join(unknown) or text!r}: use {', '.join(SUITES)}")
    return names


if __name__ == "__main__":
    main()
