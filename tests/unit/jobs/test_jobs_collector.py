"""The collector over two workers with real volumes: space comes back, nothing alive goes, whatever is cut off in between."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cluster.workers import Machine, run
from tests.unit.jobs.reclaim import (
    SIZE,
    check,
    checkpoint,
    checkpointed,
    collect,
    collector,
    extents,
    files,
    made,
    put,
    queued,
    read,
    restarted,
    sets,
)
from titans3.cluster.groups import GroupSet
from titans3.errors import ClientError, DiskError
from titans3.jobs import collector as collecting
from titans3.limits import GROUPS, KIB, MIB
from titans3.meta.keys import gc_prefix, successor
from titans3.model.command import CompletePart, DeleteEntry
from titans3.model.version import Part
from titans3.observe import failpoint
from titans3.ring.placement import ring_hash


@pytest.fixture
def armed() -> Iterator[None]:
    """``collect`` fails at its first hit: between the durable frees and the end of the queue's rows."""
    failpoint._armed = failpoint._Armed("collect=error", "")
    yield
    failpoint._armed = None


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
            await check(machine, bucket, bodies)

    run(work, 60)


@pytest.mark.parametrize("size", [SIZE, 4 * KIB], ids=["extents", "inline"])
def test_a_thousand_overwrites_leave_what_is_alive_and_no_dead_segment(tmp_path: Path, size: int) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            keys = [b"key/%d" % number for number in range(1000)]
            bodies: dict[bytes, bytes] = {}

            async def some(round_: int, worker: int) -> None:
                for number in range(worker, len(keys), 2):
                    body = bodies[keys[number]] = os.urandom(32) + bytes(size - 32)
                    await put(machine[(worker + round_) % 2], bucket, keys[number], body)

            for round_ in range(2):
                await asyncio.gather(some(round_, 0), some(round_, 1))
            before, large = files(machine), size > 64 * KIB
            assert queued(machine) == (1000 if large else 0), "what dies in the log needs no queue"
            one, other = collector(machine[0]), collector(machine[1])
            await checkpointed(machine, asyncio.gather(one.round(), other.round()))
            assert queued(machine) == 0
            told = (one.statistics(), other.statistics())
            assert sum(stats.freed for stats in told) == (1000 if large else 0)
            assert sum(stats.bytes for stats in told) == (1000 * size if large else 0)
            assert sum(stats.failures for stats in told) == 0
            await checkpointed(machine, asyncio.gather(one.round(), other.round()))
            assert (one.statistics().groups, other.statistics().groups) == (0, 0), "a group without rows costs nothing"
            await check(machine, bucket, bodies)
            if large:
                assert files(machine) < before * 0.6, (before, files(machine))

    run(work, 90)


def test_a_queue_longer_than_a_turn_and_a_round_is_worked_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "ROWS_PER_TURN", 3)
    monkeypatch.setattr(collecting, "ROWS_PER_ROUND", 10)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for number in range(26):
                await put(machine[number % 2], bucket, b"one key" if number < 20 else b"another", os.urandom(70 * KIB))
            assert queued(machine) == 24
            owner = machine[machine.owners[machine.group_volume[ring_hash(bucket.bucket, b"one key", bucket.shards)]]]
            one = collector(owner)
            assert await checkpointed(machine, one.round()), "there is more at once"
            assert one.statistics().freed == 10
            await collect(machine)
            assert queued(machine) == 0

    run(work, 60)


def _rounds(machine: Machine) -> asyncio.Future[list[bool]]:
    return asyncio.gather(*(collector(worker).round() for worker in machine.workers))


@pytest.mark.parametrize("when", ["before", "freed", "forgotten", "done"])
def test_a_crash_at_any_step_repeats_what_is_left(tmp_path: Path, when: str) -> None:
    """``freed``: in memory, no checkpoint holds it. ``forgotten``: the rows' end is in the log, no checkpoint holds it."""

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies: dict[bytes, bytes] = {}
            for number in range(24):
                key = b"k%d" % (number % 4)
                bodies[key] = os.urandom(SIZE)
                await put(machine[number % 2], bucket, key, bodies[key])
            await checkpoint(machine)
            if when == "freed":
                before = extents(machine)
                rounds = _rounds(machine)
                while extents(machine) > before - 19 * SIZE:
                    await asyncio.sleep(0.01)
                assert queued(machine) == 20
                rounds.cancel()
                await asyncio.gather(rounds, return_exceptions=True)
            elif when == "forgotten":
                rounds = _rounds(machine)
                await asyncio.sleep(0.3)
                await checkpoint(machine)
                await rounds
                assert queued(machine) == 0
            elif when == "done":
                await collect(machine)
                await check(machine, bucket, bodies)
            await restarted(machine)
            assert queued(machine) == (0 if when in ("done", "forgotten") else 20)
            await collect(machine)
            assert queued(machine) == 0
            await check(machine, bucket, bodies)
            await restarted(machine)
            await check(machine, bucket, bodies)

    run(work, 60)


