"""The sweep over two workers with real volumes: what nobody committed goes, what somebody may still commit stays."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from pathlib import Path

import pytest

from tests.unit.cluster.workers import Machine, Worker, run, version
from tests.unit.jobs.reclaim import (
    SIZE,
    check,
    checkpoint,
    checkpointed,
    collect,
    extents,
    files,
    made,
    put,
    read,
    restarted,
    sets,
    written,
)
from titans3.errors import ClientError, DiskError, Reason
from titans3.jobs.sweep import Sweep
from titans3.limits import MIB
from titans3.model.command import CompletePart
from titans3.model.version import Part
from titans3.ring.placement import ring_hash


def sweep_of(worker: Worker, age_seconds: float = 86_400.0) -> Sweep:
    return Sweep(worker.owner, worker.dispatcher, worker.control, age_seconds=age_seconds)


async def sealed(machine: Machine, worker: Worker) -> None:
    """The worker's data segment is full: what is in it can be looked at."""
    bucket = await worker.store.bucket("bucket")
    for _ in range(4):
        sink = await worker.store.sink(bucket, b"filler", length=3 * MIB, headers={}, metadata={})
        await sink.write(memoryview(bytes(3 * MIB)), ())
        await sink.finish(bytes(16))
        sink.abandon()
    await put(worker, bucket, b"after", os.urandom(2 * SIZE))
    await checkpoint(machine)


async def aged(machine: Machine, me: int, age_seconds: float = 0.0) -> int:
    """A round over what this life of a worker's volume wrote."""
    return await checkpointed(machine, sweep_of(machine[me], age_seconds).sweep_aged(machine[me].owner.sets[me]))


