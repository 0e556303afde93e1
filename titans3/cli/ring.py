"""``titans3 tools ring``: which worker, volume and group a bucket or key belongs to, and where its bytes lie.

Invariant: it reads without a lock, also beside a running server; what it says of rows is as of the last checkpoint, and says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from titans3.cli.offline import data_option, folder_of, json_option, printable, show_json, show_table

if TYPE_CHECKING:
    from titans3.model.control import BucketRecord
    from titans3.ring.ownership import Ownership
    from titans3.supervisor.folder import ClusterFile

BUCKET_NAME_BYTES_MAX = 63
_RULE = (
    "shard = xxh3(key) mod shards; group = (xxh3(bucket id) + 61·shard) mod 1024; volume = the group table; worker = volume mod workers"
)

_workers = click.option("--workers", type=click.IntRange(1), metavar="N", help="Owners for so many workers.  [default: one per CPU]")
_id = click.option("--id", "bucket_id", type=click.IntRange(1), metavar="N", help="The bucket's id, instead of looking its name up.")
_shards = click.option("--shards", type=click.IntRange(1), metavar="N", help="With --id: the bucket's shards.")


@click.group()
def ring() -> None:
    """Where keys belong."""


@ring.command()
@click.argument("bucket", required=False, metavar="[BUCKET]")
@data_option
@_workers
@_id
@_shards
@json_option
def show(bucket: str | None, data: str | None, workers: int | None, bucket_id: int | None, shards: int | None, as_json: bool) -> None:
    """Workers and volumes with their groups and share of the hash space; with BUCKET, the places of its shards."""
    from titans3.supervisor.folder import read_cluster

    folder = folder_of(data)
    cluster = read_cluster(folder)
    owners = _owners(cluster, workers)
    if bucket is not None or bucket_id is not None:
        name = bucket or ""
        number, count = _bucket(folder, cluster, name, bucket_id, shards)
        _show_shards(name, number, count, _places(folder, cluster, owners, number, count, list(range(count))), as_json)
        return
    volumes = [
        {
            "volume": row.index, "uuid": row.uuid, "worker": owners.owners[row.index], "path": os.path.join(folder, row.path),
            "groups": (count := cluster.group_volume.count(row.index)), "share": count / cluster.groups,
        }
        for row in cluster.volumes
    ]  # fmt: skip
    members = [
        {
            "worker": worker, "volumes": [row["volume"] for row in volumes if row["worker"] == worker],
            "groups": (count := sum(1 for volume in cluster.group_volume if owners.owners[volume] == worker)),
            "share": count / cluster.groups,
        }
        for worker in sorted(set(owners.owners))
    ]  # fmt: skip
    if as_json:
        show_json({"cluster": cluster.cluster, "groups": cluster.groups, "rule": _RULE, "workers": members, "volumes": volumes})
        return
    click.echo(f"cluster {cluster.cluster}, {cluster.groups} groups; the system group (control plane) lies on volume 0")
    click.echo(_RULE + "\n")
    rows: list[tuple[object, ...]] = [("worker", "volumes", "groups", "share")]
    rows += [(row["worker"], ",".join(map(str, row["volumes"])), row["groups"], f"{row['share']:.1%}") for row in members]  # type: ignore[call-overload]
    show_table(rows)
    click.echo()
    rows = [("volume", "worker", "groups", "share", "uuid", "path")]
    rows += [(r["volume"], r["worker"], r["groups"], f"{r['share']:.1%}", r["uuid"], r["path"]) for r in volumes]
    show_table(rows, left=lambda column: column >= 4)


@ring.command()
@click.argument("target", metavar="BUCKET/KEY")
@data_option
@click.option("--version-id", default="", metavar="ID", help="This version instead of the newest.")
@_workers
@_id
@_shards
@json_option
def locate(
    target: str, data: str | None, version_id: str, workers: int | None, bucket_id: int | None, shards: int | None, as_json: bool
) -> None:
    """Shard, group, volume and worker of a key, and segment and offset of its bytes as of the last checkpoint."""
    from titans3.errors import ConfigError, DiskError
    from titans3.jobs.locate import locate_version
    from titans3.ring.placement import ring_hash, shard_of
    from titans3.supervisor.folder import read_cluster

    name, slash, text = target.partition("/")
    if not slash or not text:
        raise ConfigError(f"{printable(target)!r} is not BUCKET/KEY; `titans3 tools ring show BUCKET` shows a bucket's shards")
    folder = folder_of(data)
    cluster = read_cluster(folder)
    number, count = _bucket(folder, cluster, name, bucket_id, shards)
    key = os.fsencode(text)
    shard = shard_of(key, count)
    place = _places(folder, cluster, _owners(cluster, workers), number, count, [shard])[0]
    assert place["group"] == ring_hash(number, key, count)
    version, unread = None, ""
    paths = [os.path.join(folder, row.path) for row in cluster.volumes]
    try:
        version = locate_version(paths, place["volume"], place["group"], number, key, version_id)
    except DiskError as error:
        unread = str(error)
    told = {"bucket": name, "id": number, "shards": count, "key": text, **place, "version": version, "unread": unread}
    if as_json:
        show_json(told)
        return
    click.echo(f"bucket {printable(name)}, id {number}, {count} shards, key {printable(text)}")
    show_table([("shard", "group", "volume", "worker", "path"), [place[name] for name in ("shard", "group", "volume", "worker", "path")]])
    if unread:
        click.echo(f"where its bytes lie cannot be told: {printable(unread)}")
    elif version is None:
        click.echo("no such version as of the last checkpoint" if version_id else "no such key as of the last checkpoint")
    else:
        marker = ", a delete marker" if version.is_marker else ""
        click.echo(f"version {version.version_id}, {version.size} bytes{marker}, as of the last checkpoint")
        if version.extents:
            rows: list[tuple[object, ...]] = [("data id", "volume", "segment", "offset", "bytes", "kind")]
            rows += [
                (e.data_id, e.volume, e.segment or "not there", e.offset if e.segment else "-", e.length, e.kind) for e in version.extents
            ]
            show_table(rows)


def _owners(cluster: ClusterFile, workers: int | None) -> Ownership:
    from titans3.ring.ownership import Ownership, assign

    return Ownership(cluster.group_volume, assign(len(cluster.volumes), workers or len(os.sched_getaffinity(0))))


def _bucket(folder: str, cluster: ClusterFile, name: str, bucket_id: int | None, shards: int | None) -> tuple[int, int]:
    """(id, shards) of the bucket that is meant."""
    from titans3.limits import BUCKET_SHARDS

    if bucket_id is not None:
        return bucket_id, shards or BUCKET_SHARDS
    record = find_bucket(folder, cluster, name)
    return record.bucket, record.shards


def _places(folder: str, cluster: ClusterFile, owners: Ownership, bucket: int, count: int, shards: list[int]) -> list[dict[str, Any]]:
    from titans3.ring.placement import bucket_groups

    groups = bucket_groups(bucket, count)
    return [
        {
            "shard": shard, "group": groups[shard], "volume": owners.volume_of(groups[shard]), "worker": owners.owner_of(groups[shard]),
            "path": os.path.join(folder, cluster.volumes[owners.volume_of(groups[shard])].path),
        }
        for shard in shards
    ]  # fmt: skip


def _show_shards(name: str, bucket: int, count: int, places: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"bucket": name, "id": bucket, "shards": count, "places": places})
        return
    click.echo(f"bucket {printable(name)}, id {bucket}, {count} shards")
    columns = ("shard", "group", "volume", "worker", "path")
    show_table([columns, *([row[column] for column in columns] for row in places)])


def find_bucket(folder: str, cluster: ClusterFile, name: str) -> BucketRecord:
    """A bucket's record as of the last checkpoint. Raises ConfigError if it is not there, DiskError, FormatError for a damaged row."""
    import msgspec

    from titans3.errors import ConfigError, FormatError
    from titans3.limits import SYSTEM_GROUP
    from titans3.meta.keys import control_key
    from titans3.meta.tree import Tree
    from titans3.model.control import BucketRecord, Rec
    from titans3.ring.ownership import SYSTEM_VOLUME

    path = os.path.join(folder, cluster.volumes[SYSTEM_VOLUME].path, "meta")
    absent = ConfigError(f"{path} knows no bucket {name!r}, as of the last checkpoint; --id N gives places without a look-up")
    if not name.isascii() or len(name) > BUCKET_NAME_BYTES_MAX or not os.path.exists(os.path.join(path, "data.mdb")):
        raise absent
    with Tree(path) as tree:
        raw = tree.get(control_key(SYSTEM_GROUP, f"/buckets/{name}"))
    if raw is None:
        raise absent
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.decode(raw, type=Rec).value, type=BucketRecord)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path}: the row of bucket {name!r} is not readable: {error}") from error
