"""Anything on the wire is accepted or gets the one named error; the connection answers or closes, and never stalls the loop.

Bounded Hypothesis runs over a small corpus of mutated real requests; ``TITANS3_LONG=1`` makes them long.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.http.wire_server import Client, Server, request, serving
from titans3.errors import ClientError
from titans3.http.authentication import AuthError, PayloadMode
from titans3.http.awschunked import AwsChunkedDecoder
from titans3.http.chunked import ChunkedDecoder
from titans3.http.head import HeadError, HeadParser
from titans3.http.signing import SigningIdentity, encode_chunks, presign, sign_headers
from titans3.http.sigv4 import SigV4
from titans3.worker.context import Timeouts

DATE = "20260131T120000Z"
NOW = 1769860800.0
IDENTITY = SigningIdentity("AK", "secret")
HEADERS = sign_headers(IDENTITY, "GET", b"/b/k", b"a=b", {"host": "h", "range": "bytes=0-9"}, date=DATE).headers
QUERY = presign(IDENTITY, "GET", b"/b/k", b"a=b", {"host": "h"}, date=DATE, expires=60)
STREAM = encode_chunks(
    bytes(300), PayloadMode.UNSIGNED_TRAILER, identity=IDENTITY, date=DATE, seed_signature="a" * 64, trailers={"a": "b"}, chunk_bytes=100
)
CORPUS = [
    request("GET /b/k?list-type=2"),
    request("PUT /echo", body=b"x" * 50),
    request("PUT /echo", "Transfer-Encoding: chunked") + b"5;a=b\r\nhello\r\n0\r\nT: u\r\n\r\n",
    request("PUT /echo", "Expect: 100-continue", "Connection: close", body=b"y" * 20),
    b"GET http://h/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
]
NASTY = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"%", b"%0",
        b";", b"=", b"&", b",", b"-1", b"\xff", b"X-Amz-",
    ]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """One of the corpus with bytes deleted, replaced or inserted."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        stop = min(len(data), at + draw(st.integers(0, 8)))
        data[at:stop] = draw(st.one_of(NASTY, st.binary(max_size=6)))
    return bytes(data)


@given(mutated(CORPUS))
@settings(max_examples=scaled(500, 20_000), deadline=None)
def test_heads(data: bytes) -> None:
    end = data.find(b"\r\n\r\n")
    try:
        parsed = HeadParser().parse(data[: end + 4] if end >= 0 else data)
    except HeadError as error:
        if not 400 <= error.status < 600:
            raise
        return
    assert data.lstrip(b"\r\n")
    assert parsed.target[:1] == b"/" or parsed.target == b"*"
    assert not (parsed.chunked and parsed.content_length is not None)
    assert data.lower().count(b"\ncontent-length") - data[end:].lower().count(b"\ncontent-length") <= 1


@given(mutated([CORPUS[2].partition(b"\r\n\r\n")[2]]), st.integers(1, 40))
@settings(max_examples=scaled(400, 20_000), deadline=None)
def test_http_chunked(data: bytes, step: int) -> None:
    whole = ChunkedDecoder()
    stepped = ChunkedDecoder()
    results = []
    for decoder, size in ((whole, len(data) or 1), (stepped, step)):
        out = bytearray(len(data))
        made = 0
        try:
            for at in range(0, len(data), size):
                _, count = decoder.decode(memoryview(data)[at : at + size], memoryview(out)[made:])
                made += count
        except ClientError as error:
            results.append((error.reason, b""))
        else:
            results.append((decoder.done, bytes(out[:made])))
    assert results[0] == results[1]


@given(mutated([STREAM]), st.integers(1, 400))
@settings(max_examples=scaled(400, 20_000), deadline=None)
def test_aws_chunked(data: bytes, step: int) -> None:
    results = []
    for size in (len(data) or 1, step):
        decoder = AwsChunkedDecoder(300, None, with_trailer=True, trailer_names=frozenset("a"))
        out = b""
        try:
            for at in range(0, len(data), size):
                out += b"".join(decoder.decode(memoryview(data)[at : at + size]))
            decoder.finish()
        except ClientError as error:
            results.append((str(error.reason), b"", {}))
        else:
            results.append(("", out, decoder.trailers))
            assert len(out) == 300
    assert results[0] == results[1]


@given(
    mutated([HEADERS["authorization"].encode()]), mutated([QUERY, b"", b"a=b"]), mutated([HEADERS["x-amz-content-sha256"].encode()]),
    mutated([DATE.encode()]),
)
@settings(max_examples=scaled(300, 10_000), deadline=None)
def test_sigv4(authorization: bytes, query: bytes, payload: bytes, date: bytes) -> None:
    verifier = SigV4({"AK": "secret"}.get)
    fields = {b"host": b"h", b"range": b"bytes=0-9", b"x-amz-date": date, b"x-amz-content-sha256": payload}
    for given_fields in ({**fields, b"authorization": authorization}, fields):
        try:
            found = verifier.verify("GET", b"/b/k", query, given_fields, NOW)
        except AuthError as error:
            if not error.message:
                raise
            continue
        assert found is None or found.access_key == "AK"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(timeouts=Timeouts(head=0.5, idle=1, body=0.5, write=1, drain=0.3)) as made:
        yield made


@given(mutated(CORPUS), mutated(CORPUS))
@settings(max_examples=scaled(100, 3000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_connection(server: Server, first: bytes, second: bytes) -> None:
    with Client(server.port) as client:
        try:
            client.send(first + second)
            client.sock.shutdown(socket.SHUT_WR)
            got = client.rest()
        except (ConnectionResetError, BrokenPipeError):
            got = b""
        assert got == b"" or got.startswith(b"HTTP/1.1 ")
    with Client(server.port) as client:
        client.send(request("GET /"))
        assert client.reply().body == b"hello"
