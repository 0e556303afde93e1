"""Calls between workers over Unix sockets: batched frames, replies by id. Hot.

Invariants
* One connection per ordered pair of workers; calls go one way, replies the other. What is sent in one turn of the loop leaves in one write.
* A call whose connection is lost after it was sent fails with ``PeerLost``: its outcome is unknown. One that never left fails
  with ``PeerGone``.
* Only processes of the same user are answered (SO_PEERCRED); the sockets lie in the node's run folder, mode 0700.
* With a greeting set, a connection is answered nothing else before its greeting was accepted (``admit``).
* What waits to be sent, and the calls that wait for an answer, are bounded; beyond it a call fails with SLOW_DOWN. The answering end stops
  reading while it holds SERVE_BYTES_MAX of requests or of answers that nobody takes.
* Every call gets an answer as long as its connection lives, whatever its handler raises. An InvariantError goes to the loop's
  exception handler instead: the process is about to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import msgspec

from titans3.errors import ClientError, InvariantError, PeerError, Reason
from titans3.limits import KIB, MIB
from titans3.rpc.frame import FAILURE, REPLY, REQUEST, WITHIN, Frames, disclose, enclose, encode_head

SEND_BYTES_MAX = 64 * MIB
CALLS_MAX = 65_536
SERVE_BYTES_MAX = 64 * MIB
_JOIN_BYTES_MAX = 64 * KIB  # longer writes go out piece by piece, not copied together
_REFUSE_SECONDS = 0.05  # what siblings sent before they heard of the move has come by then
_FINISH_SECONDS = 5.0
_logger = logging.getLogger("titans3.rpc")
_encode = msgspec.msgpack.Encoder().encode

Answer = tuple[bytes, bytes]


class Later:
    """An answer that ``then`` makes when a future is done, without a task of its own. ``then`` raises what the caller is to be told."""

    __slots__ = ("future", "then")

    def __init__(self, future: asyncio.Future[Any], then: Callable[[asyncio.Future[Any]], Answer | Awaitable[Answer]]) -> None:
        self.future, self.then = future, then

    def __await__(self) -> Generator[Any, None, Answer]:
        """For whoever wants to wait after all."""
        yield from asyncio.wait([self.future]).__await__()
        result = self.then(self.future)
        return result if isinstance(result, tuple) else (yield from result.__await__())


Handler = Callable[[bytes, bytes], "Answer | Later | Awaitable[Answer]"]


class PeerGone(PeerError):
    """The call was never sent."""


class PeerLost(PeerError):
    """The connection broke after the call was sent; its outcome is unknown."""


class Failure(msgspec.Struct, array_like=True):
    """A ``ClientError`` on its way back."""

    reason: str
    message: str
    fields: dict[str, str | int]


_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def encode_failure(error: ClientError) -> bytes:
    """Meta of a failed reply; fields that are not text or numbers stay behind."""
    fields = {name: value for name, value in error.fields.items() if isinstance(value, (str, int))}
    return _encode(Failure(str(error.reason), error.message, fields))


def decode_failure(meta: bytes) -> ClientError:
    """The ``ClientError`` of a failed reply; a reason of a newer build is UNKNOWN_OUTCOME. Raises PeerError for nonsense."""
    try:
        failure = _decode_failure(meta)
    except msgspec.MsgspecError as error:
        raise PeerError(f"bad failure: {error}") from error
    fields = {name: value for name, value in failure.fields.items() if name not in ("reason", "message", "self")}
    try:
        reason = Reason(failure.reason)
    except ValueError:
        return ClientError(Reason.UNKNOWN_OUTCOME, f"{failure.reason}: {failure.message}", **fields)
    return ClientError(reason, failure.message, **fields)


def _failure_of(flags: int, meta: bytes) -> ClientError:
    if flags != FAILURE:
        raise PeerError("a request on the calling end")
    return decode_failure(meta)


def socket_path(run_fd: int, worker: int) -> str:
    """Path of a worker's socket that stays short for any data folder; ``run_fd`` is an open descriptor of the run folder."""
    return f"/proc/self/fd/{run_fd}/worker-{worker}.sock"


