"""Ranges in all shapes, and reads by part number."""

from __future__ import annotations

import pytest

from tests.unit.s3.wire import Client
from titans3.limits import PART_BYTES_MIN

SIZE = 100


def content(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    made("PUT", "/bucket/key", body=content(SIZE))
    made("PUT", "/bucket/empty", body=b"")
    return made


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=10-19", 10, 19),
        ("bytes=99-99", 99, 99),
        ("bytes=90-1000", 90, 99),
        ("bytes=5-", 5, 99),
        ("bytes=0-", 0, 99),
        ("bytes=-1", 99, 99),
        ("bytes=-100", 0, 99),
        ("bytes=-1000", 0, 99),
        ("bytes=0-18446744073709551616", 0, 99),
        ("bytes=0-999999999999999999999999999999", 0, 99),
        ("bytes=-99999999999999999999999999", 0, 99),
        ("BYTES=1-2", 1, 2),
        ("bytes= 1 - 2 ", 1, 2),
    ],
)
def test_satisfied(client: Client, method: str, text: str, first: int, last: int) -> None:
    answer = client(method, "/bucket/key", {"range": text})
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    if method == "GET":
        assert answer.body == content(SIZE)[first : last + 1]
    else:
        assert (answer.body, answer.length) == (b"", last - first + 1)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("key", "bytes=100-"),
        ("key", "bytes=100-200"),
        ("key", "bytes=-0"),
        ("key", "bytes=99999999999999999999999-"),
        ("empty", "bytes=0-0"),
        ("empty", "bytes=0-"),
        ("empty", "bytes=-5"),
    ],
)
def test_not_satisfiable(client: Client, method: str, key: str, text: str) -> None:
    answer = client(method, f"/bucket/{key}", {"range": text})
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE if key == 'key' else 0}"
    if method == "GET":
        assert answer.code == "InvalidRange"
        assert answer.xml.findtext("ActualObjectSize") == str(SIZE if key == "key" else 0)
        assert answer.xml.findtext("RangeRequested")
    else:
        assert answer.body == b""


@pytest.mark.parametrize(
    "text",
    [
        "bytes=0-1,5-6",
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "items=0-1",
        "0-1",
        "bytes 0-1",
        "bytes=--1",
        "bytes=1--2",
        "bytes=0x1-2",
        "bytes=1-2-3",
        "",
        "bytes=\xb2-3",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_malformed_or_several_are_ignored(client: Client, text: str) -> None:
    answer = client("GET", "/bucket/key", {"range": text})
    assert (answer.status, answer.body) == (200, content(SIZE))
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "text", ["bytes=0-0", "bytes=65535-65536", "bytes=1048576-", "bytes=-70000", "bytes=1-2999998"]
)
def test_large_bodies(text: str) -> None:
    client = Client()
    client.bucket()
    data = content(3_000_000)
    client("PUT", "/bucket/key", body=data)
    first, _, last = text.removeprefix("bytes=").partition("-")
    wanted = data[int(first) : int(last) + 1 if last else None] if first else data[-int(last) :]
    answer = client("GET", "/bucket/key", {"range": text})
    assert (answer.status, answer.body) == (206, wanted)


def test_a_range_carries_no_checksum_of_the_whole(client: Client) -> None:
    put = client("PUT", "/bucket/sum", {"x-amz-checksum-crc32": "y/Q5Jg=="}, b"123456789")
    assert put.status == 200, put.body
    whole = client("GET", "/bucket/sum", {"x-amz-checksum-mode": "ENABLED"})
    assert whole.headers["x-amz-checksum-crc32"] == "y/Q5Jg=="
    for headers in ({"range": "bytes=0-8"}, {"range": "bytes=0-1"}):
        part = client("GET", "/bucket/sum", {"x-amz-checksum-mode": "ENABLED", **headers})
        assert part.status == 206
        assert not [name for name in part.headers if name.startswith("x-amz-checksum")]


def multipart(client: Client, sizes: list[int], headers: dict[str, str] | None = None) -> bytes:
    """An object of parts; its bytes."""
    upload = client("POST", "/bucket/parts?uploads", headers).xml.findtext("UploadId")
    lines, whole = [], b""
    for number, size in enumerate(sizes, 1):
        data = bytes([number]) * size
        whole += data
        answer = client("PUT", f"/bucket/parts?uploadId={upload}&partNumber={number}", body=data)
        lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{answer.headers['etag']}</ETag></Part>")
    xml = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>"
    assert client("POST", f"/bucket/parts?uploadId={upload}", body=xml.encode()).status == 200
    return whole


def test_parts_by_number(client: Client) -> None:
    sizes = [PART_BYTES_MIN, PART_BYTES_MIN + 7, 3]
    whole = multipart(client, sizes)
    start = 0
    for number, size in enumerate(sizes, 1):
        for method in ("GET", "HEAD"):
            answer = client(method, f"/bucket/parts?partNumber={number}")
            assert answer.status == 206
            assert answer.headers["x-amz-mp-parts-count"] == "3"
            assert answer.headers["content-range"] == f"bytes {start}-{start + size - 1}/{len(whole)}"
            assert answer.headers["etag"].endswith('-3"')
            assert (answer.body == whole[start : start + size]) if method == "GET" else answer.length == size
        start += size
    for number in (4, 10_000):
        answer = client("GET", f"/bucket/parts?partNumber={number}")
        assert (answer.status, answer.code) == (416, "InvalidPartNumber")
    assert "x-amz-mp-parts-count" not in client("HEAD", "/bucket/parts").headers
    across = client("GET", "/bucket/parts", {"range": f"bytes={PART_BYTES_MIN - 2}-{PART_BYTES_MIN + 1}"})
    assert across.body == b"\1\1\2\2"


@pytest.mark.parametrize("text", ["0", "-1", "10001", "x", "", "1.0", "99999999", "\u0661"])
def test_part_numbers_that_are_none(client: Client, text: str) -> None:
    answer = client("GET", f"/bucket/key?partNumber={text}")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_part_one_of_a_plain_object_is_the_object(client: Client) -> None:
    answer = client("GET", "/bucket/key?partNumber=1")
    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, content(SIZE), "bytes 0-99/100")
    assert "x-amz-mp-parts-count" not in answer.headers
    assert client("GET", "/bucket/key?partNumber=2").status == 416
    assert client("GET", "/bucket/empty?partNumber=1").status == 200
    both = client("GET", "/bucket/key?partNumber=1", {"range": "bytes=0-1"})
    assert (both.status, both.code) == (400, "InvalidRequest")


def test_parts_are_counted_in_their_order_whatever_their_numbers(client: Client) -> None:
    upload = client("POST", "/bucket/gaps?uploads").xml.findtext("UploadId")
    lines = []
    for number, data in ((3, b"a" * PART_BYTES_MIN), (9, b"b")):
        etag = client("PUT", f"/bucket/gaps?uploadId={upload}&partNumber={number}", body=data).headers["etag"]
        lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    client("POST", f"/bucket/gaps?uploadId={upload}", body=f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode())
    assert client("HEAD", "/bucket/gaps?partNumber=1").length == PART_BYTES_MIN
    assert client("GET", "/bucket/gaps?partNumber=2").body == b"b"
    assert client("GET", "/bucket/gaps?partNumber=9").status == 416
