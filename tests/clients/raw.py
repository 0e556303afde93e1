"""A client that writes requests byte by byte: signs with the project's signer, sends with a plain socket, reads framing strictly.

Invariants
* Nothing is normalised, retried or followed; an answer is what came, and whether the connection is still usable is told.
"""

from __future__ import annotations

import socket
import time
from hashlib import sha256
from typing import Any

from lxml import etree

from tests.faults.server import Server
from titans3.http.signing import SigningIdentity, sign_headers


class RawAnswer:
    """Status, headers by lower-case name (repeated ones joined), body, and whether the server keeps the connection."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def keeps(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"

    @property
    def xml(self) -> Any:
        root = etree.fromstring(self.body, etree.XMLParser(recover=True))
        for element in root.iter():
            element.tag = etree.QName(element).localname
        return root

    @property
    def code(self) -> str:
        return str(self.xml.findtext("Code"))


class Raw:
    """One connection at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.identity = SigningIdentity(*server.credentials())
        self._socket: socket.socket | None = None
        self._buffer = b""

    def connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.server.port), 20)
            self._buffer = b""
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def head(
        self,
        method: str,
        target: bytes,
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
        signed: bool = True,
        payload_hash: str = "UNSIGNED-PAYLOAD",
    ) -> bytes:
        """A request head."""
        path, _, query = target.partition(b"?")
        sent = {"host": f"127.0.0.1:{self.server.port}", **(headers or {})}
        if signed:
            date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            sent = sign_headers(self.identity, method, path, query, sent, date=date, payload_hash=payload_hash).headers
        if length is not None:
            sent["content-length"] = str(length)
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        return method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode("latin-1") + b"\r\n"

    def send(self, data: bytes) -> None:
        self.connect().sendall(data)

    def read(self, method: str = "GET") -> RawAnswer:
        """One answer (a 100 too)."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        status = int(first.split(" ")[1])
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
        body = b""
        if method != "HEAD" and status not in (100, 204, 304):
            assert "transfer-encoding" not in headers
            body = self._exactly(int(headers["content-length"]))
        return RawAnswer(status, headers, body)

    def __call__(
        self,
        method: str,
        target: str | bytes,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        signed: bool = True,
    ) -> RawAnswer:
        raw = target.encode() if isinstance(target, str) else target
        length = len(body) if body or method in ("PUT", "POST") else None
        word = sha256(body).hexdigest()
        self.send(self.head(method, raw, headers, length=length, signed=signed, payload_hash=word) + body)
        answer = self.read(method)
        if not answer.keeps:
            self.close()
        return answer

    def ended(self) -> bool:
        """Whether the server closed the connection, with nothing more on it."""
        assert self._socket is not None
        self._socket.settimeout(10)
        return self._buffer == b"" and self._socket.recv(1) == b""

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            more = self.connect().recv(65536)
            if not more:
                raise EOFError(self._buffer)
            self._buffer += more
        at = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:at], self._buffer[at:]
        return found

    def _exactly(self, count: int) -> bytes:
        pieces = [self._buffer[:count]]
        self._buffer = self._buffer[count:]
        missing = count - len(pieces[0])
        while missing:
            more = self.connect().recv(min(missing, 1 << 20))
            if not more:
                raise EOFError
            pieces.append(more)
            missing -= len(more)
        return b"".join(pieces)
