"""Quotas over two workers: nothing goes past one, nothing that fits is refused, and what kills a worker in between does no harm."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.cluster.test_cluster_store import complete, made, put, put_large, refused, upload_parts
from tests.unit.cluster.workers import Machine, Worker, run
from titans3.cluster import quota as quota_module
from titans3.cluster.messages import ACL_LEVEL
from titans3.errors import ClientError, Reason
from titans3.limits import KIB, MIB
from titans3.model.command import DeleteEntry
from titans3.model.control import BucketRecord


async def limited(machine: Machine, quota: int, *, versioning: int = 0) -> BucketRecord:
    await made(machine)
    if versioning:
        await machine[0].store.set_versioning("bucket", versioning)
    await machine[0].store.set_quota("bucket", quota)
    return await machine[1].store.bucket("bucket")


async def used(worker: Worker, bucket: BucketRecord) -> int:
    return (await worker.store.usage(bucket)).bytes


async def delete(worker: Worker, bucket: BucketRecord, key: bytes, version_id: str = "") -> None:
    await worker.store.delete(bucket, [DeleteEntry(key, version_id)], "me")


def test_a_bucket_is_filled_to_the_last_byte_and_no_further(tmp_path: Path) -> None:
    """100 objects of 1,000 bytes over 16 shards and two workers: all of a quota is there for whatever shard needs it."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, 100_000)
            for number in range(100):
                await put(machine[number % 2], bucket, b"%d" % number, bytes(1000))
            assert await used(machine[0], bucket) == 100_000
            for worker in machine.workers:
                assert (await refused(put(worker, bucket, b"more", b"x"))).reason is Reason.QUOTA
                await put(worker, bucket, b"empty", b"")
                await put(worker, bucket, b"7", bytes(1000))
                await put(worker, bucket, b"8", b"less")
                await put(worker, bucket, b"8", bytes(1000))
            assert (await refused(put(machine[0], bucket, b"7", bytes(1001)))).reason is Reason.QUOTA
            await delete(machine[0], bucket, b"50")
            assert (await refused(put(machine[1], bucket, b"too much", bytes(1001)))).reason is Reason.QUOTA
            await put(machine[1], bucket, b"elsewhere", bytes(1000))
            usage = await machine[1].store.usage(bucket)
            assert (usage.bytes, usage.keys) == (100_000, 101)

    run(work)


def test_versions_and_parts_count_until_they_are_gone(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, 3000, versioning=1)
            worker = machine[0]
            for _ in range(3):
                last = await put(worker, bucket, b"k", bytes(1000))
            assert (await refused(put(worker, bucket, b"k", b"1"))).reason is Reason.QUOTA
            await delete(worker, bucket, b"k")  # a marker frees nothing
            assert (await refused(put(worker, bucket, b"k", b"1"))).reason is Reason.QUOTA
            await delete(worker, bucket, b"k", last.version_id)
            await put(worker, bucket, b"k", bytes(1000))
            await machine[1].store.set_versioning("bucket", 2)
            bucket = await worker.store.bucket("bucket")
            assert (await refused(put(worker, bucket, b"k", b"1"))).reason is Reason.QUOTA
            await machine[1].store.set_quota("bucket", 4000)
            bucket = await worker.store.bucket("bucket")
            await put(worker, bucket, b"k", bytes(1000))
            await put(worker, bucket, b"k", bytes(999))  # takes the place of the null version
            await put(worker, bucket, b"k", bytes(1000))
            assert await used(worker, bucket) == 4000

    run(work)


def test_parts_count_and_a_completion_needs_no_room(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, 200 * KIB)
            upload_id, parts = await upload_parts(machine, bucket, b"k", {1: bytes(64 * KIB), 2: bytes(64 * KIB), 3: bytes(64 * KIB)})
            assert await used(machine[0], bucket) == 192 * KIB
            assert (await refused(put(machine[0], bucket, b"other", bytes(9 * KIB)))).reason is Reason.QUOTA
            with pytest.raises(ClientError):
                await upload_parts(machine, bucket, b"k", {4: bytes(9 * KIB)})
            await complete(machine[1], bucket, b"k", upload_id, parts[:2])
            assert await used(machine[0], bucket) == 128 * KIB
            await put(machine[0], bucket, b"other", bytes(72 * KIB))

    run(work)


def test_a_large_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, 5 * MIB)
            for worker in machine.workers:
                asked = worker.store.sink(bucket, b"k", length=5 * MIB + 1, headers={}, metadata={})
                assert (await refused(asked)).reason is Reason.QUOTA
            await put_large(machine[0], bucket, b"k", bytes(5 * MIB))
            await put_large(machine[1], bucket, b"k", bytes(5 * MIB))  # in its own place
            asked = machine[1].store.sink(bucket, b"other", length=MIB, headers={}, metadata={})
            assert (await refused(asked)).reason is Reason.QUOTA
            with pytest.raises(ClientError) as caught:  # no length was told: the commit decides
                await put_large(machine[1], bucket, b"other", bytes(MIB), length=None)
            assert caught.value.reason is Reason.QUOTA
            assert await used(machine[0], bucket) == 5 * MIB

    run(work)


