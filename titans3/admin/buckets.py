"""Buckets of the whole server as an operator sees them.

Invariant: this is for whoever runs the server; what an account does with its own buckets goes by the S3 API.
"""

from __future__ import annotations

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.iam.acl import is_public as is_public_list
from titans3.model.control import BucketRecord
from titans3.query.errors import absent

_VERSIONING = ("", "Enabled", "Suspended")


class BucketShown(msgspec.Struct):
    """``owner`` is the account's number, ``owner_name`` its name. ``is_public``: policy or list let everybody in."""

    name: str
    owner: str
    owner_name: str
    created: str
    region: str
    versioning: str
    has_policy: bool
    is_public: bool
    ownership: str
    shards: int


async def list_buckets(call: AdminCall) -> list[BucketShown]:
    call.authorize("bucket/*", everywhere=True)
    buckets = call.server.cache.buckets
    return [_shown(call, buckets[name]) for name in sorted(buckets)]


async def get_bucket(call: AdminCall) -> BucketShown:
    name = call.names["bucket"]
    call.authorize(f"bucket/{name}", everywhere=True)
    bucket = call.server.cache.buckets.get(name)
    if bucket is None:
        raise absent("bucket", name)
    return _shown(call, bucket)


def _shown(call: AdminCall, bucket: BucketRecord) -> BucketShown:
    rules = call.context.store.rules.find(bucket)
    public = rules.is_public and not rules.block.restrict_buckets
    if rules.has_acls and rules.acl is not None and not rules.block.ignore_acls:
        public = public or is_public_list(rules.acl)
    return BucketShown(
        bucket.name, bucket.owner, call.identities.owner(bucket.owner)[1], iso_seconds(bucket.created_ms), bucket.region,
        _VERSIONING[bucket.versioning], rules.policy is not None, public, rules.ownership, bucket.shards,
    )  # fmt: skip


ROUTES = (
    Route("GET", "/buckets", "titans3:ListBuckets", list_buckets, "All buckets of all accounts", gives=BucketShown, many=True),
    Route("GET", "/buckets/{bucket}", "titans3:GetBucketInfo", get_bucket, "A bucket", gives=BucketShown),
)
