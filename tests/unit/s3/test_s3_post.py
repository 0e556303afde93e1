"""Form uploads: policies of boto3 and by hand, both signatures, what a form may say, every answer and every refusal."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config

from tests.unit.s3.wire import OTHER, ROOT, START_MS, Answer, Client, WireBody
from titans3.http.canonical import derive_key
from titans3.http.signing import SigningIdentity
from titans3.s3.errors import S3Error
from titans3.s3.postpolicy import check_policy, parse_policy

BOUNDARY = "----form"
NOW = START_MS / 1000
HOST = "127.0.0.1:9000"
Fields = dict[str, str]


def at(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(NOW + seconds))


@pytest.fixture(params=[64 * 1024, 4])
def client(request: pytest.FixtureRequest) -> Client:
    """Files in memory, and files through a sink."""
    made = Client(small_body_bytes=request.param)
    made.bucket()
    return made


def body_of(fields: Fields, file: bytes | None, filename: str = "f.txt", after: Fields | None = None) -> bytes:
    out = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    if file is not None:
        out.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'.encode()
            + b"Content-Type: text/html\r\n\r\n"
        )
        out.append(file + b"\r\n")
    for name, value in (after or {}).items():
        out.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    return b"".join(out) + f"--{BOUNDARY}--\r\n".encode()


def send(
    client: Client, body: bytes, *, target: str = "/bucket", piece: int = 1 << 20, chunked: bool = False, cut: bool = False,
    headers: dict[str, str] | None = None,
) -> Answer:  # fmt: skip
    sent = {"host": HOST, "content-type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}
    sent |= {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))}
    client.last_body = WireBody(body, length=None if chunked else -1, piece=piece, cut=cut)
    return client.send("POST", target.encode(), sent, client.last_body)


def sign_4(policy: bytes, fields: Fields, identity: SigningIdentity = ROOT) -> Fields:
    day = time.strftime("%Y%m%d", time.gmtime(NOW))
    signature = derive_key(identity.secret, day, "us-east-1", "s3").sign(policy)
    return {**fields, "policy": policy.decode(), "x-amz-signature": signature}


def named_4(identity: SigningIdentity = ROOT) -> Fields:
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW))
    credential = f"{identity.access_key}/{date[:8]}/us-east-1/s3/aws4_request"
    return {"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-credential": credential, "x-amz-date": date}


def sign_2(policy: bytes, fields: Fields, identity: SigningIdentity = ROOT) -> Fields:
    signature = b64encode(hmac.digest(identity.secret.encode(), policy, "sha1")).decode()
    return {**fields, "AWSAccessKeyId": identity.access_key, "policy": policy.decode(), "signature": signature}


def policy_of(conditions: list[Any], *, seconds: float = 60, **more: Any) -> bytes:
    return b64encode(json.dumps({"expiration": at(seconds), "conditions": conditions, **more}).encode())


def signed(
    fields: Fields, conditions: list[Any] | None = None, *, version: int = 4, identity: SigningIdentity = ROOT, seconds: float = 60
) -> Fields:
    """``fields`` with a policy that covers each of them exactly, or has ``conditions`` instead."""
    wanted: list[Any] = [{"bucket": "bucket"}] + ([{name: value} for name, value in fields.items()] if conditions is None else conditions)
    if version == 2:
        return sign_2(policy_of(wanted, seconds=seconds), fields, identity)
    named = named_4(identity)
    return sign_4(policy_of(wanted + [{name: value} for name, value in named.items()], seconds=seconds), {**fields, **named}, identity)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_a_file_is_stored(client: Client, version: int, chunked: bool, piece: int) -> None:
    data = bytes(range(256)) * (1 if piece == 1 else 40) + b"\r\n--" + BOUNDARY[:-1].encode()
    fields = {"key": "folder/${filename}", "Content-Type": "text/plain", "x-amz-meta-Color": "blue", "Cache-Control": "no-store"}
    conditions = [["starts-with", "$key", "folder/"], ["eq", "$content-type", "text/plain"], ["starts-with", "$x-amz-meta-color", ""],
                  {"cache-control": "no-store"}]  # fmt: skip
    body = body_of(signed(fields, conditions, version=version), data, "C:\\dir\\a b.txt", {"submit": "Upload"})
    answer = send(client, body, chunked=chunked, piece=piece)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["location"] == f"http://{HOST}/bucket/folder%2Fa%20b.txt"
    found = client("GET", "/bucket/folder/a%20b.txt")
    assert found.body == data
    assert answer.headers["etag"] == found.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert (found.headers["content-type"], found.headers["cache-control"]) == ("text/plain", "no-store")
    assert found.headers["x-amz-meta-color"] == "blue"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_boto3_makes_such_forms(version: str) -> None:
    client = Client()
    client.clock.now_ms = int(time.time() * 1000)
    client.bucket()
    made = boto3.client(
        "s3", endpoint_url=f"http://{HOST}", aws_access_key_id=ROOT.access_key, aws_secret_access_key=ROOT.secret,
        region_name="us-east-1", config=Config(signature_version=version, s3={"addressing_style": "path"}),
    )  # fmt: skip
    post = made.generate_presigned_post(
        "bucket", "user/${filename}", Fields={"acl": "private", "success_action_status": "201"},
        Conditions=[{"acl": "private"}, {"success_action_status": "201"}, ["content-length-range", 1, 10]], ExpiresIn=60,
    )  # fmt: skip
    assert ("x-amz-signature" in post["fields"]) is (version == "s3v4")
    answer = send(client, body_of(post["fields"], b"12345", "x.txt"), target=urlsplit(post["url"]).path)
    assert answer.status == 201
    assert client("GET", "/bucket/user/x.txt").body == b"12345"
    answer = send(client, body_of(post["fields"], b"12345678901", "x.txt"), target=urlsplit(post["url"]).path)
    assert refusal(answer) == (400, "EntityTooLarge")
    client.clock.now_ms += 61_000
    answer = send(client, body_of(post["fields"], b"12345", "x.txt"), target=urlsplit(post["url"]).path)
    assert refusal(answer) == (403, "AccessDenied")
    assert answer.xml.findtext("Message") == "Invalid according to Policy: Policy expired."


@pytest.mark.parametrize(("asked", "status"), [("200", 200), ("201", 201), ("204", 204), ("404", 204), ("", 204), ("x", 204)])
def test_status(client: Client, asked: str, status: int) -> None:
    answer = send(client, body_of(signed({"key": "a/&b", "success_action_status": asked}), b"data"))
    assert answer.status == status
    if status == 201:
        assert answer.headers["content-type"] == "application/xml"
        assert answer.xml.tag == "PostResponse"
        assert [element.tag for element in answer.xml] == ["Location", "Bucket", "Key", "ETag"]
        assert answer.xml.findtext("Location") == answer.headers["location"] == f"http://{HOST}/bucket/a%2F%26b"
        assert (answer.xml.findtext("Bucket"), answer.xml.findtext("Key")) == ("bucket", "a/&b")
        assert answer.xml.findtext("ETag") == answer.headers["etag"]
    else:
        assert answer.body == b""


@pytest.mark.parametrize("field", ["success_action_redirect", "redirect"])
def test_redirect(client: Client, field: str) -> None:
    answer = send(client, body_of(signed({"key": "a b", field: "http://example.com/done?x=1#top", "success_action_status": "200"}), b"d"))
    assert answer.status == 303
    parts = urlsplit(answer.headers["location"])
    assert (parts.netloc, parts.path, parts.fragment) == ("example.com", "/done", "top")
    assert parse_qs(parts.query) == {"x": ["1"], "bucket": ["bucket"], "key": ["a b"], "etag": [answer.headers["etag"]]}


@pytest.mark.parametrize("url", ["", "no url", "/relative", "javascript:alert(1)", "http://", "http://[bad", "http://a b/"])
def test_what_is_no_url_counts_as_not_given(client: Client, url: str) -> None:
    assert send(client, body_of(signed({"key": "k", "success_action_redirect": url}), b"data")).status == 204


def test_virtual_host_and_tls_style_location() -> None:
    client = Client(domains=("s3.example.com",))
    client.bucket()
    answer = send(client, body_of(signed({"key": "k"}), b"data"), target="/", headers={"host": "bucket.s3.example.com"})
    assert (answer.status, answer.headers["location"]) == (204, "http://bucket.s3.example.com/k")


def test_tags_checksums_class_and_version(client: Client) -> None:
    client.store.switch("bucket", 1)
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    fields = {"key": "k", "tagging": tagging, "x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    answer = send(client, body_of(signed(fields), b"123456789"))
    assert (answer.status, answer.headers["x-amz-checksum-crc32"]) == (204, "y/Q5Jg==")
    found = client("HEAD", "/bucket/k")
    assert found.headers["x-amz-version-id"] == answer.headers["x-amz-version-id"]
    assert (found.headers["x-amz-tagging-count"], found.headers["x-amz-storage-class"]) == ("1", "REDUCED_REDUNDANCY")
    assert refusal(send(client, body_of(signed({**fields, "x-amz-checksum-crc32": "AAAAAA=="}), b"123456789"))) == (400, "BadDigest")
    assert refusal(send(client, body_of(signed({"key": "k", "tagging": "<Tagging>"}), b"x"))) == (400, "MalformedXML")
    assert refusal(send(client, body_of(signed({"key": "k", "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}), b"x"))) == (400, "BadDigest")


def test_what_is_not_built_is_refused(client: Client) -> None:
    for fields in ({"x-amz-server-side-encryption": "AES256"}, {"x-amz-object-lock-mode": "GOVERNANCE"}):
        assert refusal(send(client, body_of(signed({"key": "k", **fields}), b"x"))) == (501, "NotImplemented")
    assert client("HEAD", "/bucket/k").status == 404


@pytest.mark.parametrize("size", [0, 1, 5, 10, 11, 5000])
def test_the_length_that_a_policy_allows(client: Client, size: int) -> None:
    fields = signed({"key": "k"}, [{"key": "k"}, ["content-length-range", 1, 10]])
    answer = send(client, body_of(fields, b"x" * size), piece=64)
    if 1 <= size <= 10:
        assert answer.status == 204
        return
    assert refusal(answer) == (400, "EntityTooLarge" if size else "EntityTooSmall")
    assert answer.xml.findtext("MaxSizeAllowed" if size else "MinSizeAllowed") == ("10" if size else "1")
    assert client("HEAD", "/bucket/k").status == 404
    assert all(sink.abandoned for sink in client.store.sinks)


def test_fields_that_need_no_condition(client: Client) -> None:
    fields = signed({"key": "k"}) | {"x-ignore-me": "1", "X-Ignore-Too": "2"}
    assert send(client, body_of(fields, b"x", after={"extra": "1"})).status == 204


@pytest.mark.parametrize(
    ("fields", "conditions", "words"),
    [
        ({"key": "k", "x-amz-meta-a": "1"}, [{"key": "k"}], "Extra input fields: x-amz-meta-a"),
        ({"key": "k"}, [], "Extra input fields: key"),
        ({"key": "k"}, [{"key": "other"}], 'Policy Condition failed: ["eq", "$key", "other"]'),
        ({"key": "k"}, [["starts-with", "$key", "x"]], 'Policy Condition failed: ["starts-with", "$key", "x"]'),
        ({"key": "K"}, [["eq", "$key", "k"]], "Policy Condition failed"),
        ({"key": "k"}, [{"key": "k"}, {"bucket": "other"}], 'Policy Condition failed: ["eq", "$bucket", "other"]'),
        ({"key": "k"}, [{"key": "k"}, {"acl": "private"}], "Policy Condition failed"),
        ({"key": "k", "content-type": "image/a,text/b"}, [{"key": "k"}, ["starts-with", "$Content-Type", "image/"]], "Condition failed"),
    ],
)
def test_what_a_policy_does_not_allow(client: Client, fields: Fields, conditions: list[Any], words: str) -> None:
    answer = send(client, body_of(signed(fields, conditions), b"x"))
    assert refusal(answer) == (403, "AccessDenied")
    assert words in str(answer.xml.findtext("Message"))
    assert str(answer.xml.findtext("Message")).startswith("Invalid according to Policy: ")
    assert client("HEAD", "/bucket/k").status == 404


def test_a_refused_form_leaves_its_file_unread(client: Client) -> None:
    body = body_of(signed({"key": "k"}, [{"key": "other"}]), b"x" * 100_000)
    assert send(client, body, piece=4096).status == 403
    assert client.last_body is not None
    assert client.last_body.reads <= 2
    assert not client.store.sinks


@pytest.mark.parametrize(
    "document",
    [
        b"no json", b"[]", b"{}", b'{"expiration": "2099-01-01T00:00:00Z"}', b'{"conditions": []}',
        b'{"EXPIRATION": "2099-01-01T00:00:00Z", "conditions": []}', b'{"expiration": "2099-01-01T00:00:00Z", "CONDITIONS": []}',
        b'{"expiration": 1, "conditions": []}', b'{"expiration": "tomorrow", "conditions": []}',
        b'{"expiration": "2099-01-01T00:00:00", "conditions": []}', b'{"expiration": "2099-01-01T00:00:00Z", "conditions": {}}',
        *[
            b'{"expiration": "2099-01-01T00:00:00Z", "conditions": [' + item + b"]}"
            for item in (
                b"1", b"[]", b"{}", b'{"a": "1", "b": "2"}', b'{"key": 1}', b'["eq", "key", "k"]', b'["eq", "$key"]', b'["eq", "$", "k"]',
                b'["like", "$key", "k"]', b'["content-length-range", 1]', b'["content-length-range", -1, 2]',
                b'["content-length-range", "a", 2]', b'["content-length-range", 1.5, 2]', b'["content-length-range", true, 2]',
            )
        ],
        b"[" * 5000,
    ],
)  # fmt: skip
def test_documents_that_are_not_understood(document: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        parse_policy(b64encode(document))
    assert caught.value.code == "InvalidPolicyDocument"


def test_documents_that_are_understood() -> None:
    conditions = rb'[{"bucket": "b"}, {"Key": "\$a\\$b"}, ["STARTS-WITH", "$ACL", ""], ["content-length-range", "1", 5]]'
    text = b'{"expiration": "2099-01-01T00:00:00.000Z", "conditions": ' + conditions + b"}"
    policy = parse_policy(b64encode(text)[:40] + b"\n" + b64encode(text)[40:])
    assert (policy.least, policy.most) == (1, 5)
    check_policy(policy, {"key": "$a\\$b", "bucket": "b", "acl": "x"}, 0)
    with pytest.raises(S3Error):
        check_policy(policy, {"key": "$a\\$b", "bucket": "b", "acl": "x"}, policy.expires)


def test_signatures_are_judged(client: Client) -> None:
    for version in (2, 4):
        name = "signature" if version == 2 else "x-amz-signature"
        fields = signed({"key": "k"}, version=version)
        answer = send(client, body_of(fields | {name: "0" * 64}, b"x"))
        assert refusal(answer) == (403, "SignatureDoesNotMatch")
        assert answer.xml.findtext("StringToSign") == fields["policy"]
        other = b64encode(b64decode(fields["policy"]) + b" ").decode()
        assert refusal(send(client, body_of(fields | {"policy": other}, b"x"))) == (403, "SignatureDoesNotMatch")
        nobody = SigningIdentity("NOBODY", "secret")
        answer = send(client, body_of(signed({"key": "k"}, version=version, identity=nobody), b"x"))
        assert refusal(answer) == (403, "InvalidAccessKeyId")
        answer = send(client, body_of(signed({"key": "k"}, version=version, identity=OTHER), b"x"))
        assert refusal(answer) == (403, "AccessDenied")
        answer = send(client, body_of(signed({"key": "k"}, version=version, seconds=-1), b"x"))
        assert refusal(answer) == (403, "AccessDenied")


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("name", ["key", "policy", "AWSAccessKeyId", "signature", "x-amz-signature", "x-amz-credential", "x-amz-date"])
def test_what_is_missing_is_named(client: Client, version: int, name: str) -> None:
    fields = signed({"key": "k"}, version=version)
    if name not in fields:
        return
    del fields[name]
    answer = send(client, body_of(fields, b"x"))
    assert refusal(answer) == (400, "InvalidArgument")
    assert str(answer.xml.findtext("ArgumentName")).lower() == name.lower()


def test_anonymous_forms_are_refused(client: Client) -> None:
    assert refusal(send(client, body_of({"key": "k"}, b"x"))) == (403, "AccessDenied")


def test_forms_that_are_none(client: Client) -> None:
    fields = signed({"key": "k"})
    whole = body_of(fields, b"data")
    answer = send(client, b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    assert refusal(answer) == (412, "PreconditionFailed")
    assert answer.xml.findtext("Condition") == "Bucket POST must be of the enclosure-type multipart/form-data"
    assert refusal(send(client, whole, headers={"content-type": "multipart/form-data"})) == (400, "MalformedPOSTRequest")
    assert refusal(send(client, whole[:-8])) == (400, "MalformedPOSTRequest")
    assert refusal(send(client, whole[:-8], cut=True)) == (400, "IncompleteBody")
    assert refusal(send(client, b"nonsense")) == (400, "MalformedPOSTRequest")
    assert refusal(send(client, body_of(fields, None))) == (400, "InvalidArgument")
    assert refusal(send(client, body_of(fields, b"data", after={"file": "x"}))) == (400, "IncorrectNumberOfFilesInPostRequest")
    assert refusal(send(client, body_of(fields | {"x-ignore-a": "x" * 21_000}, b""))) == (400, "MaxPostPreDataLengthExceededError")
    assert refusal(send(client, body_of(signed({"key": ""}), b""))) == (400, "InvalidArgument")
    assert refusal(send(client, body_of(signed({"key": "k" * 1025}), b""))) == (400, "KeyTooLongError")
    assert refusal(send(client, body_of(fields, b"x"), target="/nobucket")) == (403, "AccessDenied")  # its policy is for another
    assert client("HEAD", "/bucket/k").status == 404
    assert all(sink.abandoned for sink in client.store.sinks)


def test_no_field_ends_a_header(client: Client) -> None:
    for name in ("Content-Type", "x-amz-meta-a"):
        answer = send(client, body_of(signed({"key": "k", name: "a\r\nset-cookie: b"}), b"x"))
        assert refusal(answer) == (400, "InvalidArgument")
    assert refusal(send(client, body_of(signed({"key": "k", "x-amz-meta-a b": "1"}), b"x"))) == (400, "InvalidArgument")


def test_version_2_switched_off() -> None:
    client = Client(signature_v2=False)
    client.bucket()
    assert refusal(send(client, body_of(signed({"key": "k"}, version=2), b"x"))) == (400, "InvalidRequest")
    assert send(client, body_of(signed({"key": "k"}), b"x")).status == 204


def test_a_required_region() -> None:
    client = Client(required_region="eu-west-1")
    client.store.by_name.clear()
    assert refusal(send(client, body_of(signed({"key": "k"}), b"x"))) == (400, "AuthorizationHeaderMalformed")


def test_a_request_that_is_signed_itself(client: Client) -> None:
    """A form without policy; with one there are two who ask."""
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert client("POST", "/bucket", headers, body_of({"key": "k"}, b"data")).status == 204
    assert client("GET", "/bucket/k").body == b"data"
    assert refusal(client("POST", "/bucket", headers, body_of(signed({"key": "k"}), b"x"))) == (400, "InvalidArgument")
    answer = client("POST", "/bucket", headers, body_of({"key": "k"}, b"data"), payload_hash="0" * 64)
    assert refusal(answer) == (400, "XAmzContentSHA256Mismatch")


def test_conditions_of_the_request_hold(client: Client) -> None:
    client("PUT", "/bucket/k", body=b"first")
    answer = send(client, body_of(signed({"key": "k"}), b"second"), headers={"if-none-match": "*"})
    assert refusal(answer) == (412, "PreconditionFailed")
    assert client("GET", "/bucket/k").body == b"first"
