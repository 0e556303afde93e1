"""Request heads: bytes up to the empty line in, a :class:`Head` out. Hot: guarded by ``bench/micro/http_floor.py``.

Invariants
* The connection finds the end of the head; no byte of a body ever reaches the parser, so the parser keeps no state between heads.
* The target is the raw bytes of the request line. Only an absolute-form target is cut: its authority replaces ``Host`` (RFC 9112 3.2.2).
* A head that two servers could frame differently is refused (RFC 9112 6.3, 11.2): bare CR or LF, NUL, folded lines, space before a
  colon, Content-Length with Transfer-Encoding, repeated Content-Length, a transfer coding other than ``chunked``.
* A refusal is a :class:`HeadError` with the status to answer; the connection closes after it.
* A head that is like an earlier one (``http/shape.py``) is compared instead of parsed, with the same result.
"""

from __future__ import annotations

import re

import httptools
import msgspec

from titans3.http.shape import Shape, Shapes
from titans3.limits import HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX

END = b"\r\n\r\n"
CONTENT_LENGTH_MAX = 1 << 62
_VERSIONS = frozenset(("1.1", "1.0"))
_METHODS = {name.encode(): name for name in ("GET", "PUT", "HEAD", "POST", "DELETE", "OPTIONS")}
_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/\d\.\d\Z").match


