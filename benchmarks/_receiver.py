"""An OTLP receiver in a process of its own, so that its CPU time and its GIL are nobody else's.

It keeps the requests' bytes, answers at once, and parses them only when it is asked for the counts: while a benchmark
runs it does as little as a receiver can.

Started by `Receiver`; talks over its pipes: one line with the ports, then one line of counts for each line "counts".
It ends when its standard input does, so it never outlives the benchmark.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections import deque
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACES, LOGS = "/v1/traces", "/v1/logs"


class Receiver:
    """The handle of a receiver process. A context manager.

    Attributes:
        grpc_endpoint: Where OTLP/gRPC goes.
        http_endpoint: Where OTLP/HTTP goes, without the signal's path.
    """

    def __enter__(self) -> Receiver:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ports = self._read()
        self.grpc_endpoint = f"http://127.0.0.1:{ports['grpc']}"
        self.http_endpoint = f"http://127.0.0.1:{ports['http']}"
        return self

    def take_counts(self) -> tuple[int, int]:
        """Return the spans and the log records that were acknowledged since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("counts\n")
        self._process.stdin.flush()
        counts = self._read()
        return counts["spans"], counts["logs"]

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the receiver process ended early: its own error is printed above")
        answer: dict[str, int] = json.loads(line)
        return answer

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class _Store:
    def __init__(self) -> None:
        self._bodies: deque[tuple[str, bytes]] = deque()
        self.put = self._bodies.append

    def take_counts(self) -> dict[str, int]:
        spans = logs = 0
        while self._bodies:
            path, body = self._bodies.popleft()
            if path == TRACES:
                traces = ExportTraceServiceRequest.FromString(body)
                spans += sum(len(scope.spans) for group in traces.resource_spans for scope in group.scope_spans)
            else:
                records = ExportLogsServiceRequest.FromString(body)
                logs += sum(len(scope.log_records) for group in records.resource_logs for scope in group.scope_logs)
        return {"spans": spans, "logs": logs}


def _serve_grpc(store: _Store) -> tuple[grpc.Server, int]:
    def handler(path: str) -> Any:
        def export(body: bytes, _context: Any) -> bytes:
            store.put((path, body))
            return b""  # an empty message: everything was accepted

        # Without (de)serialisers a handler gets and returns bytes.
        return grpc.unary_unary_rpc_method_handler(export)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
    for service, path in (("trace.v1.TraceService", TRACES), ("logs.v1.LogsService", LOGS)):
        name = f"opentelemetry.proto.collector.{service}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler(path)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _serve_http(store: _Store) -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            store.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def main() -> None:
    store = _Store()
    server, grpc_port = _serve_grpc(store)
    print(json.dumps({"grpc": grpc_port, "http": _serve_http(store)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(store.take_counts()), flush=True)
    server.stop(grace=None).wait(5)


if __name__ == "__main__":
    main()
