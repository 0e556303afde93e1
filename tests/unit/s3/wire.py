"""A client without sockets: signs requests, hands them to a Gateway, reads the answers.

Invariants
* Requests are really signed and really verified; bodies come in pieces that are taken back when released.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from typing import Any

from lxml import etree

from tests.unit.s3.memory_store import MemoryStore
from titans3.errors import ClientError, Reason
from titans3.http.authentication import PayloadMode
from titans3.http.canonical import EMPTY_SHA256
from titans3.http.message import Request, Response
from titans3.http.signing import SigningIdentity, encode_chunks, presign, sign_headers
from titans3.s3.gateway import Gateway

ROOT = SigningIdentity("AKROOT", "root-secret")
OTHER = SigningIdentity("AKOTHER", "other-secret")
START_MS = 1_800_000_000_123


class FixedClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000


class WireBody:
    """A request body in pieces; ``cut`` makes it end early; counts what is out."""

    def __init__(self, data: bytes, *, length: int | None = -1, piece: int = 1 << 20, cut: bool = False) -> None:
        self._data = data
        self.length = len(data) if length == -1 else length
        self._piece = piece
        self._cut = cut
        self._at = 0
        self.out = 0
        self.reads = 0

    async def read_all(self, limit: int) -> bytes:
        self.reads += 1
        if len(self._data) > limit:
            raise ClientError(Reason.TOO_LARGE, limit=limit)
        if self._cut:
            raise ClientError(Reason.BODY_SHORT)
        return self._data

    async def next(self) -> memoryview | None:
        self.reads += 1
        await asyncio.sleep(0)
        assert self.out < 3
        if self._at >= len(self._data):
            if self._cut:
                raise ClientError(Reason.BODY_SHORT)
            return None
        piece = memoryview(bytearray(self._data[self._at : self._at + self._piece]))
        self._at += len(piece)
        self.out += 1
        return piece

    def release(self, piece: memoryview) -> None:
        self.out -= 1
        assert self.out >= 0


class Answer:
    """A response, read to its end."""

    def __init__(self, response: Response, body: bytes) -> None:
        self.status = response.status
        lines = response.block.split(b"\r\n")[:-1]
        told = (*response.headers, *((name, value) for name, _, value in (line.partition(b": ") for line in lines)))
        self.headers = {name.decode(): value.decode("latin-1") for name, value in told}
        self.length = response.length
        self.close = response.close
        self.body = body

    @property
    def xml(self) -> Any:
        root = etree.fromstring(self.body, etree.XMLParser(recover=True))
        for element in root.iter():
            element.tag = etree.QName(element).localname
        return root

    @property
    def code(self) -> str:
        return str(self.xml.findtext("Code"))

    def all(self, path: str) -> list[str]:
        return [element.text or "" for element in self.xml.findall(path)]


class Client:
    """Calls a Gateway over a fresh MemoryStore."""

    def __init__(self, *, small_body_bytes: int = 64 * 1024, **options: Any) -> None:
        self.clock = FixedClock()
        self.store = MemoryStore(small_body_bytes=small_body_bytes, clock=self.clock)
        self.store.now_ms = START_MS
        self.store.add_credential(ROOT.access_key, ROOT.secret)
        self.store.add_credential(OTHER.access_key, OTHER.secret, account="111111111111")
        self.gateway = Gateway(self.store, self.clock, **options)
        self.last_body: WireBody | None = None
        self._count = 0

    @property
    def date(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock.now_ms / 1000))

    def __call__(
        self,
        method: str,
        target: str | bytes,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        identity: SigningIdentity | None = ROOT,
        mode: PayloadMode = PayloadMode.HASHED,
        trailers: dict[str, str] | None = None,
        payload_hash: str = "",
        host: str = "127.0.0.1:9000",
        chunked: bool = False,
        cut: bool = False,
        says_length: bool = True,
        piece: int = 1 << 20,
    ) -> Answer:
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        sent = {"host": host, **(headers or {})}
        wire = body
        if mode is PayloadMode.HASHED:
            word = payload_hash or (sha256(body).hexdigest() if body else EMPTY_SHA256)
        elif mode is PayloadMode.UNSIGNED:
            word = "UNSIGNED-PAYLOAD"
        else:
            word = {
                PayloadMode.SIGNED_CHUNKS: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                PayloadMode.SIGNED_CHUNKS_TRAILER: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
                PayloadMode.UNSIGNED_TRAILER: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            }[mode]
            sent["x-amz-decoded-content-length"] = str(len(body))
            sent.setdefault("content-encoding", "aws-chunked")
            if trailers:
                sent["x-amz-trailer"] = ",".join(trailers)
        if identity is not None:
            signed = sign_headers(identity, method, path, query, sent, date=self.date, payload_hash=word)
            sent = signed.headers
            if mode in (PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER):
                wire = encode_chunks(
                    body, mode, identity=identity, date=self.date, seed_signature=signed.signature, trailers=trailers
                )
        if chunked:
            sent["transfer-encoding"] = "chunked"
        elif says_length and (wire or method in ("PUT", "POST")):
            sent["content-length"] = str(len(wire))
        self.last_body = WireBody(wire, length=None if chunked else -1, cut=cut, piece=piece)
        return self.send(method, raw, sent, self.last_body)

    def send(self, method: str, target: bytes, headers: dict[str, str], body: WireBody) -> Answer:
        """As it is, without signing."""
        self._count += 1
        fields: dict[bytes, bytes] = {}
        for name, value in headers.items():
            raw = name.lower().encode("latin-1")
            fields[raw] = fields[raw] + b"," + value.encode("latin-1") if raw in fields else value.encode("latin-1")
        path, _, query = target.partition(b"?")
        host = fields.get(b"host", b"").decode("latin-1")
        request = Request(method, target, path, query, host, fields, body, "127.0.0.1", f"{self._count:016X}")
        answer = asyncio.run(self._run(request))
        assert body.out == 0, "every piece was released"
        for source in self.store.sources:
            assert source.closed == 1, "every source is closed once"
        return answer

    async def _run(self, request: Request) -> Answer:
        response = await self.gateway.handle(request)
        if isinstance(response.body, bytes):
            return Answer(response, response.body)
        pieces = []
        while (piece := await response.body.next()) is not None:
            pieces.append(bytes(piece))
        response.body.close()
        body = b"".join(pieces)
        assert len(body) == response.body.length
        return Answer(response, body)

    def presigned(
        self, method: str, path: str, query: str = "", headers: dict[str, str] | None = None, *, expires: int = 60
    ) -> bytes:
        """The target of a presigned request."""
        signed = {"host": "127.0.0.1:9000", **(headers or {})}
        full = presign(ROOT, method, path.encode(), query.encode(), signed, date=self.date, expires=expires)
        return path.encode() + b"?" + full

    def bucket(self, name: str = "bucket") -> str:
        """Make a bucket, answer its name."""
        answer = self("PUT", f"/{name}")
        assert answer.status == 200, answer.body
        return name