def test_a_quota_below_what_is_there_keeps_it_and_lets_nothing_grow(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            await made(machine)
            bucket = await machine[0].store.bucket("bucket")
            for number in range(20):
                await put(machine[0], bucket, b"%d" % number, bytes(100))
            await machine[0].store.set_quota("bucket", 1500)
            bucket = await machine[1].store.bucket("bucket")
            assert (await refused(put(machine[1], bucket, b"more", b"x"))).reason is Reason.QUOTA
            await put(machine[1], bucket, b"3", bytes(99))
            for number in range(5):
                await delete(machine[0], bucket, b"%d" % number)
            assert (await refused(put(machine[1], bucket, b"more", b"x"))).reason is Reason.QUOTA
            await delete(machine[0], bucket, b"5")
            await put(machine[1], bucket, b"more", bytes(100))
            await machine[0].store.set_quota("bucket", 0)
            bucket = await machine[1].store.bucket("bucket")
            await put(machine[1], bucket, b"any", bytes(10_000))

    run(work)


def test_a_quota_is_in_force_with_its_answer_also_for_who_does_not_know_it(tmp_path: Path) -> None:
    """Shards have it: a worker with an older record of the bucket cannot write past it."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            old = await made(machine)
            await machine[0].store.set_quota("bucket", 10)
            assert (await refused(put(machine[1], old, b"k", bytes(11)))).reason is Reason.QUOTA
            await machine[0].store.set_quota("bucket", 20)
            await put(machine[1], old, b"k", bytes(11))
            assert (await refused(put(machine[1], old, b"l", bytes(10)))).reason is Reason.QUOTA

    run(work)


def test_no_quota_below_its_feature_level(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, level=ACL_LEVEL) as machine:
            await made(machine)
            assert (await refused(machine[0].store.set_quota("bucket", 1))).reason is Reason.SLOW_DOWN

    run(work)


def test_a_full_bucket_costs_few_rounds_however_many_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 refused writers at once share a round or two."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, 10)
            await put(machine[0], bucket, b"full", bytes(10))
            before = sum(groups.machine.shards.find(gid, bucket.bucket).ballot >> 32 for gid, groups in shard_zero(machine, bucket))
            found = await asyncio.gather(
                *(put(machine[number % 2], bucket, b"%d" % number, b"x") for number in range(100)), return_exceptions=True
            )
            assert all(isinstance(error, ClientError) and error.reason is Reason.QUOTA for error in found)
            after = sum(groups.machine.shards.find(gid, bucket.bucket).ballot >> 32 for gid, groups in shard_zero(machine, bucket))
            assert 1 <= after - before <= 5

    monkeypatch.setattr(quota_module, "ROUNDS_PER_SECOND", 5)
    run(work)


def shard_zero(machine: Machine, bucket: BucketRecord):  # type: ignore[no-untyped-def]
    from titans3.ring.placement import first_group

    gid = first_group(bucket.bucket)
    return [(gid, worker.owner.set_of(gid)) for worker in machine.workers if worker.dispatcher.is_local(gid)]


@pytest.mark.parametrize("seed", range(3))
def test_writers_deleters_and_kills_never_pass_a_quota(tmp_path: Path, seed: int) -> None:
    """Sizes, deletions and a killed worker at random: what the bucket holds is looked at all the time."""
    quota = 50_000

    async def work() -> None:
        rng = random.Random(seed)
        async with Machine(tmp_path) as machine:
            bucket = await limited(machine, quota)
            stop = asyncio.Event()

            async def writer(me: int) -> None:
                while not stop.is_set():
                    key = b"%d" % rng.randrange(60)
                    with suppress(ClientError, asyncio.CancelledError):
                        if rng.random() < 0.2:
                            await delete(machine[me], bucket, key)
                        else:
                            await put(machine[me], bucket, key, bytes(rng.randrange(4000)))
                    await asyncio.sleep(0)

            writers = [asyncio.ensure_future(writer(number % 2)) for number in range(6)]
            highest = 0
            for _ in range(3):
                for _ in range(40):
                    with suppress(ClientError):
                        highest = max(highest, await used(machine[0], bucket))
                    await asyncio.sleep(0.005)
                await machine[1].kill()
                await machine.start(1)
            stop.set()
            await asyncio.wait(writers, timeout=20)
            highest = max(highest, await used(machine[0], bucket))
            assert quota * 0.5 < highest <= quota

    run(work, 60)
