"""Requests to one server, signed with Signature Version 4, over the standard library's HTTP.

Invariants
* A body that is sent is signed by its SHA-256; an answer that is an error becomes a RemoteError with the server's code and request id.
* What is safe to repeat is repeated, RETRIES times, after a broken connection or a 503; nothing else is.
* A connection is used by one thread at a time; each thread has its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Generator, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

from titans3.ctl.aliases import Alias
from titans3.errors import ConfigError, TitanError
from titans3.http.signing import SigningIdentity, presign, sign_headers

RETRIES = 3
_TIMEOUT_SECONDS = 60.0
_ADMIN = "/_titans3/admin/v1"
_IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE"))


class RemoteError(TitanError):
    """What a server answered that is no success."""

    def __init__(self, status: int, code: str, message: str, request_id: str) -> None:
        shown = f" (request {request_id})" if request_id else ""
        super().__init__(f"{code}: {message}{shown}")
        self.status, self.code, self.message, self.request_id = status, code, message, request_id


class Reply:
    """An answer; ``read`` its body or take it piece by piece. Header names are lower case."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}

    def read(self, size: int = -1) -> bytes:
        """Bytes of the body; all of them, or at most ``size``."""
        return self._answer.read() if size < 0 else self._answer.read(size)

    def read_some(self) -> bytes:
        """What is there of the body, at least a byte unless it ended."""
        return self._answer.read1(65_536)

    @property
    def xml(self) -> ET.Element:
        """The document without its namespace."""
        root = ET.fromstring(self.read())
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root


