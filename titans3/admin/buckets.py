"""Buckets of the whole server as an operator sees them.

Invariant: this is for whoever runs the server; what an account does with its own buckets goes by the S3 API.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.iam.acl import is_public as is_public_list
from titans3.model.control import BucketRecord
from titans3.model.version import BucketUsage
from titans3.query.errors import absent

_VERSIONING = ("", "Enabled", "Suspended")


class BucketShown(msgspec.Struct):
    """``owner`` is the account's number, ``owner_name`` its name. ``is_public``: policy or list let everybody in.

    ``quota``: bytes, 0 for none.
    """

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
    quota: int


class BucketInfo(BucketShown):
    """The same, and what it holds, as of now: see UsageShown."""

    objects: int = 0
    versions: int = 0
    markers: int = 0
    uploads: int = 0
    stored_bytes: int = 0
    upload_bytes: int = 0


class UsageShown(msgspec.Struct):
    """What a bucket holds, as of now, and who owns it.

    ``objects``: keys, those with a delete marker too; ``versions`` all stored versions, ``markers`` delete markers, ``stored_bytes``
    of all versions; ``uploads`` open, ``upload_bytes`` in their parts. A quota counts both bytes.
    """

    name: str
    owner: str
    owner_name: str
    quota: int
    objects: int
    versions: int
    markers: int
    uploads: int
    stored_bytes: int
    upload_bytes: int


class AccountUsage(msgspec.Struct):
    """The sum over the buckets that an account owns, as of now; see UsageShown."""

    account: str
    account_name: str
    buckets: int
    objects: int = 0
    versions: int = 0
    markers: int = 0
    uploads: int = 0
    stored_bytes: int = 0
    upload_bytes: int = 0


class NewQuota(msgspec.Struct, forbid_unknown_fields=True):
    """``bytes``: more than 0. A bucket that holds more already keeps it, and does not grow."""

    bytes: Annotated[int, msgspec.Meta(gt=0, le=(1 << 62) - 1)]


class QuotaShown(msgspec.Struct):
    """``quota``: bytes, 0 for none. ``used``: bytes of all versions and of the parts of open uploads."""

    bucket: str
    quota: int
    used: int


async def list_buckets(call: AdminCall) -> list[BucketShown]:
    call.authorize("bucket/*", everywhere=True)
    buckets = call.server.cache.buckets
    return [_shown(call, buckets[name]) for name in sorted(buckets)]


async def get_bucket(call: AdminCall) -> BucketInfo:
    bucket = await _find(call)
    objects, versions, markers, uploads, stored, parts = _counted(await call.context.store.usage(bucket))
    return BucketInfo(
        **msgspec.structs.asdict(_shown(call, bucket)), objects=objects, versions=versions, markers=markers, uploads=uploads,
        stored_bytes=stored, upload_bytes=parts,
    )  # fmt: skip


async def list_usage(call: AdminCall) -> list[UsageShown]:
    call.authorize("bucket/*", everywhere=True)
    return [
        UsageShown(bucket.name, bucket.owner, call.identities.owner(bucket.owner)[1], bucket.quota, *_counted(usage))
        for bucket, usage in await _all_usage(call)
    ]


async def list_account_usage(call: AdminCall) -> list[AccountUsage]:
    call.authorize("bucket/*", everywhere=True)
    counts: dict[str, int] = {}
    sums: dict[str, BucketUsage] = {}
    for bucket, usage in await _all_usage(call):
        counts[bucket.owner] = counts.get(bucket.owner, 0) + 1
        sums[bucket.owner] = sums.get(bucket.owner, BucketUsage()) + usage
    return [
        AccountUsage(owner, call.identities.owner(owner)[1], counts[owner], *_counted(sums[owner])) for owner in sorted(sums)
    ]


async def get_quota(call: AdminCall) -> QuotaShown:
    return await _quota(call, await _find(call))


async def set_quota(call: AdminCall) -> QuotaShown:
    bucket = await _find(call)
    await call.context.store.set_quota(bucket.name, call.body(NewQuota).bytes)
    return await _quota(call, await call.context.store.bucket(bucket.name))


async def delete_quota(call: AdminCall) -> None:
    await call.context.store.set_quota((await _find(call)).name, 0)


async def _quota(call: AdminCall, bucket: BucketRecord) -> QuotaShown:
    return QuotaShown(bucket.name, bucket.quota, (await call.context.store.usage(bucket)).bytes)


async def _find(call: AdminCall) -> BucketRecord:
    name = call.names["bucket"]
    call.authorize(f"bucket/{name}", everywhere=True)
    bucket = call.server.cache.buckets.get(name)
    if bucket is None:
        raise absent("bucket", name)
    return bucket


async def _all_usage(call: AdminCall) -> list[tuple[BucketRecord, BucketUsage]]:
    """Bucket after bucket: others have their turn in between."""
    buckets = call.server.cache.buckets
    found = []
    for bucket in [buckets[name] for name in sorted(buckets)]:
        found.append((bucket, await call.context.store.usage(bucket)))
        await asyncio.sleep(0)
    return found


def _counted(usage: BucketUsage) -> tuple[int, int, int, int, int, int]:
    return usage.keys, usage.versions, usage.markers, usage.uploads, usage.stored_bytes, usage.upload_bytes


def _shown(call: AdminCall, bucket: BucketRecord) -> BucketShown:
    rules = call.context.store.rules.find(bucket)
    public = rules.is_public and not rules.block.restrict_buckets
    if rules.has_acls and rules.acl is not None and not rules.block.ignore_acls:
        public = public or is_public_list(rules.acl)
    return BucketShown(
        bucket.name, bucket.owner, call.identities.owner(bucket.owner)[1], iso_seconds(bucket.created_ms), bucket.region,
        _VERSIONING[bucket.versioning], rules.policy is not None, public, rules.ownership, bucket.shards,
        bucket.quota,
    )  # fmt: skip


ROUTES = (
    Route("GET", "/buckets", "titans3:ListBuckets", list_buckets, "All buckets of all accounts", gives=BucketShown, many=True),
    Route("GET", "/buckets/{bucket}", "titans3:GetBucketInfo", get_bucket, "A bucket, and what it holds", gives=BucketInfo),
    Route("GET", "/usage", "titans3:GetUsage", list_usage, "What every bucket holds, as of now", gives=UsageShown, many=True),
    Route("GET", "/usage/accounts", "titans3:GetUsage", list_account_usage, "What the accounts own", gives=AccountUsage, many=True),
    Route("GET", "/buckets/{bucket}/quota", "titans3:GetBucketQuota", get_quota, "The quota, and what is used of it", gives=QuotaShown),
    Route(
        "PUT", "/buckets/{bucket}/quota", "titans3:SetBucketQuota", set_quota, "Set it; in force on every shard at the answer", NewQuota,
        QuotaShown,
    ),
    Route("DELETE", "/buckets/{bucket}/quota", "titans3:SetBucketQuota", delete_quota, "Take it away", status=204),
)
