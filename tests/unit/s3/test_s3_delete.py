"""DeleteObject and DeleteObjects."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any
from xml.sax.saxutils import escape

import pytest

from tests.unit.s3 import checksums
from tests.unit.s3.wire import Answer, Client
from titans3.http.authentication import PayloadMode


@pytest.fixture
def client() -> Client:
    made = Client()
    made.bucket()
    return made


def document(keys: list[str], quiet: str = "", more: str = "") -> bytes:
    items = "".join(
        f"<Object><Key>{escape(key, {chr(13): '&#13;', chr(10): '&#10;', chr(9): '&#9;'})}</Key>{more}</Object>"
        for key in keys
    )
    quiet = f"<Quiet>{quiet}</Quiet>" if quiet else ""
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}{quiet}</Delete>'.encode()


def delete(client: Client, body: bytes, headers: dict[str, str] | None = None, **options: Any) -> Answer:
    proof = {"content-md5": b64encode(hashlib.md5(body).digest()).decode()} if headers is None else headers
    return client("POST", "/bucket?delete", proof, body, **options)


def test_delete_is_204_whether_or_not_it_existed(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"x")
    for _ in range(2):
        answer = client("DELETE", "/bucket/key")
        assert (answer.status, answer.body, answer.headers) == (204, b"", {})
    assert client("GET", "/bucket/key").status == 404


def test_delete_of_a_version_that_is_not_there(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"x")
    answer = client("DELETE", f"/bucket/key?versionId={'0' * 32}")
    assert answer.status == 204
    assert client("GET", "/bucket/key").body == b"x"
    assert client("DELETE", "/bucket/key?versionId=nonsense").code == "InvalidArgument"
    answer = client("DELETE", "/bucket/key?versionId=null")
    assert (answer.status, answer.headers["x-amz-version-id"]) == (204, "null")
    assert client("GET", "/bucket/key").status == 404


def test_many(client: Client) -> None:
    keys = [f"key/{number}" for number in range(999)] + ["<&>\"' \r\n\t+%20"]
    for key in keys[::2]:
        client.store.by_name["bucket"].objects[key.encode()] = []
    answer = delete(client, document(keys))
    assert answer.status == 200
    assert answer.xml.tag == "DeleteResult"
    assert answer.all("Deleted/Key") == keys
    assert answer.all("Error/Key") == []
    assert delete(client, document(keys[:1], quiet="true")).all("Deleted") == []
    assert delete(client, document(keys[:1], quiet="false")).all("Deleted/Key") == keys[:1]


@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
def test_any_proof_of_the_body_will_do(client: Client, algorithm: str) -> None:
    body = document(["key"])
    name = f"x-amz-checksum-{algorithm}"
    assert delete(client, body, {name: checksums.text(algorithm, body)}).status == 200
    trailer = {name: checksums.text(algorithm, body)}
    assert delete(client, body, {}, mode=PayloadMode.UNSIGNED_TRAILER, trailers=trailer).status == 200
    answer = delete(client, body, {name: checksums.text(algorithm, b"other")})
    assert (answer.status, answer.code) == (400, "BadDigest")


def test_no_proof_or_a_wrong_one(client: Client) -> None:
    client("PUT", "/bucket/key", body=b"x")
    for headers, code in (
        ({}, "InvalidRequest"),
        ({"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, "BadDigest"),
        ({"content-md5": "x"}, "InvalidDigest"),
    ):
        answer = delete(client, document(["key"]), headers)
        assert (answer.status, answer.code) == (400, code)
    assert client("GET", "/bucket/key").body == b"x"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Delete>",
        b"<Delete/>",
        b"<Other/>",
        b"<Delete><Object/></Delete>",
        b"<Delete><Object><Key/></Object></Delete>",
        b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        b"<Delete><Object><Key>a</Key><What>b</What></Object></Delete>",
        b"<Delete><Object><Key><b/></Key></Object></Delete>",
        b"<Delete><Quiet>maybe</Quiet><Object><Key>a</Key></Object></Delete>",
        b"<Delete><Thing/><Object><Key>a</Key></Object></Delete>",
        b'<!DOCTYPE d [<!ENTITY k "key">]><Delete><Object><Key>&k;</Key></Object></Delete>',
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><Delete><Object><Key>key</Key></Object></Delete>',
        document([f"k{number}" for number in range(1001)]),
    ],
)
def test_bad_documents(client: Client, body: bytes) -> None:
    client("PUT", "/bucket/key", body=b"x")
    answer = delete(client, body)
    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert client("GET", "/bucket/key").body == b"x"


def test_a_document_that_is_too_large(client: Client) -> None:
    answer = delete(client, b"<Delete>" + b" " * (2 << 20) + b"</Delete>")
    assert (answer.status, answer.code) == (400, "MaxMessageLengthExceeded")
    assert client.last_body is not None
    assert client.last_body.reads == 0


def test_each_entry_has_its_own_outcome(client: Client) -> None:
    for key in ("plain", "right", "wrong", "sized"):
        client("PUT", f"/bucket/{key}", body=key.encode())
    etag = hashlib.md5(b"right").hexdigest()
    body = (
        "<Delete><Object><Key>plain</Key></Object>"
        f"<Object><Key>right</Key><ETag>&quot;{etag}&quot;</ETag></Object>"
        "<Object><Key>wrong</Key><ETag>0123</ETag></Object>"
        "<Object><Key>sized</Key><Size>5</Size><LastModifiedTime>Fri, 15 Jan 2027 08:00:00 GMT</LastModifiedTime></Object>"
        "<Object><Key>missing</Key><ETag>*</ETag></Object>"
        "<Object><Key>plain</Key><VersionId>nonsense</VersionId></Object>"
        f"<Object><Key>{'x' * 1025}</Key></Object>"
        "<Object><Key>gone</Key></Object></Delete>"
    ).encode()
    answer = delete(client, body)
    assert answer.status == 200
    assert answer.all("Deleted/Key") == ["plain", "right", "sized", "gone"]
    assert answer.all("Error/Key") == ["wrong", "missing", "plain", "x" * 1025]
    assert answer.all("Error/Code") == ["PreconditionFailed", "NoSuchKey", "InvalidArgument", "KeyTooLongError"]
    assert all(answer.all("Error/Message"))
    assert sorted(client.store.by_name["bucket"].objects) == [b"wrong"]


def test_versions_and_markers(client: Client) -> None:
    client.store.switch("bucket", 1)
    version = client("PUT", "/bucket/key", body=b"x").headers["x-amz-version-id"]
    answer = delete(client, document(["key"]))
    assert answer.all("Deleted/DeleteMarker") == ["true"]
    (marker,) = answer.all("Deleted/DeleteMarkerVersionId")
    assert marker != version
    answer = delete(client, document(["key"], more=f"<VersionId>{marker}</VersionId>"))
    assert answer.all("Deleted/VersionId") == [marker]
    assert answer.all("Deleted/DeleteMarkerVersionId") == [marker]
    assert client("GET", "/bucket/key").body == b"x"
    answer = delete(client, document(["key"], more=f"<VersionId>{version}</VersionId>"))
    assert answer.all("Deleted/VersionId") == [version]
    assert answer.all("Deleted/DeleteMarker") == []
    assert client.store.by_name["bucket"].objects == {}
