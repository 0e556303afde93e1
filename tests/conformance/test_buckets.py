"""Buckets themselves: names, creation and its repetition, where they are, deletion, and the list of all.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListBuckets.html
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conformance.served import Endpoint, canonical, drain, refused

_numbers = itertools.count(1)


def fresh() -> str:
    return f"made-{next(_numbers)}"


@pytest.mark.operation("CreateBucket")
@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "Upper", "under_score", "-start", "end-", ".start", "end.", "two..dots", "dot.-dash", "dash-.dot", "192.168.5.4",
     "xn--name", "sthree-name", "name-s3alias", "name--ol-s3", "name.mrap", "name--x-s3", "sp%20ace", "am&p"],
)  # fmt: skip
def test_names_that_are_refused(endpoint: Endpoint, name: str) -> None:
    answer = endpoint.raw("PUT", f"/{name}")
    assert (answer.status, answer.code) == (400, "InvalidBucketName")
    assert answer.xml.findtext("BucketName") == name.replace("%20", " ")


@pytest.mark.operation("CreateBucket", "HeadBucket", "DeleteBucket")
@pytest.mark.parametrize("name", ["abc", "a" * 63, "1-2.3", "a.b-c", "123", "192.168.5.4.5", "a-b--c"])
def test_names_that_are_fine(s3: Any, name: str) -> None:
    answer = s3.create_bucket(Bucket=name)
    assert answer["Location"] == f"/{name}"
    s3.head_bucket(Bucket=name)
    s3.delete_bucket(Bucket=name)
    with refused("404", 404):
        s3.head_bucket(Bucket=name)


@pytest.mark.operation("CreateBucket")
def test_making_it_again_keeps_what_is_in_it(s3: Any, bucket: str) -> None:
    """In us-east-1 S3 answers 200 to the owner, elsewhere 409 BucketAlreadyOwnedByYou."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    s3.create_bucket(Bucket=bucket)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    name = fresh()
    for expected in (None, "BucketAlreadyOwnedByYou"):
        arguments = {"Bucket": name, "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
        if expected is None:
            s3.create_bucket(**arguments)
        else:
            with refused(expected, 409):
                s3.create_bucket(**arguments)


@pytest.mark.operation("CreateBucket", "GetBucketLocation", "HeadBucket")
def test_a_bucket_says_where_it_is(s3: Any, bucket: str) -> None:
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == "us-east-1"
    name = fresh()
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == "eu-central-1"
    assert s3.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "eu-central-1"


@pytest.mark.operation("CreateBucket")
def test_configurations_of_creation(s3: Any, endpoint: Endpoint) -> None:
    for body in (b"", b"<CreateBucketConfiguration/>", b"<CreateBucketConfiguration><LocationConstraint/></CreateBucketConfiguration>"):
        assert endpoint.raw("PUT", f"/{fresh()}", {}, body).status == 200, body
    for body in (b"<Create", b"<Other/>", b"<CreateBucketConfiguration><Unknown/></CreateBucketConfiguration>"):
        answer = endpoint.raw("PUT", f"/{fresh()}", {}, body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), body
    answer = endpoint.raw("PUT", f"/{fresh()}", {"x-amz-acl": "no-such-acl"})
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    answer = endpoint.raw("PUT", f"/{fresh()}", {"x-amz-object-ownership": "Nobody"})
    assert (answer.status, answer.code) == (400, "InvalidArgument")


@pytest.mark.operation("CreateBucket", "GetBucketTagging", "GetBucketOwnershipControls")
def test_tags_and_ownership_come_with_creation(s3: Any) -> None:
    name = fresh()
    tags = [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": ""}]
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"Tags": tags}, ObjectOwnership="BucketOwnerEnforced")
    assert s3.get_bucket_tagging(Bucket=name)["TagSet"] == tags
    rules = s3.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"]
    assert rules == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    s3.delete_bucket(Bucket=name)
    s3.create_bucket(Bucket=name)
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=name)


