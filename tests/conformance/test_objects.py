"""Objects: what is stored comes back, with its headers, metadata and dates; ranges; overrides; names.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html, https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.served import Endpoint, fields_of, refused

pytestmark = pytest.mark.operation("PutObject", "GetObject", "HeadObject")
BODY = bytes(range(256)) * 4


def md5_of(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537, 3_000_000])
def test_bytes_come_back(s3: Any, bucket: str, size: int) -> None:
    data = (BODY * (size // len(BODY) + 1))[:size]
    etag = s3.put_object(Bucket=bucket, Key="k", Body=data)["ETag"]
    assert etag == f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == data
    head = s3.head_object(Bucket=bucket, Key="k")
    for found in (answer, head):
        assert (found["ContentLength"], found["ETag"], found["AcceptRanges"]) == (size, etag, "bytes")
        assert found["ContentType"] == "binary/octet-stream"
        assert found["Metadata"] == {}
        assert abs(found["LastModified"] - datetime.now(UTC)) < timedelta(minutes=2)


def test_headers_come_back(s3: Any, bucket: str) -> None:
    moment = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    given = {
        "CacheControl": "max-age=60, public", "ContentDisposition": 'attachment; filename="a b.txt"', "ContentEncoding": "gzip",
        "ContentLanguage": "de, en", "ContentType": "text/plain; charset=utf-8", "WebsiteRedirectLocation": "/other",
    }  # fmt: skip
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Expires=moment, **given)
    for found in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert {name: found[name] for name in given} == given
        assert found["ExpiresString"] == "Tue, 06 May 2031 07:08:09 GMT"


@pytest.mark.parametrize(
    ("given", "kept"), [("aws-chunked", None), ("gzip,aws-chunked", "gzip"), ("aws-chunked, gzip", "gzip"), ("gzip, br", "gzip, br")]
)
def test_aws_chunked_is_no_content_encoding(endpoint: Endpoint, bucket: str, given: str, kept: str | None) -> None:
    assert endpoint.raw("PUT", f"/{bucket}/k", {"Content-Encoding": given}, b"body").status == 200
    assert endpoint.raw("GET", f"/{bucket}/k").headers.get("content-encoding") == kept


def test_metadata_come_back_and_are_replaced_as_a_whole(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata={"one": "1", "MiXed-Case": "Value Kept", "empty": ""})
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"one": "1", "mixed-case": "Value Kept", "empty": ""}
    s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata={"two": "2"})
    assert s3.get_object(Bucket=bucket, Key="k")["Metadata"] == {"two": "2"}
    endpoint.raw("PUT", f"/{bucket}/k", {"x-amz-meta-text": "=?UTF-8?B?w7w=?=", "x-amz-meta-under_score": "a;b,c"})
    headers = endpoint.raw("HEAD", f"/{bucket}/k").headers
    assert (headers["x-amz-meta-text"], headers["x-amz-meta-under_score"]) == ("=?UTF-8?B?w7w=?=", "a;b,c")


def test_metadata_of_two_kilobytes_and_no_more(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 2047})
    with refused("MetadataTooLarge", 400) as caught:
        s3.put_object(Bucket=bucket, Key="k2", Body=b"", Metadata={"a": "x" * 2048})
    assert fields_of(caught)["MaxSizeAllowed"] == "2048"


NAMES = [
    "a", "a/b/c", "/", "//", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", " ", "a b", "+", "a+b", "%", "%41", "%2F", "ümläut", "日本語",
    "\U0001f600", "\x01", "a\nb", "?", "a?b=c", "#", "&", "=", "'", '"', "<>", "\\", "a:b", "~",
    "!*'()", "a;b", "@", "$", ",", "[x]", "{x}", "|",
    "^", "`", "x" * 1024, "ü" * 512,
]  # fmt: skip


@pytest.mark.operation("DeleteObject")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: quote(name, safe="")[:20])
def test_names(s3: Any, bucket: str, name: str) -> None:
    s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == name.encode()
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [name]
    s3.delete_object(Bucket=bucket, Key=name)
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key=name)


def test_names_that_are_too_long(s3: Any, bucket: str) -> None:
    for name in ("x" * 1025, "ü" * 513):
        with refused("KeyTooLongError", 400):
            s3.put_object(Bucket=bucket, Key=name, Body=b"")


def test_names_that_are_no_text(endpoint: Endpoint, bucket: str) -> None:
    for target in (f"/{bucket}/%FF", f"/{bucket}/%zz"):
        answer = endpoint.raw("PUT", target)
        assert answer.status == 400, target


@pytest.mark.operation("DeleteObject")
def test_deleting_what_is_not_there(s3: Any, bucket: str) -> None:
    answer = s3.delete_object(Bucket=bucket, Key="missing")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "DeleteMarker" not in answer


def test_what_is_not_there(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    with refused("NoSuchKey", 404) as caught:
        s3.get_object(Bucket=bucket, Key="missing key")
    assert fields_of(caught)["Key"] == "missing key"
    answer = endpoint.raw("GET", f"/{bucket}/missing")
    assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]
    assert answer.headers["content-type"] == "application/xml"
    answer = endpoint.raw("HEAD", f"/{bucket}/missing")
    assert (answer.status, answer.body) == (404, b"")


# Content-MD5


def test_content_md5(endpoint: Endpoint, bucket: str) -> None:
    assert endpoint.raw("PUT", f"/{bucket}/k", {"Content-MD5": md5_of(b"body")}, b"body").status == 200
    for given, code in ((md5_of(b"other"), "BadDigest"), ("nonsense", "InvalidDigest"), ("", "InvalidDigest"), ("YQ==", "InvalidDigest")):
        answer = endpoint.raw("PUT", f"/{bucket}/k2", {"Content-MD5": given}, b"body")
        assert (answer.status, answer.code) == (400, code), given
    assert endpoint.raw("HEAD", f"/{bucket}/k2").status == 404


# ranges


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10), ("bytes=1000-", 1000, 1024), ("bytes=-24", 1000, 1024), ("bytes=-5000", 0, 1024),
     ("bytes=1020-5000", 1020, 1024), ("bytes=0-", 0, 1024), ("bytes=0-1023", 0, 1024)],
)  # fmt: skip
def test_a_range(s3: Any, bucket: str, text: str, start: int, end: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    answer = s3.get_object(Bucket=bucket, Key="k", Range=text)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["Body"].read() == BODY[start:end]
    assert (answer["ContentRange"], answer["ContentLength"]) == (f"bytes {start}-{end - 1}/1024", end - start)
    assert not [name for name in answer if name.startswith("ChecksumC")], "a whole object's checksum is no checksum of a range"
    head = s3.head_object(Bucket=bucket, Key="k", Range=text)
    assert (head["ResponseMetadata"]["HTTPStatusCode"], head["ContentLength"]) == (206, end - start)


@pytest.mark.parametrize("text", ["bytes=5-1", "bytes=x-y", "bytes=", "bytes=-", "items=0-1", "bytes=0-1,3-4", "0-1"])
def test_what_is_no_range_is_ignored(s3: Any, bucket: str, text: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    answer = s3.get_object(Bucket=bucket, Key="k", Range=text)
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()) == (200, BODY)


def test_ranges_beyond_the_end(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    for key, text, size in (
        ("k", "bytes=1024-", 1024), ("k", "bytes=5000-6000", 1024), ("k", "bytes=-0", 1024), ("empty", "bytes=0-0", 0),
        ("empty", "bytes=-1", 0),
    ):  # fmt: skip
        with refused("InvalidRange", 416) as caught:
            s3.get_object(Bucket=bucket, Key=key, Range=text)
        assert fields_of(caught)["ActualObjectSize"] == str(size)
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes */{size}"


def test_if_range(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=BODY)["ETag"]
    for given, status in ((etag, 206), ('"other"', 200)):
        assert endpoint.raw("GET", f"/{bucket}/k", {"Range": "bytes=0-1", "If-Range": given}).status == status


@pytest.mark.parametrize("number", [1, 2])
def test_part_numbers_of_a_plain_object(s3: Any, bucket: str, number: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    if number == 1:
        answer = s3.get_object(Bucket=bucket, Key="k", PartNumber=1)
        assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()) == (206, BODY)
        assert answer["ContentRange"] == "bytes 0-1023/1024"
        assert "PartsCount" not in answer
        assert s3.head_object(Bucket=bucket, Key="k", PartNumber=1)["ContentLength"] == 1024
    else:
        with refused("InvalidPartNumber", 416):
            s3.get_object(Bucket=bucket, Key="k", PartNumber=number)


def test_part_numbers_that_are_none(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    for text in ("0", "10001", "x", "-1"):
        answer = endpoint.raw("GET", f"/{bucket}/k?partNumber={text}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), text
    answer = endpoint.raw("GET", f"/{bucket}/k?partNumber=1", {"Range": "bytes=0-1"})
    assert (answer.status, answer.code) == (400, "InvalidRequest")


# overrides


def test_headers_of_the_answer_can_be_chosen(s3: Any, endpoint: Endpoint, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", ContentType="text/html", CacheControl="no-store")
    given = {
        "ResponseCacheControl": "no-cache", "ResponseContentDisposition": "bla", "ResponseContentEncoding": "aaa",
        "ResponseContentLanguage": "esperanto", "ResponseContentType": "foo/bar",
    }  # fmt: skip
    for step in (s3.get_object, s3.head_object):
        answer = step(Bucket=bucket, Key="k", ResponseExpires=datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC), **given)
        assert {name: answer[name.removeprefix("Response")] for name in given} == given
        assert answer["ExpiresString"] == "Tue, 06 May 2031 07:08:09 GMT"
    assert s3.get_object(Bucket=bucket, Key="k")["ContentType"] == "text/html"
    answer = endpoint.raw("GET", f"/{bucket}/k?response-content-type=a%0d%0ax-evil:%20yes")
    assert "x-evil" not in answer.headers


def test_a_stranger_cannot_choose_headers(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    answer = endpoint.raw("GET", f"/{bucket}/k?response-content-type=text/html", sign=False)
    assert answer.status in (400, 403)


# owner, payer, storage class


def test_the_expected_owner(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", ExpectedBucketOwner="000000000000")
    key = {"Key": "k"}
    for step, arguments in ((s3.get_object, key), (s3.list_objects_v2, {}), (s3.delete_object, key), (s3.put_object, key)):
        with refused("AccessDenied", 403):
            step(Bucket=bucket, ExpectedBucketOwner="111111111111", **arguments)
    with refused("InvalidBucketOwnerAWSAccountID", 400):
        s3.get_object(Bucket=bucket, Key="k", ExpectedBucketOwner="nobody")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 0


def test_who_pays_is_said_and_of_no_effect(s3: Any, bucket: str) -> None:
    """Buckets pay for themselves unless they are requester-pays, which none is."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"", RequestPayer="requester")
    assert "RequestCharged" not in s3.get_object(Bucket=bucket, Key="k", RequestPayer="requester")


