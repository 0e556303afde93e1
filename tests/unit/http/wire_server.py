"""A server on its own thread with uvloop, and a raw client: what the connection tests talk through."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import uvloop

from titans3.errors import ClientError
from titans3.http.message import Request, Response
from titans3.worker.buffers import BufferPool
from titans3.worker.context import ConnectionContext, Timeouts


class Pieces:
    """A response source of ``count`` pieces of ``size`` bytes, with a wait before each when asked."""

    def __init__(self, count: int, size: int, *, length: int | None = None, wait: float | None = None, fail_at: int = -1) -> None:
        self.length = count * size if length is None else length
        self._count = count
        self._size = size
        self._wait = wait
        self._fail_at = fail_at
        self._at = 0
        self.closed = 0

    async def next(self) -> bytes | None:
        if self._wait is not None:
            await asyncio.sleep(self._wait)
        if self._at == self._fail_at:
            raise OSError("the disk is gone")
        if self._at == self._count:
            return None
        self._at += 1
        return bytes([self._at % 256]) * self._size

    def next_nowait(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class Toy:
    """A handler with one path per behaviour; remembers what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.sources: list[Pieces] = []
        self.paths: list[bytes] = []

    async def handle(self, request: Request) -> Response:
        self.paths.append(request.target)
        name = request.path.strip(b"/").decode() or "root"
        numbers = [int(item) for item in request.query.split(b",") if item]
        try:
            response: Response = await getattr(self, "do_" + name)(request, *numbers)
        except ClientError as error:
            self.events.append(f"client error {error.reason}")
            return Response(400, body=str(error.reason).encode())
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return response

    def source(self, *arguments: int, **options: float) -> Response:
        pieces = Pieces(*arguments, **options)  # type: ignore[arg-type]
        self.sources.append(pieces)
        return Response(200, body=pieces)

    async def do_root(self, request: Request) -> Response:
        return Response(200, [(b"x-secure", b"yes" if request.secure else b"no")], b"hello")

    async def do_echo(self, request: Request) -> Response:
        return Response(200, body=await request.body.read_all(100_000_000))

    async def do_late_echo(self, request: Request) -> Response:
        await asyncio.sleep(0.05)
        return await self.do_echo(request)

    async def do_sum(self, request: Request) -> Response:
        digest, total, held = hashlib.sha256(), 0, 0
        while (piece := await request.body.next()) is not None:
            held = max(held, len(piece))
            digest.update(piece)
            total += len(piece)
            request.body.release(piece)
            await asyncio.sleep(0)
        return Response(200, body=f"{total} {digest.hexdigest()} {held}".encode())

    async def do_pieces(self, request: Request, held: int) -> Response:
        """Their sizes; ``held``: each until the next one is there."""
        sizes: list[int] = []
        before: memoryview | None = None
        while (piece := await request.body.next()) is not None:
            sizes.append(len(piece))
            if before is not None:
                request.body.release(before)
            before = piece
            if not held:
                request.body.release(piece)
                before = None
        return Response(200, body=" ".join(map(str, sizes)).encode())

    async def do_one_piece(self, request: Request) -> Response:
        piece = await request.body.next()
        self.events.append("read")
        return Response(200, body=str(len(piece or b"")).encode())

    async def do_ignore(self, request: Request) -> Response:
        return Response(403, body=b"no")

    async def do_late_ignore(self, request: Request) -> Response:
        await asyncio.sleep(0.1)
        return Response(403, body=b"no")

    async def do_stream(self, request: Request, count: int, size: int) -> Response:
        return self.source(count, size)

    async def do_view(self, request: Request, size: int) -> Response:
        return Response(200, body=memoryview(bytes(size)))

    async def do_slow_stream(self, request: Request, count: int, size: int) -> Response:
        return self.source(count, size, wait=0.002)

    async def do_unknown(self, request: Request, count: int, size: int) -> Response:
        return self.source(count, size, length=-1)

    async def do_short(self, request: Request) -> Response:
        return self.source(2, 10, length=30)

    async def do_long(self, request: Request) -> Response:
        return self.source(4, 10, length=30)

    async def do_fail(self, request: Request, at: int) -> Response:
        return self.source(4, 10, wait=0.001, fail_at=at)

    async def do_raise(self, request: Request) -> Response:
        raise RuntimeError("secret detail")

    async def do_late_raise(self, request: Request) -> Response:
        await asyncio.sleep(0.01)
        raise RuntimeError("secret detail")

    async def do_split(self, request: Request) -> Response:
        return Response(200, [(b"x-evil", b"a\r\nb: c")])

    async def do_status(self, request: Request, status: int) -> Response:
        return Response(status, [(b"etag", b'"e"')], b"body", close=False)

    async def do_wait(self, request: Request, milliseconds: int) -> Response:
        await asyncio.sleep(milliseconds / 1000)
        self.events.append("waited")
        return Response(200, body=b"waited")


