"""A head that is compared with an earlier one gives what the full parser gives, for any head."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.http.head import Head, HeadError, HeadParser

EXAMPLES = 20_000 if os.environ.get("TITANS3_LONG") else 600
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
LINES = {
    "Host": st.sampled_from(["h", "127.0.0.1:9000"]),
    "User-Agent": st.sampled_from(["a/1", "a/2", "bb/1"]),
    "X-Amz-Date": st.sampled_from(
        ["20260131T000000Z", "20260131T000001Z", "20260131T00000-Z", "2026013100000000", "20260131T0000\t0Z", "no"]
    ),
    "x-amz-content-sha256": st.one_of(HEX, st.sampled_from(["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"])),
    "amz-sdk-invocation-id": st.sampled_from(
        ["0f1e2d3c-0000-4000-8000-000000000000", "0f1e2d3c-0000-4000-8000-00000000000 ", "-" * 36]
    ),
    "Content-Length": st.sampled_from(["0", "7", "12", "99", "05", "1x", "+5", "-1", "9" * 12, "9" * 13, "9" * 19]),
    "x-amz-decoded-content-length": st.sampled_from(["12", "99", "1x"]),
    "Content-MD5": st.sampled_from(
        ["ojnmnmx/jhgeiMRllB47pw==", "aA0j0M4G7SO6aU0mbti7OA==", "aA0j0M4G7SO6aU0mbti7OA= ", "short"]
    ),
    "x-amz-checksum-crc32": st.sampled_from(["AAAAAA==", "AAAAAQ==", "no"]),
    "Connection": st.sampled_from(["close", "keep-alive"]),
    "Expect": st.sampled_from(["100-continue", "200-continue"]),
    "x-amz-security-token": st.sampled_from(["AAAA//==", "BBBB++==", "BBBB\x7f+==", "B B+  ==", " "]),
    "x-amz-meta-a": st.sampled_from(["1", "2"]),
}
SIGNED = "AWS4-HMAC-SHA256 Credential=AK/20260131/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature="
OTHER = SIGNED.replace("AK", "BK")
AUTHORIZATION = st.one_of(
    HEX.map(lambda text: SIGNED + text), HEX.map(lambda text: OTHER + text),
    st.sampled_from([SIGNED + "z" * 63, SIGNED + "z" * 63 + " ", SIGNED + "a" * 62 + "\x01a", SIGNED + "a" * 62 + "\ta", "AWS AK:abc"]),
)  # fmt: skip
TARGETS = st.sampled_from([
    "/b/k", "/b/k?list-type=2", "/b/%20(1)", "/b/a b", "/b/é", "/b/#x", "http://h/b/k", "http://other/b/k", "*", "b/k", '/b/"',
    "/" + "k" * 9000,
])  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(st.sampled_from(sorted(LINES)), max_size=6))
    if draw(st.booleans()):
        names = ["Host", "X-Amz-Date", *(name for name in names if name not in ("Host", "X-Amz-Date"))]
    lines = [
        f"{name}:{draw(st.sampled_from([' ', '', '  ']))}{draw(LINES[name])}{draw(st.sampled_from(['', '', ' ']))}"
        for name in names
    ]
    if draw(st.integers(0, 9)):
        lines.insert(draw(st.integers(0, len(lines))), "Authorization: " + draw(AUTHORIZATION))
    method = draw(st.sampled_from(["GET", "GET", "PUT", "HEAD", "GETS", "get"]))
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]))
    return "\r\n".join([f"{method} {draw(TARGETS)} {version}", *lines, "", ""]).encode("latin-1")


def outcome(parser: HeadParser, data: bytes) -> tuple[object, ...]:
    try:
        found: Head = parser.parse(data)
    except HeadError as error:
        return error.status, error.code, error.message
    return (
        found.method, found.target, found.version, found.fields, found.content_length, found.chunked, found.keep_alive, found.expect
    )  # fmt: skip


def mutated(data: bytes, at: int, byte: int) -> bytes:
    """One byte of it is another; the empty line stays its only one."""
    place = at % (len(data) - 4)
    changed = data[:place] + bytes((byte,)) + data[place + 1 :]
    return changed if changed.find(b"\r\n\r\n") == len(changed) - 4 else data


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(heads(), st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_parser_that_remembers_equals_one_that_does_not(given_heads: list[tuple[bytes, int, int]]) -> None:
    remembering = HeadParser()
    for data, at, byte in given_heads:
        for one in (data, data, mutated(data, at, byte), data):
            assert outcome(remembering, one) == outcome(HeadParser(), one)


def test_bodies_of_many_lengths_are_compared_once_they_vary() -> None:
    parser = HeadParser()
    shapes = []
    for number in range(10, 30):
        head = parser.parse((
            f"PUT /b/k HTTP/1.1\r\nHost: h\r\nAuthorization: {SIGNED}{number:064x}\r\nContent-Length: {number}\r\n"
            f"Content-MD5: ojnmnmx/jhgeiMRllB{number}pw==\r\nX-Amz-Date: 20260131T000000Z\r\n\r\n"
        ).encode())  # fmt: skip
        assert head.content_length == number
        assert head.fields[b"content-md5"] == b"ojnmnmx/jhgeiMRllB%dpw==" % number
        shapes.append(head.shape)
    assert shapes[5] is not None
    assert all(shape is shapes[5] for shape in shapes[5:])


def test_a_target_that_names_a_host_does_not_name_it_for_others() -> None:
    parser = HeadParser()

    def told(target: str, number: int) -> bytes:
        lines = f"Host: h\r\nAuthorization: {SIGNED}{number:064x}\r\nX-Amz-Date: 20260131T000000Z\r\n\r\n"
        return parser.parse(f"GET {target} HTTP/1.1\r\n{lines}".encode()).fields[b"host"]

    assert [told("/b/k", number) for number in range(3)] == [b"h"] * 3
    assert [told("http://other/b/k", number) for number in range(3)] == [b"other"] * 3
    assert told("/b/k", 3) == b"h"


def test_a_client_that_varies_what_it_always_varies_is_compared() -> None:
    """Otherwise the test above shows nothing."""
    parser = HeadParser()
    shapes = set()
    for number in range(4):
        signature = f"{number:064x}"
        data = (
            f"GET /b/k{number} HTTP/1.1\r\nHost: h\r\nAuthorization: {SIGNED}{signature}\r\nX-Amz-Date: 20260131T00000{number}Z\r\n"
            f"x-amz-content-sha256: {signature[::-1]}\r\n\r\n"
        ).encode()
        head = parser.parse(data)
        assert head.fields[b"authorization"].endswith(signature.encode())
        assert head.target == b"/b/k%d" % number
        if number:
            shapes.add(id(head.shape))
    assert len(shapes) == 1
    assert head.shape is not None
    assert head.shape.is_bare
