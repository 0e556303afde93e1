"""One HTTP/1.1 connection, plain or TLS. Hot: guarded by ``bench/micro/connection.py``.

Invariants
* One request at a time: the next head is parsed only after the answer to the last one was handed to the transport and its body was
  read or thrown away. Pipelined bytes are bounded; past the bound the connection stops reading.
* An idle connection holds no buffer: heads are received into one buffer that all connections of a worker share. Its contents are copied
  before the callback returns.
* ``100 Continue`` is sent by the first read of the body. A final answer before it closes the connection: clients (botocore among them)
  do not keep a connection right whose expectation was answered by a final status. A request that expects it with an empty body gets
  it with its 2xx answer.
* A close that would leave unread bytes behind shuts down writing and reads on for a bounded time, so that a reset cannot overtake
  the answer.
* A handler that changes something is never cancelled: when the client goes, its body reads raise and its answer is dropped. Only GET
  and HEAD handlers are cancelled.
* Whatever goes wrong inside, the client gets a complete answer or a closed connection, never a wrong length.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from titans3.cluster.turns import Turns
from titans3.errors import ClientError, InvariantError, Reason
from titans3.http.head import END, Head, HeadError, check_growing
from titans3.http.message import Body, Request, Response, trace_id_of
from titans3.http.reply import BODILESS, CONTINUE, error_xml
from titans3.limits import DRAIN_BYTES_MAX, MIB, PIPELINED_BYTES_MAX
from titans3.observe.asking import ASKING
from titans3.worker.body import EMPTY_BODY, IncomingBody, WholeBody
from titans3.worker.eager import WAITS_ONCE, resumed, taken
from titans3.worker.queued import unacknowledged_bytes, unread_bytes
from titans3.worker.shutdown import Shutdown
from titans3.worker.streaming import send_pieces
from titans3.worker.wheel import NEVER

if TYPE_CHECKING:
    from titans3.worker.context import ConnectionContext

logger = logging.getLogger("titans3.http")

_HEAD, _SERVING, _DRAINING, _LINGERING, _CLOSING, _CLOSED = range(6)
_WRITE_HIGH_BYTES = 1 * MIB
_WRITE_LOW_BYTES = 256 * 1024
_JOIN_BYTES_MAX = 64 * 1024  # a body up to this is joined with its head into one write
_LINGER_BYTES_MAX = 64 * MIB
_TLS_HELLO = b"\x16\x03"
_TLS_TEXT = b"This port speaks plain HTTP, and the client began a TLS handshake. Use http:// or the TLS port.\n"


class Connection(asyncio.BufferedProtocol):
    """The state machine: head, handler, body, answer, and again."""

    __slots__ = (
        "__weakref__",
        "_advancing",
        "_body",
        "_close_after",
        "_context",
        "_direct",
        "_drain_from",
        "_eof",
        "_expect",
        "_expect_empty",
        "_first",
        "_head",
        "_lingered",
        "_peer",
        "_pending",
        "_phase",
        "_read_paused",
        "_received",
        "_request",
        "_secure",
        "_sent",
        "_started",
        "_status",
        "_task",
        "_timer",
        "_tls",
        "_transport",
        "_unsent",
        "_writable",
        "_write_paused",
        "deadline",
        "wheel_from",
        "wheel_tick",
    )

    def __init__(self, context: ConnectionContext) -> None:
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._phase = _HEAD
        self._pending = b""
        self._body: IncomingBody | None = None  # of one that did not come with its head
        self._request: Request | None = None
        self._head: Head | None = None
        self._task: asyncio.Task[Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._direct = False
        self._advancing = False
        self._close_after = False
        self._eof = False
        self._expect = self._expect_empty = False
        self._secure = False
        self._tls = ""
        self._peer = ""
        self._lingered = 0
        self._drain_from = 0
        self._received = 0  # of a body that came with its head
        self._sent = 0
        self._status = 0
        self._started = self._first = 0.0  # clock's time; the second one 0 until a streamed answer begins
        self._unsent = 0.0  # bytes that the client had not taken when it was looked at last
        self._timer = ""
        self.deadline = self.wheel_from = NEVER
        self.wheel_tick = -1

    # transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        context = self._context
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES, low=_WRITE_LOW_BYTES)
        ASKING.set(lambda: ("", "") if self._request is None else (self._request.request_id, trace_id_of(self._request)))
        ssl_object = transport.get_extra_info("ssl_object")
        self._tls = "" if ssl_object is None else (ssl_object.version() or "TLS").removeprefix("TLSv")
        self._secure = bool(self._tls)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        context.connections.add(self)
        context.on_count()
        context.counters.accepted += 1
        if len(context.connections) > context.connections_max:
            self._refuse(HeadError(503, "SlowDown", "Too many connections. Please reduce your request rate."))
        else:
            self._set_timer("idle", context.timeouts.idle)

    def connection_lost(self, exc: Exception | None) -> None:
        context = self._context
        if self._phase == _SERVING:
            context.counters.aborted += 1
        self._phase = _CLOSED
        self._clear_timer()
        context.connections.discard(self)
        context.on_count()
        self._pending = b""
        if self._body is not None:
            self._body.fail(ClientError(Reason.BODY_SHORT, "The client went away."))
        self._transport = None  # the wheel may hold this object for a minute; the transport need not stay with it
        self._wake_writer()
        if self._task is not None and self._head is not None and self._head.method in ("GET", "HEAD"):
            self._task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._body
        if body is not None and not body.complete and not self._pending:
            window = body.window()
            if window is not None:
                self._direct = True
                return window
        self._direct = False
        return self._context.receive

    def buffer_updated(self, nbytes: int) -> None:
        context = self._context
        context.counters.bytes_in += nbytes
        if self._timer == "body":
            self._set_timer("body", context.timeouts.body)
        if self._direct:
            body = self._body
            assert body is not None
            body.filled(nbytes)
            self._adjust_reading()
            return
        received = context.receive[:nbytes]
        phase = self._phase
        if phase == _HEAD:
            self._pending = self._pending + received if self._pending else bytes(received)
            self._advance()
        elif phase in (_LINGERING, _CLOSING, _CLOSED):
            self._lingered += nbytes
            if self._lingered > _LINGER_BYTES_MAX:
                self.abort()
        else:
            self._feed(received)

    def eof_received(self) -> bool:
        self._eof = True
        if self._phase == _SERVING:
            if self._body is not None:
                self._body.fail(ClientError(Reason.BODY_SHORT, "The body ended before its announced length."))
            return not self._secure  # a half-closed client still gets its answer
        if self._phase == _HEAD and self._pending:
            self._context.counters.protocol_errors += 1
        return False

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = NEVER  # counted when the client has not taken it for half of the time: it mostly has
        self._set_timer("write", self._context.timeouts.write / 2)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._timer == "write" and self._phase in (_HEAD, _SERVING):
            if self._phase == _HEAD:
                self._set_timer("idle", self._context.timeouts.idle)
            else:
                self._clear_timer()
        self._wake_writer()
        if self._phase == _HEAD and self._pending:
            self._advance()

    def on_deadline(self) -> None:
        """The wheel says a deadline has passed."""
        timer, self._timer = self._timer, ""
        transport = self._transport
        assert transport is not None
        timeouts = self._context.timeouts
        waiting = transport.get_write_buffer_size()
        if timer in ("write", "idle") and waiting and (timer == "idle" or unacknowledged_bytes(transport) < self._unsent):
            self._watch_writing()  # progress, or an idle connection whose answer is still on its way
            return
        if timer == "idle" and unread_bytes(transport):  # a request came while the loop stood still
            self._set_timer("idle", timeouts.idle)
            return
        if timer in ("idle", "linger"):
            self._close()
            return
        if timer == "body" and self._body is not None and not self._body.has_room:
            self._set_timer("body", timeouts.body)  # it waits for buffers, not for the client
            return
        self._context.counters.timeouts += 1
        if timer == "head":
            self._refuse(HeadError(408, "RequestTimeout", f"The request head took more than {timeouts.head:g} seconds."))
        elif timer == "body":
            assert self._body is not None
            self._close_after = True
            self._body.fail(ClientError(Reason.BODY_SLOW, "Your socket connection to the server was not read from in time."))
        elif timer == "drain":
            self._linger()
        else:
            self.abort()

    # heads

    def _advance(self) -> None:
        """Serve the requests whose heads are complete, one after the other, without recursion."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._phase == _HEAD and self._pending and not self._write_paused and self._take_head():
                pass
        finally:
            self._advancing = False
        if (self._body is not None or self._pending or self._read_paused) and self._phase in (_HEAD, _SERVING, _DRAINING):
            self._adjust_reading()

    def _take_head(self) -> bool:
        """Start the next request if its head is complete; False if more bytes are needed."""
        data = self._pending
        if data[:1] in b"\r\n":  # empty lines before a request line (RFC 9112 2.2)
            data = self._pending = data.lstrip(b"\r\n")
            if not data:
                return False
        try:
            end = data.find(END)
            if end < 0:
                self._check_partial(data)
                return False
            end += 4
            head = self._context.heads.parse(data[:end] if len(data) > end else data)
        except HeadError as error:
            self._refuse(error)
            return False
        self._begin(head, data[end:])
        return True

    def _check_partial(self, data: bytes) -> None:
        if data[:2] == _TLS_HELLO and not self._secure:
            self._context.counters.protocol_errors += 1
            self._send_document(400, b"text/plain", _TLS_TEXT, self._context.request_ids.next())
            self._linger()
            return
        check_growing(data)
        if self._timer != "head":
            self._set_timer("head", self._context.timeouts.head)

    def _begin(self, head: Head, rest: bytes) -> None:
        """Make the request and run its handler."""
        context = self._context
        context.counters.requests += 1
        self._phase = _SERVING
        self._timer = ""
        self.deadline = NEVER
        self._head = head
        self._close_after = not head.keep_alive
        self._status = self._received = self._sent = self._first = 0
        self._expect = self._expect_empty = False
        length = head.content_length
        body: IncomingBody | None = None
        given: Body = EMPTY_BODY
        if length or head.chunked:
            if length is not None and len(rest) >= length:
                given = WholeBody(rest[:length], length)
                self._received = length
                rest = rest[length:]
            else:
                given = body = IncomingBody(self, context.loop, context.pool, length)
                self._expect = head.expect and not rest
        elif head.expect:
            self._expect_empty = True
        self._body = body
        self._pending = rest
        target, shape, fields = head.target, head.shape, head.fields
        path, _, query = target.partition(b"?")
        host = shape.host if shape is not None else fields.get(b"host", b"").decode("latin-1")
        request = self._request = Request(
            head.method, target, path, query, host, fields, given, self._peer, context.request_ids.next(), shape, self._tls
        )
        self._started = context.monotonic()
        if rest and body is not None and body.is_small:
            self._pending = rest[body.take(memoryview(rest)) :]
        self._run(context.handler(request), self._answer)

    def _run(self, coroutine: Coroutine[Any, Any, Any], then: Callable[[Any], None], *, again: bool = False) -> None:
        """Drive a coroutine eagerly; ``then`` gets its result, now, from the future that it waits for, or from a task."""
        try:
            waiting = coroutine.send(None)
        except StopIteration as stop:
            then(stop.value)
            return
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a 500 with its request id
            self._fail(error)
            return
        request = self._request
        if not again and request is not None and request.operation in WAITS_ONCE and taken(waiting):
            waiting.add_done_callback(lambda done: self._run(coroutine, then, again=True))
        else:
            task = self._task = self._context.loop.create_task(resumed(coroutine, waiting))
            task.add_done_callback(lambda done: self._task_done(done, then))
        if not self._advancing and (self._body is not None or self._pending or self._read_paused):
            self._adjust_reading()

    def _task_done(self, task: asyncio.Task[Any], then: Callable[[Any], None]) -> None:
        self._task = None
        if task.cancelled():
            self._drop()
            return
        error = task.exception()
        if error is None:
            then(task.result())
        elif isinstance(error, Exception):
            self._fail(error)
        else:
            self._drop()

    # bodies

    def _feed(self, received: memoryview) -> None:
        """Bytes that came while a request is being served or its body is thrown away."""
        body = self._body
        if body is None or body.complete or self._pending:
            self._pending = self._pending + received
            if body is not None and not body.complete:
                self._feed_pending()
        else:
            used = self._take(body, received)
            if used < len(received) and self._phase != _CLOSED:
                self._pending = bytes(received[used:])
        if self._phase == _DRAINING:
            self._check_drained()
        elif self._phase == _SERVING:
            self._adjust_reading()

    def _take(self, body: IncomingBody, data: memoryview) -> int:
        try:
            return body.take(data)
        except ClientError as error:
            self._context.counters.protocol_errors += 1
            self._close_after = True
            body.fail(error)
            if self._phase == _DRAINING:
                self._linger()
            return len(data)

    def _feed_pending(self) -> None:
        body = self._body
        if body is not None and self._pending and not body.complete:
            self._pending = self._pending[self._take(body, memoryview(self._pending)) :]

    def _adjust_reading(self) -> None:
        """Read while somebody can take the bytes; otherwise leave them to the kernel and its window."""
        body = self._body
        if body is not None and not body.complete:
            wanted = body.has_room and len(self._pending) < PIPELINED_BYTES_MAX
        else:
            wanted = len(self._pending) < PIPELINED_BYTES_MAX
        if wanted == self._read_paused and self._transport is not None and self._phase < _CLOSING and not self._eof:
            self._read_paused = not wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def on_body_wanted(self) -> None:
        """First read of a body that is not complete."""
        if self._expect and self._phase == _SERVING:
            self._expect = False
            self._context.counters.continues += 1
            self._write(CONTINUE)
        self.on_body_room()

    def on_body_room(self) -> None:
        """The body can take more."""
        if self._phase == _SERVING:
            self._feed_pending()
            self._adjust_reading()

    def on_body_wait(self, waiting: bool) -> None:
        """A handler starts or stops waiting for the client's bytes."""
        if self._phase == _SERVING:
            if waiting:
                self._set_timer("body", self._context.timeouts.body)
            elif self._timer == "body":
                self._clear_timer()

    # answers

    def _answer(self, response: Response) -> None:
        """Send what the handler returned."""
        if not isinstance(response, Response):
            self._fail(TypeError("the handler returned no Response"))
            return
        body = response.body
        if self._phase != _SERVING:
            if not isinstance(body, (bytes, memoryview)):
                body.close()
            self._report()
            self._end_request()
            return
        if self._body is not None:
            self._judge_unread()
        head = self._head
        assert head is not None
        if isinstance(body, (bytes, memoryview)):
            try:
                self._write_whole(response, head, body)
            except ValueError as error:
                self._fail(error)
                return
            if self._write_paused:
                self._writable = self._context.loop.create_future()
                self._writable.add_done_callback(self._drained)
            elif isinstance(body, bytes):
                self._finish()
            else:
                self._drained()
        elif head.method == "HEAD" or response.status in BODILESS:
            try:
                length = response.length if response.length is not None else max(body.length, 0)
                self._write(self._head_of(response, length))
            except ValueError as error:
                self._fail(error)
                return
            finally:
                body.close()
            self._finish()
        else:
            self._run(send_pieces(self, response, body, can_chunk=head.version == "1.1"), self._streamed)

    def _write_whole(self, response: Response, head: Head, body: bytes | memoryview) -> None:
        size = len(body)
        length = response.length
        if head.method == "HEAD" or response.status in BODILESS:
            self._write(self._head_of(response, size if length is None else length))
            return
        if length is not None and length != size:
            raise ValueError("the response's length differs from its body")
        start = self._head_of(response, size)
        self._sent = size
        if size <= _JOIN_BYTES_MAX and isinstance(body, bytes):
            transport = self._transport
            assert transport is not None
            self._context.counters.bytes_out += len(start) + size
            transport.write(start + body)
        else:
            self._write(start)
            self._write(body)

    def _head_of(self, response: Response, length: int | None) -> bytes:
        head, request, context = self._head, self._request, self._context
        assert head is not None
        assert request is not None
        if context.draining or response.close or self._eof or (self._expect_empty and response.status >= 300):
            self._close_after = True
        self._status = response.status
        connection = b""
        if self._close_after:
            connection = b"close"
        elif head.version == "1.0":
            connection = b"keep-alive"
        built = context.replies.build(
            response.status,
            response.headers,
            length=length,
            request_id=request.request_id,
            now=context.wall_ms() / 1000,
            connection=connection,
            block=response.block,
        )
        if self._expect_empty and response.status < 300:
            context.counters.continues += 1
            return CONTINUE + built
        return built

    # an answer in pieces, as ``streaming.Sender`` has it

    @property
    def turns(self) -> Turns:
        """Of pieces of long answers."""
        return self._context.turns

    @property
    def is_serving(self) -> bool:
        """The client still waits for the answer."""
        return self._phase == _SERVING

    @property
    def request_id(self) -> str:
        """Of the request that is served; empty without one."""
        return self._request.request_id if self._request is not None else ""

    def begin_pieces(self, response: Response, length: int | None) -> None:
        """The head of an answer whose body follows."""
        self._write(self._head_of(response, length))
        self._first = self._context.monotonic()

    def send_piece(self, *parts: bytes | memoryview, size: int) -> None:
        """A piece and what frames it."""
        self._sent += size
        for part in parts:
            self._write(part)

    def room(self) -> asyncio.Future[None] | None:
        """Done when the transport takes bytes again, or never will; ``None`` if it does now."""
        if not self._write_paused:
            return None
        self._writable = writable = self._context.loop.create_future()
        return writable

    def broke_off(self) -> None:
        """An answer failed midway."""
        self._context.counters.handler_errors += 1

    def _drained(self, writable: asyncio.Future[None] | None = None) -> None:
        """A large answer is on its way. The next one takes turns: else who reads fast has many before others have their first."""
        self._writable = None
        self._context.turns.take(lambda: self._streamed(True))

    def _streamed(self, whole: bool) -> None:
        if whole and self._phase == _SERVING:
            self._finish()
        else:
            self._drop()

    def _wake_writer(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        self._context.counters.bytes_out += len(data)
        self._transport.write(data)

    def _judge_unread(self) -> None:
        """Before the head is built: can the connection be kept although the body was not read to its end?"""
        body = self._body
        if body is None or body.complete:
            return
        remaining = body.remaining
        if self._expect or self._eof or (remaining is not None and remaining > DRAIN_BYTES_MAX):
            self._close_after = True

    def _finish(self) -> None:
        """The answer is with the transport: go on to the next request, or close."""
        context = self._context
        self._report()
        body = self._body
        unread = body is not None and not body.complete
        if self._close_after or self._eof:
            self._end_request()
            if (unread or self._pending) and not self._eof:
                self._linger()
            else:
                self._close()
            return
        if unread:
            assert body is not None
            body.discard()
            self._phase = _DRAINING
            self._drain_from = body.received
            self._set_timer("drain", context.timeouts.drain)
            self._feed_pending()
            if self._phase == _DRAINING:
                self._check_drained()
            return
        self._next_request()

    def _report(self) -> None:
        """Tell who counts; status 0 if the client went before an answer."""
        context, request, body, first = self._context, self._request, self._body, self._first
        if request is not None:
            seconds = context.monotonic() - self._started
            received = self._received if body is None else body.received
            context.on_answered(request, self._status, received, self._sent, seconds, first and first - self._started)

    def _check_drained(self) -> None:
        """Is the unread body out of the way, or too long to be worth it?"""
        body = self._body
        assert body is not None
        if body.complete:
            self._next_request()
        elif body.received - self._drain_from > DRAIN_BYTES_MAX:
            self._linger()
        else:
            self._adjust_reading()

    def _next_request(self) -> None:
        if self._body is not None:
            self._end_request()
        self._request = self._head = None
        self._phase = _HEAD
        context = self._context
        wheel = context.wheel
        self._timer = "idle"
        wheel.set(self, wheel.now + context.timeouts.idle)
        if self._pending:
            self._advance()
        else:
            if self._read_paused:
                self._adjust_reading()
            if context.sheds:
                self.begin_drain()

    def _drop(self) -> None:
        """No whole answer can be given any more: end the request and the connection."""
        self._report()
        self._end_request()
        self.abort()

    def _end_request(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
        self._request = None
        self._head = None

    # refusals and ends

    def _fail(self, error: Exception) -> None:
        """The handler raised what nobody mapped, or its answer cannot be sent: 500 with the request id and nothing else.

        An InvariantError goes to the loop, which ends the process.
        """
        if isinstance(error, InvariantError):
            self._context.loop.call_exception_handler({"message": "a handler found an invariant broken", "exception": error})
        if self._phase != _SERVING:
            self._drop()
            return
        self._context.counters.handler_errors += 1
        logger.error("a handler failed", exc_info=error, extra={"request_id": self.request_id})
        self._close_after = True
        self._send_error(500, "InternalError", "We encountered an internal error. Please try again.", self.request_id)
        self._finish()

    def _refuse(self, error: HeadError) -> None:
        """A head that is no request: answer and close."""
        if error.status not in (408, 503):
            self._context.counters.protocol_errors += 1
        self._send_error(error.status, error.code, error.message, self._context.request_ids.next())
        self._pending = b""
        self._linger()

    def _send_error(self, status: int, code: str, message: str, request_id: str) -> None:
        document = error_xml(code, message, request_id, self._context.replies.host_id)
        self._send_document(status, b"application/xml", document, request_id)

    def _send_document(self, status: int, media_type: bytes, document: bytes, request_id: str) -> None:
        """An answer that no handler made; the connection closes after it."""
        self._status = status
        start = self._context.closing_head(status, media_type, len(document), request_id)
        self._write(start if self._head is not None and self._head.method == "HEAD" else start + document)

    def _linger(self) -> None:
        """Close without letting a reset overtake the answer: no more writing, read and drop for a bounded time."""
        transport = self._transport
        assert transport is not None
        self._end_request()
        self._phase = _LINGERING
        self._pending = b""
        self._lingered = 0
        if transport.is_closing():
            return
        if not self._secure and transport.can_write_eof():
            transport.write_eof()
        self._set_timer("linger", self._context.timeouts.drain)
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()

    def _close(self) -> None:
        """Send what is written, then close; a peer that does not take it is aborted after the write timeout."""
        if self._transport is None or self._phase == _CLOSED:
            return
        self._phase = _CLOSING
        if self._secure:
            self._clear_timer()
            Shutdown(self._context.wheel, self._transport, self._context.timeouts.write)
        elif self._transport.get_write_buffer_size():
            self._watch_writing()
        else:
            self._clear_timer()
        self._transport.close()

    def close_idle(self, seconds: float) -> None:
        """Close it if it has been idle for so long (give or take a tick of the wheel) and no byte of a next request is here."""
        idle, transport = self._context.timeouts.idle, self._transport
        if self.is_idle and transport is not None and not unread_bytes(transport):
            if self._timer != "idle":  # its client took the last answer slowly: it is idle from now on
                self._set_timer("idle", idle)
            elif self._context.wheel.now >= self.deadline - idle + seconds:
                self._close()

    def abort(self) -> None:
        """Drop the connection and what was not sent."""
        if self._transport is not None and self._phase != _CLOSED:
            self._transport.abort()

    @property
    def is_idle(self) -> bool:
        """Between two requests with nothing received and nothing left to send."""
        transport = self._transport
        if self._phase != _HEAD or self._pending or transport is None:
            return False
        return not transport.is_closing() and not transport.get_write_buffer_size()

    def begin_drain(self) -> None:
        """Idle: go to ``on_idle`` or close. Busy, or with a request that is here and not read: the answer says ``Connection: close``.
        One whose last answer is still on its way said nothing of the kind: it goes to ``on_idle`` when the answer is out."""
        on_idle = self._context.on_idle
        if on_idle is not None:
            if self.is_idle:
                on_idle(self)
        elif self._phase == _HEAD and not self._pending and self._transport is not None and not unread_bytes(self._transport):
            self._close()

    def hand_over(self, give: Callable[[int], bool]) -> bool:
        """Hand an idle plain connection to another process; ``give`` gets its descriptor and says whether it went.

        If it did, this end is closed. True if it did; a connection that is busy or has TLS cannot go.
        """
        transport = self._transport
        if self._secure or not self.is_idle or transport is None:
            return False
        sock = transport.get_extra_info("socket")
        if sock is None:
            return False
        transport.pause_reading()  # from here on its bytes are the other's
        if not give(sock.fileno()):
            transport.resume_reading()
            return False
        self._phase = _CLOSING
        transport.abort()
        return True

    # deadlines

    def _set_timer(self, name: str, seconds: float) -> None:
        self._timer = name
        wheel = self._context.wheel
        wheel.set(self, wheel.now + seconds)

    def _clear_timer(self) -> None:
        self._timer = ""
        self.deadline = NEVER

    def _watch_writing(self) -> None:
        assert self._transport is not None
        self._unsent = unacknowledged_bytes(self._transport)
        self._set_timer("write", self._context.timeouts.write)