class Server:
    """The running server; ``call`` runs something on its loop."""

    def __init__(self, toy: Toy, timeouts: Timeouts, tls: ssl.SSLContext | None, pool: BufferPool | None, connections_max: int) -> None:
        self.toy = toy
        self.loop = uvloop.new_event_loop()
        self._timeouts = timeouts
        self._tls = tls
        self._pool = pool
        self._connections_max = connections_max
        self.port = 0
        self._ready = threading.Event()
        self.loop_errors: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
        self.context = ConnectionContext(
            self.toy.handle,
            self.loop,
            timeouts=self._timeouts,
            pool=self._pool,
            tick_seconds=0.02,
            connections_max=self._connections_max,
        )
        self.context.start()
        server = self.loop.run_until_complete(
            self.loop.create_server(self.context.protocol, "127.0.0.1", 0, ssl=self._tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self.loop.run_forever()
        server.close()
        self.context.stop()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def call(self, function: object, *arguments: object) -> object:
        """Run ``function`` on the loop and return its result."""
        assert callable(function)

        async def inner() -> object:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(inner(), self.loop).result(10)

    def wait_until(self, condition: object, seconds: float = 5.0) -> None:
        """Until ``condition()`` holds on the loop; fails after ``seconds``."""
        end = time.monotonic() + seconds
        while not self.call(condition):
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.01)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def serving(
    *,
    timeouts: Timeouts | None = None,
    tls: ssl.SSLContext | None = None,
    pool: BufferPool | None = None,
    toy: Toy | None = None,
    connections_max: int = 1000,
) -> Iterator[Server]:
    """A server for the length of the block; afterwards nothing may be open and nothing may have gone wrong on the loop."""
    server = Server(toy or Toy(), timeouts or Timeouts(), tls, pool, connections_max)
    try:
        yield server
    finally:
        server.stop()
    assert server.loop_errors == []


class Reply:
    """One parsed response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """A raw socket that can also read responses strictly."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, receive_bytes: int = 0) -> None:
        plain = socket.socket()
        if receive_bytes:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.settimeout(10)
        plain.connect(("127.0.0.1", port))
        self.sock = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *pieces: bytes, pause: float = 0.01) -> None:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause)
            self.sock.sendall(piece)

    def _more(self) -> bool:
        data = self.sock.recv(1 << 20)
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            assert self._more(), f"closed before {mark!r}: {self._buffer[:200]!r}"
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            assert self._more(), f"closed {count - len(self._buffer)} bytes early"
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def reply(self, method: str = "GET") -> Reply:
        """Read one response with its framing; 100 Continue is a response of its own."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        if status < 200 or status in (204, 304) or method == "HEAD":
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            assert self._exactly(2) == b"\r\n"
            return Reply(status, headers, body)
        return Reply(status, headers, self._exactly(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Nothing more comes and the server has closed its side."""
        return self._buffer == b"" and self.sock.recv(1) == b""

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while self._more():
            pass
        found, self._buffer = self._buffer, b""
        return found


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request with Host, and Content-Length if there is a body."""
    extra = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", "Host: h", *headers, *extra, "", ""]).encode() + body


def random_body(size: int) -> bytes:
    return os.urandom(size)