@pytest.mark.usefixtures("armed")
def test_a_crash_between_the_frees_and_the_end_of_the_rows(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            last = b""
            for number in range(12):
                last = os.urandom(SIZE)
                await put(machine[number % 2], bucket, b"k", last)
            await checkpoint(machine)
            worker = machine[machine.owners[machine.group_volume[ring_hash(bucket.bucket, b"k", bucket.shards)]]]
            with pytest.raises(OSError, match="failpoint collect"):
                await checkpointed(machine, collector(worker).round())
            assert queued(machine) == 11
            assert extents(machine) < 2 * SIZE, "they are freed"
            await restarted(machine)
            assert queued(machine) == 11
            assert extents(machine) < 2 * SIZE, "for good"
            await collect(machine)
            assert queued(machine) == 0
            await check(machine, bucket, {b"k": last})

    run(work, 60)


def test_a_crash_at_the_unlink_of_a_dead_segment_loses_and_leaks_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body = b""
            for number in range(160):
                body = os.urandom(SIZE)
                await put(machine[number % 2], bucket, b"k", body)
            many = files(machine)
            failpoint._armed = failpoint._Armed("unlink=error", "")
            try:
                await checkpointed(machine, _rounds(machine))
                for _ in range(3):
                    await checkpoint(machine)
                    await asyncio.sleep(0.05)
            finally:
                failpoint._armed = None
            assert any(groups.failure for groups in sets(machine).values()), "an unlink that fails takes the disk out"
            await restarted(machine)
            await collect(machine)
            await check(machine, bucket, {b"k": body})
            assert files(machine) < many / 2

    run(work, 60)


def test_a_failed_volume_holds_up_no_other(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for number in range(20):
                await put(machine[number % 2], bucket, b"k%d" % number, os.urandom(SIZE))
            for number in range(20):
                await put(machine[0], bucket, b"k%d" % number, b"x")
            sets(machine)[1].volume.fail(DiskError("a pulled cable"))
            mine = [gid for gid in range(GROUPS) if machine.group_volume[gid] == 0]
            waiting = queued(machine)
            one = collector(machine[0])
            await checkpointed(machine, one.round())
            stats = one.statistics()
            assert stats.freed > 0
            assert stats.failures == 1
            assert queued(machine) == waiting - stats.freed
            view = sets(machine)[0].view
            left = sum(len(view.scan(gc_prefix(gid), successor(gc_prefix(gid)), 100)) for gid in mine)
            assert left > 0, "what lies on the failed volume waits"
            await checkpointed(machine, one.round())
            assert one.statistics().failures == 1, "and is not tried again at once"

    run(work, 60)


def test_a_damaged_group_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            keys = [machine.key_on(bucket, 0, f"k{number}") for number in range(8)]
            for key in (*keys, *keys):
                await put(machine[0], bucket, key, os.urandom(SIZE))
            groups = sets(machine)[0]
            damaged = ring_hash(bucket.bucket, keys[0], bucket.shards)
            theirs = sum(1 for key in keys if ring_hash(bucket.bucket, key, bucket.shards) == damaged)
            groups._mark_damaged(damaged, "a test")
            one = collector(machine[0])
            await checkpointed(machine, one.round())
            assert queued(machine) == theirs
            assert one.statistics().freed == 8 - theirs
            assert one.statistics().failures == 0

    run(work, 60)


def test_a_damaged_row_holds_up_its_group_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            keys = [machine.key_on(bucket, 0, f"k{number}") for number in range(8)]
            for key in (*keys, *keys):
                await put(machine[0], bucket, key, os.urandom(SIZE))
            await checkpoint(machine)
            groups: GroupSet = sets(machine)[0]
            bad = min(groups.machine.objects.gc_groups)
            environment = groups.environment
            with environment._env.begin(write=True, db=environment.kv) as txn, txn.cursor() as cursor:
                assert cursor.set_range(gc_prefix(bad))
                key, value = cursor.item()
                assert cursor.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
            await checkpoint(machine)
            theirs = sum(1 for key in keys if ring_hash(bucket.bucket, key, bucket.shards) == bad)
            one = collector(machine[0])
            await checkpointed(machine, one.round())
            assert one.statistics().freed == 8 - theirs
            assert one.statistics().failures == 1

    run(work, 60)


def test_a_body_that_was_just_replaced_is_kept_for_its_readers(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 0)
            for _ in range(2):
                await put(machine[0], bucket, key, os.urandom(SIZE))
            one = collector(machine[0], grace_seconds=0.5)
            await checkpointed(machine, one.round())
            assert queued(machine) == 1
            await asyncio.sleep(0.3)
            await put(machine[0], bucket, key, os.urandom(SIZE))
            await asyncio.sleep(0.3)
            await checkpointed(machine, one.round())
            assert one.statistics().freed == 1, "the first one's time has come"
            assert queued(machine) == 1, "the second one's not"
            await asyncio.sleep(0.6)
            await checkpointed(machine, one.round())
            assert queued(machine) == 0

    run(work, 60)


@pytest.mark.parametrize("cut", [False, True], ids=["one extent", "many extents"])
def test_a_reader_of_a_freed_body_ends_with_its_bytes(tmp_path: Path, cut: bool) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body = os.urandom(9 * MIB)
            stored = await put(machine[0], bucket, b"k", body, cut=cut)
            assert (len(stored.extents) > 1) == cut
            for me in (0, 1):  # whatever follows lies in other segments
                await put(machine[me], bucket, b"other%d" % me, os.urandom(7 * MIB))
            many = files(machine)
            source = machine[1].store.open(bucket, b"k", stored, 0, len(body))
            pieces = [bytes(await source.next() or b"")]
            await asyncio.sleep(0.1)
            await put(machine[1], bucket, b"k", b"new")
            await collect(machine)
            assert queued(machine) == 0
            for _ in range(3):
                await checkpoint(machine)
                await asyncio.sleep(0.05)
            assert files(machine) < many, "the segment is unlinked under the reader"
            for worker in machine.workers:
                worker.reader.sweep()
            while (piece := await source.next()) is not None:
                pieces.append(bytes(piece))
            source.close()
            assert b"".join(pieces) == body
            machine[1].reader.sweep()
            assert not source._places

    run(work, 60)


def test_a_reader_of_parts_ends_with_its_bytes_also_with_a_small_last_part(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket, worker = await made(machine), machine[0]
            upload_id = await worker.store.create_upload(
                bucket, b"k", owner="me", headers={}, metadata={}, checksum_algorithm="", checksum_composite=False
            )
            body, parts = b"", []
            for number in range(1, 15):
                piece = os.urandom(500 if number == 14 else SIZE)
                md5, found = hashlib.md5(piece).digest(), ()
                if number < 14:
                    sink = await worker.store.sink(bucket, b"k", length=SIZE, headers={}, metadata={}, part=number, upload_id=upload_id)
                    await sink.write(memoryview(piece), ())
                    found = await sink.finish(md5)
                part = Part(number, len(piece), md5, 0, found)
                await worker.store.put_part(bucket, b"k", upload_id, part, b"" if found else piece)
                parts.append(CompletePart(number, md5))
                body += piece
            etag = hashlib.md5(b"".join(part.etag for part in parts)).digest()
            stored = await worker.store.complete_upload(
                bucket, b"k", upload_id, parts=tuple(parts), etag=etag, size=len(body), checksum=None, condition=None
            )
            await collect(machine)
            await check(machine, bucket, {b"k": body})
            source = machine[1].store.open(bucket, b"k", stored, 0, len(body))
            pieces = [bytes(await source.next() or b"")]
            await asyncio.sleep(0.1)
            await put(machine[1], bucket, b"k", b"new")
            await collect(machine)
            while (piece := await source.next()) is not None:
                pieces.append(bytes(piece))
            source.close()
            assert b"".join(pieces) == body
            await check(machine, bucket, {b"k": b"new"})
            with pytest.raises((ClientError, DiskError)):
                late = machine[1].store.open(bucket, b"k", stored, 0, len(body))
                await late.next()
            assert await read(machine[0], bucket, b"k") == b"new"

    run(work, 60)
