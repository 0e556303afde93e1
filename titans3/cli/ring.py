"""``titans3 tools ring``: which shard, group, volume and worker a bucket or a key belongs to.

Invariant: nothing is locked and nothing written, so that it can be asked beside a running server; a bucket's name is looked up as of
the last checkpoint.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from titans3.model.control import BucketRecord
    from titans3.ring.ownership import Ownership
    from titans3.supervisor.folder import ClusterFile

BUCKET_NAME_BYTES_MAX = 63
_data = click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
_workers = click.option("--workers", type=click.IntRange(1), metavar="N", help="Owners for so many workers.  [default: one per CPU]")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group()
def ring() -> None:
    """Where keys belong.

    shard = xxh3(key) mod shards; group = (xxh3(bucket id) + 61·shard) mod 1024; volume = the group table of cluster.json;
    worker = volume mod min(workers, volumes), made anew at each start.
    """


@ring.command()
@_data
@_workers
@_json
def show(data: str | None, workers: int | None, as_json: bool) -> None:
    """The volumes, how many of the 1,024 groups each has, and which worker owns it."""
    import msgspec

    folder, cluster = _cluster(data)
    owners = _owners(cluster, workers)
    rows = [
        {
            "volume": row.index, "path": os.path.join(folder, row.path), "uuid": row.uuid,
            "groups": sum(1 for volume in cluster.group_volume if volume == row.index), "worker": owners.owners[row.index],
        }
        for row in cluster.volumes
    ]  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode({"groups": len(cluster.group_volume), "volumes": rows}))
        return
    click.echo("volume  groups  share  worker  path")
    for row in rows:
        share = int(str(row["groups"])) / len(cluster.group_volume)
        click.echo(f"{row['volume']:>6}  {row['groups']:>6}  {share:>5.1%}  {row['worker']:>6}  {row['path']}")


@ring.command()
@click.argument("target", metavar="BUCKET[/KEY]")
@_data
@_workers
@click.option("--id", "bucket_id", type=click.IntRange(1), metavar="N", help="The bucket's id, instead of looking its name up.")
@click.option("--shards", type=click.IntRange(1), metavar="N", help="With --id: the bucket's shards.")
@_json
def locate(target: str, data: str | None, workers: int | None, bucket_id: int | None, shards: int | None, as_json: bool) -> None:
    """Where a bucket's shards or one key lie. What is stored there: titans3 tools disk inspect."""
    import msgspec

    from titans3.limits import BUCKET_SHARDS
    from titans3.ring.placement import bucket_groups, shard_of

    folder, cluster = _cluster(data)
    name, _, key = target.partition("/")
    if bucket_id is None:
        record = find_bucket(folder, cluster, name)
        bucket_id, shards = record.bucket, record.shards
    shards = shards or BUCKET_SHARDS
    groups = bucket_groups(bucket_id, shards)
    owners = _owners(cluster, workers)
    wanted = [shard_of(os.fsencode(key), shards)] if key else list(range(shards))
    rows = [
        {
            "shard": shard, "group": groups[shard], "volume": owners.volume_of(groups[shard]),
            "path": os.path.join(folder, cluster.volumes[owners.volume_of(groups[shard])].path),
            "worker": owners.owner_of(groups[shard]),
        }
        for shard in wanted
    ]  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode({"bucket": name, "id": bucket_id, "shards": shards, "key": key, "places": rows}))
        return
    click.echo(f"bucket {name}, id {bucket_id}, {shards} shards" + (f", key {printable(key)}" if key else ""))
    click.echo("shard  group  volume  worker  path")
    for row in rows:
        click.echo(f"{row['shard']:>5}  {row['group']:>5}  {row['volume']:>6}  {row['worker']:>6}  {row['path']}")


def _cluster(data: str | None) -> tuple[str, ClusterFile]:
    from titans3.config.sources import load
    from titans3.supervisor.folder import read_cluster

    folder = os.path.abspath(load(None)[0].node.data[0] if data is None else data)
    return folder, read_cluster(folder)


def _owners(cluster: ClusterFile, workers: int | None) -> Ownership:
    from titans3.ring.ownership import Ownership, assign

    return Ownership(cluster.group_volume, assign(len(cluster.volumes), workers or len(os.sched_getaffinity(0))))


def find_bucket(folder: str, cluster: ClusterFile, name: str) -> BucketRecord:
    """A bucket's record as of the last checkpoint. Raises ConfigError if it is not there, FormatError for a damaged row."""
    import lmdb
    import msgspec

    from titans3.errors import ConfigError, DiskError, FormatError
    from titans3.limits import SYSTEM_GROUP, TIB
    from titans3.meta.keys import control_key
    from titans3.meta.rows import open_value
    from titans3.model.control import BucketRecord, Rec
    from titans3.ring.ownership import SYSTEM_VOLUME

    path = os.path.join(folder, cluster.volumes[SYSTEM_VOLUME].path, "meta")
    key = control_key(SYSTEM_GROUP, f"/buckets/{name}")
    absent = ConfigError(f"{path} knows no bucket {name!r}, as of the last checkpoint; --id N gives places without a look-up")
    if not name.isascii() or len(name) > BUCKET_NAME_BYTES_MAX or not os.path.exists(os.path.join(path, "data.mdb")):
        raise absent
    try:
        with lmdb.open(path, readonly=True, create=False, max_dbs=8, map_size=4 * TIB, lib_version=0) as environment:
            kv = environment.open_db(b"kv", create=False)
            with environment.begin(db=kv) as transaction:
                stored = transaction.get(key)
    except lmdb.Error as error:
        raise DiskError(f"{path}: {error}") from error
    if stored is None:
        raise absent
    try:
        record = msgspec.msgpack.decode(open_value(key, stored), type=Rec)
        return msgspec.msgpack.decode(record.value, type=BucketRecord)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path}: the row of bucket {name!r} is not readable: {error}") from error


def printable(text: str) -> str:
    """For a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
