"""An OTLP receiver on loopback, gRPC and HTTP, that can also behave badly.

Import it as ``from tests.support.otlp_receiver import OtlpReceiver`` (pytest started as ``python -m pytest``).
"""

from __future__ import annotations

import gzip
import http.server
import socket
import threading
import zlib
from concurrent import futures
from typing import Any, ClassVar

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

MODES = ("ok", "slow", "unavailable", "partial", "refuse", "hang")


class OtlpReceiver:
    """Receives spans and log records on `grpc_endpoint` and `http_endpoint`, ports chosen by the kernel.

    Modes:
        ok: Accepts.
        slow: Accepts, and answers after `delay_s`.
        unavailable: Answers 503 or UNAVAILABLE, accepts nothing.
        partial: Accepts, but answers that `rejected` items were refused.
        refuse: Nobody listens on the port (it is held, so that nobody else takes it).
        hang: The connection is made and nothing is ever answered.

    `mode` may be changed while running among the first four. A context manager.

    Attributes:
        requests: Requests that arrived, whatever was answered.
        headers: Header or metadata pairs of each request, keys in lower case.
    """

    def __init__(
        self, mode: str = "ok", *, delay_s: float = 1.0, rejected: int = 1, max_message_bytes: int = 4 * 1024 * 1024
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
        self.mode = mode
        self.delay_s = delay_s
        self.rejected = rejected
        self.max_message_bytes = max_message_bytes
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self.grpc_port = self.http_port = 0
        self._condition = threading.Condition()
        self._released = threading.Event()
        self._trace_requests: list[Any] = []
        self._log_requests: list[Any] = []
        self._sockets: list[socket.socket] = []
        self._grpc: grpc.Server | None = None
        self._http: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def grpc_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def spans(self) -> list[Any]:
        """All spans that were accepted, as protobuf messages, in order of arrival."""
        with self._condition:
            return self._spans()

    @property
    def logs(self) -> list[Any]:
        """All log records that were accepted, as protobuf messages, in order of arrival."""
        with self._condition:
            return self._logs()

    @property
    def resource_attributes(self) -> dict[str, Any]:
        """Attributes of the newest request's resource."""
        with self._condition:
            groups = [g for r in self._trace_requests for g in r.resource_spans]
            groups += [g for r in self._log_requests for g in r.resource_logs]
        return attributes_of(groups[-1].resource) if groups else {}

    def wait_for(self, n_spans: int = 0, n_logs: int = 0, timeout: float = 10.0) -> bool:
        """Wait until that many have arrived; False when *timeout* seconds have passed first."""
        with self._condition:
            return self._condition.wait_for(
                lambda: len(self._spans()) >= n_spans and len(self._logs()) >= n_logs, timeout
            )

    def wait_for_requests(self, n: int, timeout: float = 10.0) -> bool:
        """Wait until *n* requests have arrived, accepted or not."""
        with self._condition:
            return self._condition.wait_for(lambda: self.requests >= n, timeout)

    def __enter__(self) -> OtlpReceiver:
        if self.mode in ("refuse", "hang"):
            self.grpc_port, self.http_port = self._dead_port(), self._dead_port()
            return self
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", self.max_message_bytes)]
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=options)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_TraceService(self), self._grpc)
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_LogsService(self), self._grpc)
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        handler = type("Handler", (_HttpHandler,), {"receiver": self})
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.http_port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._grpc is not None:
            self._grpc.stop(grace=None).wait(5)
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join(5)
        for sock in self._sockets:
            sock.close()

    def accept(self, request: Any, headers: dict[str, str]) -> int:
        """Take *request* in, as `mode` says. Returns how many items to report as refused, or -1 for "unavailable"."""
        mode = self.mode
        is_trace = isinstance(request, trace_service_pb2.ExportTraceServiceRequest)
        if mode == "slow":
            self._released.wait(self.delay_s)
        with self._condition:
            self.requests += 1
            self.headers.append(headers)
            if mode != "unavailable":
                (self._trace_requests if is_trace else self._log_requests).append(request)
            self._condition.notify_all()
        if mode == "unavailable":
            return -1
        return self.rejected if mode == "partial" else 0

    def _spans(self) -> list[Any]:
        return [x for r in self._trace_requests for g in r.resource_spans for s in g.scope_spans for x in s.spans]

    def _logs(self) -> list[Any]:
        return [x for r in self._log_requests for g in r.resource_logs for s in g.scope_logs for x in s.log_records]

    def _dead_port(self) -> int:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        if self.mode == "hang":
            sock.listen(128)  # the kernel completes the handshakes; nobody ever reads
        self._sockets.append(sock)
        return sock.getsockname()[1]


def value_of(any_value: Any) -> Any:
    """The Python value of a protobuf AnyValue."""
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(value) for value in any_value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: value_of(pair.value) for pair in any_value.kvlist_value.values}
    return getattr(any_value, kind)


def attributes_of(message: Any) -> dict[str, Any]:
    """The attributes of a protobuf span, log record, link, event or resource."""
    return {pair.key: value_of(pair.value) for pair in message.attributes}


def _trace_response(rejected: int) -> Any:
    response = trace_service_pb2.ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = "refused by the test receiver"
    return response


def _logs_response(rejected: int) -> Any:
    response = logs_service_pb2.ExportLogsServiceResponse()
    if rejected:
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = "refused by the test receiver"
    return response


class _TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        return _answer_grpc(self.receiver, request, context, _trace_response)


class _LogsService(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        return _answer_grpc(self.receiver, request, context, _logs_response)


def _answer_grpc(receiver: OtlpReceiver, request: Any, context: Any, respond: Any) -> Any:
    headers = {key.lower(): str(value) for key, value in context.invocation_metadata()}
    rejected = receiver.accept(request, headers)
    if rejected < 0:
        context.abort(grpc.StatusCode.UNAVAILABLE, "the test receiver is unavailable")
    return respond(rejected)


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: ClassVar[OtlpReceiver]
    routes: ClassVar[dict[str, Any]] = {
        "/v1/traces": (trace_service_pb2.ExportTraceServiceRequest, _trace_response),
        "/v1/logs": (logs_service_pb2.ExportLogsServiceRequest, _logs_response),
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "")
        body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body) if encoding == "deflate" else body
        if self.path not in self.routes:
            self._answer(404, b"")
            return
        message, respond = self.routes[self.path]
        rejected = self.receiver.accept(
            message.FromString(body), {key.lower(): value for key, value in self.headers.items()}
        )
        self._answer(503, b"") if rejected < 0 else self._answer(200, respond(rejected).SerializeToString())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""
