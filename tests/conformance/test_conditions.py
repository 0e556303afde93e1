"""Conditional requests: reads, writes, copies, completions, deletions.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html (reads, writes, deletes), RFC 9110 13.2.2,
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html (copy source conditions)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.served import Endpoint, fields_of, refused

BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(days=1)
OTHER = '"00000000000000000000000000000000"'
READS = pytest.mark.operation("GetObject", "HeadObject")


@pytest.fixture
def etag(s3: Any, bucket: str) -> str:
    found = s3.put_object(Bucket=bucket, Key="k", Body=b"body", CacheControl="max-age=1")["ETag"]
    assert isinstance(found, str)
    return found


@READS
@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"IfMatch": "ETAG"}, 200), ({"IfMatch": "BARE"}, 200), ({"IfMatch": "*"}, 200), ({"IfMatch": OTHER}, 412),
        ({"IfMatch": f"{OTHER}, ETAG"}, 200), ({"IfNoneMatch": "ETAG"}, 304), ({"IfNoneMatch": "BARE"}, 304), ({"IfNoneMatch": "*"}, 304),
        ({"IfNoneMatch": OTHER}, 200), ({"IfModifiedSince": BEFORE}, 200), ({"IfModifiedSince": LATER}, 304),
        ({"IfUnmodifiedSince": BEFORE}, 412), ({"IfUnmodifiedSince": LATER}, 200),
        ({"IfMatch": "ETAG", "IfUnmodifiedSince": BEFORE}, 200), ({"IfMatch": OTHER, "IfUnmodifiedSince": LATER}, 412),
        ({"IfNoneMatch": "ETAG", "IfModifiedSince": BEFORE}, 304), ({"IfNoneMatch": OTHER, "IfModifiedSince": LATER}, 200),
        ({"IfMatch": "ETAG", "IfNoneMatch": "ETAG"}, 304), ({"IfMatch": OTHER, "IfNoneMatch": "ETAG"}, 412),
    ],
)  # fmt: skip
def test_reads(s3: Any, bucket: str, etag: str, condition: dict[str, Any], status: int) -> None:
    """If-Match decides over If-Unmodified-Since, If-None-Match over If-Modified-Since."""
    given = {
        name: value.replace("ETAG", etag).replace("BARE", etag.strip('"')) if isinstance(value, str) else value
        for name, value in condition.items()
    }
    for step in (s3.get_object, s3.head_object):
        if status == 200:
            assert step(Bucket=bucket, Key="k", **given)["ETag"] == etag
            continue
        with pytest.raises(ClientError) as caught:
            step(Bucket=bucket, Key="k", **given)
        answer = caught.value.response["ResponseMetadata"]
        assert answer["HTTPStatusCode"] == status
        if status == 304:
            assert answer["HTTPHeaders"]["etag"] == etag
            assert "last-modified" in answer["HTTPHeaders"]
            assert answer["HTTPHeaders"]["cache-control"] == "max-age=1"
            assert "content-length" not in answer["HTTPHeaders"]
        elif step == s3.get_object:
            assert fields_of(caught)["Code"] == "PreconditionFailed"
            assert fields_of(caught)["Condition"] in ("If-Match", "If-Unmodified-Since")


@READS
def test_a_date_that_is_none_is_ignored(endpoint: Endpoint, bucket: str, etag: str) -> None:
    for name in ("If-Modified-Since", "If-Unmodified-Since"):
        assert endpoint.raw("GET", f"/{bucket}/k", {name: "yesterday"}).status == 200


@READS
def test_conditions_come_before_ranges(s3: Any, bucket: str, etag: str) -> None:
    with refused("PreconditionFailed", 412):
        s3.get_object(Bucket=bucket, Key="k", IfMatch=OTHER, Range="bytes=100-")
    with refused("304", 304):
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag, Range="bytes=0-1")


@READS
def test_reads_of_what_is_not_there_are_404(s3: Any, bucket: str) -> None:
    for condition in ({"IfMatch": OTHER}, {"IfNoneMatch": "*"}):
        with refused("NoSuchKey", 404):
            s3.get_object(Bucket=bucket, Key="missing", **condition)


# writes


@pytest.mark.operation("PutObject")
def test_only_if_it_is_not_there(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")
    with refused("PreconditionFailed", 412) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    assert fields_of(caught)["Condition"] == "If-None-Match"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfNoneMatch="*")


@pytest.mark.operation("PutObject")
def test_only_if_it_is_this_one(s3: Any, bucket: str, etag: str) -> None:
    with refused("PreconditionFailed", 412) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"new", IfMatch=OTHER)
    assert fields_of(caught)["Condition"] == "If-Match"
    newer = s3.put_object(Bucket=bucket, Key="k", Body=b"new", IfMatch=etag)["ETag"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"newer", IfMatch=newer.strip('"'))
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=bucket, Key="missing", Body=b"", IfMatch=etag)


@pytest.mark.operation("PutObject")
def test_a_marker_counts_as_missing(s3: Any, versioned: str) -> None:
    etag = s3.put_object(Bucket=versioned, Key="k", Body=b"x")["ETag"]
    s3.delete_object(Bucket=versioned, Key="k")
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=versioned, Key="k", Body=b"", IfMatch=etag)
    s3.put_object(Bucket=versioned, Key="k", Body=b"", IfNoneMatch="*")


@pytest.mark.operation("PutObject")
def test_large_bodies_are_judged_too(s3: Any, bucket: str, etag: str) -> None:
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=bytes(2_000_000), IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(2_000_000), IfMatch=etag)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 2_000_000


@pytest.mark.operation("PutObject")
def test_of_many_creators_one_wins(endpoint: Endpoint, bucket: str) -> None:
    def create(number: int) -> int:
        return endpoint.raw("PUT", f"/{bucket}/k", {"If-None-Match": "*"}, b"%d" % number).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(create, range(16)))
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 412, 409}


@pytest.mark.operation("CompleteMultipartUpload")
def test_completions(s3: Any, bucket: str, etag: str) -> None:
    def begin() -> dict[str, Any]:
        upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"part")
        return {"UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}

    upload = begin()
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": OTHER}):
        with refused("PreconditionFailed", 412):
            s3.complete_multipart_upload(Bucket=bucket, Key="k", **upload, **condition)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    s3.complete_multipart_upload(Bucket=bucket, Key="k", **upload, IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"part"
    upload = begin()
    s3.delete_object(Bucket=bucket, Key="k")
    with refused("NoSuchKey", 404):
        s3.complete_multipart_upload(Bucket=bucket, Key="k", **upload, IfMatch=etag)
    s3.complete_multipart_upload(Bucket=bucket, Key="k", **upload, IfNoneMatch="*")


# copies


@pytest.mark.operation("CopyObject")
@pytest.mark.parametrize(
    ("condition", "copied"),
    [
        ({"CopySourceIfMatch": "ETAG"}, True), ({"CopySourceIfMatch": OTHER}, False), ({"CopySourceIfNoneMatch": "ETAG"}, False),
        ({"CopySourceIfNoneMatch": OTHER}, True), ({"CopySourceIfModifiedSince": BEFORE}, True),
        ({"CopySourceIfModifiedSince": LATER}, False),
        ({"CopySourceIfUnmodifiedSince": BEFORE}, False), ({"CopySourceIfUnmodifiedSince": LATER}, True),
        ({"CopySourceIfMatch": "ETAG", "CopySourceIfUnmodifiedSince": BEFORE}, True),
        ({"CopySourceIfNoneMatch": "ETAG", "CopySourceIfModifiedSince": BEFORE}, False),
    ],
)  # fmt: skip
def test_sources_of_copies(s3: Any, bucket: str, etag: str, condition: dict[str, Any], copied: bool) -> None:
    """Both tables are those of CopyObject's documentation; what fails is always 412."""
    given = {name: etag if value == "ETAG" else value for name, value in condition.items()}
    if copied:
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"}, **given)
    else:
        with refused("PreconditionFailed", 412):
            s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"}, **given)
        with refused("404", 404):
            s3.head_object(Bucket=bucket, Key="copy")


