"""A small S3 client over asyncio streams for storms and races: fast, no retries, and it tells an unknown outcome from an answer.

Invariants
* ``call`` returns the status and body of a complete answer, or raises ``Unknown`` when the connection broke before the
  whole answer was here. It never repeats a request; ``Closed`` says that HTTP allows it.
* Requests are signed with ``UNSIGNED-PAYLOAD``: a storm tests the store, not the hashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ssl
import time
from urllib.parse import quote


class Unknown(Exception):
    """The connection broke; the request may or may not have been done."""


class Closed(Unknown):
    """A connection that had been used was closed in order, without a byte of an answer: an idempotent request may be repeated
    (RFC 9112 9.3.1)."""


class Wire:
    """Connections to one endpoint, one request at a time on each."""

    def __init__(
        self, host: str, port: int, access_key: str, secret_key: str, region: str = "us-east-1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.port, self.tls = host, port, tls
        self.access_key, self.secret_key, self.region = access_key, secret_key, region
        self.ahead = 0.0  # seconds that this client's clock is ahead of the machine's
        self.connections = 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._keys: dict[str, bytes] = {}

    def _signing_key(self, day: str) -> bytes:
        key = self._keys.get(day)
        if key is None:
            key = ("AWS4" + self.secret_key).encode()
            for step in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._keys[day] = key
        return key

    def head(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], length: int
    ) -> bytes:
        """The signed request head; ``path`` is the decoded path with its leading slash."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + self.ahead))
        day = stamp[:8]
        raw = quote(path, safe="/~-._")
        pairs = "&".join(f"{quote(k, safe='~-._')}={quote(v, safe='~-._')}" for k, v in sorted(query.items()))
        signed = {
            "host": f"{self.host}:{self.port}",
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": stamp,
            **headers,
        }
        names = sorted(signed)
        canonical = "\n".join(
            [method, raw, pairs, *(f"{n}:{signed[n]}" for n in names), "", ";".join(names), "UNSIGNED-PAYLOAD"]
        )
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key(day), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        signed["content-length"] = str(length)
        target = raw + (f"?{pairs}" if pairs else "")
        return f"{method} {target} HTTP/1.1\r\n{''.join(f'{k}: {v}' + chr(13) + chr(10) for k, v in signed.items())}\r\n".encode()

    async def call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        timeout: float = 30.0,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        try:
            async with asyncio.timeout(timeout):
                return await self._call(method, path, query or {}, headers or {}, body)
        except (OSError, EOFError, TimeoutError, ValueError, IndexError) as error:
            raise Unknown(f"{method} {path}: {error!r}") from error

    async def _call(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        is_used = bool(self._idle)
        if is_used:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20, ssl=self.tls)
            self.connections += 1
        keep = False
        try:
            writer.write(self.head(method, path, query, headers, len(body)) + (body if len(body) < 65536 else b""))
            if len(body) >= 65536:
                writer.write(body)
            with contextlib.suppress(ConnectionError):  # an answer or an end may be here all the same; reading tells
                await writer.drain()
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if is_used and not error.partial:
                    raise Closed(f"{method} {path}: closed before an answer") from error
                raise
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            fields = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            length = 0 if method == "HEAD" or status in (204, 304) else int(fields.get("content-length", "0"))
            payload = await reader.readexactly(length) if length else b""
            keep = fields.get("connection", "").lower() != "close"
            return status, fields, payload
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    def close(self) -> None:
        """Drop idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def end(self) -> None:
        """Drop idle connections and wait until they are gone."""
        writers = [writer for _, writer in self._idle]
        self.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
