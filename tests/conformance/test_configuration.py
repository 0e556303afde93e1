"""What is read of a bucket on the way: tags, ownership, and all that is not configured.

Sources: the pages of each operation under https://docs.aws.amazon.com/AmazonS3/latest/API/, "Special Errors";
https://docs.aws.amazon.com/AmazonS3/latest/userguide/CostAllocTagging.html
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.served import Endpoint, canonical, refused

ABSENT = [
    ("get_bucket_policy", {}, "NoSuchBucketPolicy"),
    ("get_bucket_lifecycle_configuration", {}, "NoSuchLifecycleConfiguration"),
    ("get_bucket_encryption", {}, "ServerSideEncryptionConfigurationNotFoundError"),
    ("get_object_lock_configuration", {}, "ObjectLockConfigurationNotFoundError"),
    ("get_bucket_tagging", {}, "NoSuchTagSet"),
    ("get_bucket_website", {}, "NoSuchWebsiteConfiguration"),
    ("get_bucket_replication", {}, "ReplicationConfigurationNotFoundError"),
    ("get_public_access_block", {}, "NoSuchPublicAccessBlockConfiguration"),
    ("get_bucket_ownership_controls", {}, "OwnershipControlsNotFoundError"),
    ("get_bucket_cors", {}, "NoSuchCORSConfiguration"),
    ("get_bucket_analytics_configuration", {"Id": "x"}, "NoSuchConfiguration"),
    ("get_bucket_inventory_configuration", {"Id": "x"}, "NoSuchConfiguration"),
    ("get_bucket_metrics_configuration", {"Id": "x"}, "NoSuchConfiguration"),
    ("get_bucket_intelligent_tiering_configuration", {"Id": "x"}, "NoSuchConfiguration"),
]
EMPTY = [
    ("get_bucket_logging", {}),
    ("get_bucket_notification_configuration", {}),
    ("get_bucket_accelerate_configuration", {}),
    ("get_bucket_request_payment", {"Payer": "BucketOwner"}),
    ("list_bucket_analytics_configurations", {"IsTruncated": False}),
    ("list_bucket_inventory_configurations", {"IsTruncated": False}),
    ("list_bucket_metrics_configurations", {"IsTruncated": False}),
    ("list_bucket_intelligent_tiering_configurations", {"IsTruncated": False}),
]
KINDS = ("analytics", "inventory", "metrics", "intelligent_tiering")
DELETES = [
    "delete_bucket_policy", "delete_bucket_lifecycle", "delete_bucket_encryption", "delete_bucket_tagging", "delete_bucket_website",
    "delete_bucket_replication", "delete_public_access_block", "delete_bucket_ownership_controls", "delete_bucket_cors",
]  # fmt: skip


def of(row: tuple[Any, ...]) -> Any:
    """A row as a parameter that shows the operation behind the method of boto3 in front of it."""
    name = "".join(word.title() for word in row[0].split("_"))
    return pytest.param(*row, marks=pytest.mark.operation(name), id=row[0])


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize(("name", "arguments", "code"), [of(row) for row in ABSENT])
def test_what_is_not_configured_is_not_found(s3: Any, bucket: str, name: str, arguments: dict[str, str], code: str) -> None:
    with refused(code, 404):
        getattr(s3, name)(Bucket=bucket, **arguments)
    with refused("NoSuchBucket", 404):
        getattr(s3, name)(Bucket=bucket + "-not-there", **arguments)


@pytest.mark.parametrize(("name", "expected"), [of(row) for row in EMPTY])
def test_what_is_not_configured_is_empty(s3: Any, bucket: str, name: str, expected: dict[str, Any]) -> None:
    assert plain(getattr(s3, name)(Bucket=bucket)) == expected
    with refused("NoSuchBucket", 404):
        getattr(s3, name)(Bucket=bucket + "-not-there")


@pytest.mark.parametrize("name", [of((name,)) for name in DELETES])
def test_what_is_not_there_is_deleted(s3: Any, bucket: str, name: str) -> None:
    assert getattr(s3, name)(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchBucket", 404):
        getattr(s3, name)(Bucket=bucket + "-not-there")


@pytest.mark.parametrize("name", [of((f"delete_bucket_{kind}_configuration",)) for kind in KINDS])
def test_configurations_by_id_are_not_found(s3: Any, bucket: str, name: str) -> None:
    with refused("NoSuchConfiguration", 404):
        getattr(s3, name)(Bucket=bucket, Id="x")


@pytest.mark.operation("GetBucketAcl", "GetObjectAcl")
def test_everything_is_private(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    grantee = {"ID": canonical(s3), "DisplayName": "root", "Type": "CanonicalUser"}
    for answer in (s3.get_bucket_acl(Bucket=bucket), s3.get_object_acl(Bucket=bucket, Key="k")):
        assert answer["Owner"]["ID"] == canonical(s3)
        assert answer["Grants"] == [{"Grantee": grantee, "Permission": "FULL_CONTROL"}]
    with refused("NoSuchKey", 404):
        s3.get_object_acl(Bucket=bucket, Key="missing")


@pytest.mark.operation("GetBucketPolicyStatus")
def test_a_fresh_bucket_is_not_public(s3: Any, bucket: str) -> None:
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"] == {"IsPublic": False}
    with refused("NoSuchBucket", 404):
        s3.get_bucket_policy_status(Bucket=bucket + "-not-there")


@pytest.mark.operation("GetObjectRetention", "GetObjectLegalHold")
def test_versions_of_a_bucket_without_object_lock(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    for name in ("get_object_retention", "get_object_legal_hold"):
        with refused("InvalidRequest", 400):
            getattr(s3, name)(Bucket=bucket, Key="k")
        with refused("NoSuchKey", 404):
            getattr(s3, name)(Bucket=bucket, Key="missing")


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("put_bucket_website", {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "i"}}}),
    ("put_bucket_request_payment", {"RequestPaymentConfiguration": {"Payer": "Requester"}}),
    ("put_bucket_accelerate_configuration", {"AccelerateConfiguration": {"Status": "Enabled"}}),
    ("put_bucket_logging", {"BucketLoggingStatus": {}}),
    ("put_bucket_notification_configuration", {"NotificationConfiguration": {}}),
]


@pytest.mark.parametrize(("name", "arguments"), SETTINGS)
def test_what_cannot_be_configured_says_so(s3: Any, bucket: str, name: str, arguments: dict[str, Any]) -> None:
    with refused("NotImplemented", 501):
        getattr(s3, name)(Bucket=bucket, **arguments)


# tags


def tag_set(s3: Any, bucket: str) -> Any:
    return s3.get_bucket_tagging(Bucket=bucket)["TagSet"]


@pytest.mark.operation("PutBucketTagging", "GetBucketTagging", "DeleteBucketTagging")
def test_tags_of_a_bucket(s3: Any, bucket: str) -> None:
    tags = [{"Key": "team", "Value": "storage"}, {"Key": "Ümläut", "Value": ""}, {"Key": "a+b=c", "Value": "x y:/@"}]
    assert s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert tag_set(s3, bucket) == tags
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags[:1]})
    assert tag_set(s3, bucket) == tags[:1]
    assert s3.delete_bucket_tagging(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchTagSet", 404):
        tag_set(s3, bucket)


@pytest.mark.operation("PutBucketTagging")
@pytest.mark.parametrize(
    "tags",
    [
        [("aws:reserved", "x")], [("k" * 129, "x")], [("k", "v" * 257)], [("k", "1"), ("k", "2")], [("k{", "x")],
        [(f"k{number}", "") for number in range(51)],
    ],
    ids=["reserved", "long key", "long value", "twice", "character", "many"],
)  # fmt: skip
def test_tags_that_are_refused(s3: Any, bucket: str, tags: list[tuple[str, str]]) -> None:
    with refused("InvalidTag", 400):
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": key, "Value": value} for key, value in tags]})
    with refused("NoSuchTagSet", 404):
        tag_set(s3, bucket)


@pytest.mark.operation("PutBucketTagging")
def test_fifty_tags_and_a_document_that_is_none(s3: Any, bucket: str, endpoint: Endpoint) -> None:
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": f"k{number}", "Value": ""} for number in range(50)]})
    assert len(tag_set(s3, bucket)) == 50
    answer = endpoint.raw("PUT", f"/{bucket}?tagging", {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, b"")
    assert (answer.status, answer.code) == (400, "MalformedXML")


# ownership


@pytest.mark.operation("PutBucketOwnershipControls", "GetBucketOwnershipControls", "DeleteBucketOwnershipControls")
@pytest.mark.parametrize("word", ["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"])
def test_ownership_is_kept(s3: Any, bucket: str, word: str) -> None:
    controls = {"Rules": [{"ObjectOwnership": word}]}
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=controls)
    assert s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"] == controls
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    with refused("OwnershipControlsNotFoundError", 404):
        s3.get_bucket_ownership_controls(Bucket=bucket)


@pytest.mark.operation("PutBucketOwnershipControls")
def test_ownership_of_another_word_is_malformed(s3: Any, bucket: str) -> None:
    for rules in ([{"ObjectOwnership": "Nobody"}], [], [{"ObjectOwnership": "ObjectWriter"}] * 2):
        with refused("MalformedXML", 400):
            s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": rules})
