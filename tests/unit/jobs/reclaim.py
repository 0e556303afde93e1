"""What the tests of collector and sweep share: bodies of any size through two workers, and what their volumes hold afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from tests.unit.cluster.workers import Machine, Worker, version
from titans3.cluster.groups import GroupSet
from titans3.engine.extent import ExtentIdent, used_bytes
from titans3.engine.location import EXTENT
from titans3.engine.segments import counted
from titans3.jobs.collector import Collector
from titans3.limits import GROUPS, KIB
from titans3.meta.keys import gc_prefix, successor
from titans3.model.control import BucketRecord
from titans3.model.version import INLINE, MANIFEST_ROWS, Extent, Version
from titans3.ring.placement import ring_hash

T = TypeVar("T")
SIZE = 200 * KIB
_BLOB_BYTES = 60  # at most, of an extent's trailer


async def made(machine: Machine) -> BucketRecord:
    record, _ = await machine[0].store.create_bucket("bucket", "me", "us-east-1")
    return record


async def written(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes, *, cut: bool = False) -> Version:
    """A large body on a volume, not committed; ``cut``: as of unknown length, in several extents."""
    sink = await worker.store.sink(bucket, key, length=None if cut else len(body), headers={}, metadata={})
    await sink.write(memoryview(body), ())
    return version(body, extents=await sink.finish(hashlib.md5(body).digest()))


async def put(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes, *, cut: bool = False) -> Version:
    if len(body) <= 64 * KIB:
        return await worker.store.put(bucket, key, version(body), body, None)
    return await worker.store.put(bucket, key, await written(worker, bucket, key, body, cut=cut), b"", None)


async def read(worker: Worker, bucket: BucketRecord, key: bytes) -> bytes:
    found = await worker.store.find(bucket, key, body=True)
    if found.body is not None:
        return found.body
    source = worker.store.open(bucket, key, found.version, 0, found.version.size)
    pieces = []
    while (piece := await source.next()) is not None:
        pieces.append(bytes(piece))
    source.close()
    return b"".join(pieces)


def collector(worker: Worker, grace_seconds: float = 0.0) -> Collector:
    return Collector(worker.owner, worker.dispatcher, worker.ownership.volume_of, GROUPS, grace_seconds=grace_seconds)


def sets(machine: Machine) -> dict[int, GroupSet]:
    return {volume: groups for worker in machine.workers for volume, groups in worker.owner.sets.items()}


def queued(machine: Machine) -> int:
    """Rows in the GC queues."""
    count = 0
    for volume, groups in sets(machine).items():
        for gid in (gid for gid in range(GROUPS) if machine.group_volume[gid] == volume):
            count += len(groups.view.scan(gc_prefix(gid), successor(gc_prefix(gid)), 10_000))
    return count


def extents(machine: Machine) -> int:
    """Bytes alive in data segments, all volumes."""
    return sum(row.live for groups in sets(machine).values() for row in groups.volume._segments.table.values() if row.kind == 2)


def files(machine: Machine) -> int:
    """Data segments on disk, all volumes."""
    return sum(len(list(Path(path, "data").glob("*.seg"))) for path in machine.paths)


async def collect(machine: Machine) -> None:
    """Rounds of both workers until there is no more."""
    more = [True]
    while any(more):
        more = await checkpointed(machine, asyncio.gather(*(collector(worker).round() for worker in machine.workers)))


async def checkpoint(machine: Machine) -> None:
    for groups in sets(machine).values():
        if groups.failure is None:
            await groups.checkpointer.checkpoint()


async def checkpointed(machine: Machine, waiting: Awaitable[T]) -> T:
    """Wait for something that waits for checkpoints; these machines make none by themselves."""
    work = asyncio.ensure_future(waiting)
    while not work.done():
        await checkpoint(machine)
        await asyncio.sleep(0.01)
    return await work


async def restarted(machine: Machine) -> None:
    """Both workers die and come back."""
    for me in (0, 1):
        await machine[me].kill()
    for me in (0, 1):
        await machine.start(me)


async def check(machine: Machine, bucket: BucketRecord, bodies: dict[bytes, bytes]) -> None:
    """Every body reads back; nothing else is alive on any volume, to the byte, in memory and in the rows of the last checkpoint."""
    wanted: dict[int, dict[bytes, tuple[bytes, Extent]]] = {volume: {} for volume in sets(machine)}
    for number, (key, body) in enumerate(bodies.items()):
        assert await read(machine[number % 2], bucket, key) == body
        stored = (await machine[0].store.find(bucket, key)).version
        home = machine.group_volume[ring_hash(bucket.bucket, key, bucket.shards)]
        found = stored.extents
        if stored.flags & MANIFEST_ROWS:
            found = tuple(extent for part in await machine[0].store.parts_of(bucket, key, stored) for extent in part.extents)
        for extent in found:
            wanted[home if extent.policy == INLINE else extent.placement - 1][extent.data_id] = (key, extent)
    for _ in range(3):  # rows, then unlinks, then rows of what was unlinked
        await checkpoint(machine)
        for groups in sets(machine).values():
            if groups.volume._tasks:
                await asyncio.wait(groups.volume._tasks)
    for volume, groups in sets(machine).items():
        stored_ids = {key[:16] for key, _ in groups.environment.rows_of(groups.environment.loc)}
        assert stored_ids == set(wanted[volume])
        live = 0
        for data_id, (key, extent) in wanted[volume].items():
            place = groups.volume.locate(data_id)
            assert place is not None
            if place.kind == EXTENT:
                ident = ExtentIdent(data_id, 0, bucket.bucket, key, data_id)
                assert 0 <= place.length - used_bytes(ident, extent.length, 0) <= _BLOB_BYTES
            live += counted(place)
        assert groups.volume._segments.live_bytes() == groups.volume.space().live == live
        for number, row in groups.volume._segments.table.items():
            assert row.live or row.kind != 2 or row.state == 1, f"segment {number:x} is dead and not unlinked"