def test_a_body_that_nobody_committed_is_swept_in_the_next_life(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            kept = os.urandom(SIZE)
            await put(machine[0], bucket, b"kept", kept)
            orphan = await written(machine[0], bucket, b"kept", os.urandom(SIZE))
            sweep = sweep_of(machine[0])
            assert await checkpointed(machine, sweep.sweep(machine[0].owner.sets[0])) == 0
            await machine[0].kill()
            worker = await machine.start(0)
            sweep = sweep_of(worker)
            assert await checkpointed(machine, sweep.sweep(worker.owner.sets[0])) == 1
            assert sweep.statistics().fenced == 1
            assert await read(worker, bucket, b"kept") == kept
            with pytest.raises(ClientError) as caught:  # the late commit meets the fence
                await machine[1].store.put(bucket, b"kept", orphan, b"", None)
            assert caught.value.reason == Reason.FENCED
            await check(machine, bucket, {b"kept": kept})
            again = sweep_of(worker)
            assert await checkpointed(machine, again.sweep(worker.owner.sets[0])) == 0
            assert again.statistics().looked_at == 0, "a life is swept once"

    run(work, 60)


def test_a_crash_after_the_sweep_does_not_bring_an_orphan_back(tmp_path: Path) -> None:
    """What is recorded as swept is free in the rows of a checkpoint."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            kept = os.urandom(SIZE)
            await put(machine[0], bucket, b"kept", kept)
            await written(machine[0], bucket, b"kept", os.urandom(SIZE))
            await restarted(machine)
            await checkpoint(machine)
            worker = machine[0]
            sweeping = asyncio.ensure_future(sweep_of(worker).sweep(worker.owner.sets[0]))
            await asyncio.sleep(0.3)
            assert not sweeping.done(), "it waits for a checkpoint"
            sweeping.cancel()
            await asyncio.wait([sweeping])
            await restarted(machine)
            assert extents(machine) > 2 * SIZE, "the free was lost with the process"
            worker = machine[0]
            assert await checkpointed(machine, sweep_of(worker).sweep(worker.owner.sets[0])) == 1
            await restarted(machine)
            await check(machine, bucket, {b"kept": kept})

    run(work, 60)


def test_extents_that_compaction_moves_are_still_swept(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies = {b"k%d" % number: os.urandom(SIZE) for number in range(30)}
            for key, body in bodies.items():
                await put(machine[0], bucket, key, os.urandom(SIZE))
                await written(machine[0], bucket, key, body)
                await put(machine[0], bucket, key, body)
            await restarted(machine)
            await collect(machine)  # segments are two thirds alive: orphans count until they are swept
            for key in list(bodies)[:20]:
                bodies[key] = b"small"
                await put(machine[0], bucket, key, b"small")
            await collect(machine)
            await checkpoint(machine)
            worker = machine[0]
            volume = worker.owner.sets[0].volume

            async def compacting() -> int:
                moved = 0
                for _ in range(20):
                    moved += await volume.compact()
                    await checkpoint(machine)
                return moved

            moved, freed = await asyncio.gather(compacting(), checkpointed(machine, sweep_of(worker).sweep(worker.owner.sets[0])))
            assert moved > 0
            assert freed == 30
            await check(machine, bucket, bodies)

    run(work, 60)


def test_an_orphan_of_this_life_is_swept_after_the_age(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            kept = os.urandom(SIZE)
            await put(machine[0], bucket, b"kept", kept)
            orphan = await written(machine[0], bucket, b"kept", os.urandom(SIZE))
            assert await aged(machine, 0) == 0, "its segment is still written to"
            await sealed(machine, machine[0])
            gc.collect()
            assert await aged(machine, 0, 3600.0) == 0, "too young"
            assert await aged(machine, 0) == 1
            with pytest.raises(ClientError) as caught:
                await machine[0].store.put(bucket, b"kept", orphan, b"", None)
            assert caught.value.reason == Reason.FENCED
            assert await aged(machine, 0) == 0
            await collect(machine)
            after = await read(machine[0], bucket, b"after")
            await check(machine, bucket, {b"kept": kept, b"after": after})

    run(work, 60)


def test_an_open_sink_holds_the_fence_back(tmp_path: Path) -> None:
    """A body that is still being written is committed after any sweep, whatever its age; an orphan behind it waits."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body = os.urandom(5 * MIB)
            sink = await machine[0].store.sink(bucket, b"open", length=None, headers={}, metadata={})
            await sink.write(memoryview(body)[: 4 * MIB], ())  # its first extents are finished
            await written(machine[0], bucket, b"open", os.urandom(SIZE))
            await sealed(machine, machine[0])
            gc.collect()
            one = sweep_of(machine[0], 0.0)
            groups = machine[0].owner.sets[0]
            assert await checkpointed(machine, one.sweep_aged(groups)) == 0
            assert one.statistics().fenced == 0
            await sink.write(memoryview(body)[4 * MIB :], ())
            found = await sink.finish(hashlib.md5(body).digest())
            assert await checkpointed(machine, one.sweep_aged(groups)) == 0
            await machine[0].store.put(bucket, b"open", version(body, extents=found), b"", None)
            del sink
            gc.collect()
            assert await checkpointed(machine, one.sweep_aged(groups)) == 1, "the orphan behind it"
            after = await read(machine[0], bucket, b"after")
            await check(machine, bucket, {b"open": body, b"after": after})

    run(work, 60)


@pytest.mark.parametrize("crash", [False, True], ids=["checkpointed", "crashed"])
def test_an_abandoned_sink_leaves_nothing(tmp_path: Path, crash: bool) -> None:
    """A crash before the next checkpoint brings its finished extents back as orphans; then the sweep takes them."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for finish in (False, True):
                sink = await machine[0].store.sink(bucket, b"gone", length=None, headers={}, metadata={})
                await sink.write(memoryview(os.urandom(3 * MIB)), ())
                if finish:
                    await sink.finish(bytes(16))
                sink.abandon()
            if not crash:
                await check(machine, bucket, {})
            await restarted(machine)
            one = sweep_of(machine[0])
            assert await checkpointed(machine, one.sweep(machine[0].owner.sets[0])) == (5 if crash else 0)
            await check(machine, bucket, {})
            assert files(machine) <= 2

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
                    sink = await worker.store.sink(bucket, key, length=SIZE, headers={}, metadata={}, part=number, upload_id=upload_id)
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
            sweep = sweep_of(worker)
            assert await checkpointed(machine, sweep.sweep(worker.owner.sets[0])) == 0
            assert sweep.statistics().looked_at == 4
            assert sweep.statistics().fenced == 0
            assert await read(machine[1], bucket, b"complete") == bodies[b"complete"]

    run(work, 60)


def test_what_cannot_be_judged_stays_and_holds_up_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            keys = [machine.key_on(bucket, 0, f"k{number}") for number in range(6)]
            for key in keys:
                await written(machine[0], bucket, key, os.urandom(SIZE))
            await restarted(machine)
            groups = sets(machine)[0]
            damaged = ring_hash(bucket.bucket, keys[0], bucket.shards)
            theirs = sum(1 for key in keys if ring_hash(bucket.bucket, key, bucket.shards) == damaged)
            groups._mark_damaged(damaged, "a test")
            one = sweep_of(machine[0])
            assert await checkpointed(machine, one.sweep(groups)) == 6 - theirs
            assert one.statistics().unjudged == theirs
            assert await checkpointed(machine, one.sweep(groups)) == 0
            assert one.statistics().looked_at == 6, "not at once again"
            other = sweep_of(machine[0])
            assert await checkpointed(machine, other.sweep(groups)) == 0
            assert other.statistics().unjudged == theirs, "the volume is not recorded as swept"

    run(work, 60)


def test_the_job_goes_on_when_a_volume_fails(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=1, volumes=2) as machine:
            record, _ = await machine[0].store.create_bucket("bucket", "me", "us-east-1")
            key = machine.key_on(record, 0)
            for _ in range(2):
                await written(machine[0], record, key, os.urandom(SIZE))
            await machine[0].kill()
            worker = await machine.start(0)
            job = Sweep(worker.owner, worker.dispatcher, worker.control, start_seconds=0.0, period_seconds=0.05)
            worker.owner.sets[1].volume.fail(DiskError("a pulled cable"))
            task = asyncio.ensure_future(job.run())
            for _ in range(200):
                await worker.owner.sets[0].checkpointer.checkpoint()
                await asyncio.sleep(0.01)
                if job.statistics().rounds > 2:
                    break
            task.cancel()
            assert job.statistics().rounds > 2
            assert not task.done()
            await asyncio.wait([task])

    run(work, 60)