@pytest.mark.operation("CopyObject")
def test_targets_of_copies(s3: Any, bucket: str, etag: str) -> None:
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, IfNoneMatch="*")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, IfMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, IfMatch=OTHER)
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="missing", CopySource=source, IfMatch=etag)


# deletions


@pytest.mark.operation("DeleteObject")
def test_deletions(s3: Any, bucket: str, etag: str) -> None:
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=OTHER)
    s3.head_object(Bucket=bucket, Key="k")
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    with refused("NoSuchKey", 404):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    with refused("NoSuchKey", 404):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch="*")
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    s3.delete_object(Bucket=bucket, Key="k", IfMatch="*")


@pytest.mark.operation("DeleteObject")
def test_deletions_with_size_and_date(s3: Any, bucket: str, etag: str) -> None:
    when = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for condition in ({"IfMatchSize": 5}, {"IfMatchLastModifiedTime": BEFORE}, {"IfMatch": etag, "IfMatchSize": 5}):
        with refused("PreconditionFailed", 412):
            s3.delete_object(Bucket=bucket, Key="k", **condition)
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag, IfMatchSize=4, IfMatchLastModifiedTime=when)


@pytest.mark.operation("DeleteObject")
def test_deletions_in_a_versioned_bucket(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=versioned, Key="k", IfMatch=first["ETag"])
    assert s3.delete_object(Bucket=versioned, Key="k", IfMatch=second["ETag"])["DeleteMarker"] is True
    with refused("NoSuchKey", 404):
        s3.delete_object(Bucket=versioned, Key="k", IfMatch=second["ETag"])


@pytest.mark.operation("DeleteObjects")
def test_deletions_of_many(s3: Any, bucket: str) -> None:
    etags = {key: s3.put_object(Bucket=bucket, Key=key, Body=key.encode())["ETag"] for key in "abc"}
    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [
            {"Key": "a", "ETag": etags["a"]}, {"Key": "b", "ETag": OTHER}, {"Key": "c", "ETag": "*"}, {"Key": "missing", "ETag": OTHER},
        ]},
    )  # fmt: skip
    assert sorted(item["Key"] for item in answer["Deleted"]) == ["a", "c"]
    assert {item["Key"]: item["Code"] for item in answer["Errors"]} == {"b": "PreconditionFailed", "missing": "NoSuchKey"}
    s3.head_object(Bucket=bucket, Key="b")
