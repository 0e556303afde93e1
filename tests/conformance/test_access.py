"""Bucket policies, access control lists and public access block, as boto3 and a stranger see them.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-overview.html, .../acl-overview.html,
.../about-object-ownership.html and .../access-control-block-public-access.html
"""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from tests.conformance.served import Endpoint, canonical, refused

ALL = "http://acs.amazonaws.com/groups/global/AllUsers"
SWITCHES = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


@pytest.fixture(scope="module")
def stranger(endpoint: Endpoint) -> Any:
    """A client that signs nothing."""
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    return boto3.client(
        "s3", endpoint_url=endpoint.url, region_name="us-east-1", verify=endpoint.authority or None, config=config
    )


def public(bucket: str, action: str = "s3:GetObject", **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{bucket}/*", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def block(s3: Any, bucket: str, *switches: str) -> None:
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={name: name in switches for name in SWITCHES})


def read(client: Any, bucket: str, key: str = "key") -> bytes:
    return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


@pytest.mark.operation("PutBucketPolicy", "GetBucketPolicy", "DeleteBucketPolicy", "GetBucketPolicyStatus")
def test_a_policy_lets_strangers_read_until_it_is_gone(s3: Any, stranger: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body")
    with refused("AccessDenied", 403):
        read(stranger, bucket)
    text = public(bucket) + "\n"
    assert s3.put_bucket_policy(Bucket=bucket, Policy=text)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == text
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    assert read(stranger, bucket) == b"body"
    with refused("AccessDenied", 403):
        stranger.put_object(Bucket=bucket, Key="key", Body=b"")
    with refused("AccessDenied", 403):
        read(stranger, bucket, "missing")
    s3.delete_bucket_policy(Bucket=bucket)
    with refused("AccessDenied", 403):
        read(stranger, bucket)


@pytest.mark.operation("PutBucketPolicy")
@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"Statement": []}', public("another"), public("b").replace("Allow", "Maybe")])
def test_policies_that_are_refused(s3: Any, bucket: str, text: str) -> None:
    with refused("MalformedPolicy", 400):
        s3.put_bucket_policy(Bucket=bucket, Policy=text)
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)


@pytest.mark.operation("PutBucketPolicy")
def test_an_allow_with_not_principal_is_refused(s3: Any, bucket: str) -> None:
    with refused("MalformedPolicy", 400):
        s3.put_bucket_policy(Bucket=bucket, Policy=public(bucket).replace('"Principal"', '"NotPrincipal"'))


@pytest.mark.operation("PutBucketPolicy", "DeleteBucketPolicy")
def test_nobody_locks_himself_out(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body")
    s3.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:*").replace("Allow", "Deny"))
    with refused("AccessDenied", 403):
        read(s3, bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert read(s3, bucket) == b"body"


@pytest.mark.operation("PutBucketAcl", "GetBucketAcl", "PutObjectAcl", "GetObjectAcl")
def test_lists_of_bucket_and_object_are_two(s3: Any, stranger: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert [item["Key"] for item in stranger.list_objects_v2(Bucket=bucket)["Contents"]] == ["key"]
    with refused("AccessDenied", 403):
        read(stranger, bucket)
    with refused("NoSuchKey", 404):
        read(stranger, bucket, "missing")
    s3.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    assert read(stranger, bucket) == b"body"
    with refused("AccessDenied", 403):
        stranger.list_objects_v2(Bucket=bucket)
    grants = s3.get_object_acl(Bucket=bucket, Key="key")["Grants"]
    assert {"Grantee": {"Type": "Group", "URI": ALL}, "Permission": "READ"} in grants
    assert len(s3.get_bucket_acl(Bucket=bucket)["Grants"]) == 1


@pytest.mark.operation("PutObjectAcl", "GetObjectAcl", "PutObject")
def test_grants_by_header_and_document(s3: Any, bucket: str) -> None:
    me = canonical(s3)
    s3.put_object(Bucket=bucket, Key="key", Body=b"", GrantRead=f'uri="{ALL}"', GrantFullControl=f"id={me}")
    assert [grant["Permission"] for grant in s3.get_object_acl(Bucket=bucket, Key="key")["Grants"]] == ["FULL_CONTROL", "READ"]
    policy = {"Owner": {"ID": me}, "Grants": [{"Grantee": {"Type": "CanonicalUser", "ID": me}, "Permission": "READ_ACP"}]}
    s3.put_object_acl(Bucket=bucket, Key="key", AccessControlPolicy=policy)
    assert [grant["Permission"] for grant in s3.get_object_acl(Bucket=bucket, Key="key")["Grants"]] == ["READ_ACP"]
    policy["Grants"][0]["Grantee"]["ID"] = "0" * 64  # type: ignore[index]
    with refused("InvalidArgument", 400):
        s3.put_object_acl(Bucket=bucket, Key="key", AccessControlPolicy=policy)
    policy["Grants"][0]["Grantee"] = {"Type": "AmazonCustomerByEmail", "EmailAddress": "nobody@example.com"}  # type: ignore[index]
    with refused("UnresolvableGrantByEmailAddress", 400):
        s3.put_object_acl(Bucket=bucket, Key="key", AccessControlPolicy=policy)


@pytest.mark.operation("PutBucketOwnershipControls", "PutBucketAcl", "PutObjectAcl")
def test_without_lists_none_is_taken(s3: Any, stranger: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"", ACL="public-read")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    controls = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=controls)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=controls)
    with refused("AccessControlListNotSupported", 400):
        s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with refused("AccessControlListNotSupported", 400):
        s3.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    s3.put_object(Bucket=bucket, Key="key2", Body=b"", ACL="bucket-owner-full-control")
    with refused("AccessDenied", 403):
        read(stranger, bucket)


@pytest.mark.operation("PutPublicAccessBlock", "GetPublicAccessBlock", "DeletePublicAccessBlock")
def test_the_four_switches(s3: Any, stranger: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body", ACL="public-read")
    block(s3, bucket, "BlockPublicAcls")
    assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == {
        name: name == "BlockPublicAcls" for name in SWITCHES
    }
    with refused("AccessDenied", 403):
        s3.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    with refused("AccessDenied", 403):
        s3.put_object(Bucket=bucket, Key="new", Body=b"", ACL="public-read-write")
    assert read(stranger, bucket) == b"body"
    block(s3, bucket, "IgnorePublicAcls")
    with refused("AccessDenied", 403):
        read(stranger, bucket)
    block(s3, bucket, "BlockPublicPolicy")
    with refused("AccessDenied", 403):
        s3.put_bucket_policy(Bucket=bucket, Policy=public(bucket))
    fixed = public(bucket, Condition={"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}})
    s3.put_bucket_policy(Bucket=bucket, Policy=fixed)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False
    s3.delete_public_access_block(Bucket=bucket)
    with refused("NoSuchPublicAccessBlockConfiguration", 404):
        s3.get_public_access_block(Bucket=bucket)


@pytest.mark.operation("PutPublicAccessBlock")
def test_a_public_policy_is_restricted_to_the_account(s3: Any, stranger: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body")
    s3.put_bucket_policy(Bucket=bucket, Policy=public(bucket))
    assert read(stranger, bucket) == b"body"
    block(s3, bucket, "RestrictPublicBuckets")
    with refused("AccessDenied", 403):
        read(stranger, bucket)
    assert read(s3, bucket) == b"body"
