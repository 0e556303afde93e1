"""The traces of a worker's requests: which are made, where they begin and end, and how they go on in a sibling.

Loaded only when traces are made (``tracing.endpoint``).

Invariants
* Whether a request is traced is decided before anything of a trace is made: by a trusted parent's flag, else by chance (``ratio``), and
  never more than ``traces_max`` a second. Who is not trusted can neither ask for traces nor keep from them, and his trace is linked,
  not gone on with.
* The span of the moment is a context variable of a context that is the request's own; requests that are not traced run where they did.
* A trace has at most TRACE_SPANS_MAX spans in a process, and none that begins after its end: what a request leaves behind is not its own.
* No span shows a secret: of a target the path alone, no header, no body.
"""

from __future__ import annotations

import contextvars
import logging
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from random import random
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from titans3.clock import Clock
from titans3.config.schema import TracingConfig
from titans3.errors import ClientError
from titans3.http.forwarded import TrustedProxies
from titans3.http.message import BodySource, Request, Response
from titans3.http.traceparent import Parent, parse_parent, show_parent
from titans3.limits import TRACE_SPANS_MAX
from titans3.observe.asking import ASKING
from titans3.observe.traces import TraceStatistics
from titans3.worker.spans import Attributes, Spans

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_NOT_TRACED = (b"/health/", b"/_titans3/metrics")  # asked every few seconds by machines
_logger = logging.getLogger("titans3.tracing")
_encode = msgspec.msgpack.Encoder().encode


class Whose(msgspec.Struct, array_like=True):
    """What a frame to a sibling tells of the request it belongs to. Fields are only ever appended."""

    trace_id: bytes
    span_id: bytes
    state: str
    request_id: str


_whose = msgspec.msgpack.Decoder(Whose).decode


class Active:
    """A span that others may begin under."""

    __slots__ = ("span", "trace")

    def __init__(self, trace: Trace, span: Span) -> None:
        self.trace, self.span = trace, span

    def begin(self, name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None) -> Child:
        """A span under this one; to be used as a context or ended."""
        return Child(self.trace, self.trace.spans.start(name, self.span, kind, attributes))


SPAN: ContextVar[Active | None] = ContextVar("span", default=None)


def current() -> Active | None:
    """What a span of this moment belongs under; ``None``: none is wanted."""
    active = SPAN.get()
    if active is None or not active.trace.takes_span():
        return None
    return active


class Child(Active):
    """A span of a part of a request. As a context it is what others begin under meanwhile, and ends with it."""

    __slots__ = ("_token",)

    def __enter__(self) -> Child:
        self._token = SPAN.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        SPAN.reset(self._token)
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """It is over. An error that is only an answer to the client (a key that is not there) is named, not counted as a failure."""
        if error is not None:
            is_answer = isinstance(error, ClientError)
            self.span.set_attribute("error.type", str(error.reason) if isinstance(error, ClientError) else type(error).__name__)
            if not is_answer:
                self.span.set_status(Status(StatusCode.ERROR, str(error)[:300]))
        self.span.end()


class Trace:
    """What one process knows of a trace: the request's, or a call's of a sibling."""

    __slots__ = ("_count", "_phase", "context", "is_open", "request_id", "root", "spans")

    def __init__(self, spans: Spans, span: Span, request_id: str) -> None:
        self.spans, self.request_id = spans, request_id
        self.root = Active(self, span)
        self.is_open = True
        self._count = 0
        self._phase: Child | None = None
        self.context = contextvars.copy_context()
        self.context.run(SPAN.set, self.root)

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self.root.span.get_span_context().trace_id:032x}"

    def takes_span(self) -> bool:
        """Whether one more may begin; it is counted."""
        self._count += 1
        return self.is_open and self._count <= TRACE_SPANS_MAX

    def enter(self, phase: str) -> None:
        """The next part of the request: what begins from here on, begins under it. Empty: no part by name. In ``context``."""
        if self._phase is not None:
            self._phase.end()
        self._phase = self.root.begin(phase) if phase and self.is_open else None
        SPAN.set(self._phase or self.root)

    def leave(self, error: BaseException | None = None) -> None:
        """The part that lasts ends, anywhere."""
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.end(error)

    def close(self) -> None:
        """It is over in this process; says how many spans were left out."""
        self.is_open = False
        if self._count > TRACE_SPANS_MAX:
            self.root.span.set_attribute("titans3.spans.omitted", self._count - TRACE_SPANS_MAX)
        self.root.span.end()


