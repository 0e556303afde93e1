"""A receiver of traces: what comes by OTLP over HTTP, decoded by OpenTelemetry's own protocol package. It may be told to be slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

SERVER, CLIENT = 2, 3  # kinds of spans


class Told:
    """A span as the receiver understood it."""

    def __init__(self, resource: dict[str, Any], span: Any) -> None:
        self.resource, self.name = resource, span.name
        self.trace_id, self.span_id, self.parent_id = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.begin, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.kind, self.state, self.failed = span.kind, span.trace_state, span.status.code == 2
        self.links = [link.trace_id.hex() for link in span.links]
        self.attributes = _plain(span.attributes)

    @property
    def worker(self) -> int:
        """Which worker made it."""
        return int(self.resource["titans3.worker"])

    def __repr__(self) -> str:
        return f"<{self.name} of worker {self.worker} {self.span_id} under {self.parent_id or 'nothing'} {self.attributes}>"


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


class Collector:
    """What came so far."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Told] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.open = threading.Event()
        self.open.set()

    def take(self, data: bytes) -> None:
        self.bodies.append(data)
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [Told(resource, span) for span in scope.spans]

    def trace(self, trace_id: str, *, spans: int = 1, seconds: float = 10) -> list[Told]:
        """The spans of a trace, once its root and so many are there, and every hop has arrived where it went."""
        deadline = time.monotonic() + seconds
        while True:
            found = [span for span in self.spans if span.trace_id == trace_id]
            ids = {span.span_id for span in found}
            strays = [span for span in found if span.parent_id not in ids]
            is_whole = {span.span_id for span in found if span.kind == CLIENT} <= {span.parent_id for span in found}
            if len(found) >= spans and is_whole and len(strays) == 1 and strays[0].kind == SERVER and strays[0].name != "serve":
                return found
            assert time.monotonic() < deadline, f"{len(found)} spans: {found}"
            time.sleep(0.05)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.open.wait(30)
            assert self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
