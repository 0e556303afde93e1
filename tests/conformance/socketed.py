"""Requests byte by byte: a plain or TLS socket, and Signature Version 4 from its documentation, chunk by chunk.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and its neighbours
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests.conformance.served import Answer, Endpoint

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY = hashlib.sha256(b"").hexdigest()


class Sock:
    """One connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        raw = socket.create_connection(("127.0.0.1", endpoint.server.port), 15)
        if endpoint.authority:
            raw = ssl.create_default_context(cafile=endpoint.authority).wrap_socket(raw, server_hostname="127.0.0.1")
        self.socket = raw
        self._pending = b""

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, a 100 too; EOFError when the server closed instead."""
        while b"\r\n\r\n" not in self._pending:
            self._more()
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        status = int(lines[0].split(" ")[1])
        length = 0 if method == "HEAD" or status in (100, 204, 304) else int(headers["content-length"])
        while len(self._pending) < length:
            self._more()
        body, self._pending = self._pending[:length], self._pending[length:]
        return Answer(status, headers, body)

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(self._pending)
        self._pending += data

    def is_silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        self.socket.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(15)
        return False

    def ends(self) -> bool:
        """Whether the server closes, and says no more."""
        try:
            self._more()
        except (EOFError, ConnectionError, ssl.SSLError):
            return not self._pending
        return False


@contextmanager
def connected(endpoint: Endpoint) -> Iterator[Sock]:
    """A connection that is closed at the end."""
    sock = Sock(endpoint)
    try:
        yield sock
    finally:
        sock.socket.close()


class Signing:
    """The signature of one request and the chain of its chunks."""

    def __init__(
        self, endpoint: Endpoint, method: str, target: str, headers: dict[str, str] | None = None, payload: str = "UNSIGNED-PAYLOAD",
        *, ahead: float = 0,
    ) -> None:  # fmt: skip
        self.stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + ahead))
        self.scope = f"{self.stamp[:8]}/us-east-1/s3/aws4_request"
        key = ("AWS4" + endpoint.keys[1]).encode()
        for step in self.scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        self.key = key
        self.headers = {
            "host": f"127.0.0.1:{endpoint.server.port}",
            "x-amz-date": self.stamp,
            "x-amz-content-sha256": payload,
            **(headers or {}),
        }
        names = sorted(self.headers)
        path, _, query = target.partition("?")
        items = sorted(item if "=" in item else item + "=" for item in query.split("&") if item)
        canonical = [
            method,
            path,
            "&".join(items),
            *(f"{name}:{self.headers[name]}" for name in names),
            "",
            ";".join(names),
            payload,
        ]
        self.seed = self._sign("AWS4-HMAC-SHA256", hashlib.sha256("\n".join(canonical).encode()).hexdigest())
        self.headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={endpoint.keys[0]}/{self.scope},SignedHeaders={';'.join(names)},Signature={self.seed}"
        )
        self.start = f"{method} {target} HTTP/1.1\r\n".encode()

    def _sign(self, algorithm: str, *lines: str) -> str:
        return hmac.digest(self.key, "\n".join((algorithm, self.stamp, self.scope, *lines)).encode(), "sha256").hex()

    def head(self, **more: str) -> bytes:
        """The request's head; ``more`` are headers that are not signed."""
        lines = {**self.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
        return self.start + "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode() + b"\r\n"

    def chunks(self, *pieces: bytes) -> tuple[list[bytes], str]:
        """Signed chunks, the empty last one included, and its signature."""
        out, previous = [], self.seed
        for piece in (*pieces, b""):
            previous = self._sign("AWS4-HMAC-SHA256-PAYLOAD", previous, EMPTY, hashlib.sha256(piece).hexdigest())
            out.append(f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece + (b"\r\n" if piece else b""))
        return out, previous

    def trailer(self, previous: str, **values: str) -> bytes:
        """Signed trailing headers."""
        lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in values.items())
        signature = self._sign("AWS4-HMAC-SHA256-TRAILER", previous, hashlib.sha256(lines.encode()).hexdigest())
        return lines.replace("\n", "\r\n").encode() + f"x-amz-trailer-signature:{signature}\r\n\r\n".encode()


def cut(data: bytes, *places: int) -> list[bytes]:
    """Pieces of data."""
    return [data[start:end] for start, end in pairwise((0, *places, len(data)))]