@pytest.mark.operation("DeleteBucket")
def test_a_bucket_that_is_not_empty_stays(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    with refused("NoSuchBucket", 404):
        s3.delete_bucket(Bucket=bucket)


@pytest.mark.operation("DeleteBucket")
def test_open_uploads_do_not_keep_a_bucket(s3: Any, bucket: str) -> None:
    """S3 deletes a bucket whose only content is uploads that were never completed."""
    s3.create_multipart_upload(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.operation("HeadBucket", "GetBucketLocation", "ListObjectsV2", "PutObject")
def test_a_bucket_that_is_not_there(s3: Any, endpoint: Endpoint) -> None:
    name = fresh()
    with refused("404", 404):
        s3.head_bucket(Bucket=name)
    for step in (s3.get_bucket_location, s3.list_objects_v2, s3.list_objects, s3.list_object_versions, s3.list_multipart_uploads):
        with refused("NoSuchBucket", 404):
            step(Bucket=name)
    for step in (s3.get_object, s3.put_object, s3.delete_object, s3.create_multipart_upload):
        with refused("NoSuchBucket", 404):
            step(Bucket=name, Key="k")
    answer = endpoint.raw("GET", f"/{name}/k")
    assert answer.xml.findtext("BucketName") == name
    assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]


@pytest.mark.operation("HeadBucket")
def test_a_slash_behind_the_bucket_is_the_same_bucket(endpoint: Endpoint, bucket: str) -> None:
    for target in (f"/{bucket}", f"/{bucket}/"):
        assert endpoint.raw("HEAD", target).status == 200
        assert endpoint.raw("GET", target + "?location").status == 200
        assert endpoint.raw("GET", target + "?list-type=2").status == 200


@pytest.mark.operation("ListBuckets")
def test_the_list_of_buckets(s3: Any, bucket: str) -> None:
    answer = s3.list_buckets()
    assert answer["Owner"]["ID"] == canonical(s3)
    assert [item["Name"] for item in answer["Buckets"]] == sorted(item["Name"] for item in answer["Buckets"])
    (mine,) = [item for item in answer["Buckets"] if item["Name"] == bucket]
    assert abs(mine["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=2)
    assert "ContinuationToken" not in answer
    assert next(item for item in s3.list_buckets()["Buckets"] if item["Name"] == bucket) == mine


@pytest.mark.operation("ListBuckets")
def test_the_list_of_buckets_in_pages(s3: Any) -> None:
    stem = fresh()
    names = [f"{stem}-{letter}" for letter in "abcde"]
    for name in names:
        s3.create_bucket(Bucket=name)
    for size in (1, 2, 3, 5, 6):
        pages = list(s3.get_paginator("list_buckets").paginate(Prefix=stem + "-", PaginationConfig={"PageSize": size}))
        assert [item["Name"] for page in pages for item in page["Buckets"]] == names
        assert all(len(page["Buckets"]) <= size for page in pages)
        assert all(page["Prefix"] == stem + "-" for page in pages)
        assert "ContinuationToken" not in pages[-1]
    everything = [item["Name"] for item in drain(s3, "list_buckets", "Buckets", PaginationConfig={"PageSize": 2})]
    assert [name for name in everything if name in names] == names


@pytest.mark.operation("ListBuckets")
def test_the_list_of_buckets_of_a_region(s3: Any) -> None:
    stem = fresh()
    s3.create_bucket(Bucket=f"{stem}-far", CreateBucketConfiguration={"LocationConstraint": "ap-south-1"})
    s3.create_bucket(Bucket=f"{stem}-near")
    found = s3.list_buckets(Prefix=stem + "-", BucketRegion="ap-south-1")["Buckets"]
    assert [(item["Name"], item["BucketRegion"]) for item in found] == [(f"{stem}-far", "ap-south-1")]


@pytest.mark.operation("ListBuckets")
def test_pages_of_no_size_and_tokens_of_nobody(endpoint: Endpoint) -> None:
    for query in ("max-buckets=0", "max-buckets=-1", "max-buckets=x", "max-buckets=10001", "max-buckets=1&continuation-token=bogus"):
        answer = endpoint.raw("GET", f"/?{query}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), query


@pytest.mark.operation("ListBuckets")
def test_keys_that_are_not_right(endpoint: Endpoint) -> None:
    access_key, _ = endpoint.keys
    answer = endpoint.raw("GET", "/", keys=(access_key, "wrong"))
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    answer = endpoint.raw("GET", "/", keys=("NOSUCHKEY", "wrong"))
    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")
    assert answer.xml.findtext("AWSAccessKeyId") == "NOSUCHKEY"
    answer = endpoint.raw("GET", "/", sign=False)
    assert (answer.status, answer.code) == (403, "AccessDenied")
