"""The wire: framing, pipelining, Expect, ends of connections, dates; each on a socket.

Sources: RFC 9112 (framing, persistence, half-closed connections), RFC 9110 10.1.1 (Expect),
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import hashlib
import socket
from typing import Any

import pytest

from tests.conformance.served import Endpoint
from tests.conformance.socketed import Signing, connected

pytestmark = pytest.mark.operation("PutObject", "GetObject")


def absent(s3: Any, bucket: str, key: str = "k") -> bool:
    return key not in [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_pipelined_requests_are_answered_in_order(endpoint: Endpoint, bucket: str) -> None:
    with connected(endpoint) as sock:
        data = b""
        for number in range(6):
            data += Signing(endpoint, "PUT", f"/{bucket}/k{number}").head(content_length="1") + b"%d" % number
            data += Signing(endpoint, "GET", f"/{bucket}/k{number}").head()
        sock.send(data)
        for number in range(6):
            assert sock.answer().status == 200
            assert sock.answer().body == b"%d" % number


def test_a_request_in_single_bytes(endpoint: Endpoint, bucket: str) -> None:
    with connected(endpoint) as sock:
        data = Signing(endpoint, "PUT", f"/{bucket}/k").head(content_length="4") + b"body"
        sock.send(*[data[at : at + 1] for at in range(len(data))])
        assert sock.answer().status == 200
        sock.send(Signing(endpoint, "GET", f"/{bucket}/k").head())
        assert sock.answer().body == b"body"


def test_expect_is_answered_when_the_body_is_wanted(endpoint: Endpoint, bucket: str) -> None:
    with connected(endpoint) as sock:
        sock.send(Signing(endpoint, "PUT", f"/{bucket}/k").head(content_length="4", expect="100-continue"))
        assert sock.answer().status == 100
        sock.send(b"body")
        assert sock.answer().status == 200


@pytest.mark.parametrize("how", ["bucket", "signature", "digest", "condition"])
def test_expect_is_refused_without_a_100(endpoint: Endpoint, s3: Any, bucket: str, how: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    target = f"/{bucket}-not-there/k" if how == "bucket" else f"/{bucket}/k"
    headers = {"digest": {"content-md5": "nonsense"}, "condition": {"if-none-match": "*"}}.get(how, {})
    signing = Signing(endpoint, "PUT", target, headers)
    head = signing.head(content_length="4", expect="100-continue")
    if how == "signature":
        head = head.replace(signing.seed.encode(), b"0" * 64)
    with connected(endpoint) as sock:
        sock.send(head)
        answer = sock.answer()
        assert answer.status == {"bucket": 404, "signature": 403, "digest": 400, "condition": 412}[how]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_a_refusal_before_the_body_leaves_the_connection_usable_or_closed(endpoint: Endpoint, bucket: str) -> None:
    with connected(endpoint) as sock:
        sock.send(Signing(endpoint, "PUT", f"/{bucket}-not-there/k").head(content_length="4") + b"body")
        answer = sock.answer()
        assert answer.status == 404
        assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]
        if answer.headers.get("connection") != "close":
            sock.send(Signing(endpoint, "GET", f"/{bucket}").head())
            assert sock.answer().status == 200


def test_a_client_that_has_said_everything_gets_its_answer(plain: Endpoint) -> None:
    """Half-closed: it sends no more, and reads. TLS has no such state."""
    client = plain.client()
    client.create_bucket(Bucket="half-closed")
    with connected(plain) as sock:
        sock.send(Signing(plain, "PUT", "/half-closed/k").head(content_length="4") + b"body")
        sock.socket.shutdown(socket.SHUT_WR)
        assert sock.answer().status == 200
        assert sock.ends()
    with connected(plain) as sock:
        sock.send(Signing(plain, "PUT", "/half-closed/cut").head(content_length="400") + b"body")
        sock.socket.shutdown(socket.SHUT_WR)
        try:
            answer = sock.answer()
        except EOFError:
            pass
        else:
            assert (answer.status, answer.code) == (400, "IncompleteBody")
    assert absent(client, "half-closed", "cut")


def test_a_connection_that_breaks_in_the_body_stores_nothing(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    for length, sent in ((400, b"body"), (3_000_000, bytes(2_000_000))):
        with connected(endpoint) as sock:
            sock.send(Signing(endpoint, "PUT", f"/{bucket}/k").head(content_length=str(length)), sent)
    assert absent(s3, bucket)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: x\r\n", b"Content-Length: -1\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n", b"Content-Length: 1, 2\r\n",
        b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n", b" folded\r\n", b"No Colon\r\n", b"Na me: x\r\n", b"Name\x00: x\r\n", b": empty\r\n",
        b"Content-Length : 4\r\n",
    ],
)  # fmt: skip
def test_framing_that_can_be_read_in_two_ways_is_refused(endpoint: Endpoint, s3: Any, bucket: str, lines: bytes) -> None:
    with connected(endpoint) as sock:
        head = Signing(endpoint, "PUT", f"/{bucket}/k").head()
        sock.send(head[:-2] + lines + b"\r\nbody")
        answer = sock.answer()
        assert (answer.status, answer.code) == (400, "BadRequest")
        assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]
        assert endpoint.authority or sock.ends()  # TLS has no half-closed state: the server lingers
    assert absent(s3, bucket)


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"GET\r\n", 400, "BadRequest"), (b"GET / HTTP/2.0\r\n", 505, "HTTPVersionNotSupported"),
        (b"GET / HTTP/1.1 x\r\n", 400, "BadRequest"), (b"G@T / HTTP/1.1\r\n", 400, "BadRequest"),
        (b"GET  / HTTP/1.1\r\n", 400, "BadRequest"), (b"\x16\x03\x01\x02\x00\x01\x00\r\n", 400, "BadRequest"),
        (b"GET /\x00 HTTP/1.1\r\n", 400, "BadRequest"),
    ],
)  # fmt: skip
def test_lines_that_are_no_requests(endpoint: Endpoint, line: bytes, status: int, code: str) -> None:
    with connected(endpoint) as sock:
        sock.send(line + b"Host: x\r\n\r\n")
        answer = sock.answer()
        assert (answer.status, answer.code) == (status, code)
        assert endpoint.authority or sock.ends()  # TLS has no half-closed state: the server lingers


def test_heads_that_are_too_long(endpoint: Endpoint) -> None:
    for head, status, code in (
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "URITooLong"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431, "RequestHeaderSectionTooLarge"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2000 + b"\r\n", 431, "RequestHeaderSectionTooLarge"),
    ):
        with connected(endpoint) as sock:
            sock.send(head)
            answer = sock.answer()
            assert (answer.status, answer.code) == (status, code)


def test_a_host_is_needed(endpoint: Endpoint) -> None:
    with connected(endpoint) as sock:
        sock.send(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.answer().status == 400


def test_http_1_0(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    with connected(endpoint) as sock:
        sock.send(Signing(endpoint, "GET", f"/{bucket}/k").head().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert sock.answer().body == b"body"
        assert sock.ends()


def test_a_connection_closes_when_it_is_told_to(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(3_000_000))
    for target in (f"/{bucket}", f"/{bucket}/k", f"/{bucket}/missing"):
        with connected(endpoint) as sock:
            sock.send(Signing(endpoint, "GET", target).head(connection="close"))
            assert sock.answer().headers["connection"] == "close"
            assert sock.ends()


def test_head_has_no_body(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(1000))
    with connected(endpoint) as sock:
        for target in (f"/{bucket}/k", f"/{bucket}/missing", f"/{bucket}-not-there", f"/{bucket}/k?uploads"):
            sock.send(Signing(endpoint, "HEAD", target).head())
            sock.answer("HEAD")
        sock.send(Signing(endpoint, "GET", f"/{bucket}/k").head())
        assert sock.answer().body == bytes(1000)


# bodies


def test_the_hash_of_the_body_is_compared(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    for size in (4, 200_000):
        with connected(endpoint) as sock:
            promised = hashlib.sha256(bytes(size)).hexdigest()
            sock.send(Signing(endpoint, "PUT", f"/{bucket}/k", payload=promised).head(content_length=str(size)), b"x" * size)
            answer = sock.answer()
            assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch")
            assert answer.xml.findtext("ClientComputedContentSHA256") == promised
            assert answer.xml.findtext("S3ComputedContentSHA256") == hashlib.sha256(b"x" * size).hexdigest()
    assert absent(s3, bucket)


def test_a_put_without_length_is_411(endpoint: Endpoint, bucket: str) -> None:
    with connected(endpoint) as sock:
        sock.send(Signing(endpoint, "PUT", f"/{bucket}/k").head())
        answer = sock.answer()
        assert (answer.status, answer.code) == (411, "MissingContentLength")


def test_chunked_transfer_coding(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    with connected(endpoint) as sock:
        head = Signing(endpoint, "PUT", f"/{bucket}/k").head(transfer_encoding="chunked")
        sock.send(head, b"3;x=y\r\nabc\r\n", b"A\r\n0123456789\r\n0\r\nTrailer: ignored\r\n\r\n")
        assert sock.answer().status == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"abc0123456789"
    with connected(endpoint) as sock:
        sock.send(head, b"3\r\nabcd\r\n0\r\n\r\n")
        assert sock.answer().status == 400


# who asks, and when


@pytest.mark.parametrize("ahead", [-1000, 1000])
def test_clocks_that_are_too_far_apart(endpoint: Endpoint, bucket: str, ahead: float) -> None:
    with connected(endpoint) as sock:
        sock.send(Signing(endpoint, "GET", f"/{bucket}", ahead=ahead).head())
        answer = sock.answer()
        assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed")
        assert answer.xml.findtext("MaxAllowedSkewMilliseconds") == "900000"
        assert answer.xml.findtext("RequestTime")
        assert answer.xml.findtext("ServerTime")
        assert "date" in answer.headers


def test_clocks_that_are_near_enough(endpoint: Endpoint, bucket: str) -> None:
    for ahead in (-800, 800):
        with connected(endpoint) as sock:
            sock.send(Signing(endpoint, "GET", f"/{bucket}", ahead=ahead).head())
            assert sock.answer().status == 200


@pytest.mark.parametrize(
    ("old", "new", "status", "code"),
    [
        (b"AWS4-HMAC-SHA256 Cred", b"AWS5 Cred", 400, "InvalidArgument"), (b"aws4_request", b"aws4", 400, "AuthorizationHeaderMalformed"),
        (b"/s3/", b"/ec2/", 400, "AuthorizationHeaderMalformed"), (b"Signature=", b"Signature=x", 400, "AuthorizationHeaderMalformed"),
        (b"Credential=", b"Credent=", 400, "AuthorizationHeaderMalformed"),
        (b"SignedHeaders=host;", b"SignedHeaders=", 403, "AccessDenied"),
        (b"x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n", b"", 400, "MissingSecurityHeader"),
    ],
)  # fmt: skip
def test_authorizations_that_are_malformed(
    endpoint: Endpoint, bucket: str, old: bytes, new: bytes, status: int, code: str
) -> None:
    with connected(endpoint) as sock:
        head = Signing(endpoint, "GET", f"/{bucket}").head()
        assert old in head
        sock.send(head.replace(old, new, 1))
        answer = sock.answer()
        assert (answer.status, answer.code) == (status, code)


def test_a_signature_that_does_not_match_shows_what_was_signed(endpoint: Endpoint, bucket: str) -> None:
    signing = Signing(endpoint, "GET", f"/{bucket}")
    with connected(endpoint) as sock:
        sock.send(signing.head().replace(signing.seed.encode(), b"0" * 64))
        answer = sock.answer()
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    assert answer.xml.findtext("SignatureProvided") == "0" * 64
    assert (answer.xml.findtext("StringToSign") or "").startswith("AWS4-HMAC-SHA256\n")
    assert (answer.xml.findtext("CanonicalRequest") or "").startswith(f"GET\n/{bucket}\n")
    assert bytes.fromhex(answer.xml.findtext("StringToSignBytes") or "").decode() == answer.xml.findtext("StringToSign")


def test_what_nobody_knows_is_ignored(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    for target in (f"/{bucket}/k?x-id=GetObject", f"/{bucket}/k?unknown=1&other", f"/{bucket}?list-type=2&x-id=ListObjectsV2"):
        with connected(endpoint) as sock:
            sock.send(Signing(endpoint, "GET", target, {"x-amz-unknown": "1", "x-other": "2"}).head())
            assert sock.answer().status == 200, target
