"""Response heads: one join of prepared bytes. Hot: guarded by ``bench/micro/http_floor.py``.

Invariants
* Date, Server, x-amz-request-id, x-amz-id-2, Connection, Content-Length and Transfer-Encoding are written here and only here.
* 1xx, 204 and 304 carry no body and no Content-Length; HEAD carries the length of the body it does not send.
* A header value that would break out of its line is refused with ``ValueError``: a client's text never becomes a header.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from xml.sax.saxutils import escape

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS = frozenset((204, 304))
_STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
_LENGTHS = tuple(b"Content-Length: %d\r\n" % length for length in range(4097))


class ReplyHeads:
    """Builds heads for one worker. ``host_id`` is the constant of x-amz-id-2."""

    __slots__ = ("_prefix", "_second", "_tail", "host_id")

    def __init__(self, host_id: str, server: str = "TitanS3") -> None:
        assert host_id.isprintable()
        assert host_id.isascii()
        self.host_id = host_id
        self._second = -1
        self._prefix = b""
        self._tail = f"Server: {server}\r\nx-amz-id-2: {host_id}\r\nx-amz-request-id: ".encode("ascii")

    def build(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        length: int | None,
        request_id: str,
        now: float,
        connection: bytes = b"",
        block: bytes = b"",
    ) -> bytes:
        """The head with its empty line. ``length=None`` means chunked or until the connection closes; ``now`` is seconds since 1970.

        ``connection`` is ``b""`` (say nothing), ``b"close"`` or ``b"keep-alive"``; ``block``: further headers, of ``header_block``.
        Raises ValueError for a value with a line break.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second)).encode("ascii")
            self._prefix = b"Date: " + date + b"\r\n" + self._tail
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status
        if not headers and not connection and length is not None and status not in BODILESS:
            return b"%b%b%b\r\n%bContent-Length: %d\r\n\r\n" % (line, self._prefix, request_id.encode("ascii"), block, length)
        parts = [line, self._prefix, request_id.encode("ascii"), b"\r\n", block]
        if headers:
            parts.append(header_block(headers))
        if length is not None and status not in BODILESS:
            parts.append(_LENGTHS[length] if length <= 4096 else b"Content-Length: %d\r\n" % length)
        if connection:
            parts.append(b"Connection: " + connection + b"\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def header_block(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Lines of headers. Raises ValueError for a value with a line break."""
    block = b"".join([b"%b: %b\r\n" % item for item in headers])
    if block.count(b"\n") != len(headers) or block.count(b"\r") != len(headers) or b"\0" in block:
        raise ValueError("a response header holds a line break")
    return block


def error_xml(code: str, message: str, request_id: str, host_id: str) -> bytes:
    """S3's error document for what no handler answers: protocol errors and our own failures."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"<RequestId>{request_id}</RequestId><HostId>{escape(host_id)}</HostId></Error>"
    ).encode("utf-8", "replace")


class RequestIds:
    """16 upper-case hex digits, unique per worker for 2^64 requests; ``seed`` is 64 random bits that keep workers apart."""

    __slots__ = ("_at",)

    def __init__(self, seed: int) -> None:
        self._at = seed & 0xFFFF_FFFF_FFFF_FFFF

    def next(self) -> str:
        self._at = (self._at + 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF  # odd step: visits every value once
        return f"{self._at:016X}"