def test_storage_classes(s3: Any, bucket: str) -> None:
    for name, told in (("STANDARD", None), ("REDUCED_REDUNDANCY", "REDUCED_REDUNDANCY")):
        s3.put_object(Bucket=bucket, Key="k", Body=b"", StorageClass=name)
        assert s3.head_object(Bucket=bucket, Key="k").get("StorageClass") == told
    for name in ("GLACIER", "nonsense"):
        with refused("InvalidStorageClass", 400):
            s3.put_object(Bucket=bucket, Key="k", Body=b"", StorageClass=name)


def test_redirects_that_are_refused(s3: Any, bucket: str) -> None:
    with refused("InvalidRedirectLocation", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"", WebsiteRedirectLocation="ftp://elsewhere")


def test_headers_of_what_is_not_built_are_named(endpoint: Endpoint, bucket: str) -> None:
    for name, value in (("x-amz-server-side-encryption", "AES256"), ("x-amz-object-lock-mode", "GOVERNANCE")):
        answer = endpoint.raw("PUT", f"/{bucket}/k", {name: value}, b"")
        assert (answer.status, answer.code) == (501, "NotImplemented")
    assert endpoint.raw("PUT", f"/{bucket}/k", {"x-amz-acl": "private", "x-amz-unknown": "x", "X-Whatever": "y"}, b"").status == 200