class _Stream(asyncio.Protocol):
    """What both ends share: batched writing and cutting."""

    transport: asyncio.Transport | None = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, head: bytes, body: bytes | memoryview) -> None:
        """Queue a frame for this turn's write. ``body`` must stay as it is until its answer is here."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(head)
        if len(body):
            out.append(body)
        self._out_bytes += len(head) + len(body)

    def _flush(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return  # connection_lost deals with what is in _out
        out, size = self._out, self._out_bytes
        self._out, self._out_bytes = [], 0
        if len(out) == 1:
            transport.write(out[0])
        elif size <= _JOIN_BYTES_MAX:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)

    def abort(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self.transport.abort()


class Link(_Stream):
    """Calling end of a connection."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._unsent: list[int] = []
        self._number = 0
        self._on_lost = on_lost
        self.takes_whose = False  # the other end understands WITHIN

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._calls)

    def call(self, kind: int, meta: bytes, body: bytes | memoryview = b"", flags: int = REQUEST) -> asyncio.Future[Answer]:
        """(meta, body) of the reply.

        Raises ClientError(SLOW_DOWN, TOO_LARGE), PeerGone; the future raises ClientError, PeerGone, PeerLost.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise PeerGone("not connected")
        if transport.get_write_buffer_size() + self._out_bytes > SEND_BYTES_MAX or len(self._calls) >= CALLS_MAX:
            raise ClientError(Reason.SLOW_DOWN, "too much is under way to the sibling")
        number = self._number + 1
        try:
            head = encode_head(kind, flags, number, meta, len(body))
        except PeerError as error:
            raise ClientError(Reason.TOO_LARGE, str(error)) from error
        self._number = number
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._calls[number] = future
        self._unsent.append(number)
        self.send(head, body)
        return future

    def call_within(self, whose: bytes, kind: int, meta: bytes, body: bytes | memoryview = b"") -> asyncio.Future[Answer]:
        """``call`` that tells whose request it belongs to, if the other end understands that."""
        if not self.takes_whose:
            return self.call(kind, meta, body)
        return self.call(kind, enclose(whose, meta), body, WITHIN)

    def _flush(self) -> None:
        super()._flush()
        if not self._out:
            self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        try:
            for _, flags, number, meta, body in self._frames.feed(data):
                failure = None if flags == REPLY else _failure_of(flags, meta)
                future = self._calls.pop(number, None)  # only now: after nonsense connection_lost must find it
                if future is None or future.done():
                    continue
                if failure is None:
                    future.set_result((meta, body))
                else:
                    future.set_exception(failure)
        except PeerError as error:
            _logger.error("a sibling answered nonsense: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        calls, self._calls = self._calls, {}
        unsent, self._unsent = set(self._unsent), []
        self._out, self._out_bytes = [], 0
        for number, future in calls.items():
            if not future.done():
                kind = PeerGone if number in unsent else PeerLost
                future.set_exception(kind("the connection to the sibling broke"))
        self._on_lost()


class _Served(_Stream):
    """Answering end of a connection."""

    def __init__(self, server: LinkServer) -> None:
        super().__init__()
        self._server = server
        self.admitted = server.greeting is None
        self._held = 0  # bytes of requests that are being answered
        self._clogged = False  # answers pile up: the caller does not read
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if not _same_user(transport.get_extra_info("socket")):
            _logger.error("a process of another user called; refused")
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(SERVE_BYTES_MAX, SERVE_BYTES_MAX // 2)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._out, self._out_bytes = [], 0
        if self in self._server.connections:
            self._server.connections.discard(self)
            for callback in self._server.on_lost:
                callback(self)

    def pause_writing(self) -> None:
        self._clogged = True
        self._pace()

    def resume_writing(self) -> None:
        self._clogged = False
        self._pace()

    def _pace(self) -> None:
        """Read on, or wait until there is less in hand."""
        limit = SERVE_BYTES_MAX // 2 if self._paused else SERVE_BYTES_MAX
        pause = self._clogged or self._held > limit
        if pause != self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = pause
            (self.transport.pause_reading if pause else self.transport.resume_reading)()

    def data_received(self, data: bytes) -> None:
        if self not in self._server.connections:
            return  # refused
        try:
            frames = self._frames.feed(data)
            for kind, flags, number, meta, body in frames:
                if flags != REQUEST:
                    self._take_within(flags, kind, number, meta, body)
                    continue
                self._take(kind, number, meta, body)
        except PeerError as error:
            _logger.error("a sibling sent nonsense: %s", error)
            self.abort()

    def _take_within(self, flags: int, kind: int, number: int, meta: bytes, body: bytes) -> None:
        """A request that tells whose it is. Raises PeerError for what is none."""
        if flags != WITHIN:
            raise PeerError("an answer on the answering end")
        whose, meta = disclose(meta)
        self._server.within(whose).run(self._take, kind, number, meta, body)

    def _take(self, kind: int, number: int, meta: bytes, body: bytes) -> None:
        """One request: answered at once, or when its handler is done."""
        server = self._server
        handler = server.handlers.get(kind)
        if server.closing or handler is None:
            closing = ClientError(Reason.SLOW_DOWN, "closing", moving=1)
            self._fail(kind, number, closing if server.closing else ClientError(Reason.UNAVAILABLE, f"call kind {kind} is not known"))
            return
        if not self.admitted and kind != server.greeting:
            self._fail(kind, number, ClientError(Reason.UNAVAILABLE, "a greeting comes first"))
            return
        server.caller = self
        try:
            result = handler(meta, body)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is told to the caller
            self._raised(kind, number, error)
        else:
            if isinstance(result, tuple):
                self._answer(kind, REPLY, number, *result)
            else:
                size = len(meta) + len(body)
                self._held += size
                if self._held > SERVE_BYTES_MAX:
                    self._pace()
                if isinstance(result, Later):
                    server.waits(result.future)
                    result.future.add_done_callback(partial(self._done, kind, number, size, result.then))
                else:
                    server.later(self._finish(kind, number, size, result))
        finally:
            server.caller = None

    def _done(
        self, kind: int, number: int, size: int, then: Callable[[asyncio.Future[Any]], Answer | Awaitable[Answer]],
        future: asyncio.Future[Any],
    ) -> None:  # fmt: skip
        """The future of a ``Later`` is done."""
        server = self._server
        server.waits_no_more(future)
        try:
            result = then(future)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is told to the caller
            self._raised(kind, number, error)
        else:
            if not isinstance(result, tuple):
                server.later(self._finish(kind, number, size, result))
                return
            self._answer(kind, REPLY, number, *result)
        self._held -= size
        if self._paused:
            self._pace()

    async def _finish(self, kind: int, number: int, size: int, result: Awaitable[Answer]) -> None:
        try:
            meta, body = await result
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is told to the caller
            self._raised(kind, number, error)
        else:
            self._answer(kind, REPLY, number, meta, body)
        finally:
            self._held -= size
            if self._paused:
                self._pace()

    def _raised(self, kind: int, number: int, error: Exception) -> None:
        """Tell the caller what a handler raised. An InvariantError is raised again."""
        if isinstance(error, InvariantError):
            raise error
        if not isinstance(error, ClientError):
            _logger.error("call kind %d failed", kind, exc_info=error)
            error = ClientError(Reason.UNKNOWN_OUTCOME, type(error).__name__)
        self._fail(kind, number, error)

    def _fail(self, kind: int, number: int, error: ClientError) -> None:
        self._answer(kind, FAILURE, number, encode_failure(error), b"")

    def _answer(self, kind: int, flags: int, number: int, meta: bytes, body: bytes) -> None:
        if self.transport is None:
            return
        try:
            head = encode_head(kind, flags, number, meta, len(body))
        except PeerError as error:
            _logger.error("the answer to call kind %d does not fit: %s", kind, error)
            meta, body = encode_failure(ClientError(Reason.UNAVAILABLE, f"the answer is a {error}")), b""
            head = encode_head(kind, FAILURE, number, meta, 0)
        self.send(head, body)


class LinkServer:
    """Accepts siblings and answers their calls with ``handlers`` (kind → callable(meta, body)).

    ``caller`` names the connection while a handler is called (not while its coroutine runs); ``on_lost`` is told when it is gone.
    ``on_close`` is called when closing begins: answers that wait for something slow are to give up. ``greeting`` is the kind that a
    connection must begin with, if any; its handler calls ``admit``. ``within`` makes the context in which a call is answered that says
    whose request it belongs to.
    """

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.within: Callable[[bytes], contextvars.Context] = lambda whose: contextvars.copy_context()
        self.connections: set[object] = set()
        self.caller: object | None = None
        self.greeting: int | None = None
        self.on_lost: list[Callable[[object], None]] = []
        self.on_close: list[Callable[[], None]] = []
        self.closing = False
        self._server: asyncio.AbstractServer | None = None
        self._path = ""
        self._tasks: set[asyncio.Future[Any]] = set()

    async def start(self, path: str) -> None:
        """Listen at a socket path (an old socket there is removed)."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._path = path
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Served(self), sock=sock)

    def admit(self) -> None:
        """The connection whose handler runs may make every call from now on."""
        assert isinstance(self.caller, _Served)
        self.caller.admitted = True

    def later(self, work: Awaitable[None]) -> None:
        """Run an answer that has to wait."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def waits(self, future: asyncio.Future[Any]) -> None:
        """An answer waits for this future: closing waits for it, too."""
        self._tasks.add(future)

    def waits_no_more(self, future: asyncio.Future[Any]) -> None:
        """It is done."""
        self._tasks.discard(future)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "an answer failed", "exception": error, "future": task})

    async def close(self) -> None:
        """Stop listening, finish what is being answered, refuse what still comes (it may be asked again elsewhere), drop connections."""
        self.closing = True
        for callback in self.on_close:
            callback()
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_FINISH_SECONDS)
        if self.connections:
            await asyncio.sleep(_REFUSE_SECONDS)
        for connection in list(self.connections):
            assert isinstance(connection, _Served)
            connection.abort()


def _same_user(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return bool(uid == os.getuid())


async def connect(path: str, on_lost: Callable[[], None]) -> Link:
    """Connect to a sibling. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, path)
        if not _same_user(sock):
            raise PermissionError("the socket belongs to another user")
        making = loop.create_unix_connection(lambda: Link(on_lost), sock=sock)
        _, link = await loop.create_task(making, context=contextvars.Context())  # it outlives the request that needed it first
    except BaseException:
        sock.close()
        raise
    return link
