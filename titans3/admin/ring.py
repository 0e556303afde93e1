"""The ring of the running server: which volume and worker a bucket or key belongs to, and where its bytes lie right now.

Invariant: this is for whoever runs the server. Nothing is changed, and of a version at most LOCATED_EXTENTS_MAX extents are looked up.
"""

from __future__ import annotations

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.engine.location import PlacedExtent
from titans3.errors import ClientError, Reason
from titans3.limits import GROUPS, KEY_BYTES_MAX, LOCATED_EXTENTS_MAX
from titans3.model.control import BucketRecord
from titans3.model.version import MARKER, Version
from titans3.query.errors import QueryError, absent
from titans3.ring.placement import bucket_groups, shard_of


class RingWorker(msgspec.Struct):
    """A worker's part. ``share`` is of all groups, 0 to 1."""

    worker: int
    volumes: list[int]
    groups: int
    share: float


class RingVolume(msgspec.Struct):
    """A volume's part, and the worker that owns it now."""

    volume: int
    worker: int
    groups: int
    share: float
    uuid: str
    path: str


class RingShown(msgspec.Struct):
    """The system group, which holds the control plane, lies on volume 0."""

    cluster: str
    groups: int
    workers: list[RingWorker]
    volumes: list[RingVolume]


class PlaceShown(msgspec.Struct):
    """Where a shard of a bucket lies; ``path`` is its volume's."""

    shard: int
    group: int
    volume: int
    worker: int
    path: str


class BucketPlaces(msgspec.Struct):
    """``id``: what the bucket is called in keys of rows."""

    bucket: str
    id: int
    shards: int
    places: list[PlaceShown]


class VersionPlaces(msgspec.Struct):
    """``extents``: the first 1,000 of ``extents_count`` runs of bytes."""

    version_id: str
    size: int
    etag: str
    is_marker: bool
    extents_count: int
    extents: list[PlacedExtent]


class KeyPlaces(msgspec.Struct):
    """Where a key belongs, whether it is there or not; ``version`` is null if it is not."""

    bucket: str
    id: int
    shards: int
    key: str
    place: PlaceShown
    version: VersionPlaces | None


async def get_ring(call: AdminCall) -> RingShown:
    call.authorize("ring", everywhere=True)
    server = call.server
    counts = [0] * len(server.volumes)
    for group in range(GROUPS):
        counts[server.ownership.volume_of(group)] += 1
    volumes = [
        RingVolume(place.index, server.owners[place.index], counts[place.index], counts[place.index] / GROUPS, place.uuid, place.path)
        for place in server.volumes
    ]
    workers = []
    for worker in range(server.board.workers):
        mine = [volume for volume in volumes if volume.worker == worker]
        groups = sum(volume.groups for volume in mine)
        workers.append(RingWorker(worker, [volume.volume for volume in mine], groups, groups / GROUPS))
    return RingShown(server.cluster, GROUPS, workers, volumes)


async def get_bucket_places(call: AdminCall) -> BucketPlaces:
    call.authorize("ring", everywhere=True)
    bucket = _find(call)
    places = [_place(call, shard, group) for shard, group in enumerate(bucket_groups(bucket.bucket, bucket.shards))]
    return BucketPlaces(bucket.name, bucket.bucket, bucket.shards, places)


async def locate_key(call: AdminCall) -> KeyPlaces:
    call.authorize(f"bucket/{call.names['bucket']}", everywhere=True)
    bucket = _find(call)
    text = call.query.get("key", "")
    key = text.encode()
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise QueryError("ValidationError", f"key is needed: 1 to {KEY_BYTES_MAX} bytes of UTF-8.")
    shard = shard_of(key, bucket.shards)
    place = _place(call, shard, bucket_groups(bucket.bucket, bucket.shards)[shard])
    version = await _version(call, bucket, key)
    return KeyPlaces(bucket.name, bucket.bucket, bucket.shards, text, place, version)


async def _version(call: AdminCall, bucket: BucketRecord, key: bytes) -> VersionPlaces | None:
    store = call.context.store
    try:
        version = (await store.find(bucket, key, version_id=call.query.get("version_id", ""))).version
    except ClientError as error:
        if error.reason not in (Reason.KEY_ABSENT, Reason.VERSION_ABSENT):
            raise
        marker = error.fields.get("marker")
        if not isinstance(marker, Version):
            return None
        version = marker
    is_marker = bool(version.flags & MARKER)
    parts = () if is_marker else await store.parts_of(bucket, key, version)
    extents = [extent for part in parts for extent in part.extents]
    placed = await store.locate(bucket, key, extents[:LOCATED_EXTENTS_MAX])
    return VersionPlaces(version.version_id, version.size, version.etag_text, is_marker, len(extents), placed)


def _find(call: AdminCall) -> BucketRecord:
    name = call.names["bucket"]
    bucket = call.server.cache.buckets.get(name)
    if bucket is None:
        raise absent("bucket", name)
    return bucket


def _place(call: AdminCall, shard: int, group: int) -> PlaceShown:
    server = call.server
    volume = server.ownership.volume_of(group)
    return PlaceShown(shard, group, volume, server.owners[volume], server.volumes[volume].path)


ROUTES = (
    Route("GET", "/ring", "titans3:GetRing", get_ring, "Workers and volumes with their groups and share of all", gives=RingShown),
    Route("GET", "/ring/{bucket}", "titans3:GetRing", get_bucket_places, "Where the shards of a bucket lie", gives=BucketPlaces),
    Route(
        "GET", "/ring/{bucket}/locate", "titans3:LocateKey", locate_key,
        "Where `key` belongs, and the bytes of its newest version, or of `version_id`, lie right now", gives=KeyPlaces,
        query=("key", "version_id"),
    ),
)  # fmt: skip
