"""The real backends as fixtures: a Jaeger, and a Collector that runs the repository's own collector-config.yaml.

Whatever uses them carries the mark `backend`, is skipped where the binaries were not built (`make backends`), and shows
the ends of their logs when it fails. Both are started once a session, on free ports.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = Path(__file__).resolve().parent / "backends"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
LOG_LINES = 40

T = TypeVar("T")


def wait_until(what: str, probe: Callable[[], T | None], timeout: float, interval: float = 0.05) -> T:
    """Return the first result of *probe* that is not None; fail the test after *timeout* seconds, saying *what*."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        result = probe()
        if result is not None:
            return result
        if time.monotonic() >= deadline:
            pytest.fail(f"{what}: not within {timeout:g} s")
        pause.wait(interval)


def http_get(url: str) -> tuple[int, bytes] | None:
    """Return status and body, or None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return None


class Backend:
    """A child process that answers 200 at its health endpoint while it is up."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], health_url: str, directory: Path):
        self.name = name
        self.health_url = health_url
        self.log_path = directory / f"{name}.log"
        self._command = command
        self._environ = {**os.environ, **environ}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it is healthy. Also restarts one that was stopped, on the same ports."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(f"{self.name} to become healthy at {self.health_url}", self._is_healthy, START_SECONDS)
        except pytest.fail.Exception as failure:
            self.stop()
            pytest.fail(f"{failure}; its log ends:\n{self.log_tail()}")

    def stop(self) -> int:
        """End the process by SIGTERM, by SIGKILL if that takes too long; return its exit status. Safe twice."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log_tail(self) -> str:
        """The last lines of what the process printed."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _is_healthy(self) -> bool | None:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            pytest.fail(f"{self.name} ended at start with exit status {status}")
        answer = http_get(self.health_url)
        return True if answer is not None and answer[0] == 200 else None