# many at once


@pytest.mark.operation("DeleteObjects")
def test_deleting_many(s3: Any, bucket: str) -> None:
    names = ["a", "b c", "d+e", "<f>&", "g\x01h", "missing", "é"]
    for name in names[:5]:
        s3.put_object(Bucket=bucket, Key=name, Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names if "\x01" not in name]})
    assert sorted(item["Key"] for item in answer["Deleted"]) == sorted(name for name in names if "\x01" not in name)
    assert "Errors" not in answer
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}], "Quiet": True})
    assert "Deleted" not in answer
    assert "Errors" not in answer
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["g\x01h"]


@pytest.mark.operation("DeleteObjects")
def test_a_thousand_and_no_more(s3: Any, bucket: str) -> None:
    objects = [{"Key": f"k{number}"} for number in range(1001)]
    assert len(s3.delete_objects(Bucket=bucket, Delete={"Objects": objects[:1000]})["Deleted"]) == 1000
    with refused("MalformedXML", 400):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})


@pytest.mark.operation("DeleteObjects")
def test_documents_of_many_that_are_refused(endpoint: Endpoint, bucket: str) -> None:
    for body in (b"<Delete/>", b"<Delete><Object/></Delete>", b"<Other/>", b"", b"<Delete><Object><Key></Key></Object></Delete>"):
        answer = endpoint.raw("POST", f"/{bucket}?delete", {"Content-MD5": md5_of(body)}, body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), body
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    assert endpoint.raw("POST", f"/{bucket}?delete", {}, body).code == "InvalidRequest"
    assert endpoint.raw("POST", f"/{bucket}?delete", {"Content-MD5": md5_of(b"x")}, body).code == "BadDigest"


@pytest.mark.operation("DeleteObjects")
def test_one_key_twice_and_keys_that_are_too_long(s3: Any, bucket: str) -> None:
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "k"}, {"Key": "x" * 1025}]})
    assert [item["Key"] for item in answer["Deleted"]] == ["k", "k"]
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [("x" * 1025, "KeyTooLongError")]