class Tracer:
    """Of one worker. ``answered`` is to be told of every answer."""

    def __init__(self, config: TracingConfig, spans: Spans, clock: Clock, proxies: TrustedProxies) -> None:
        self._spans, self._clock, self._proxies = spans, clock, proxies
        self._ratio = config.ratio
        self._trusted = TrustedProxies(config.trusted)
        self._trusts_some = bool(config.trusted)
        self._traces_max = self._left = float(config.traces_max)
        self._at = clock.monotonic()
        self._traces = self._limited = 0

    def statistics(self) -> TraceStatistics:
        """Counters."""
        return TraceStatistics(self._traces, self._limited, self._spans.queue.statistics())

    def close(self) -> None:
        """Send what waits. Blocks for some seconds at most."""
        self._spans.queue.close()

    # a request -----------------------------------------------------------------------------------------------------

    def tracing(self, handler: Handler) -> Handler:
        """The handler with traces of some requests."""

        def handle(request: Request) -> Coroutine[Any, Any, Response]:
            trace = self._begin(request)
            return handler(request) if trace is None else _traced(handler(request), trace, self._clock)

        return handle

    def _begin(self, request: Request) -> Trace | None:
        sent = request.fields.get(b"traceparent")
        parent = None
        if sent is not None and self._trusts_some and self._trusted.contains(request.peer):
            parent = parse_parent(sent, request.fields.get(b"tracestate", b""))
        if (random() >= self._ratio) if parent is None else not parent.sampled:
            return None
        if request.path.startswith(_NOT_TRACED) or not self._take():
            return None
        self._traces += 1
        stranger = parse_parent(sent) if sent is not None and parent is None else None
        span = self._spans.start(
            request.method, None if parent is None else _remote(parent), SpanKind.SERVER, self._attributes(request),
            None if stranger is None else _remote(stranger).get_span_context(),
        )  # fmt: skip
        trace = request.trace = Trace(self._spans, span, request.request_id)
        return trace

    def _take(self) -> bool:
        """Whether one more may begin in this second."""
        now = self._clock.monotonic()
        self._left = min(self._traces_max, self._left + (now - self._at) * self._traces_max)
        self._at = now
        if self._left < 1:
            self._limited += 1
            return False
        self._left -= 1
        return True

    def _attributes(self, request: Request) -> dict[str, str | int]:
        client = self._proxies.client(request.peer, request.fields.get(b"x-forwarded-for"))
        return {
            "titans3.request_id": request.request_id, "http.request.method": request.method, "url.path": request.path.decode("latin-1"),
            "url.scheme": "https" if request.tls else "http", "client.address": client,
            "user_agent.original": request.fields.get(b"user-agent", b"").decode("latin-1"),
        }  # fmt: skip

    def answered(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        """An answer is with the transport: the trace is whole."""
        trace = getattr(request, "trace", None)
        if not isinstance(trace, Trace) or not trace.is_open:
            return
        span = trace.root.span
        span.update_name(request.operation or request.method)
        span.set_attributes({
            "http.response.status_code": status, "http.request.body.size": received, "http.response.body.size": sent,
            "titans3.operation": request.operation, "titans3.bucket": request.bucket,
        })  # fmt: skip
        if request.caller is not None:
            span.set_attribute("titans3.requester", request.caller.arn)
        if request.error or not status:
            span.set_attribute("error.type", request.error or "ClientGone")
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, request.error))
        trace.close()

    # siblings ------------------------------------------------------------------------------------------------------

    def within(self, whose: bytes) -> contextvars.Context:
        """The context of a sibling's call that belongs to a traced request."""
        try:
            told = _whose(whose)
            parent = Parent(int.from_bytes(told.trace_id, "big"), int.from_bytes(told.span_id, "big"), True, told.state)
        except msgspec.MsgspecError as error:
            _logger.debug("a sibling's trace is not understood: %s", error)
            return contextvars.copy_context()
        trace = Trace(self._spans, _remote(parent), told.request_id)
        trace.context.run(ASKING.set, lambda: (told.request_id, trace.trace_id))
        return trace.context


def whose_of(active: Active) -> bytes:
    """What a frame tells of the span it is sent under."""
    context = active.span.get_span_context()
    state = context.trace_state.to_header()
    return _encode(Whose(context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"), state, active.trace.request_id))


def _remote(parent: Parent) -> Span:
    state = TraceState.from_header([parent.state]) if parent.state else None
    return NonRecordingSpan(SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(TraceFlags.SAMPLED), state))


async def _traced(answering: Coroutine[Any, Any, Response], trace: Trace, clock: Clock) -> Response:
    """The answer of a request that is traced; it tells its trace."""
    trace.context.run(trace.enter, "parse")
    try:
        response = await _in_context(trace.context, answering)
    finally:
        trace.leave()
    span = trace.root.span.get_span_context()
    response.headers = [*response.headers, (b"traceresponse", show_parent(span.trace_id, span.span_id).encode())]
    if not isinstance(response.body, (bytes, memoryview)):
        response.body = _TracedBody(response.body, trace, clock)
    return response


@types.coroutine
def _in_context(context: contextvars.Context, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run a coroutine in a context, wherever it is waited for; at once as far as it goes (see ``worker.eager``)."""
    step: Any = coroutine.send
    argument: Any = None
    while True:
        try:
            waiting = context.run(step, argument)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            argument = yield waiting
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001 - handed on into the coroutine, cancellation included
            step, argument = coroutine.throw, error


class _TracedBody:
    """A body that is read while it is sent: one span from the first piece to the last, with the time that reading took of it."""

    def __init__(self, source: BodySource, trace: Trace, clock: Clock) -> None:
        self.length = source.length
        self._source, self._trace, self._monotonic = source, trace, clock.monotonic
        self._span: Child | None = None
        self._seconds, self._pieces, self._bytes = 0.0, 0, 0

    async def next(self) -> bytes | memoryview | None:
        """Next piece."""
        return await _in_context(self._trace.context, self._next())

    def next_nowait(self) -> None:
        """All of them are timed."""

    async def _next(self) -> bytes | memoryview | None:
        if self._span is None and self._trace.takes_span():
            self._span = self._trace.root.begin("read")
            SPAN.set(self._span)
        begin = self._monotonic()
        piece = await self._source.next()
        self._seconds += self._monotonic() - begin
        if piece is not None:
            self._pieces += 1
            self._bytes += len(piece)
        return piece

    def close(self) -> None:
        """No more."""
        self._source.close()
        if self._span is not None:
            self._span.span.set_attributes({
                "titans3.read.seconds": self._seconds, "titans3.read.pieces": self._pieces, "titans3.read.bytes": self._bytes,
            })  # fmt: skip
            self._span.end()
            self._span = None