class Client:
    """Of one server."""

    def __init__(self, alias: Alias) -> None:
        self.alias = alias
        self._identity = SigningIdentity(alias.access_key, alias.secret_key, alias.region, session_token=alias.token)
        parts = urlsplit(alias.url)
        self._tls, self._netloc = parts.scheme == "https", parts.netloc
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port
        self._local = threading.local()
        self._made: list[http.client.HTTPConnection] = []
        self._trust: ssl.SSLContext | None = None
        if self._tls:
            try:
                self._trust = ssl.create_default_context(cafile=alias.ca or None)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"{alias.ca} cannot be used as authorities: {error}") from error

    # requests ------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: bytes, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:  # fmt: skip
        """A successful answer, its body not read. Raises RemoteError, ConfigError if nobody answers."""
        text = "&".join(
            f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}" for name, value in sorted((query or {}).items())
        )
        for attempt in range(RETRIES + 1):
            last = attempt == RETRIES or method not in _IDEMPOTENT
            try:
                reply = self._once(method, path, text.encode(), dict(headers or {}), body)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if last or isinstance(error, ssl.SSLCertVerificationError):
                    raise self._unreached(error) from error
            else:
                if reply.status < 300:
                    return reply
                data = reply.read()
                if reply.status != 503 or last:
                    raise _refused(reply, data)
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: bytes, query: bytes, headers: dict[str, str], body: bytes) -> Reply:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers["host"] = self._netloc
        if body or method in ("PUT", "POST"):
            headers["content-length"] = str(len(body))
        signed = sign_headers(self._identity, method, path, query, headers, date=date, payload_hash=sha256(body).hexdigest())
        connection = self._connection()
        target = path + (b"?" + query if query else b"")
        connection.putrequest(method, target.decode("latin-1"), skip_host=True, skip_accept_encoding=True)
        for name, value in signed.headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body or None)
        return Reply(connection.getresponse())

    def _connection(self) -> http.client.HTTPConnection:
        found = getattr(self._local, "connection", None)
        if isinstance(found, http.client.HTTPConnection):
            return found
        if self._tls:
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT_SECONDS, context=self._trust
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        assert isinstance(made.sock, socket.socket)
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._local.connection = made
        self._made.append(made)
        return made

    def close(self) -> None:
        """Let go of every thread's connection."""
        for connection in self._made:
            connection.close()
        self._made.clear()
        self._local = threading.local()

    def _unreached(self, error: Exception) -> ConfigError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigError(
                f"the certificate of {self.alias.url} is not believed ({error.verify_message}); "
                "name its authority's file with --ca or AWS_CA_BUNDLE"
            )
        return ConfigError(f"{self.alias.url} does not answer: {error or type(error).__name__}")

    def _drop(self) -> None:
        found = getattr(self._local, "connection", None)
        if isinstance(found, http.client.HTTPConnection):
            found.close()
            self._local.connection = None

    # APIs ----------------------------------------------------------------------------------------------------------

    def s3(
        self, method: str, bucket: str = "", key: bytes = b"", query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, body: bytes = b"",
    ) -> Reply:  # fmt: skip
        """A request of the S3 API."""
        return self.request(method, s3_path(bucket, key), query, headers, body)

    def admin(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """A request of the admin API; the answer's JSON, ``None`` if there is none."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if data else {}
        found = self.request(method, f"{_ADMIN}{path}".encode("ascii"), query, headers, data).read()
        return json.loads(found) if found else None

    def admin_stream(self, path: str, query: Mapping[str, str], quiet_seconds: float | None) -> Generator[bytes, None, None]:
        """Lines of a stream of the admin API; an empty one when nothing comes for ``quiet_seconds``. Raises RemoteError, ConfigError."""
        text = "&".join(f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}" for name, value in sorted(query.items()))
        try:
            reply = self._once("GET", f"{_ADMIN}{path}".encode("ascii"), text.encode(), {}, b"")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreached(error) from error
        if reply.status != 200:
            raise _refused(reply, reply.read())
        found: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_lines, args=(reply, found), daemon=True)
        sock = self._connection().sock
        reader.start()
        try:
            while True:
                try:
                    line = found.get(timeout=quiet_seconds)
                except queue.Empty:
                    yield b""
                    continue
                if line is None:
                    return
                if isinstance(line, Exception):
                    raise ConfigError(f"the stream of {self.alias.url} ended: {line or type(line).__name__}") from line
                yield line
        finally:  # the reader ends before anybody closes what it reads from
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            reader.join(_TIMEOUT_SECONDS)

    def iam(self, action: str, **parameters: Any) -> Any:
        """An action of IAM; parameters that are ``None`` are left out."""
        return self.admin("POST", f"/iam/{action}", {name: value for name, value in parameters.items() if value is not None})

    def iam_all(self, action: str, field: str, **parameters: Any) -> list[Any]:
        """All pages of a list."""
        items: list[Any] = []
        marker = None
        while True:
            page = self.iam(action, Marker=marker, MaxItems=1000, **parameters)
            items += page[field]
            if not page.get("IsTruncated"):
                return items
            marker = page["Marker"]

    def presigned(self, method: str, bucket: str, key: bytes, seconds: int) -> str:
        """A URL that works without keys for so long."""
        path = s3_path(bucket, key)
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        query = presign(self._identity, method, path, b"", {"host": self._netloc}, date=date, expires=seconds)
        return f"{self.alias.url}{path.decode('ascii')}?{query.decode('ascii')}"


def _read_lines(reply: Reply, found: queue.SimpleQueue[bytes | Exception | None]) -> None:
    """Lines of a stream as they come, then ``None`` or what ended it.

    In a thread: no ``select`` sees what Python's reader has in its buffer.
    """
    rest = b""
    try:
        while piece := reply.read_some():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                found.put(line)
    except (OSError, http.client.HTTPException, ValueError) as error:
        found.put(error)
    else:
        found.put(None)


def s3_path(bucket: str, key: bytes) -> bytes:
    """As it goes on the wire."""
    if not bucket:
        return b"/"
    return b"/" + bucket.encode() + b"/" + quote(key, safe="/-._~").encode("ascii") if key else b"/" + bucket.encode()


def segment(name: str) -> str:
    """A name as part of an admin path."""
    return quote(name, safe="-._~")


def _refused(reply: Reply, data: bytes) -> RemoteError:
    request_id = reply.headers.get("x-amz-request-id", "")
    if data.startswith(b"{"):
        found = json.loads(data).get("error", {})
        return RemoteError(
            reply.status, found.get("code", str(reply.status)), found.get("message", ""), found.get("request_id", request_id)
        )
    if data.startswith(b"<?xml"):
        root = ET.fromstring(data)
        return RemoteError(
            reply.status, root.findtext("Code") or str(reply.status), root.findtext("Message") or "", request_id
        )
    return RemoteError(reply.status, str(reply.status), http.client.responses.get(reply.status, "no success"), request_id)