class Jaeger(Backend):
    """A running Jaeger.

    Attributes:
        otlp_grpc_endpoint: ``http://host:port`` for OTLP over gRPC.
        otlp_http_endpoint: ``http://host:port`` for OTLP over HTTP; exporters add ``/v1/traces``.
        query_base: ``http://host:port`` of the query API.
    """

    def __init__(self, binary: Path, ports: list[int], directory: Path):
        grpc, http, query_http, query_grpc, health = (f"127.0.0.1:{port}" for port in ports)
        self.otlp_grpc_endpoint = f"http://{grpc}"
        self.otlp_http_endpoint = f"http://{http}"
        self.query_base = f"http://{query_http}"
        environ = {
            "JAEGER_OTLP_GRPC_ENDPOINT": grpc,
            "JAEGER_OTLP_HTTP_ENDPOINT": http,
            "JAEGER_QUERY_HTTP_ENDPOINT": query_http,
            "JAEGER_QUERY_GRPC_ENDPOINT": query_grpc,
            "JAEGER_HEALTH_ENDPOINT": health,
        }
        command = [str(binary), "--config", str(BACKENDS / "jaeger-config.yaml")]
        super().__init__("jaeger", command, environ, f"http://{health}/status", directory)

    def get_trace(self, trace_id_hex: str) -> dict[str, Any] | None:
        """Return Jaeger's answer for one trace (``{"result": {"resourceSpans": [...]}}``), or None if it has none."""
        answer = http_get(f"{self.query_base}/api/v3/traces/{trace_id_hex}")
        if answer is None or answer[0] == 404:
            return None
        status, body = answer
        # Unknown paths answer 200 with the page of the UI: only JSON of the right form is an answer.
        try:
            document = json.loads(body)
            document["result"]["resourceSpans"]
        except (ValueError, KeyError, TypeError) as error:
            raise AssertionError(f"Jaeger answered {status} with no trace: {body[:300]!r}") from error
        return document

    def get_spans(self, trace_id_hex: str) -> list[dict[str, Any]]:
        """Return the trace's spans as flat OTLP JSON, ids in hex, each with its resource's attributes as `resource`."""
        document = self.get_trace(trace_id_hex)
        resource_spans = document["result"]["resourceSpans"] if document else []
        return [
            {**span, "resource": group.get("resource", {}).get("attributes", [])}
            for group in resource_spans
            for scope in group.get("scopeSpans", [])
            for span in scope.get("spans", [])
        ]

    def wait_for_trace(self, trace_id_hex: str, span_count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Return `get_spans` once there are *span_count* or more; fail the test after *timeout* seconds."""
        spans: list[dict[str, Any]] = []

        def complete() -> bool | None:
            spans[:] = self.get_spans(trace_id_hex)
            return True if len(spans) >= span_count else None

        try:
            wait_until(f"{span_count} span(s) of trace {trace_id_hex} in Jaeger", complete, timeout)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}; it has {sorted(span['name'] for span in spans)}")
        return spans


class Collector(Backend):
    """A running Collector with the repository's own configuration, in front of a `Jaeger`.

    Attributes:
        jaeger: Where its traces go.
        otlp_grpc_endpoint: ``http://host:port`` for OTLP over gRPC.
        otlp_http_endpoint: ``http://host:port`` for OTLP over HTTP; exporters add ``/v1/traces`` and ``/v1/logs``.
        query_base: ``http://host:port`` of Jaeger's query API.
        metrics_url: The Collector's own metrics, in Prometheus' text format.
        file_path: What the file exporter writes.
    """

    def __init__(self, binary: Path, jaeger: Jaeger, ports: list[int], directory: Path):
        grpc, http, health = (f"127.0.0.1:{port}" for port in ports[:3])
        self.jaeger = jaeger
        self.otlp_grpc_endpoint = f"http://{grpc}"
        self.otlp_http_endpoint = f"http://{http}"
        self.query_base = jaeger.query_base
        self.metrics_url = f"http://127.0.0.1:{ports[3]}/metrics"
        self.file_path = directory / "not-there-yet" / "otel.jsonl"
        environ = {
            "COLLECTOR_OTLP_GRPC_ENDPOINT": grpc,
            "COLLECTOR_OTLP_HTTP_ENDPOINT": http,
            "COLLECTOR_HEALTH_ENDPOINT": health,
            "COLLECTOR_METRICS_HOST": "127.0.0.1",
            "COLLECTOR_METRICS_PORT": str(ports[3]),
            "COLLECTOR_FILE_PATH": str(self.file_path),
            "JAEGER_OTLP_ENDPOINT": jaeger.otlp_grpc_endpoint.removeprefix("http://"),
        }
        command = [str(binary), "--config", str(ROOT / "collector-config.yaml")]
        super().__init__("collector", command, environ, f"http://{health}/", directory)

    def file_lines(self) -> list[dict[str, Any]]:
        """The file exporter's output: one OTLP JSON document for each complete line written so far."""
        text = self.file_path.read_text(encoding="utf-8") if self.file_path.exists() else ""
        return [json.loads(line) for line in re.findall(r".+(?=\n)", text)]

    def spans_in_file(self) -> list[dict[str, Any]]:
        """All spans of `file_lines`, flat."""
        return self._items("resourceSpans", "scopeSpans", "spans")

    def log_records_in_file(self) -> list[dict[str, Any]]:
        """All log records of `file_lines`, flat."""
        return self._items("resourceLogs", "scopeLogs", "logRecords")

    def wait_for_log_records(self, trace_id_hex: str, count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Return a trace's log records once the file has *count* or more; fail the test after *timeout* seconds."""

        def complete() -> list[dict[str, Any]] | None:
            records = [record for record in self.log_records_in_file() if record.get("traceId") == trace_id_hex]
            return records if len(records) >= count else None

        return wait_until(f"{count} log record(s) of trace {trace_id_hex} in {self.file_path.name}", complete, timeout)

    def _items(self, resources: str, scopes: str, items: str) -> list[dict[str, Any]]:
        return [
            item
            for document in self.file_lines()
            for resource in document.get(resources, [])
            for scope in resource.get(scopes, [])
            for item in scope.get(items, [])
        ]


def _binary(name: str) -> Path:
    command = [sys.executable, str(BACKENDS / "build.py"), "--print-directory"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True)
    binary = Path(printed.stdout.strip()) / name
    if not binary.is_file():
        pytest.skip(f"{name} was not built: run `make backends` (needs Go; minutes the first time)")
    return binary


@pytest.fixture(scope="session")
def collector_binary() -> Path:
    """The Collector's binary; skips where it was not built."""
    return _binary("otelcol-zupa")


@pytest.fixture(scope="session")
def jaeger_binary() -> Path:
    """Jaeger's binary; skips where it was not built."""
    return _binary("jaeger")


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """A function that returns *count* different free TCP ports of 127.0.0.1."""

    def find(count: int) -> list[int]:
        # All are held until the last is found, so that they differ.
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        try:
            return [listener.getsockname()[1] for listener in listeners]
        finally:
            for listener in listeners:
                listener.close()

    return find


@pytest.fixture(scope="session")
def jaeger(
    jaeger_binary: Path, free_ports: Callable[[int], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Jaeger]:
    """A running `Jaeger`, shared by the session: tests tell their traces apart by id."""
    backend = Jaeger(jaeger_binary, free_ports(5), tmp_path_factory.mktemp("jaeger"))
    backend.start()
    yield backend
    backend.stop()


@pytest.fixture(scope="session")
def collector(
    collector_binary: Path,
    jaeger: Jaeger,
    free_ports: Callable[[int], list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Collector]:
    """A running `Collector` with the repository's configuration, shared by the session."""
    backend = Collector(collector_binary, jaeger, free_ports(4), tmp_path_factory.mktemp("collector"))
    backend.start()
    yield backend
    backend.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a backend, so that ``-m 'not backend'`` leaves it out."""
    for item in items:
        if {"collector_binary", "jaeger_binary"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("backend")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the ends of the backends' logs below a test that failed."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Backend):
                report.sections.append((f"log of {value.name}", value.log_tail()))
    return report
