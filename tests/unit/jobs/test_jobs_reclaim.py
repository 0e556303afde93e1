"""Collector and sweep over two workers with real volumes: space comes back, nothing alive goes, whatever is cut off in between."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from tests.unit.cluster.workers import Machine, Worker, run, version
from titans3.errors import ClientError, Reason
from titans3.jobs.collector import Collector
from titans3.jobs.sweep import Sweep
from titans3.limits import GROUPS, KIB, MIB
from titans3.meta.keys import gc_prefix, successor
from titans3.model.command import CompletePart, DeleteEntry
from titans3.model.control import BucketRecord
from titans3.model.version import Extent, Part, Version

T = TypeVar("T")
SIZE = 200 * KIB
decode_extent = msgspec.msgpack.Decoder(Extent).decode


async def made(machine: Machine) -> BucketRecord:
    record, _ = await machine[0].store.create_bucket("bucket", "me", "us-east-1")
    return record


async def written(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes) -> Version:
    """A large body on a volume, not committed."""
    sink = worker.store.sink(bucket, key, length=len(body), headers={}, metadata={})
    await sink.write(memoryview(body), ())
    return version(body, extents=await sink.finish(hashlib.md5(body).digest()))


async def put(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes) -> Version:
    if len(body) <= 64 * KIB:
        return await worker.store.put(bucket, key, version(body), body, None)
    return await worker.store.put(bucket, key, await written(worker, bucket, key, body), b"", None)


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


def collector(worker: Worker) -> Collector:
    return Collector(worker.owner, worker.dispatcher, worker.ownership.volume_of, GROUPS, grace_seconds=0.0)


def queued(machine: Machine) -> int:
    """Rows in the GC queues."""
    count = 0
    for worker in machine.workers:
        for volume, groups in worker.owner.sets.items():
            for gid in range(GROUPS):
                if machine.group_volume[gid] == volume:
                    count += len(groups.view.scan(gc_prefix(gid), successor(gc_prefix(gid)), 10_000))
    return count


def extents(machine: Machine) -> int:
    """Bytes alive in data segments, all volumes."""
    total = 0
    for worker in machine.workers:
        for groups in worker.owner.sets.values():
            total += sum(row.live for row in groups.volume._segments.table.values() if row.kind == 2)
    return total


async def collect(machine: Machine) -> None:
    """A round of both workers."""
    await checkpointed(machine, asyncio.gather(*(collector(worker).round() for worker in machine.workers)))


async def checkpointed(machine: Machine, waiting: Awaitable[T]) -> T:
    """Wait for something that waits for checkpoints; these machines make none by themselves."""
    work = asyncio.ensure_future(waiting)
    while not work.done():
        for worker in machine.workers:
            for groups in worker.owner.sets.values():
                await groups.checkpointer.checkpoint()
        await asyncio.sleep(0.01)
    return await work


def test_overwritten_and_deleted_bodies_give_their_space_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies = {b"k%d" % number: os.urandom(SIZE if number % 2 else 4 * KIB) for number in range(40)}
            for number, (key, body) in enumerate(bodies.items()):
                await put(machine[number % 2], bucket, key, os.urandom(SIZE))
                await put(machine[(number + 1) % 2], bucket, key, body)
            for number in range(10):
                await put(machine[0], bucket, b"gone%d" % number, os.urandom(SIZE))
                await machine[1].store.delete(bucket, (DeleteEntry(b"gone%d" % number),), "me")
            assert queued(machine) == 50
            await collect(machine)
            assert queued(machine) == 0
            large = sum(len(body) for body in bodies.values() if len(body) == SIZE)
            assert large <= extents(machine) <= large * 1.1
            for key, body in bodies.items():
                assert await read(machine[0], bucket, key) == body

    run(work, 60)


@pytest.mark.parametrize("when", ["before", "freed", "done"])
def test_a_crash_at_any_step_repeats_what_is_left(tmp_path: Path, when: str) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for number in range(12):
                await put(machine[number % 2], bucket, b"k", os.urandom(SIZE))
            last = os.urandom(SIZE)
            await put(machine[0], bucket, b"k", last)
            if when == "freed":
                by_volume: dict[int, list[bytes]] = {}
                for worker in machine.workers:
                    for volume, groups in worker.owner.sets.items():
                        for gid in (gid for gid in range(GROUPS) if machine.group_volume[gid] == volume):
                            for key, row in groups.view.scan(gc_prefix(gid), successor(gc_prefix(gid)), 100):
                                by_volume.setdefault(decode_extent(row).placement - 1, []).append(key[13:29])
                frees = (machine[0].dispatcher.free(volume, ids) for volume, ids in by_volume.items())
                await checkpointed(machine, asyncio.gather(*frees))
            elif when == "done":
                await collect(machine)
            for me in (0, 1):
                await machine[me].kill()
            for me in (0, 1):
                await machine.start(me)
            assert queued(machine) == (0 if when == "done" else 12)
            await collect(machine)
            assert queued(machine) == 0
            assert SIZE <= extents(machine) <= SIZE * 1.1
            assert await read(machine[1], bucket, b"k") == last

    run(work, 60)


def test_a_body_that_nobody_committed_is_swept_in_the_next_life_only(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            kept = os.urandom(SIZE)
            await put(machine[0], bucket, b"kept", kept)
            orphan = await written(machine[0], bucket, b"kept", os.urandom(SIZE))
            sweep = Sweep(machine[0].owner, machine[0].dispatcher, machine[0].control)
            assert await checkpointed(machine, sweep.sweep(machine[0].owner.sets[0])) == 0
            await machine[0].kill()
            worker = await machine.start(0)
            sweep = Sweep(worker.owner, worker.dispatcher, worker.control)
            assert await checkpointed(machine, sweep.sweep(worker.owner.sets[0])) == 1
            assert sweep.statistics().fenced == 1
            assert await read(worker, bucket, b"kept") == kept
            with pytest.raises(ClientError) as caught:  # the late commit meets the fence
                await machine[1].store.put(bucket, b"kept", orphan, b"", None)
            assert caught.value.reason == Reason.FENCED
            assert await read(worker, bucket, b"kept") == kept
            again = Sweep(worker.owner, worker.dispatcher, worker.control)
            assert await checkpointed(machine, again.sweep(worker.owner.sets[0])) == 0
            assert again.statistics().looked_at == 0, "a life is swept once"

    run(work, 60)


def test_parts_of_open_and_completed_uploads_are_no_orphans(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            worker, bucket = machine[0], await made(machine)
            bodies: dict[bytes, bytes] = {}
            for key, complete in ((b"open", False), (b"complete", True)):
                upload_id = await worker.store.create_upload(
                    bucket, key, owner="me", headers={}, metadata={}, checksum_algorithm="", checksum_composite=False
                )
                parts = []
                for number in (1, 2):
                    body = os.urandom(SIZE)
                    bodies[key] = bodies.get(key, b"") + body
                    sink = worker.store.sink(bucket, key, length=SIZE, headers={}, metadata={}, part=number, upload_id=upload_id)
                    await sink.write(memoryview(body), ())
                    md5 = hashlib.md5(body).digest()
                    part = Part(number, SIZE, md5, 0, await sink.finish(md5))
                    await worker.store.put_part(bucket, key, upload_id, part, b"")
                    parts.append(CompletePart(number, md5))
                if complete:
                    etag = hashlib.md5(b"".join(part.etag for part in parts)).digest()
                    await worker.store.complete_upload(
                        bucket, key, upload_id, parts=tuple(parts), etag=etag, size=2 * SIZE, checksum=None, condition=None
                    )
            await worker.kill()
            worker = await machine.start(0)
            sweep = Sweep(worker.owner, worker.dispatcher, worker.control)
            assert await checkpointed(machine, sweep.sweep(worker.owner.sets[0])) == 0
            assert sweep.statistics().looked_at == 4
            assert sweep.statistics().fenced == 0
            assert await read(machine[1], bucket, b"complete") == bodies[b"complete"]

    run(work, 60)


def test_a_reader_of_a_freed_body_ends_with_its_bytes(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body = os.urandom(6 * MIB)
            stored = await put(machine[0], bucket, b"k", body)
            source = machine[1].store.open(bucket, b"k", stored, 0, len(body))
            pieces = [bytes(await source.next() or b"")]
            await put(machine[1], bucket, b"k", b"new")
            await collect(machine)
            assert queued(machine) == 0
            for groups in machine[0].owner.sets.values():
                await groups.checkpointer.checkpoint()
            while (piece := await source.next()) is not None:
                pieces.append(bytes(piece))
            source.close()
            assert b"".join(pieces) == body

    run(work, 60)
