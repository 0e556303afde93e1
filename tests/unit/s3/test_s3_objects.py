"""PutObject, GetObject, HeadObject: bodies of every size, headers that come back, metadata, what is refused and named."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import botocore.session
import pytest

from tests.unit.s3.wire import ROOT, Client, WireBody
from titans3.errors import ClientError, DiskError, PeerError, Reason, VolumeFull
from titans3.http.authentication import PayloadMode
from titans3.http.signing import SigningIdentity, sign_headers
from titans3.limits import GIB

DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # of the client's fixed clock


WRONG = SigningIdentity("AKROOT", "wrong")


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    return made


def quoted(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, 1 << 20, (3 << 20) + 17])
@pytest.mark.parametrize("mode", list(PayloadMode))
def test_bodies_come_back(client: Client, size: int, mode: PayloadMode) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    put = client("PUT", "/bucket/key", body=data, mode=mode, trailers={} if "TRAILER" in mode.name else None)
    assert put.status == 200, put.body
    assert put.headers["etag"] == quoted(data)
    assert put.body == b""
    got = client("GET", "/bucket/key")
    assert got.status == 200
    assert got.body == data
    assert got.headers == {
        "accept-ranges": "bytes",
        "etag": quoted(data),
        "last-modified": DATE,
        "content-type": "binary/octet-stream",
    }
    head = client("HEAD", "/bucket/key")
    assert (head.status, head.headers, head.body, head.length) == (200, got.headers, b"", size)


@pytest.mark.parametrize("size", [0, 100, 65536, 65537, (2 << 20) + 5])
@pytest.mark.parametrize("piece", [1 << 20, 1000])
def test_chunked_transfer_coding_without_a_length(client: Client, size: int, piece: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    if piece == 1000 and size > 100_000:
        piece = 100_001
    assert client("PUT", "/bucket/key", body=data, mode=PayloadMode.UNSIGNED, chunked=True, piece=piece).headers[
        "etag"
    ] == quoted(data)
    assert client("GET", "/bucket/key").body == data


def test_neither_length_nor_chunked_is_411(client: Client) -> None:
    answer = client("PUT", "/bucket/key", body=b"", says_length=False)
    assert (answer.status, answer.code) == (411, "MissingContentLength")


def test_chunks_without_a_decoded_length_are_411(client: Client) -> None:
    signed = sign_headers(
        ROOT,
        "PUT",
        b"/bucket/key",
        b"",
        {"host": "h", "content-encoding": "aws-chunked"},
        date=client.date,
        payload_hash="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    )
    answer = client.send("PUT", b"/bucket/key", {**signed.headers, "content-length": "5"}, WireBody(b"0\r\n\r\n"))
    assert (answer.status, answer.code) == (411, "MissingContentLength")
    assert client("HEAD", "/bucket/key").status == 404


def test_more_than_5_gib_is_refused_before_a_byte_is_read(client: Client) -> None:
    signed = sign_headers(
        ROOT, "PUT", b"/bucket/key", b"", {"host": "h"}, date=client.date, payload_hash="UNSIGNED-PAYLOAD"
    )
    body = WireBody(b"", length=5 * GIB + 1)
    answer = client.send("PUT", b"/bucket/key", {**signed.headers, "content-length": str(5 * GIB + 1)}, body)
    assert (answer.status, answer.code) == (400, "EntityTooLarge")
    assert answer.xml.findtext("MaxSizeAllowed") == str(5 * GIB)
    assert answer.xml.findtext("ProposedSize") == str(5 * GIB + 1)
    assert body.reads == 0


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_body_that_ends_early_changes_nothing(client: Client, size: int) -> None:
    client("PUT", "/bucket/key", body=b"old")
    answer = client("PUT", "/bucket/key", body=b"n" * size, mode=PayloadMode.UNSIGNED, cut=True)
    assert (answer.status, answer.code, answer.close) == (400, "IncompleteBody", True)
    assert client("GET", "/bucket/key").body == b"old"
    assert all(sink.abandoned for sink in client.store.sinks)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_wrong_payload_hash_changes_nothing(client: Client, size: int) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    answer = client("PUT", "/bucket/key", body=b"n" * size, payload_hash=wrong)
    assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch")
    assert answer.xml.findtext("ClientComputedContentSHA256") == wrong
    assert answer.xml.findtext("S3ComputedContentSHA256") == hashlib.sha256(b"n" * size).hexdigest()
    assert client("HEAD", "/bucket/key").status == 404
    assert client.store.data == {}


def test_an_unknown_streaming_form_is_never_stored(client: Client) -> None:
    for word in ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-SOMETHING-NEW", "garbage"):
        answer = client("PUT", "/bucket/key", body=b"5\r\nhello\r\n0\r\n\r\n", payload_hash=word)
        assert answer.status in (400, 501), word
    assert client("HEAD", "/bucket/key").status == 404


def test_content_headers_come_back_as_they_were(client: Client) -> None:
    kept = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "max-age=60, public",
        "content-disposition": 'attachment; filename="a b.txt"',
        "content-encoding": "gzip, br",
        "content-language": "de-DE",
        "expires": "Wed, 21 Oct 2026 07:28:00 GMT",
    }
    client("PUT", "/bucket/key", kept, b"x")
    got = client("GET", "/bucket/key").headers
    assert {name: got[name] for name in kept} == kept
    client("PUT", "/bucket/key", {"content-type": ""}, b"x")
    got = client("HEAD", "/bucket/key").headers
    assert got["content-type"] == "binary/octet-stream"
    assert not kept.keys() - {"content-type"} & got.keys()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("aws-chunked", None),
        ("AWS-CHUNKED", None),
        ("aws-chunked,gzip", "gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("gzip,aws-chunked,br", "gzip,br"),
        ("aws-chunked,", None),
        ("gzip", "gzip"),
        ("not-aws-chunked", "not-aws-chunked"),
    ],
)
@pytest.mark.parametrize("mode", [PayloadMode.HASHED, PayloadMode.SIGNED_CHUNKS])
def test_aws_chunked_is_no_content_encoding(client: Client, sent: str, kept: str | None, mode: PayloadMode) -> None:
    client("PUT", "/bucket/key", {"content-encoding": sent}, b"body", mode=mode)
    got = client("GET", "/bucket/key")
    assert got.body == b"body"
    assert got.headers.get("content-encoding") == kept


def test_metadata(client: Client) -> None:
    client(
        "PUT",
        "/bucket/key",
        {
            "X-Amz-Meta-Name": "Value",
            "x-amz-meta-empty": "",
            "x-amz-meta-raw": "gr\xfc\xdfe",
            "x-amz-meta-a-b_c.d": "1 2",
        },
        b"",
    )
    got = client("HEAD", "/bucket/key").headers
    meta = {name: value for name, value in got.items() if name.startswith("x-amz-meta-")}
    assert meta == {
        "x-amz-meta-name": "Value",
        "x-amz-meta-empty": "",
        "x-amz-meta-raw": "gr\xfc\xdfe",
        "x-amz-meta-a-b_c.d": "1 2",
    }
    client("PUT", "/bucket/key", {"x-amz-meta-other": "1"}, b"")
    got = client("GET", "/bucket/key").headers
    assert [name for name in got if name.startswith("x-amz-meta-")] == ["x-amz-meta-other"]


@pytest.mark.parametrize(("value", "status"), [(2046, 200), (2047, 400)])
def test_metadata_has_2_kib(client: Client, value: int, status: int) -> None:
    answer = client("PUT", "/bucket/key", {"x-amz-meta-ab": "v" * value}, b"")
    assert answer.status == status
    if status == 400:
        assert answer.code == "MetadataTooLarge"
        assert answer.xml.findtext("MaxSizeAllowed") == "2048"
    assert client("POST", "/bucket/key?uploads", {"x-amz-meta-ab": "v" * value}).status == status


REFUSED = {
    "x-amz-server-side-encryption": "AES256",
    "x-amz-server-side-encryption-aws-kms-key-id": "k",
    "x-amz-server-side-encryption-bucket-key-enabled": "true",
    "x-amz-server-side-encryption-context": "e30=",
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-server-side-encryption-customer-key": "a2V5",
    "x-amz-server-side-encryption-customer-key-md5": "bWQ1",
    "x-amz-write-offset-bytes": "5",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "2030-01-01T00:00:00Z",
    "x-amz-object-lock-legal-hold": "ON",
}


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize(("method", "target"), [("PUT", "/bucket/key"), ("POST", "/bucket/key?uploads")])
def test_a_header_that_asks_for_what_is_not_built_is_named(client: Client, method: str, target: str, name: str) -> None:
    answer = client(method, target, {name: REFUSED[name]}, b"body" if method == "PUT" else b"")
    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert name in answer.xml.findtext("Message")
    assert answer.xml.findtext("Header") == name
    assert client.last_body is not None
    assert client.last_body.reads == 0
    assert client("HEAD", "/bucket/key").status == 404


def test_every_request_header_of_the_model_that_a_put_may_carry_is_kept_judged_or_refused(client: Client) -> None:
    """No member of PutObject's input is accepted and ignored, but for those that ask for nothing this server could do otherwise."""
    shape = botocore.session.get_session().get_service_model("s3").operation_model("PutObject").input_shape
    harmless = {
        "x-amz-request-payer",
        "x-amz-expected-bucket-owner",
        "x-amz-sdk-checksum-algorithm",
        "content-length",
        "if-match",
        "if-none-match",
    }
    kept = {"x-amz-storage-class", "x-amz-tagging", "x-amz-website-redirect-location", "x-amz-acl"}  # each has its own test
    kept |= {f"x-amz-grant-{word}" for word in ("full-control", "read", "read-acp", "write-acp")}
    kept |= {"cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"}
    for member in shape.members.values():
        name = member.serialization.get("name", "").lower()
        if (
            member.serialization.get("location") != "header"
            or name in harmless | kept
            or name.startswith("x-amz-checksum")
            or name == "content-md5"
        ):
            continue
        value = {
            "x-amz-object-lock-legal-hold": "ON",
        }.get(name, "1")
        answer = client("PUT", "/bucket/key", {name: value}, b"")
        assert (answer.status, name in answer.body.decode()) == (501, True), name


