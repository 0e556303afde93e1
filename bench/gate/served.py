"""A worker without its sockets: one volume on the disk, the gateway, and connections whose transport takes everything at once.

What is put into a connection are the bytes that a client sends, and what comes out those of the answer; what a worker adds around it
(counters of requests) is there. Nothing else of the machine takes part but the disk.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Sequence
from hashlib import md5, sha256
from pathlib import Path

import uvloop

from tests.unit.cluster.workers import Machine
from titans3.clock import SystemClock
from titans3.http.authentication import PayloadMode
from titans3.http.canonical import EMPTY_SHA256
from titans3.http.message import Request
from titans3.http.signing import SigningIdentity, encode_chunks, sign_headers
from titans3.model.identity import ROOT_ACCOUNT
from titans3.observe.requests import RequestCounters
from titans3.s3.gateway import Gateway
from titans3.worker.connection import Connection
from titans3.worker.context import ConnectionContext

IDENTITY = SigningIdentity("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
BUCKET = "warp-benchmark-bucket"
AGENT = "MinIO (linux; amd64) minio-go/v7.0.90 warp/1.1.3"
CONNECTIONS = 16
_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_STATUSES = frozenset((200, 204))


class _Transport(asyncio.Transport):
    """Takes everything at once."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def now() -> str:
    """The date of a signature."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def request(method: str, target: str, body: bytes = b"", *, chunks: bool = False) -> bytes:
    """The bytes that minio-go sends, signed now; ``chunks``: the body in signed chunks, as it does without TLS."""
    path, _, query = target.encode().partition(b"?")
    extra = {"host": "127.0.0.1:9000", "user-agent": AGENT}
    date, payload = now(), sha256(body).hexdigest() if body else EMPTY_SHA256
    if method == "POST":
        extra["content-md5"] = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    if method == "PUT":
        extra["content-type"] = "application/octet-stream"
        if chunks:
            payload = _CHUNKS
            extra["x-amz-decoded-content-length"] = str(len(body))
    signed = sign_headers(IDENTITY, method, path, query, extra, date=date, payload_hash=payload)
    if chunks:
        body = encode_chunks(body, PayloadMode.SIGNED_CHUNKS, identity=IDENTITY, date=date, seed_signature=signed.signature)
    headers = dict(signed.headers)
    if body:
        headers["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method.encode(), target.encode(), lines.encode(), body)


class Served:
    """Open it in a folder, ``ask``, ``close``."""

    def __init__(self, folder: Path) -> None:
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._machine = Machine(folder, 1, 1)
        self._counters = RequestCounters()
        self._left = 0
        self._all: asyncio.Future[None] = self.loop.create_future()
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        await self._machine.__aenter__()
        self.worker = self._machine[0]
        await self.worker.directory.ensure_root(IDENTITY.access_key, IDENTITY.secret)
        await self.worker.store.create_bucket(BUCKET, ROOT_ACCOUNT, "us-east-1")
        context = ConnectionContext(Gateway(self.worker.store, SystemClock()).handle, self.loop)
        context.on_answered = self._answered
        self._connections = [Connection(context) for _ in range(CONNECTIONS)]
        for connection in self._connections:
            connection.connection_made(_Transport())

    def close(self) -> None:
        """Let go of everything."""
        for connection in self._connections:
            connection.connection_lost(None)
        self.loop.run_until_complete(self._machine.__aexit__())
        self.loop.close()
        asyncio.set_event_loop(None)

    def _answered(self, asked: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        self._counters.answered(asked, status, received, sent, seconds, first)
        if self._all.done():
            return
        if status not in _STATUSES:
            self._all.set_exception(AssertionError(f"{asked.method} {asked.target!r} was answered {status} {asked.error}"))
            return
        self._left -= 1
        if not self._left:
            self._all.set_result(None)

    def ask(self, requests: Sequence[bytes]) -> None:
        """All of them, a wave of CONNECTIONS in flight after the other."""
        for begin in range(0, len(requests), CONNECTIONS):
            self.loop.run_until_complete(self._wave(requests[begin : begin + CONNECTIONS]))
        self._counters.fold()

    async def _wave(self, requests: Sequence[bytes]) -> None:
        self._left, self._all = len(requests), self.loop.create_future()
        for connection, data in zip(self._connections, requests, strict=False):
            connection.get_buffer(-1)[: len(data)] = data
            connection.buffer_updated(len(data))
        await self._all
