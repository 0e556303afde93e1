"""What is on the wire: framing, paths as they came, early answers, health, anonymous requests; with a plain socket."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.clients.raw import Raw
from tests.faults.server import Server


@pytest.fixture(scope="module")
def bucket(server: Server) -> str:
    with closing(Raw(server)) as raw:
        assert raw("PUT", "/raw-bucket").status == 200
    return "/raw-bucket"


@pytest.fixture
def raw(server: Server, bucket: str) -> Iterator[Raw]:
    made = Raw(server)
    yield made
    made.close()


def test_health_without_a_signature(server: Server) -> None:
    for word in ("live", "ready", "cluster"):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health/{word}", timeout=10) as answer:
            assert answer.status == 200
            assert answer.read()
    for path in ("/health/other", "/_titans3/nothing"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10)
        assert caught.value.code in (403, 404)
        caught.value.close()


def test_reserved_names_are_no_buckets(raw: Raw) -> None:
    assert raw("PUT", "/health").code == "InvalidBucketName"
    assert raw("PUT", "/_titans3").status in (403, 404, 405)
    assert raw("PUT", "/_titans3x").code == "InvalidBucketName"


def test_anonymous_requests(raw: Raw, bucket: str) -> None:
    raw("PUT", f"{bucket}/private", body=b"x")
    for method, target in (
        ("GET", "/"),
        ("GET", bucket),
        ("GET", f"{bucket}/private"),
        ("PUT", f"{bucket}/new"),
        ("DELETE", f"{bucket}/private"),
    ):
        answer = raw(method, target, signed=False)
        assert (answer.status, answer.code) == (403, "AccessDenied")
        assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]
        assert answer.headers["x-amz-id-2"] == answer.xml.findtext("HostId")
    assert raw("HEAD", f"{bucket}/private", signed=False).status == 403
    assert raw("OPTIONS", f"{bucket}/private", signed=False).code == "BadRequest"
    assert raw("GET", f"{bucket}/private").body == b"x"


@pytest.mark.parametrize(
    "path",
    [
        b"//",
        b"//a",
        b"/.",
        b"/..",
        b"/a/../b",
        b"/a/./b",
        b"/%2F",
        b"/%2f%2e",
        b"/a%20b",
        b"/a+b",
        b"/a%2Bb",
        b"/",
        b"/a/",
        b"/~!$&'()*+,;=:@",
        b"/%00",
    ],
)
def test_paths_are_keys_as_they_come(raw: Raw, bucket: str, path: bytes) -> None:
    target = bucket.encode() + b"/" + path
    assert raw("PUT", target, body=path).status == 200
    assert raw("GET", target).body == path
    assert raw("DELETE", target).status == 204
    assert raw("GET", target).status == 404


def test_framing(raw: Raw, bucket: str) -> None:
    """HEAD tells the length it does not send; 204 and 304 have none; all on one connection."""
    etag = raw("PUT", f"{bucket}/framed", body=b"12345").headers["etag"]
    head = raw("HEAD", f"{bucket}/framed")
    assert (head.status, head.headers["content-length"]) == (200, "5")
    assert raw("HEAD", f"{bucket}/absent").status == 404
    same = raw("GET", f"{bucket}/framed", {"if-none-match": etag})
    assert (same.status, same.headers["etag"], "content-length" in same.headers) == (304, etag, False)
    assert raw("HEAD", f"{bucket}/framed", {"if-none-match": etag}).status == 304
    assert raw("GET", f"{bucket}/framed", {"if-match": '"x"'}).code == "PreconditionFailed"
    assert raw("HEAD", f"{bucket}/framed", {"if-match": '"x"'}).status == 412
    beyond = raw("GET", f"{bucket}/framed", {"range": "bytes=5-"})
    assert (beyond.status, beyond.headers["content-range"], beyond.code) == (416, "bytes */5", "InvalidRange")
    part = raw("GET", f"{bucket}/framed", {"range": "bytes=1-2"})
    assert (part.status, part.body, part.headers["content-length"], part.headers["content-range"]) == (
        206,
        b"23",
        "2",
        "bytes 1-2/5",
    )
    assert raw("HEAD", f"{bucket}/framed", {"range": "bytes=1-2"}).headers["content-length"] == "2"
    gone = raw("DELETE", f"{bucket}/framed")
    assert (gone.status, "content-length" in gone.headers) == (204, False)
    for answer in (head, same, beyond, part, gone):
        assert answer.keeps
        assert answer.headers["x-amz-request-id"]
        assert answer.headers["date"]
        assert answer.headers["server"] == "TitanS3"


def test_pipelined_requests_are_answered_in_order(raw: Raw, bucket: str) -> None:
    bodies = [bytes([number]) * (number * 1000) for number in range(1, 9)]
    raw.send(
        b"".join(
            raw.head("PUT", f"{bucket}/pipe-{at}".encode(), length=len(body)) + body for at, body in enumerate(bodies)
        )
    )
    assert [raw.read("PUT").status for _ in bodies] == [200] * 8
    raw.send(b"".join(raw.head("GET", f"{bucket}/pipe-{at}".encode()) for at in range(8)))
    assert [raw.read().body for _ in bodies] == bodies


def test_expect_is_answered_only_when_the_request_may(raw: Raw, bucket: str) -> None:
    expect = {"expect": "100-continue"}
    raw.send(raw.head("PUT", f"{bucket}/expected".encode(), expect, length=5))
    assert raw.read("PUT").status == 100
    raw.send(b"12345")
    assert raw.read("PUT").status == 200
    refused = (
        (b"/absent-bucket/key", {}, True, 404),
        (f"{bucket}/key".encode(), {}, False, 403),
        (f"{bucket}/key".encode(), {"x-amz-server-side-encryption": "AES256"}, True, 501),
        (f"{bucket}/expected".encode(), {"if-none-match": "*"}, True, 412),
        (f"{bucket}/".encode() + b"k" * 1025, {}, True, 400),
    )
    for target, headers, signed, status in refused:
        raw.close()
        raw.send(raw.head("PUT", target, {**expect, **headers}, length=5, signed=signed))
        assert raw.read("PUT").status == status


def test_an_answer_before_the_body_leaves_a_usable_connection_or_closes_it(raw: Raw, bucket: str) -> None:
    for size in (1000, 300_000, 8_000_000):
        raw.close()
        raw.send(raw.head("PUT", b"/absent-bucket/key", length=size))
        sent = True
        try:
            raw.send(b"x" * size)
        except (BrokenPipeError, ConnectionResetError):
            sent = False
        answer = raw.read("PUT")
        assert (answer.status, answer.code) == (404, "NoSuchBucket")
        if answer.keeps:
            assert sent
            assert raw("GET", f"{bucket}?location").status == 200


def test_chunked_transfer_coding(raw: Raw, bucket: str) -> None:
    body = bytes(range(256)) * 1200
    coded = (
        b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 70_001]), body[at : at + 70_001])
            for at in range(0, len(body), 70_001)
        )
        + b"0\r\n\r\n"
    )
    raw.send(raw.head("PUT", f"{bucket}/chunked".encode(), {"transfer-encoding": "chunked"}) + coded)
    assert raw.read("PUT").status == 200
    assert raw("GET", f"{bucket}/chunked").body == body
    raw.send(raw.head("PUT", f"{bucket}/chunked".encode(), {"transfer-encoding": "chunked"}) + b"zz\r\n")
    assert raw.read("PUT").status == 400
    assert raw.ended()
    raw.close()
    assert raw("GET", f"{bucket}/chunked").body == body


def test_a_put_without_length_and_a_copy_without_length(raw: Raw, bucket: str) -> None:
    raw.send(raw.head("PUT", f"{bucket}/none".encode()))
    answer = raw.read("PUT")
    assert (answer.status, answer.code) == (411, "MissingContentLength")
    raw.close()
    raw("PUT", f"{bucket}/source", body=b"copied")
    raw.send(raw.head("PUT", f"{bucket}/target".encode(), {"x-amz-copy-source": f"{bucket}/source"}))
    assert raw.read("PUT").status == 200
    assert raw("GET", f"{bucket}/target").body == b"copied"


def test_a_connection_that_breaks_in_the_body_leaves_nothing(raw: Raw, bucket: str) -> None:
    for size in (10_000, 3_000_000):
        raw.send(raw.head("PUT", f"{bucket}/broken".encode(), length=size) + b"x" * (size - 1))
        raw.close()
        assert raw("GET", f"{bucket}/broken").code == "NoSuchKey"