def test_what_asks_for_the_default_is_fine(client: Client) -> None:
    asked = {
        "x-amz-acl": "private",
        "x-amz-storage-class": "STANDARD",
        "x-amz-object-lock-legal-hold": "OFF",
        "x-amz-tagging": "",
    }
    assert client("PUT", "/bucket/key", asked, b"x").status == 200


def test_response_overrides(client: Client) -> None:
    client("PUT", "/bucket/key", {"content-type": "text/plain", "cache-control": "no-store"}, b"body")
    wanted = {
        "response-content-type": "application/json",
        "response-cache-control": "max-age=1",
        "response-content-disposition": 'attachment; filename="x.txt"',
        "response-content-encoding": "identity",
        "response-content-language": "fr",
        "response-expires": "Thu, 01 Dec 1994 16:00:00 GMT",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in wanted.items())
    for method in ("GET", "HEAD"):
        got = client(method, f"/bucket/key?{query}")
        assert got.status == 200
        for name, value in wanted.items():
            assert got.headers[name.removeprefix("response-")] == value
    part = client("GET", f"/bucket/key?{query}", {"range": "bytes=1-2"})
    assert (part.status, part.body, part.headers["content-type"]) == (206, b"od", "application/json")
    answer = client("GET", "/bucket/key?response-content-type=a%0D%0AX-Evil:1")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_missing_objects(client: Client) -> None:
    answer = client("GET", "/bucket/no%20such/key")
    assert (answer.status, answer.code) == (404, "NoSuchKey")
    assert answer.xml.findtext("Key") == "no such/key"
    head = client("HEAD", "/bucket/absent")
    assert (head.status, head.body) == (404, b"")
    for version, status, code in (
        ("0" * 32, 404, "NoSuchVersion"),
        ("null", 404, "NoSuchVersion"),
        ("", 400, "InvalidArgument"),
        ("x", 400, "InvalidArgument"),
    ):
        answer = client("GET", f"/bucket/absent?versionId={version}")
        assert (answer.status, answer.code) == (status, code), version


