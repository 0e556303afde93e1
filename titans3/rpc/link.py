"""Calls between workers over Unix sockets: batched frames, replies by id. Hot.

Invariants
* One connection per ordered pair of workers; calls go one way, replies the other. What is sent in one turn of the loop leaves in one write.
* A call whose connection is lost after it was sent fails with ``PeerLost``: its outcome is unknown. One that never left fails with ``PeerGone``.
* Only processes of the same user are answered (SO_PEERCRED); the sockets lie in the node's run folder, mode 0700.
* What waits to be sent is bounded by bytes; beyond it a call fails with SLOW_DOWN.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec

from titans3.errors import ClientError, PeerError, Reason
from titans3.limits import MIB
from titans3.rpc.frame import FAILURE, REPLY, REQUEST, Frames, encode_head

SEND_BYTES_MAX = 64 * MIB
_REFUSE_SECONDS = 0.05  # what siblings sent before they heard of the move has come by then
_logger = logging.getLogger("titans3.rpc")
_encode = msgspec.msgpack.Encoder().encode

Answer = tuple[bytes, bytes]
Handler = Callable[[bytes, bytes], "Answer | Awaitable[Answer]"]


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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, head: bytes, body: bytes | memoryview) -> None:
        """Queue a frame for this turn's write."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(head)
        if len(body):
            out.append(body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.transport is not None and not self.transport.is_closing():
            if len(out) == 1:
                self.transport.write(out[0])
            else:
                self.transport.write(b"".join(out))

    def abort(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self.transport.abort()


class Link(_Stream):
    """Calling end of a connection."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._on_lost = on_lost

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def call(self, kind: int, meta: bytes, body: bytes | memoryview = b"") -> asyncio.Future[Answer]:
        """(meta, body) of the reply. Raises ClientError(SLOW_DOWN), PeerGone; the future raises ClientError, PeerLost."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise PeerGone("not connected")
        if transport.get_write_buffer_size() > SEND_BYTES_MAX:
            raise ClientError(Reason.SLOW_DOWN)
        self._number += 1
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._calls[self._number] = future
        self.send(encode_head(kind, REQUEST, self._number, meta, len(body)), body)
        return future

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except PeerError:
            _logger.error("a sibling answered nonsense")
            self.abort()
            return
        for _, flags, number, meta, body in frames:
            future = self._calls.pop(number, None)
            if future is None or future.done():
                continue
            if flags == REPLY:
                future.set_result((meta, body))
            else:
                failure = _decode_failure(meta)
                future.set_exception(ClientError(Reason(failure.reason), failure.message, **failure.fields))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(PeerLost("the connection to the sibling broke"))
        self._on_lost()


class _Served(_Stream):
    """Answering end of a connection."""

    def __init__(self, server: LinkServer) -> None:
        super().__init__()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not _same_user(transport.get_extra_info("socket")):
            _logger.error("a process of another user called; refused")
            transport.close()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except PeerError:
            _logger.error("a sibling sent nonsense")
            self.abort()
            return
        handlers = self._server.handlers
        for kind, _, number, meta, body in frames:
            if self._server.closing:
                self._answer(kind, FAILURE, number, encode_failure(ClientError(Reason.SLOW_DOWN, "closing", moving=1)), b"")
                continue
            handler = handlers.get(kind)
            if handler is None:
                error = ClientError(Reason.UNAVAILABLE, f"call kind {kind} is not known")
                self._answer(kind, FAILURE, number, encode_failure(error), b"")
                continue
            try:
                result = handler(meta, body)
            except ClientError as error:
                self._answer(kind, FAILURE, number, encode_failure(error), b"")
                continue
            if isinstance(result, tuple):
                self._answer(kind, REPLY, number, *result)
            else:
                self._server.later(self._finish(kind, number, result))

    async def _finish(self, kind: int, number: int, result: Awaitable[Answer]) -> None:
        try:
            meta, body = await result
        except ClientError as error:
            self._answer(kind, FAILURE, number, encode_failure(error), b"")
        except Exception as error:
            _logger.exception("call kind %d failed", kind)
            failure = ClientError(Reason.UNKNOWN_OUTCOME, type(error).__name__)
            self._answer(kind, FAILURE, number, encode_failure(failure), b"")
        else:
            self._answer(kind, REPLY, number, meta, body)

    def _answer(self, kind: int, flags: int, number: int, meta: bytes, body: bytes) -> None:
        if self.transport is not None:
            self.send(encode_head(kind, flags, number, meta, len(body)), body)


class LinkServer:
    """Accepts siblings and answers their calls with ``handlers`` (kind → callable(meta, body))."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.connections: set[_Served] = set()
        self.closing = False
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: str) -> None:
        """Listen at a socket path (an old socket there is removed)."""
        if os.path.exists(path):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        sock.bind(path)
        os.chmod(path, 0o600)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Served(self), sock=sock)

    def later(self, work: Awaitable[None]) -> None:
        """Run an answer that has to wait."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop listening, finish what is being answered, refuse what still comes (it may be asked again elsewhere), drop connections."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5)
        if self.connections:
            await asyncio.sleep(_REFUSE_SECONDS)
        for connection in list(self.connections):
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
        _, link = await loop.create_unix_connection(lambda: Link(on_lost), sock=sock)
    except BaseException:
        sock.close()
        raise
    return link
