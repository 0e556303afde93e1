"""CopyObject and UploadPartCopy.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.served import Endpoint, refused

pytestmark = pytest.mark.operation("CopyObject")
PARTS = pytest.mark.operation("UploadPartCopy")
GIVEN = {"ContentType": "text/plain", "CacheControl": "no-cache", "Metadata": {"a": "1"}}


@pytest.fixture
def source(s3: Any, bucket: str) -> dict[str, str]:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", StorageClass="REDUCED_REDUNDANCY", WebsiteRedirectLocation="/x", **GIVEN)
    return {"Bucket": bucket, "Key": "k"}


def test_a_copy_is_the_same(s3: Any, bucket: str, source: dict[str, str]) -> None:
    before = s3.head_object(**source)
    answer = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert answer["CopyObjectResult"]["ETag"] == before["ETag"]
    assert "VersionId" not in answer
    after = s3.get_object(Bucket=bucket, Key="copy")
    assert after["Body"].read() == b"body"
    assert {name: after[name] for name in GIVEN} == GIVEN
    assert after["LastModified"] == answer["CopyObjectResult"]["LastModified"].replace(microsecond=0)


def test_class_and_redirect_are_the_copys_own(s3: Any, bucket: str, source: dict[str, str]) -> None:
    """Neither is copied: they are what the request says, STANDARD and none by default."""
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    found = s3.head_object(Bucket=bucket, Key="copy")
    assert "StorageClass" not in found
    assert "WebsiteRedirectLocation" not in found
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, StorageClass="REDUCED_REDUNDANCY", WebsiteRedirectLocation="/y")
    found = s3.head_object(Bucket=bucket, Key="copy")
    assert (found["StorageClass"], found["WebsiteRedirectLocation"]) == ("REDUCED_REDUNDANCY", "/y")


def test_replacing_metadata(s3: Any, bucket: str, source: dict[str, str]) -> None:
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, Metadata={"ignored": "yes"}, ContentType="ignored/type")
    assert s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"a": "1"}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"}, ContentType="x/y")
    found = s3.head_object(Bucket=bucket, Key="copy")
    assert (found["Metadata"], found["ContentType"]) == ({"b": "2"}, "x/y")
    assert "CacheControl" not in found
    with refused("InvalidArgument", 400):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, MetadataDirective="NONSENSE")


def test_onto_itself(s3: Any, bucket: str, source: dict[str, str]) -> None:
    with refused("InvalidRequest", 400):
        s3.copy_object(CopySource=source, **source)
    s3.copy_object(CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"}, **source)
    found = s3.get_object(**source)
    assert (found["Metadata"], found["Body"].read()) == ({"b": "2"}, b"body")
    s3.copy_object(CopySource=source, StorageClass="REDUCED_REDUNDANCY", **source)
    s3.copy_object(CopySource=source, WebsiteRedirectLocation="/z", **source)
    assert s3.head_object(**source)["WebsiteRedirectLocation"] == "/z"


def test_onto_itself_in_a_versioned_bucket(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k"})
    s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k", "VersionId": first})
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"1"


@pytest.mark.parametrize(
    "key", [" ", "_", "__", "a b", "a+b", "a%b", "%41", "a%2Fb", "ü/☃", "a?b", "a?versionId=x", "a#b", "a&b=c", "//", "/a", "a/", "'\""]
)
def test_names_of_sources(s3: Any, endpoint: Endpoint, bucket: str, key: str) -> None:
    """Decoded once, with or without a slash in front."""
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == key.encode()
    for number, text in enumerate((f"/{bucket}/{quote(key, safe='')}", quote(f"{bucket}/{key}", safe=""))):
        answer = endpoint.raw("PUT", f"/{bucket}/copy{number}", {"x-amz-copy-source": text})
        assert answer.status == 200, answer.body
        assert endpoint.raw("GET", f"/{bucket}/copy{number}").body == key.encode()


def test_from_another_bucket(s3: Any, bucket: str, source: dict[str, str]) -> None:
    other = bucket + "-other"
    s3.create_bucket(Bucket=other)
    s3.copy_object(Bucket=other, Key="copy", CopySource=source)
    assert s3.get_object(Bucket=other, Key="copy")["Body"].read() == b"body"
    s3.delete_object(**source)
    assert s3.get_object(Bucket=other, Key="copy")["Body"].read() == b"body"


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 3_000_000])
def test_sizes(s3: Any, bucket: str, size: int) -> None:
    data = bytes(size - 1) + b"!" if size else b""
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data


def test_sources_that_are_not_there(s3: Any, bucket: str) -> None:
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "missing"})
    with refused("NoSuchBucket", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket + "-not-there", "Key": "k"})
    with refused("NoSuchBucket", 404):
        s3.copy_object(Bucket=bucket + "-not-there", Key="c", CopySource={"Bucket": bucket, "Key": "k"})


def test_sources_that_are_none(endpoint: Endpoint, bucket: str) -> None:
    for text in ("nonsense", "/", f"/{bucket}", f"{bucket}/", "//k"):
        answer = endpoint.raw("PUT", f"/{bucket}/c", {"x-amz-copy-source": text})
        assert answer.status in (400, 404), (text, answer.body)
        assert answer.code in ("InvalidArgument", "NoSuchBucket", "NoSuchKey")


def test_without_a_length(endpoint: Endpoint, bucket: str, source: dict[str, str]) -> None:
    """Rust's object_store sends neither Content-Length nor Transfer-Encoding."""
    answer = endpoint.raw("PUT", f"/{bucket}/c", {"x-amz-copy-source": f"/{bucket}/k"}, length=False)
    assert answer.status == 200
    assert answer.xml.tag == "CopyObjectResult"


