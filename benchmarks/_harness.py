"""What all benchmarks share: interleaved rounds, ratios pair by pair, Markdown, and the machine they ran on."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from typing import Any, Final

PAYLOADS: Final[Mapping[str, dict[str, Any]]] = {
    "1 key": {"node": "plan"},
    "10 keys": {
        "node": "plan",
        "run_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "thread_id": "conversation-17",
        "step": 12,
        "attempt": 1,
        "model": "large-2026",
        "input_tokens": 1834,
        "output_tokens": 211,
        "temperature": 0.2,
        "cached": False,
    },
}
CONTROL: Final = " (A/A control)"
"""Ends the name of a contestant that takes part twice: how far its ratio is from 1 is the noise."""

_PACKAGES: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp", "grpcio", "protobuf", "msgspec", "wrapt")


@dataclass(frozen=True)
class Sample:
    """What one contestant did in one round.

    Attributes:
        values: Measure to number; every sample of a comparison has the same measures.
        made: Kind of item ("calls", "spans", ...) to how many were handed in.
        arrived: The same kinds to how many came out at the far end.
        counted: How many the contestant itself has counted as lost; None where it keeps no such count.
    """

    values: Mapping[str, float]
    made: Mapping[str, int] = field(default_factory=dict)
    arrived: Mapping[str, int] = field(default_factory=dict)
    counted: int | None = None


@dataclass(frozen=True)
class Spread:
    """Median and range of a series."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, series: Sequence[float]) -> Spread:
        return cls(statistics.median(series), min(series), max(series))

    def text(self, form: Callable[[float], str]) -> str:
        return f"{form(self.median)} ({form(self.low)}-{form(self.high)})"


@dataclass(frozen=True)
class Results:
    """The samples of one comparison: contestant to one sample per round, in the same order for all."""

    samples: Mapping[str, Sequence[Sample]]

    def spread(self, name: str, measure: str) -> Spread:
        return Spread.of([sample.values[measure] for sample in self.samples[name]])

    def ratio(self, name: str, base: str, measure: str, *, less: str | None = None) -> Spread:
        """The ratio of *name* to *base*, round by round; *less* is a contestant whose value both are reduced by."""
        floors = [0.0] * len(self.samples[name]) if less is None else self.series(less, measure)
        pairs = zip(self.series(name, measure), self.series(base, measure), floors, strict=True)
        # Where the base drowns in the floor's own noise, one tenth of a nanosecond stands for it.
        return Spread.of([(value - floor) / max(reference - floor, 0.1) for value, reference, floor in pairs])

    def series(self, name: str, measure: str) -> list[float]:
        return [sample.values[measure] for sample in self.samples[name]]

    def loss(self, name: str) -> str:
        """What *name* lost in all rounds, by kind, and how much of that its own counts leave unexplained; as text."""
        samples = self.samples[name]
        texts, unexplained = [], 0
        for kind in samples[0].made:
            made = sum(sample.made[kind] for sample in samples)
            lost = made - sum(sample.arrived[kind] for sample in samples)
            unexplained += lost
            texts.append(f"{lost:,} of {made:,} {kind}" + (f" ({100 * lost / made:.1f} %)" if lost else ""))
        counts = [sample.counted for sample in samples if sample.counted is not None]
        if counts:
            texts.append(f"unexplained {unexplained - sum(counts):,}")
        return "; ".join(texts) or "-"


def interleave(contestants: Mapping[str, Callable[[], Sample]], rounds: int, *, label: str = "") -> Results:
    """Measure all *contestants* in turn, *rounds* times after a first round that is thrown away.

    Each measurement makes its own fresh state. The garbage of one is collected before the next; the collector stays
    on while time is taken.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, measure in contestants.items():
            progress(f"{label}: round {number}/{rounds}: {name}")
            gc.collect()
            sample = measure()
            if number:
                samples[name].append(sample)
    progress("")
    return Results(samples)


def progress(text: str) -> None:
    """Show where the run is, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:110]}")
        sys.stderr.flush()


def compile_loop(statement: str, **names: Any) -> Callable[[int], int]:
    """Return a function that runs *statement* n times and returns the ns it took; *names* are its local variables.

    Generated as `timeit` does it, so that no call stands between the loop and what is measured.
    """
    arguments = ", ".join(f"{name}={name}" for name in names)
    source = (
        f"def loop(count, *, clock=clock, repeat=repeat, {arguments}):\n"
        f"    start = clock()\n"
        f"    for _ in repeat(None, count):\n"
        f"        {statement}\n"
        f"    return clock() - start\n"
    )
    scope: dict[str, Any] = {"clock": time.perf_counter_ns, "repeat": repeat, **names}
    exec(source, scope)
    loop: Callable[[int], int] = scope["loop"]
    return loop


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which *share* of the *ordered* values lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Report:
    """Markdown, printed as it comes and written to a file at the end."""

    lines: list[str] = field(default_factory=list)
    targets: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        for line in lines:
            self.lines.append(line)
            print(line, flush=True)

    def section(self, title: str, *text: str, level: int = 2) -> None:
        self.add("", f"{'#' * level} {title}", "")
        if text:
            self.add(*text, "")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.add("| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|")
        self.add(*("| " + " | ".join(row) + " |" for row in rows))

    def target(self, name: str, what: str, goal: float, measured: Spread, *, at_least: bool = False) -> None:
        """Remember how *measured* (a ratio) stands to *goal*, for the summary."""
        met = measured.median >= goal if at_least else measured.median <= goal
        sign = ">=" if at_least else "<="
        self.targets.append((name, what, f"{sign} {goal:g}x", measured.text(times), "met" if met else "**not met**"))

    def summary(self) -> None:
        if self.targets:
            self.section("Targets")
            self.table(("target", "what", "goal", "median (min-max)", "verdict"), self.targets)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.lines).strip() + "\n", encoding="utf-8")


def times(value: float) -> str:
    return f"{value:.1f}x" if value >= 20 else f"{value:.3f}x" if value < 2 else f"{value:.2f}x"


def nanoseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def microseconds(value: float) -> str:
    """*value* is in ns."""
    return f"{value / 1e3:,.1f}"


def describe_machine() -> list[str]:
    """The machine and the settings that decide what the numbers mean, as Markdown list items."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return [
        f"- Python {platform.python_version()} ({platform.python_implementation()}), GIL {'on' if gil else 'off'}",
        f"- Switch interval {sys.getswitchinterval() * 1e3:g} ms, gc {gc.get_threshold() if gc.isenabled() else 'off'}",
        f"- {platform.system()} {platform.release()} {platform.machine()}, {_processor()}",
        f"- {usable} of {os.cpu_count()} CPUs usable",
        f"- Load average at the start: {load} (1, 5, 15 minutes)",
        "- " + ", ".join(f"{package} {_version(package)}" for package in ("zupa-otel", *_PACKAGES)),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed as a distribution)"
