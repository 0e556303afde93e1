"""Heads: what is accepted, what is refused, and that the raw target survives."""

from __future__ import annotations

import pytest

from titans3.http.head import HeadError, HeadParser, check_growing
from titans3.limits import HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX

HOST = b"Host: h\r\n"


def head(line: bytes, *headers: bytes, host: bool = True) -> bytes:
    return line + b"\r\n" + (HOST if host else b"") + b"".join(item + b"\r\n" for item in headers) + b"\r\n"


@pytest.mark.parametrize(
    "target", [b"/", b"/a//b/../%2F%2f?x=%20+&&y", b"/b/k(1)'!*~", b"/?a=http://x/y", b"/b/" + b"k" * 3000]
)
def test_target_is_kept_byte_for_byte(target: bytes) -> None:
    assert HeadParser().parse(head(b"GET " + target + b" HTTP/1.1")).target == target


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://example.com:9000/b/k?x=1 HTTP/1.1", b"/b/k?x=1", b"example.com:9000"),
        (b"GET HTTPS://e HTTP/1.1", b"/", b"e"),
        (b"GET http://e?list-type=2 HTTP/1.1", b"/?list-type=2", b"e"),
        (b"OPTIONS * HTTP/1.1", b"*", b"h"),
    ],
)
def test_special_targets(line: bytes, target: bytes, host: bytes) -> None:
    parser = HeadParser()
    parsed = parser.parse(head(line))
    assert parsed.target == target
    assert parsed.fields[b"host"] == host
    assert [value for name, value in parser.headers if name == b"host"] == [host]


def test_names_are_lowered_values_trimmed_and_repeats_joined() -> None:
    parser = HeadParser()
    parsed = parser.parse(head(b"PUT /b/k HTTP/1.1", b"X-Amz-Meta-A:  one \t", b"x-amz-meta-a: two", b"Empty:"))
    assert parsed.fields[b"x-amz-meta-a"] == b"one,two"
    assert parsed.fields[b"empty"] == b""
    assert parser.headers[1:] == [(b"x-amz-meta-a", b"one"), (b"x-amz-meta-a", b"two"), (b"empty", b"")]


@pytest.mark.parametrize(
    ("line", "headers", "length", "chunked", "keep", "expect"),
    [
        (b"GET / HTTP/1.1", [], None, False, True, False),
        (b"PUT / HTTP/1.1", [b"Content-Length: 12", b"Expect: 100-Continue"], 12, False, True, True),
        (b"PUT / HTTP/1.1", [b"Transfer-Encoding: Chunked", b"Connection: Close"], None, True, False, False),
        (b"PUT / HTTP/1.0", [b"Content-Length: 0", b"Expect: 100-continue"], 0, False, False, False),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], None, False, True, False),
        (b"GET / HTTP/1.1", [b"Upgrade: h2c", b"Connection: Upgrade"], None, False, True, False),
    ],
)
def test_framing(
    line: bytes, headers: list[bytes], length: int | None, chunked: bool, keep: bool, expect: bool
) -> None:
    parsed = HeadParser().parse(head(line, *headers))
    assert (parsed.content_length, parsed.chunked, parsed.keep_alive, parsed.expect) == (length, chunked, keep, expect)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(b"PUT / HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        (head(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: 5, 5"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: -1"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: +1"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: 0x10"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length:"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length: 99999999999999999999"), 400),
        (head(b"PUT / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"), 501),
        (head(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        (head(b"PUT / HTTP/1.1", b"Transfer-Encoding: identity"), 400),
        (head(b"PUT / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
        (head(b"PUT / HTTP/1.1", b"Content-Length : 5"), 400),
        (head(b"PUT / HTTP/1.1", b"A: b", b" folded"), 400),
        (head(b"PUT / HTTP/1.1", b"A: b\nB: c"), 400),
        (head(b"PUT / HTTP/1.1", b"A: b\rB: c"), 400),
        (head(b"PUT / HTTP/1.1", b"A: b\0c"), 400),
        (head(b"PUT / HTTP/1.1", b"A: b\x01c"), 400),
        (head(b"PUT / HTTP/1.1", b": empty"), 400),
        (head(b"GET  / HTTP/1.1"), 400),
        (head(b"GET / HTTP/1.1 "), 400),
        (head(b"GET /a b HTTP/1.1"), 400),
        (head(b"GET a HTTP/1.1"), 400),
        (head(b"GET * HTTP/1.1"), 400),
        (head(b"GET ftp://h/x HTTP/1.1"), 400),
        (head(b"GET http:///x HTTP/1.1"), 400),
        (head(b"GET http://u@h/x HTTP/1.1"), 400),
        (head(b"CONNECT h:1 HTTP/1.1"), 400),
        (head(b"GET /"), 400),
        (head(b"GET / HTTP/2.0"), 505),
        (head(b"GET / HTTP/1.2"), 505),
        (head(b"BREW / HTTP/1.1"), 405),
        (head(b"GET / HTTP/1.1", host=False), 400),
        (head(b"GET / HTTP/1.1", b"Host: other"), 400),
        (head(b"GET / HTTP/1.1", b"Expect: the-unexpected"), 417),
        (head(b"GET /" + b"a" * TARGET_BYTES_MAX + b" HTTP/1.1"), 414),
        (head(b"GET / HTTP/1.1", *[b"a: b"] * (HEADERS_MAX + 1)), 431),
        (head(b"GET / HTTP/1.1", b"a: " + b"b" * HEAD_BYTES_MAX), 431),
    ],
)
def test_refusals(data: bytes, status: int) -> None:
    with pytest.raises(HeadError) as caught:
        HeadParser().parse(data)
    assert caught.value.status == status, caught.value.message


def test_parser_keeps_nothing_between_heads() -> None:
    parser = HeadParser()
    with pytest.raises(HeadError):
        parser.parse(head(b"PUT / HTTP/1.1", b"Content-Length: x", b"X-Left: over"))
    parsed = parser.parse(head(b"GET /next HTTP/1.1"))
    assert parsed.fields == {b"host": b"h"}
    assert parsed.target == b"/next"


def test_a_growing_head_is_judged_before_its_end() -> None:
    check_growing(b"GET / HTTP/1.1\r\nHost: h\r")
    for data, status in (
        (b"GET / HTTP/1.1\n\n", 400),
        (b"GET /" + b"a" * HEAD_BYTES_MAX, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * HEAD_BYTES_MAX, 431),
    ):
        with pytest.raises(HeadError) as caught:
            check_growing(data)
        assert caught.value.status == status