def test_expected_owners(s3: Any, bucket: str, source: dict[str, str]) -> None:
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, ExpectedSourceBucketOwner="000000000000")
    with refused("AccessDenied", 403):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, ExpectedSourceBucketOwner="111111111111")


@PARTS
@pytest.mark.parametrize(
    ("text", "start", "end"), [(None, 0, 4000), ("bytes=0-0", 0, 1), ("bytes=10-3999", 10, 4000), ("bytes=5-9", 5, 10)]
)
def test_parts_from_ranges(s3: Any, bucket: str, text: str | None, start: int, end: int) -> None:
    data = bytes(number % 251 for number in range(4000))
    s3.put_object(Bucket=bucket, Key="src", Body=data)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    ranges = {} if text is None else {"CopySourceRange": text}
    part = s3.upload_part_copy(
        Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "src"}, **ranges
    )["CopyPartResult"]
    assert part["LastModified"] is not None
    s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    )
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data[start:end]


@PARTS
def test_ranges_that_are_refused(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="src", Body=bytes(100))
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    for text in (
        "0-2",
        "bytes=0",
        "bytes=hello-world",
        "bytes=0-bar",
        "bytes=hello-",
        "bytes=0-2,3-5",
        "bytes=5-",
        "bytes=-5",
        "bytes=5-3",
    ):
        with refused("InvalidArgument", 400):
            s3.upload_part_copy(
                Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "src"}, CopySourceRange=text
            )
    for text in ("bytes=0-100", "bytes=100-200"):
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.upload_part_copy(
                Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "src"}, CopySourceRange=text
            )
        assert caught.value.response["Error"]["Code"] in ("InvalidRange", "InvalidArgument")
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)


@PARTS
def test_parts_from_versions_and_with_conditions(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="src", Body=b"first")
    s3.put_object(Bucket=versioned, Key="src", Body=b"second")
    upload = s3.create_multipart_upload(Bucket=versioned, Key="k")["UploadId"]
    source = {"Bucket": versioned, "Key": "src", "VersionId": first["VersionId"]}
    with refused("PreconditionFailed", 412):
        s3.upload_part_copy(
            Bucket=versioned, Key="k", UploadId=upload, PartNumber=1, CopySource=source, CopySourceIfNoneMatch=first["ETag"]
        )
    answer = s3.upload_part_copy(
        Bucket=versioned, Key="k", UploadId=upload, PartNumber=1, CopySource=source, CopySourceIfMatch=first["ETag"]
    )
    assert answer["CopySourceVersionId"] == first["VersionId"]
    assert answer["CopyPartResult"]["ETag"] == first["ETag"]


@PARTS
def test_parts_of_what_is_not_there(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="src", Body=b"x")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    with refused("NoSuchKey", 404):
        s3.upload_part_copy(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "missing"})
    with refused("NoSuchUpload", 404):
        s3.upload_part_copy(Bucket=bucket, Key="k", UploadId="0" * 32, PartNumber=1, CopySource={"Bucket": bucket, "Key": "src"})
    for number in (0, 10001):
        with refused("InvalidArgument", 400):
            s3.upload_part_copy(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, CopySource={"Bucket": bucket, "Key": "src"})
