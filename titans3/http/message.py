"""Request and response as handlers see them. Hot: guarded by ``python tools/dev.py bench head``.

Invariants
* ``path`` and ``query`` are the bytes of the request line, never decoded or normalised: ``//``, ``.``, ``%2F`` and a trailing
  slash belong to the key, and SigV4 signs the path as it came.
* Header names are lower case; repeated values are joined with ``,`` (RFC 9110 5.3).
* A body is read at most once. The first read is what sends ``100 Continue``; a handler that answers without reading
  leaves drain-or-close to the connection.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from titans3.http.shape import Shape


class Body(Protocol):
    """The request's body as it came, with HTTP's own transfer coding already removed."""

    @property
    def length(self) -> int | None:
        """Bytes on the wire if Content-Length told; ``None`` with chunked transfer coding; 0 without a body."""

    async def read_all(self, limit: int) -> bytes:
        """Whole body; raises ClientError(TOO_LARGE) past ``limit``, and on a body that ends early."""

    async def next(self) -> memoryview | None:
        """Next piece (at most BODY_BUFFER_BYTES, at least half of it unless it is the last), ``None`` at the end.

        The piece is the caller's until it calls ``release``. Who waits for the next piece may hold one, no more: there are
        BODY_BUFFERS_PER_CONNECTION, which is the backpressure.
        """

    def release(self, piece: memoryview) -> None:
        """Hand a piece back to the pool."""


class BodySource(Protocol):
    """A response body that is produced piece by piece.

    ``length`` is the Content-Length and the sum of the pieces; -1 if unknown (chunked transfer coding). A piece must not change
    after it was handed out: the transport may still be sending it. ``next_nowait`` gives the next one if it is here; after ``None``
    ask ``next``, which waits for it, or says with ``None`` that there is none. ``close`` is called exactly once, also after an error.
    """

    length: int

    async def next(self) -> bytes | memoryview | None: ...
    def next_nowait(self) -> bytes | memoryview | None: ...
    def close(self) -> None: ...


class Who(Protocol):
    """Who asks, as logs name it."""

    @property
    def account(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def arn(self) -> str: ...


class Traced(Protocol):
    """The trace of a request."""

    @property
    def trace_id(self) -> str: ...


class Request(msgspec.Struct, eq=False):
    """One request head; ``body`` is read through :class:`Body`.

    ``fields`` are its headers, repeated names joined by ``,``. ``shape``: what it has in common with the client's other requests, if that
    is known. ``tls`` is the version of TLS that it came over (``1.3``), empty for none. ``operation`` and ``bucket`` are what it is counted
    by; whoever finds them out sets them, the bucket only if it is there.
    """

    method: str
    target: bytes
    path: bytes
    query: bytes
    host: str
    fields: dict[bytes, bytes]
    body: Body
    peer: str
    request_id: str
    shape: Shape | None = None
    tls: str = ""
    operation: str = ""
    bucket: str = ""
    error: str = ""
    caller: Who | None = None
    state: dict[str, object] | None = None
    trace: Traced | None = None

    def __repr__(self) -> str:
        return f"Request({self.request_id})"  # never headers, which may hold keys

    @property
    def secure(self) -> bool:
        """Whether it came over TLS."""
        return bool(self.tls)

    def header(self, name: bytes) -> str | None:
        """Value of a header (lower-case name), repeated ones joined by ``,``; ``None`` if absent."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")


def trace_id_of(request: Request) -> str:
    """32 hex digits, empty if the request is not traced."""
    return "" if request.trace is None else request.trace.trace_id


class Response(msgspec.Struct, eq=False):
    """Status, headers and a body: bytes (a view of them must not change any more), a :class:`BodySource`, or nothing.

    ``block``: further headers as their lines (``reply.header_block``), for whoever keeps them.
    ``length`` overrides Content-Length for HEAD, where the body is not sent. Date, Server, x-amz-request-id and
    Connection are the connection's business and must not be in ``headers``.
    """

    status: int
    headers: list[tuple[bytes, bytes]] = []
    body: bytes | memoryview | BodySource = b""
    length: int | None = None
    close: bool = False
    block: bytes = b""

    def __repr__(self) -> str:
        return f"Response({self.status})"
