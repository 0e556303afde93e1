"""Spans on their way to a collector: OpenTelemetry's provider, a bounded queue, and a thread that sends. Loaded only when traces are made.

Invariants
* Requests never wait for a collector: a span that ends is put into a queue; when that is full it is dropped and counted.
* The provider is made in the process that uses it (workers are fresh interpreters) and is nobody's global. It samples nothing: whoever
  starts a span has decided before.
* A collector that cannot be reached is told once, with the cause, and again when it is back; in between counters tell.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, set_span_in_context

from titans3 import __version__
from titans3.limits import TRACE_QUEUE_SPANS_MAX
from titans3.observe.traces import SpanStatistics

BATCH_SPANS = 512
SEND_SECONDS = 1.0  # how long a span waits for others at most
CLOSE_SECONDS = 2.0  # what is not sent by then is lost
_TIMEOUT_SECONDS = 5.0  # for a batch, with all its tries
_CHARACTERS_MAX = 2048
_EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_logger = logging.getLogger("titans3.tracing")
Attributes = Mapping[str, str | int | float | bool]


class _Cause(logging.Handler):
    """Keeps the first thing that the exporter complains of for a batch; later it complains of having tried often enough."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


class SpanQueue(SpanProcessor):
    """From whoever ends spans to the thread that sends them. The thread lives until ``close``."""

    def __init__(self, exporter: SpanExporter, place: str, *, spans_max: int = TRACE_QUEUE_SPANS_MAX) -> None:
        """``place``: where they go, for the log."""
        self._exporter, self._place, self._spans_max = exporter, place, spans_max
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._sent = self._dropped = self._failed = 0
        self._lost = 0  # since the collector was last reached
        self._cause = _Cause()
        complaints = logging.getLogger(_EXPORTER_LOGGER)
        complaints.handlers[:], complaints.propagate = [self._cause], False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Nothing happens before the end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it."""
        waiting = self._waiting
        if len(waiting) >= self._spans_max:
            self._dropped += 1
            return
        waiting.append(span)
        if len(waiting) >= BATCH_SPANS:
            self._wake.set()

    def statistics(self) -> SpanStatistics:
        """Counters."""
        return SpanStatistics(self._sent, self._dropped, self._failed, len(self._waiting))

    def close(self) -> None:
        """Send what waits, for CLOSE_SECONDS at most. Blocks."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        self._exporter.shutdown()  # ends the tries of a thread that is still at it

    # in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing or self._waiting:
            self._wake.wait(SEND_SECONDS)
            self._wake.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(BATCH_SPANS, len(self._waiting)))])

    def _send(self, batch: Sequence[ReadableSpan]) -> None:
        self._cause.text = cause = ""
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - whatever the exporter raises costs this batch and not the thread
            result, cause = SpanExportResult.FAILURE, repr(error)
        if result is SpanExportResult.SUCCESS:
            self._sent += len(batch)
            if self._lost:
                _logger.warning("traces reach %s again; %d spans were lost", self._place, self._lost)
            self._lost = 0
            return
        self._failed += len(batch)
        if not self._lost and not self._closing:
            _logger.warning("traces do not reach %s, their spans are lost until they do: %s", self._place, cause or self._cause.text)
        self._lost += len(batch)


class Spans:
    """Of one worker: starts spans."""

    def __init__(self, exporter: SpanExporter, place: str, cluster: str, worker: int) -> None:
        self.queue = SpanQueue(exporter, place)
        resource = Resource.create({
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or "titans3", "service.version": __version__,
            "service.instance.id": f"{cluster}-{worker}", "process.pid": os.getpid(), "titans3.worker": worker,
        })  # fmt: skip
        limits = SpanLimits(max_attribute_length=_CHARACTERS_MAX)
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, span_limits=limits)
        provider.add_span_processor(self.queue)
        self._tracer = provider.get_tracer("titans3", __version__)

    def start(
        self, name: str, parent: Span | None, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None,
        link: SpanContext | None = None,
    ) -> Span:  # fmt: skip
        """A span that begins now; without a parent it begins a trace."""
        context = Context() if parent is None else set_span_in_context(parent, Context())
        links = None if link is None else [Link(link)]
        return self._tracer.start_span(name, context, kind, attributes, links, record_exception=False, set_status_on_exception=False)


def open_spans(endpoint: str, cluster: str, worker: int) -> Spans:
    """Spans that go to a collector by OTLP over HTTP. Headers and certificates are those of OTEL_EXPORTER_OTLP_*."""
    url = endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
    return Spans(OTLPSpanExporter(url, timeout=_TIMEOUT_SECONDS), url, cluster, worker)