class HeadError(Exception):
    """The head cannot be accepted: status, the error body's code, and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Head(msgspec.Struct, eq=False):
    """One parsed request head. ``fields`` maps lower-case names to values, repeated ones joined by ``,``.

    ``shape``: what it has in common with the client's other heads, if that is known.
    """

    method: str
    target: bytes
    version: str
    fields: dict[bytes, bytes]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect: bool
    shape: Shape | None

    def __repr__(self) -> str:
        return f"Head({self.method})"  # never headers, which may hold keys


def bad(message: str) -> HeadError:
    """400 with the code AWS uses for what its front end refuses."""
    return HeadError(400, "BadRequest", message)


def check_growing(data: bytes | bytearray) -> None:
    """Judge a head whose end has not come yet: too large, or bare line feeds that would make it never end.

    Raises :class:`HeadError`.
    """
    if len(data) > HEAD_BYTES_MAX:
        line_end = data.find(b"\n")
        if line_end < 0 or line_end > TARGET_BYTES_MAX + 64:
            raise HeadError(414, "URITooLong", "The request line is too long.")
        raise HeadError(431, "RequestHeaderSectionTooLarge", f"The request head exceeds {HEAD_BYTES_MAX} bytes.")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise bad("The request head contains a bare line feed.")


class HeadParser:
    """Parses one head at a time; one instance serves a whole worker because it keeps nothing of a head but its shape.

    ``headers`` are those of the last head that was parsed in full, in order, with repetitions.
    """

    __slots__ = ("_fields", "_headers", "_shapes", "_url")

    def __init__(self) -> None:
        self._shapes = Shapes()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._fields: dict[bytes, bytes] = {}

    # httptools' callbacks
    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))  # httptools trims the front of values only

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._headers

    def parse(self, data: bytes) -> Head:
        """``data`` is one head including the empty line. Raises :class:`HeadError`."""
        line_end = data.find(b"\r\n")
        found = self._shapes.find(data, line_end)
        if found is None:
            return self._parse(data, line_end)
        shape, target, fields = found
        length = shape.content_length
        if shape.sizes:
            text = fields[b"content-length"]
            if not text.isdigit():
                return self._parse(data, line_end)
            length = int(text)
        return Head(shape.method, target, "1.1", fields, length, shape.chunked, shape.keep_alive, shape.expect, shape)

    def _parse(self, data: bytes, line_end: int) -> Head:
        """In full."""
        if len(data) > HEAD_BYTES_MAX:
            check_growing(data)
        headers = self._headers = []
        self._url = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is ever taken; RFC 9110 7.8 lets a server ignore it
        except httptools.HttpParserInvalidMethodError:
            if _REQUEST_LINE(data.partition(b"\r\n")[0]) is None:
                raise bad("The request line is malformed.") from None
            raise HeadError(405, "MethodNotAllowed", "The method is not known.") from None
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            raise self._refusal(data, str(error)) from None
        method_bytes = parser.get_method()
        version = parser.get_http_version()
        url = self._url
        if not data.startswith(b"%b %b HTTP/1." % (method_bytes, url)) or version not in _VERSIONS:
            raise self._refusal(data, "malformed request line")
        if data.count(b"\r\n") != len(headers) + 2:  # also catches what a more lenient parser would let through
            raise bad("The request head holds a bare line feed or a folded line.")
        if len(headers) > HEADERS_MAX:
            raise HeadError(431, "RequestHeaderSectionTooLarge", f"More than {HEADERS_MAX} headers.")
        fields = self._fields = dict(headers)
        if len(fields) != len(headers):
            fields = self._fields = self._joined(headers)
        if len(url) > TARGET_BYTES_MAX:
            raise HeadError(414, "URITooLong", f"The request target exceeds {TARGET_BYTES_MAX} bytes.")
        method = _METHODS.get(method_bytes) or method_bytes.decode("ascii")
        is_plain = url[:1] == b"/"
        if not is_plain:
            url = self._special_target(method, url)
        if b"host" in fields:
            if len(fields) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
                raise bad("More than one Host header.")
        elif version == "1.1":
            raise bad("The Host header is missing.")
        content_length, chunked = self._framing(version)
        connection = fields.get(b"connection")
        keep_alive = version == "1.1"
        if connection is not None:
            options = connection.lower()
            if b"close" in options:
                keep_alive = False
            elif b"keep-alive" in options:
                keep_alive = True
        expect = fields.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise HeadError(417, "ExpectationFailed", "Only the expectation 100-continue is known.")
        expects = expect is not None and version == "1.1"
        shape = None if not is_plain else self._shapes.keep(  # a target that names a host changes the fields
            data, line_end, method, fields, content_length=content_length, chunked=chunked, keep_alive=keep_alive, expect=expects
        )
        return Head(method, url, version, fields, content_length, chunked, keep_alive, expects, shape)

    @staticmethod
    def _joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            fields[name] = fields[name] + b"," + value if name in fields else value
        return fields

    def _special_target(self, method: str, url: bytes) -> bytes:
        """Absolute form loses scheme and authority; ``OPTIONS *`` stays; anything else is refused."""
        if url == b"*" and method == "OPTIONS":
            return url
        scheme, mark, rest = url.partition(b"://")
        if not mark or scheme.lower() not in (b"http", b"https"):
            raise bad("The request target is not a path.")
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority, target = rest[:cut], rest[cut:]
        if not authority or b"@" in authority:
            raise bad("The request target's authority is malformed.")
        self._headers[:] = [item for item in self._headers if item[0] != b"host"]
        self._headers.insert(0, (b"host", authority))
        self._fields[b"host"] = authority
        return target if target[:1] == b"/" else b"/" + target

    def _framing(self, version: str) -> tuple[int | None, bool]:
        """Content-Length or None, and whether the body is chunked."""
        fields = self._fields
        raw = fields.get(b"content-length")
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if raw is not None:
                raise bad("Content-Length and Transfer-Encoding are both present.")
            if coding.lower() != b"chunked":
                raise HeadError(501, "NotImplemented", "Only the transfer coding chunked is known.")
            if version == "1.0":
                raise bad("HTTP/1.0 has no transfer codings.")
            return None, True
        if raw is None:
            return None, False
        if not raw.isdigit() or len(raw) > 19:
            raise bad("Content-Length is malformed or repeated.")
        length = int(raw)
        if length > CONTENT_LENGTH_MAX:
            raise bad("Content-Length is too large.")
        return length, False

    def _refusal(self, data: bytes, why: str) -> HeadError:
        """Turn the parser's complaint into a status: 505 for other HTTP versions, 400 otherwise."""
        line, _, rest = data.partition(b"\r\n")
        if _REQUEST_LINE(line) is not None and line[-3:] not in (b"1.1", b"1.0"):
            return HeadError(505, "HTTPVersionNotSupported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        if len(line) > TARGET_BYTES_MAX:
            return HeadError(414, "URITooLong", f"The request target exceeds {TARGET_BYTES_MAX} bytes.")
        lowered = rest.lower()
        if b"content-length" in lowered and b"transfer-encoding" in lowered:
            return bad("Content-Length and Transfer-Encoding are both present.")
        return bad(f"The request head is malformed: {why}.")
