"""Presigned requests: all methods, what SDKs move into the query, expiry, and what is refused."""

from __future__ import annotations

import pytest

from tests.unit.s3.wire import Answer, Client, WireBody


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    made("PUT", "/bucket/key", {"content-type": "text/plain"}, b"body")
    return made


def send(
    client: Client, method: str, target: bytes, body: bytes = b"", headers: dict[str, str] | None = None
) -> Answer:
    sent = {"host": "127.0.0.1:9000", **(headers or {})}
    if method in ("PUT", "POST"):
        sent["content-length"] = str(len(body))
    return client.send(method, target, sent, WireBody(body))


def test_get_put_head_delete(client: Client) -> None:
    assert send(client, "GET", client.presigned("GET", "/bucket/key")).body == b"body"
    assert send(client, "PUT", client.presigned("PUT", "/bucket/new"), b"fresh").status == 200
    assert send(client, "HEAD", client.presigned("HEAD", "/bucket/new")).length == 5
    assert send(client, "DELETE", client.presigned("DELETE", "/bucket/new")).status == 204
    assert client("GET", "/bucket/new").status == 404


def test_overrides_and_ranges(client: Client) -> None:
    query = (
        "response-content-type=application%2Fjson&response-content-disposition=attachment%3B%20filename%3D%22a.txt%22"
    )
    answer = send(client, "GET", client.presigned("GET", "/bucket/key", query), headers={"range": "bytes=1-2"})
    assert (answer.status, answer.body) == (206, b"od")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.txt"'


def test_headers_in_the_query_count(client: Client) -> None:
    target = client.presigned("PUT", "/bucket/meta", "x-amz-meta-color=blue&x-amz-storage-class=STANDARD")
    assert send(client, "PUT", target, b"x").status == 200
    assert client("HEAD", "/bucket/meta").headers["x-amz-meta-color"] == "blue"
    answer = send(client, "PUT", client.presigned("PUT", "/bucket/acl", "x-amz-acl=public-read"), b"x")
    assert answer.status == 200
    assert client("GET", "/bucket/acl", identity=None).body == b"x"
    target = client.presigned("PUT", "/bucket/copy", "x-amz-copy-source=bucket%2Fkey")
    assert send(client, "PUT", target).xml.tag == "CopyObjectResult"
    assert client("GET", "/bucket/copy").body == b"body"


def test_a_checksum_in_the_query_is_of_an_empty_body_and_ignored(client: Client) -> None:
    target = client.presigned(
        "PUT", "/bucket/js", "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32"
    )
    assert send(client, "PUT", target, b"not empty").status == 200
    assert client("GET", "/bucket/js").body == b"not empty"


def test_a_checksum_in_a_header_is_judged(client: Client) -> None:
    answer = send(
        client, "PUT", client.presigned("PUT", "/bucket/new"), b"123456789", {"x-amz-checksum-crc32": "AAAAAA=="}
    )
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.xml.findtext("HeadersNotSigned") == "x-amz-checksum-crc32"
    signed = {"x-amz-checksum-crc32": "AAAAAA=="}
    answer = send(client, "PUT", client.presigned("PUT", "/bucket/new", headers=signed), b"123456789", signed)
    assert (answer.status, answer.code) == (400, "BadDigest")
    signed = {"x-amz-checksum-crc32": "y/Q5Jg=="}
    assert (
        send(client, "PUT", client.presigned("PUT", "/bucket/new", headers=signed), b"123456789", signed).status == 200
    )


def test_signed_headers_must_come(client: Client) -> None:
    signed = {"x-amz-meta-a": "1"}
    target = client.presigned("PUT", "/bucket/new", headers=signed)
    assert send(client, "PUT", target, b"x", signed).status == 200
    assert client("HEAD", "/bucket/new").headers["x-amz-meta-a"] == "1"
    assert send(client, "PUT", target, b"x", {"x-amz-meta-a": "2"}).code == "SignatureDoesNotMatch"
    assert send(client, "PUT", target, b"x").status == 403


def test_expiry(client: Client) -> None:
    target = client.presigned("GET", "/bucket/key", expires=60)
    client.clock.now_ms += 59_000
    assert send(client, "GET", target).status == 200
    client.clock.now_ms += 2_000
    answer = send(client, "GET", target)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.xml.findtext("Expires") == "2027-01-15T08:01:00Z"
    assert answer.xml.findtext("Message") == "Request has expired"
    for expires in (0, 604_801, -1):
        answer = send(client, "GET", client.presigned("GET", "/bucket/key", expires=expires))
        assert (answer.status, answer.code) == (400, "AuthorizationQueryParametersError"), expires
    assert send(client, "GET", client.presigned("GET", "/bucket/key", expires=604_800)).status == 200


def test_a_changed_request_is_refused(client: Client) -> None:
    target = client.presigned("GET", "/bucket/key")
    for changed in (
        target.replace(b"/key", b"/kex"),
        target + b"&versionId=null",
        target.replace(b"X-Amz-Expires=60", b"X-Amz-Expires=61"),
    ):
        assert send(client, "GET", changed).code == "SignatureDoesNotMatch"
    assert send(client, "DELETE", target).code == "SignatureDoesNotMatch"
    answer = send(client, "GET", target, headers={"authorization": "AWS4-HMAC-SHA256 Credential=x"})
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_multipart_by_presigned_urls(client: Client) -> None:
    upload = client("POST", "/bucket/parts?uploads").xml.findtext("UploadId")
    target = client.presigned("PUT", "/bucket/parts", f"uploadId={upload}&partNumber=1")
    etag = send(client, "PUT", target, b"part").headers["etag"]
    xml = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>".encode()
    assert send(client, "POST", client.presigned("POST", "/bucket/parts", f"uploadId={upload}"), xml).status == 200
    assert client("GET", "/bucket/parts").body == b"part"