def test_null_version_can_be_named(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"body")
    got = client("GET", "/bucket/key?versionId=null")
    assert got.body == b"body"
    assert "x-amz-version-id" not in got.headers


def test_versions_and_markers(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"null")
    client.store.switch("bucket", 1)
    first = client("PUT", "/bucket/key", body=b"first").headers["x-amz-version-id"]
    second = client("PUT", "/bucket/key", body=b"second").headers["x-amz-version-id"]
    assert len({first, second, "null"}) == 3
    for version, body in ((first, b"first"), (second, b"second"), ("null", b"null")):
        got = client("GET", f"/bucket/key?versionId={version}")
        assert (got.body, got.headers["x-amz-version-id"]) == (body, version)
    gone = client("DELETE", "/bucket/key")
    marker = gone.headers["x-amz-version-id"]
    assert (gone.status, gone.headers["x-amz-delete-marker"]) == (204, "true")
    for method in ("GET", "HEAD"):
        answer = client(method, "/bucket/key")
        assert answer.status == 404
        assert (answer.headers["x-amz-delete-marker"], answer.headers["x-amz-version-id"]) == ("true", marker)
        answer = client(method, f"/bucket/key?versionId={marker}")
        assert answer.status == 405
        assert (answer.headers["x-amz-delete-marker"], answer.headers["allow"], answer.headers["last-modified"]) == (
            "true",
            "DELETE",
            DATE,
        )
    assert client("GET", f"/bucket/key?versionId={marker}").code == "MethodNotAllowed"
    restored = client("DELETE", f"/bucket/key?versionId={marker}")
    assert (restored.headers["x-amz-version-id"], restored.headers["x-amz-delete-marker"]) == (marker, "true")
    assert client("GET", "/bucket/key").body == b"second"
    client("DELETE", f"/bucket/key?versionId={second}")
    assert client("GET", "/bucket/key").body == b"first"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ClientError(Reason.SLOW_DOWN), 503, "SlowDown"),
        (ClientError(Reason.UNAVAILABLE), 503, "SlowDown"),
        (PeerError("a sibling is gone"), 503, "SlowDown"),
        (VolumeFull("full"), 507, "InsufficientStorage"),
        (ClientError(Reason.VOLUME_FULL), 507, "InsufficientStorage"),
        (DiskError("sdb"), 500, "InternalError"),
        (ClientError(Reason.BODY_DAMAGED, "bucket/key at /disk"), 500, "InternalError"),
        (RuntimeError("secret detail"), 500, "InternalError"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_faults_of_the_store_have_their_codes_and_tell_nothing_more(
    client: Client, caplog: pytest.LogCaptureFixture, method: str, error: Exception, status: int, code: str
) -> None:
    client("PUT", "/bucket/key", body=b"x")
    client.store.fail_next = error
    answer = client(method, "/bucket/key", body=b"y" if method == "PUT" else b"")
    assert (answer.status, answer.code) == (status, code)
    assert "secret" not in answer.body.decode()
    assert "/disk" not in answer.body.decode()
    record = caplog.records[-1]
    assert record.request_id == answer.xml.findtext("RequestId")  # type: ignore[attr-defined]
    assert client.gateway.statistics().server_errors == 1


def test_error_documents(client: Client) -> None:
    answer = client("GET", "/bucket/a%26%3Cb%3E%22?versionId=null")
    assert answer.headers["content-type"] == "application/xml"
    assert answer.body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Error>')
    root = answer.xml
    assert [root.tag, root[0].tag, root[1].tag] == ["Error", "Code", "Message"]
    assert root.findtext("Resource") == '/bucket/a&<b>"'
    assert root.findtext("Key") == 'a&<b>"'
    assert root.findtext("RequestId") == "0000000000000002"
    assert root.findtext("HostId") == "titans3"
    assert root.findtext("Message")
    statistics = client.gateway.statistics()
    assert (statistics.client_errors, statistics.server_errors) == (1, 0)


@pytest.mark.parametrize(
    "target", ["/bucket/absent", "/absent", "/absent/key", "/bucket/key?versionId=x", "/bucket/%zz"]
)
def test_head_never_has_a_body(client: Client, target: str) -> None:
    answer = client("HEAD", target)
    assert answer.status in (400, 404)
    assert answer.body == b""


def test_a_wrong_signature_shows_what_was_signed(client: Client) -> None:
    answer = client("GET", "/bucket/key", identity=WRONG)
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    assert answer.xml.findtext("StringToSign").startswith("AWS4-HMAC-SHA256\n")
    assert answer.xml.findtext("CanonicalRequest").startswith("GET\n/bucket/key\n")
    assert answer.xml.findtext("AWSAccessKeyId") == "AKROOT"
    assert "root-secret" not in answer.body.decode()
    answer = client("GET", "/bucket/key", identity=SigningIdentity("AKNOBODY", "x"))
    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")
    answer = client("GET", "/bucket/key", identity=SigningIdentity("AKROOT", "root-secret", session_token="token"))
    assert (answer.status, answer.code) == (400, "InvalidToken")


def test_no_body_is_read_for_a_request_that_is_refused(client: Client) -> None:
    for identity in (None, WRONG):
        answer = client("PUT", "/bucket/key", body=b"body", identity=identity)
        assert answer.status == 403
        assert client.last_body is not None
        assert client.last_body.reads == 0
    assert client("PUT", "/absent/key", body=b"body").status == 404
    assert client.last_body is not None
    assert client.last_body.reads == 0
