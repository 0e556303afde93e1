"""CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html and its neighbours
"""

from __future__ import annotations

import re

from titans3.cluster.rules import ENFORCED
from titans3.http.message import Response
from titans3.model.configuration import BucketAcl, BucketTags, Configuration
from titans3.model.names import is_bucket_name
from titans3.s3.acl import acl_of_new_bucket
from titans3.s3.call import Call
from titans3.s3.errors import S3Error
from titans3.s3.ownership import ownership_of
from titans3.s3.tags import BUCKET_TAGS_MAX, checked_tags
from titans3.s3.xmlin import parse_create_bucket
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_text

_REGION = re.compile(r"[A-Za-z0-9-]{1,63}\Z").match
_DEFAULT_REGION = "us-east-1"


async def create_bucket(call: Call) -> Response:
    """Make a bucket; again by its owner is 200 in us-east-1. Raises InvalidBucketName, BucketAlreadyExists, BucketAlreadyOwnedByYou."""
    name = call.bucket_name
    if not is_bucket_name(name):
        raise S3Error("InvalidBucketName", BucketName=name[:255])
    configurations: list[Configuration] = []
    ownership = call.header(b"x-amz-object-ownership")
    if ownership is not None:
        configurations.append(ownership_of(ownership))
    owner = call.store.identities.owner(call.identity.account)[0]
    grants = acl_of_new_bucket(call, owner)
    if grants is not None:
        if (ownership or call.store.rules.default_ownership) == ENFORCED:
            raise S3Error("InvalidBucketAclWithObjectOwnership", BucketName=name)
        configurations.append(BucketAcl(1, grants))
    region, tags = parse_create_bucket(await call.read_proven())
    region = region or call.context.region
    if not _REGION(region):
        raise S3Error("InvalidLocationConstraint", LocationConstraint=region[:255])
    if call.context.required_region and region != call.context.required_region:
        raise S3Error(
            "IllegalLocationConstraintException",
            f"The {region} location constraint is incompatible for the region specific endpoint this request was sent to.",
        )
    if tags:
        configurations.append(BucketTags(1, checked_tags(tags, BUCKET_TAGS_MAX)))
    record, is_new = await call.store.create_bucket(name, call.identity.account, region, configurations)
    if not is_new:
        if record.owner != call.identity.account:
            raise S3Error("BucketAlreadyExists", BucketName=name)
        if record.region != _DEFAULT_REGION or region != record.region:
            raise S3Error("BucketAlreadyOwnedByYou", BucketName=name)
    return Response(200, [(b"location", b"/" + name.encode("ascii"))])


async def head_bucket(call: Call) -> Response:
    """Whether it is there and where. Raises NoSuchBucket."""
    return Response(200, [region_header(call), (b"x-amz-access-point-alias", b"false"), CONTENT_TYPE])


async def delete_bucket(call: Call) -> Response:
    """Remove an empty bucket. Raises BucketNotEmpty, OperationAborted."""
    await call.store.delete_bucket(call.bucket_name)
    return Response(204)


async def get_bucket_location(call: Call) -> Response:
    """The region; empty for us-east-1."""
    region = call.bucket.region
    return Response(
        200, [CONTENT_TYPE], document("LocationConstraint", "" if region == _DEFAULT_REGION else escape_text(region))
    )


def region_header(call: Call) -> tuple[bytes, bytes]:
    """``x-amz-bucket-region``."""
    return b"x-amz-bucket-region", call.bucket.region.encode("latin-1")
