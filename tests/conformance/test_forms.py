"""POST: uploads by HTML forms, with policies of Signature Version 4 and 2.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTForms.html, https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/HTTPPOSTForms.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import b64encode
from typing import Any

import pytest

from tests.conformance.served import Answer, Endpoint

pytestmark = pytest.mark.operation("PostObject")
BOUNDARY = "----TitanS3FormBoundary"
Fields = dict[str, str]


def form(fields: Fields, file: bytes | None = b"body", filename: str = "photo.jpg") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()
    ]
    if file is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: image/jpeg\r\n\r\n'
        parts.append(head.encode() + file + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def send(endpoint: Endpoint, bucket: str, body: bytes, **headers: str) -> Answer:
    sent = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
    return endpoint.raw("POST", f"/{bucket}", sent, body, sign=False)


def policy(conditions: list[Any], seconds: int = 600) -> bytes:
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    return b64encode(json.dumps({"expiration": expiration, "conditions": conditions}).encode())


def signed_2(endpoint: Endpoint, fields: Fields, conditions: list[Any], seconds: int = 600) -> Fields:
    document = policy(conditions, seconds)
    signature = b64encode(hmac.digest(endpoint.keys[1].encode(), document, "sha1")).decode()
    return {**fields, "AWSAccessKeyId": endpoint.keys[0], "policy": document.decode(), "signature": signature}


def signed_4(endpoint: Endpoint, fields: Fields, conditions: list[Any], seconds: int = 600) -> Fields:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    credential = f"{endpoint.keys[0]}/{stamp[:8]}/us-east-1/s3/aws4_request"
    named = {"x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-credential": credential, "x-amz-date": stamp}
    document = policy([*conditions, *({name: value} for name, value in named.items())], seconds)
    key = ("AWS4" + endpoint.keys[1]).encode()
    for step in (stamp[:8], "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return {**fields, **named, "policy": document.decode(), "x-amz-signature": hmac.digest(key, document, "sha256").hex()}


SIGNERS = {"v2": signed_2, "v4": signed_4}
BOTH = pytest.mark.parametrize("version", SIGNERS)


@BOTH
def test_a_file_is_stored(endpoint: Endpoint, s3: Any, bucket: str, version: str) -> None:
    fields = {"key": "a/${filename}", "Content-Type": "text/plain", "x-amz-meta-one": "1", "Cache-Control": "no-cache", "acl": "private"}
    conditions = [
        {"bucket": bucket}, ["starts-with", "$key", "a/"], {"acl": "private"}, ["starts-with", "$Content-Type", "text/"],
        {"x-amz-meta-one": "1"}, ["eq", "$Cache-Control", "no-cache"], ["content-length-range", 1, 100],
    ]  # fmt: skip
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, fields, conditions)))
    assert (answer.status, answer.body) == (204, b"")
    found = s3.get_object(Bucket=bucket, Key="a/photo.jpg")
    assert answer.headers["etag"] == found["ETag"]
    assert answer.headers["location"] == f"{endpoint.url}/{bucket}/a/photo.jpg" or answer.headers["location"].endswith("a%2Fphoto.jpg")
    assert found["Body"].read() == b"body"
    assert (found["ContentType"], found["Metadata"], found["CacheControl"]) == ("text/plain", {"one": "1"}, "no-cache")


def test_what_boto3_makes(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    for options in ({}, {"signature_version": "s3"}):
        post = endpoint.client(**options).generate_presigned_post(
            bucket, "k", Fields={"x-amz-meta-a": "b"}, Conditions=[{"x-amz-meta-a": "b"}], ExpiresIn=60
        )
        assert send(endpoint, bucket, form(post["fields"], b"by boto3")).status == 204
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"by boto3"
        s3.delete_object(Bucket=bucket, Key="k")


@BOTH
@pytest.mark.parametrize(("asked", "status"), [("200", 200), ("201", 201), ("204", 204), ("404", 204), ("", 204)])
def test_the_status_of_success(endpoint: Endpoint, bucket: str, version: str, asked: str, status: int) -> None:
    fields = {"key": "k", "success_action_status": asked}
    conditions = [{"bucket": bucket}, {"key": "k"}, ["starts-with", "$success_action_status", ""]]
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, fields, conditions)))
    assert answer.status == status
    if status == 201:
        assert answer.xml.tag == "PostResponse"
        assert [answer.xml.findtext(name) for name in ("Bucket", "Key", "ETag")] == [bucket, "k", answer.headers["etag"]]
        assert answer.xml.findtext("Location") == answer.headers["location"]
    else:
        assert answer.body == b""


def test_a_redirect(endpoint: Endpoint, bucket: str) -> None:
    for name in ("success_action_redirect", "redirect"):
        fields = {"key": "k", name: "https://app.example/done?x=1"}
        conditions = [{"bucket": bucket}, {"key": "k"}, ["eq", f"${name}", "https://app.example/done?x=1"]]
        answer = send(endpoint, bucket, form(signed_4(endpoint, fields, conditions)))
        assert answer.status == 303
        where = answer.headers["location"]
        assert where.startswith(f"https://app.example/done?x=1&bucket={bucket}&key=k&etag=%22")


@BOTH
@pytest.mark.parametrize(
    ("fields", "conditions", "code"),
    [
        ({"key": "k"}, [{"key": "k"}], "AccessDenied"),
        ({"key": "other"}, [{"bucket": "BUCKET"}, {"key": "k"}], "AccessDenied"),
        ({"key": "k"}, [{"bucket": "BUCKET"}, ["starts-with", "$key", "x"]], "AccessDenied"),
        ({"key": "k", "x-amz-meta-free": "1"}, [{"bucket": "BUCKET"}, {"key": "k"}], "AccessDenied"),
        ({"key": "k"}, [{"bucket": "BUCKET"}, {"key": "k"}, {"acl": "private"}], "AccessDenied"),
        ({"key": "k"}, [{"bucket": "elsewhere"}, {"key": "k"}], "AccessDenied"),
        ({"key": "k"}, [{"bucket": "BUCKET"}, {"key": "k"}, ["content-length-range", 0, 3]], "EntityTooLarge"),
        ({"key": "k"}, [{"bucket": "BUCKET"}, {"key": "k"}, ["content-length-range", 5, 10]], "EntityTooSmall"),
    ],
)
def test_what_a_policy_does_not_allow(
    endpoint: Endpoint, s3: Any, bucket: str, version: str, fields: Fields, conditions: list[Any], code: str
) -> None:
    given = json.loads(json.dumps(conditions).replace("BUCKET", bucket))
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, fields, given)))
    assert (answer.status, answer.code) == (403 if code == "AccessDenied" else 400, code)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


@BOTH
def test_fields_whose_names_begin_with_x_ignore_need_no_condition(endpoint: Endpoint, bucket: str, version: str) -> None:
    fields = {"key": "k", "x-ignore-this": "whatever"}
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, fields, [{"bucket": bucket}, {"key": "k"}])))
    assert answer.status == 204


@BOTH
def test_policies_that_have_expired_or_are_malformed(endpoint: Endpoint, bucket: str, version: str) -> None:
    conditions: list[Any] = [{"bucket": bucket}, {"key": "k"}]
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, {"key": "k"}, conditions, -5)))
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert "expired" in (answer.xml.findtext("Message") or "").lower()
    answer = send(endpoint, bucket, form(SIGNERS[version](endpoint, {"key": "k"}, [*conditions, ["nonsense", "$key"]])))
    assert (answer.status, answer.code) in ((400, "InvalidPolicyDocument"), (403, "AccessDenied"))


@BOTH
def test_signatures_that_do_not_match(endpoint: Endpoint, bucket: str, version: str) -> None:
    fields = SIGNERS[version](endpoint, {"key": "k"}, [{"bucket": bucket}, {"key": "k"}])
    name = "signature" if version == "v2" else "x-amz-signature"
    answer = send(endpoint, bucket, form({**fields, name: "0" * len(fields[name])}))
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    tampered = b64encode(b'{"expiration": "2099-01-01T00:00:00Z", "conditions": []}').decode()
    assert send(endpoint, bucket, form({**fields, "policy": tampered})).code == "SignatureDoesNotMatch"
    answer = send(endpoint, bucket, form({**fields, ("AWSAccessKeyId" if version == "v2" else "x-amz-credential"): (
        "NOBODY" if version == "v2" else fields["x-amz-credential"].replace(endpoint.keys[0], "NOBODY")
    )}))  # fmt: skip
    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")


@pytest.mark.parametrize("name", ["key", "policy", "x-amz-signature", "x-amz-credential", "x-amz-date"])
def test_fields_that_are_missing(endpoint: Endpoint, bucket: str, name: str) -> None:
    fields = signed_4(endpoint, {"key": "k"}, [{"bucket": bucket}, {"key": "k"}])
    del fields[name]
    answer = send(endpoint, bucket, form(fields))
    assert answer.status in (400, 403), answer.body
    if name == "key":
        assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_a_form_needs_exactly_one_file(endpoint: Endpoint, bucket: str) -> None:
    fields = signed_4(endpoint, {"key": "k"}, [{"bucket": bucket}, {"key": "k"}])
    answer = send(endpoint, bucket, form(fields, None))
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert answer.xml.findtext("ArgumentName") == "file"


def test_bodies_that_are_no_form(endpoint: Endpoint, bucket: str) -> None:
    answer = send(endpoint, bucket, b"nonsense")
    assert (answer.status, answer.code) == (400, "MalformedPOSTRequest")
    answer = endpoint.raw("POST", f"/{bucket}", {"Content-Type": "text/plain"}, b"x", sign=False)
    assert answer.status in (403, 412)


def test_without_a_policy_it_is_anonymous(endpoint: Endpoint, bucket: str) -> None:
    answer = send(endpoint, bucket, form({"key": "k"}))
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_tags_checksums_and_classes(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    fields = {
        "key": "k",
        "tagging": tagging,
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-checksum-sha256": "Iw2DNXgI8+bZ5TOs3CvECNFhMAnLWbQr77rSxiQlyec=",
    }
    conditions = [{"bucket": bucket}, {"key": "k"}, *([{name: value} for name, value in fields.items() if name != "key"])]
    answer = send(endpoint, bucket, form(signed_4(endpoint, fields, conditions)))
    assert (answer.status, answer.code) == (400, "BadDigest")
    fields["x-amz-checksum-sha256"] = b64encode(hashlib.sha256(b"body").digest()).decode()
    conditions = [{"bucket": bucket}, {"key": "k"}, *([{name: value} for name, value in fields.items() if name != "key"])]
    assert send(endpoint, bucket, form(signed_4(endpoint, fields, conditions))).status == 204
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]
    assert s3.head_object(Bucket=bucket, Key="k")["StorageClass"] == "REDUCED_REDUNDANCY"


def test_large_files_and_chunked_bodies(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    data = bytes(range(256)) * 8000
    fields = signed_4(endpoint, {"key": "k"}, [{"bucket": bucket}, {"key": "k"}])
    assert send(endpoint, bucket, form(fields, data)).status == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    body = form(fields, data[:100_000])
    chunked = (
        b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7000]), body[at : at + 7000]) for at in range(0, len(body), 7000)) + b"0\r\n\r\n"
    )
    answer = endpoint.raw(
        "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Transfer-Encoding": "chunked"}, chunked,
        sign=False, length=False,
    )  # fmt: skip
    assert answer.status == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data[:100_000]


def test_versions(endpoint: Endpoint, versioned: str) -> None:
    answer = send(endpoint, versioned, form(signed_4(endpoint, {"key": "k"}, [{"bucket": versioned}, {"key": "k"}])))
    assert len(answer.headers["x-amz-version-id"]) > 4
