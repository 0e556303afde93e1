"""Tags of objects: as operations of their own, as a header, through copies and uploads.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObjectTagging.html
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.served import Endpoint, fields_of, refused

pytestmark = pytest.mark.operation("PutObjectTagging", "GetObjectTagging", "DeleteObjectTagging")


def tag_set(tags: dict[str, str]) -> dict[str, Any]:
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(s3: Any, bucket: str, key: str, **arguments: str) -> dict[str, str]:
    return {item["Key"]: item["Value"] for item in s3.get_object_tagging(Bucket=bucket, Key=key, **arguments)["TagSet"]}


@pytest.fixture
def key(s3: Any, bucket: str) -> str:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    return "k"


def test_tags_are_replaced_as_a_whole(s3: Any, bucket: str, key: str) -> None:
    assert tags_of(s3, bucket, key) == {}
    for tags in ({"a": "1", "b": ""}, {"c": "Ümläut ☃"[:7]}, {"x+y=z": "a:b/c@d.e_f-g h"}):
        tags = {name: value.replace("☃", "") for name, value in tags.items()}
        answer = s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set(tags))
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert tags_of(s3, bucket, key) == tags
    assert s3.delete_object_tagging(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert tags_of(s3, bucket, key) == {}
    s3.delete_object_tagging(Bucket=bucket, Key=key)


def test_their_number_is_in_the_head_of_the_object(s3: Any, bucket: str, key: str) -> None:
    assert "TagCount" not in s3.get_object(Bucket=bucket, Key=key)
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set({"a": "1", "b": "2"}))
    assert s3.get_object(Bucket=bucket, Key=key)["TagCount"] == 2
    assert s3.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"


def test_tags_change_neither_date_nor_etag(s3: Any, bucket: str, key: str) -> None:
    before = s3.head_object(Bucket=bucket, Key=key)
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set({"a": "1"}))
    after = s3.head_object(Bucket=bucket, Key=key)
    assert (before["LastModified"], before["ETag"]) == (after["LastModified"], after["ETag"])


def test_ten_tags_of_full_length(s3: Any, bucket: str, key: str) -> None:
    tags = {f"{number}{'k' * 127}": "v" * 256 for number in range(10)}
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set(tags))
    assert tags_of(s3, bucket, key) == tags


@pytest.mark.parametrize(
    "tags",
    [
        {f"k{number}": "" for number in range(11)}, {"k" * 129: "v"}, {"k": "v" * 257}, {"aws:k": "v"}, {"k!": "v"}, {"k": "v;"},
        {"k": "a\tb"},
    ],
    ids=["eleven", "long key", "long value", "reserved", "character of key", "character of value", "tab"],
)  # fmt: skip
def test_tags_that_are_refused(s3: Any, bucket: str, key: str, tags: dict[str, str]) -> None:
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set({"kept": "yes"}))
    with refused("InvalidTag", 400):
        s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set(tags))
    assert tags_of(s3, bucket, key) == {"kept": "yes"}


def test_a_key_twice_is_refused(s3: Any, bucket: str, key: str) -> None:
    with refused("InvalidTag", 400) as caught:
        s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]})
    assert fields_of(caught)["Message"] == "Cannot provide multiple Tags with the same key"
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set({"a": "1", "A": "2"}))
    assert tags_of(s3, bucket, key) == {"a": "1", "A": "2"}


def test_documents_that_are_malformed(endpoint: Endpoint, bucket: str, key: str) -> None:
    for body in (b"", b"<Tagging", b"<Tags/>", b"<Tagging/>", b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>"):
        answer = endpoint.raw("PUT", f"/{bucket}/{key}?tagging", {}, body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), body
    assert endpoint.raw("PUT", f"/{bucket}/{key}?tagging", {}, b"<Tagging><TagSet/></Tagging>").status == 200


def test_tags_of_what_is_not_there(s3: Any, bucket: str) -> None:
    with refused("NoSuchKey", 404):
        tags_of(s3, bucket, "missing")
    with refused("NoSuchKey", 404):
        s3.put_object_tagging(Bucket=bucket, Key="missing", Tagging=tag_set({"a": "1"}))
    with refused("NoSuchKey", 404):
        s3.delete_object_tagging(Bucket=bucket, Key="missing")


def test_each_version_has_its_own(s3: Any, versioned: str) -> None:
    one = s3.put_object(Bucket=versioned, Key="k", Body=b"1", Tagging="of=one")["VersionId"]
    two = s3.put_object(Bucket=versioned, Key="k", Body=b"2")["VersionId"]
    answer = s3.put_object_tagging(Bucket=versioned, Key="k", Tagging=tag_set({"of": "two"}))
    assert answer["VersionId"] == two
    assert tags_of(s3, versioned, "k", VersionId=one) == {"of": "one"}
    assert tags_of(s3, versioned, "k", VersionId=two) == tags_of(s3, versioned, "k") == {"of": "two"}
    answer = s3.delete_object_tagging(Bucket=versioned, Key="k", VersionId=one)
    assert answer["VersionId"] == one
    assert tags_of(s3, versioned, "k", VersionId=one) == {}
    assert tags_of(s3, versioned, "k") == {"of": "two"}


@pytest.mark.operation("PutObject")
def test_the_header_of_a_put(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging="a=1&b=&c%20d=%C3%BC%2B&e=x+y")
    assert tags_of(s3, bucket, "k") == {"a": "1", "b": "", "c d": "ü+", "e": "x y"}
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert tags_of(s3, bucket, "k") == {}


@pytest.mark.operation("PutObject")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("&".join(f"k{number}=" for number in range(11)), "InvalidTag"), ("a=1&a=2", "InvalidArgument"), ("aws:x=1", "InvalidTag"),
        ("k" * 129 + "=1", "InvalidTag"), ("a=%FF", "InvalidArgument"),
    ],
)  # fmt: skip
def test_headers_that_are_refused(s3: Any, bucket: str, text: str, code: str) -> None:
    with refused(code, 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging=text)
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.operation("CopyObject")
def test_a_copy_takes_tags_along_or_new_ones(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging="a=1")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="as-it-is", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, TaggingDirective="COPY", MetadataDirective="REPLACE")
    s3.copy_object(Bucket=bucket, Key="replace", CopySource=source, TaggingDirective="REPLACE", Tagging="b=2")
    s3.copy_object(Bucket=bucket, Key="none", CopySource=source, TaggingDirective="REPLACE")
    found = [tags_of(s3, bucket, name) for name in ("as-it-is", "copy", "replace", "none")]
    assert found == [{"a": "1"}, {"a": "1"}, {"b": "2"}, {}]
    with refused("InvalidArgument", 400):
        s3.copy_object(Bucket=bucket, Key="x", CopySource=source, TaggingDirective="NONSENSE")


@pytest.mark.operation("CreateMultipartUpload", "CompleteMultipartUpload")
def test_an_upload_has_them_from_its_creation(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", Tagging="a=1&b=2")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=parts)
    assert tags_of(s3, bucket, "k") == {"a": "1", "b": "2"}
    with refused("InvalidTag", 400):
        s3.create_multipart_upload(Bucket=bucket, Key="k", Tagging="aws:a=1")
