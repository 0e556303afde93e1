"""``titans3 tools``: offline tools for a data folder.

Invariants
* They read; a tool that changes anything says so in its name and takes the folder's lock.
* A running server is not disturbed: what it holds in memory (rows since its last checkpoint) is not seen here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from titans3.cli.disk import disk, meta

if TYPE_CHECKING:
    from titans3.model.control import BucketRecord
    from titans3.supervisor.folder import ClusterFile

BUCKET_NAME_BYTES_MAX = 63


@click.group()
def tools() -> None:
    """Tools that read a data folder."""


tools.add_command(disk)
tools.add_command(meta)


@tools.command()
@click.argument("target", metavar="BUCKET[/KEY]")
@click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Owners for so many workers.  [default: one per CPU]")
@click.option("--id", "bucket_id", type=click.IntRange(1), metavar="N", help="The bucket's id, instead of looking its name up.")
@click.option("--shards", type=click.IntRange(1), metavar="N", help="With --id: the bucket's shards.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def ring(
    target: str, data: str | None, workers: int | None, bucket_id: int | None, shards: int | None, as_json: bool
) -> None:
    """Where a bucket or a key lies: shard, group, volume, and the worker that owns the volume.

    shard = xxh3(key) mod shards; group = (xxh3(bucket id) + 61·shard) mod 1024; volume = the group table of cluster.json;
    worker = volume mod min(workers, volumes), made anew at each start.
    """
    import msgspec

    from titans3.config.sources import load
    from titans3.limits import BUCKET_SHARDS
    from titans3.ring.ownership import Ownership, assign
    from titans3.ring.placement import bucket_groups, ring_hash, shard_of
    from titans3.supervisor.folder import read_cluster

    folder = os.path.abspath(load(None)[0].node.data[0] if data is None else data)
    cluster = read_cluster(folder)
    name, _, key = target.partition("/")
    if bucket_id is None:
        record = find_bucket(folder, cluster, name)
        bucket_id, shards = record.bucket, record.shards
    shards = shards or BUCKET_SHARDS
    groups = bucket_groups(bucket_id, shards)
    owners = Ownership(cluster.group_volume, assign(len(cluster.volumes), workers or len(os.sched_getaffinity(0))))
    raw = os.fsencode(key)
    wanted = [shard_of(raw, shards)] if key else list(range(shards))
    assert not key or ring_hash(bucket_id, raw, shards) == groups[wanted[0]]
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
    click.echo(f"bucket {name}, id {bucket_id}, {shards} shards" + (f", key {_printable(key)}" if key else ""))
    click.echo("shard  group  volume  worker  path")
    for row in rows:
        click.echo(f"{row['shard']:>5}  {row['group']:>5}  {row['volume']:>6}  {row['worker']:>6}  {row['path']}")


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


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
