"""The groups of one volume on real files: proposals, repeats, crash and replay, damage, bounds, failure."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from tests.unit.cluster.workers import SELDOM, SMALL, made_volume, run, version
from titans3.clock import SystemClock
from titans3.cluster.groups import GROUP_UNCOMMITTED_BYTES_MAX, UNCOMMITTED_BYTES_MAX, GroupSet
from titans3.engine.volume import Volume
from titans3.errors import ClientError, DiskError, Reason, VolumeBusy
from titans3.limits import COMMAND_BYTES_MAX, DEDUPE_RESULTS, KIB, MIB
from titans3.meta.keys import object_key
from titans3.model.command import (
    AbortUpload,
    CompletePart,
    CompleteUpload,
    CreateUpload,
    DeleteEntry,
    DeleteObjects,
    EnsureShard,
    Outcome,
    PutObject,
    PutPart,
)
from titans3.model.version import INLINE, Extent, Part

BUCKET = 7


async def opened(path: str) -> GroupSet:
    groups = GroupSet(Volume(path, options=SMALL), SystemClock(), SELDOM)
    await groups.open()
    return groups


async def crashed(groups: GroupSet, path: str, copy: Path) -> GroupSet:
    """What another process finds after this one ended here: the files as they are now, opened again."""
    shutil.copytree(path, copy)
    await groups.close(checkpoint=False)
    return await opened(str(copy))


def put(groups: GroupSet, gid: int, key: bytes, body: bytes = b"", **fields: object) -> tuple[asyncio.Future[Outcome], bytes]:
    """Propose as the owner does; (future, data id)."""
    data_id = groups.volume.next_data_id() if body else bytes(16)
    extents = (Extent(data_id, len(body), INLINE, 0, xxh3_64_intdigest(body)),) if body else ()
    command = PutObject(BUCKET, key, version(body, extents=extents, nonce=os.urandom(8)), **fields)  # type: ignore[arg-type]
    return groups.propose(gid, command, body, data_id), data_id


async def ensure(groups: GroupSet, *gids: int) -> None:
    await asyncio.gather(*(groups.propose(gid, EnsureShard(BUCKET, 1, 0)) for gid in gids))


async def rows(groups: GroupSet) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of the state machine, and where small bodies lie."""
    await groups.checkpointer.checkpoint()
    environment = groups.environment
    return {name: list(environment.rows_of(getattr(environment, name))) for name in ("kv", "loc")}


def test_a_proposal_is_applied_in_order_and_its_body_is_kept(tmp_path: Path) -> None:
    async def work() -> None:
        groups = await opened(made_volume(tmp_path, 0))
        absent, lost = put(groups, 3, b"early", b"x")
        assert (await absent).reason == Reason.SHARD_ABSENT
        assert groups.volume.locate(lost) is None
        await ensure(groups, 3)
        puts = [put(groups, 3, b"k%d" % number, b"body %d" % number) for number in range(20)]
        outcomes = await asyncio.gather(*(future for future, _ in puts))
        assert [outcome.index for outcome in outcomes] == list(range(3, 23))
        assert groups.applied(3) == 22
        for number, (_, data_id) in enumerate(puts):
            assert await groups.volume.read_body(data_id) == b"body %d" % number
        shard = groups.machine.shards.snapshot(3, BUCKET)
        assert shard is not None
        assert (shard.keys, shard.versions) == (20, 20)
        statistics = groups.statistics()
        assert (statistics.proposed, statistics.applied, statistics.refused, statistics.uncommitted_bytes) == (22, 22, 1, 0)
        await groups.close()

    run(work)


@pytest.mark.parametrize("how", ["at once", "after a crash", "after a checkpoint and a crash"])
def test_a_repeat_by_request_id_has_one_effect(tmp_path: Path, how: str) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 3)
        identity = os.urandom(16)
        known = groups.applied(3)
        future, data_id = put(groups, 3, b"k", b"first", request_id=identity, known_index=known)
        first = await future
        if "checkpoint" in how:
            await groups.checkpointer.checkpoint()
        if "crash" in how:
            groups = await crashed(groups, path, tmp_path / "after")
        future, second_id = put(groups, 3, b"k", b"again", request_id=identity, known_index=known)
        again = await future
        assert (again.version, again.index) == (first.version, first.index)
        assert groups.volume.locate(second_id) is None
        assert await groups.volume.read_body(data_id) == b"first"
        shard = groups.machine.shards.snapshot(3, BUCKET)
        assert shard is not None
        assert (shard.keys, shard.versions) == (1, 1)
        await groups.close()

    run(work)


@pytest.mark.parametrize("crash", [False, True])
def test_what_left_the_window_is_refused_and_what_is_new_is_not(tmp_path: Path, crash: bool) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 3)
        old, before = os.urandom(16), groups.applied(3)
        await put(groups, 3, b"k", request_id=old, known_index=before)[0]
        await asyncio.gather(*(
            put(groups, 3, b"other", request_id=os.urandom(16), known_index=groups.applied(3))[0] for _ in range(DEDUPE_RESULTS)
        ))
        if crash:
            await groups.checkpointer.checkpoint()
            await put(groups, 3, b"tail", request_id=os.urandom(16), known_index=groups.applied(3))[0]
            groups = await crashed(groups, path, tmp_path / "after")
        count = groups.machine.shards.snapshot(3, BUCKET)
        assert (await put(groups, 3, b"k", request_id=old, known_index=before)[0]).reason == Reason.UNKNOWN_OUTCOME
        assert (await put(groups, 3, b"k", request_id=os.urandom(16), known_index=before)[0]).reason == Reason.UNKNOWN_OUTCOME
        assert groups.machine.shards.snapshot(3, BUCKET) == count
        assert (await put(groups, 3, b"k", request_id=os.urandom(16), known_index=groups.applied(3))[0]).reason == ""
        await groups.close()

    run(work)


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_replays_exactly_what_was_applied(tmp_path: Path, seed: int) -> None:
    async def work() -> None:
        choose = random.Random(seed)
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 1, 2, 3)
        bodies: dict[tuple[int, bytes], bytes] = {}
        for step in range(300):
            gid, key = choose.randint(1, 3), b"key %d" % choose.randrange(30)
            kind = choose.random()
            if kind < 0.6:
                body = choose.randbytes(choose.choice((0, 1, 100, 5 * KIB)))
                identity = choose.choice((b"", choose.randbytes(16)))
                assert (await put(groups, gid, key, body, request_id=identity, known_index=groups.applied(gid))[0]).reason == ""
                bodies[gid, key] = body
            elif kind < 0.8:
                await groups.propose(gid, DeleteObjects(BUCKET, (DeleteEntry(key),), step, b"12345678"))
                bodies.pop((gid, key), None)
            else:
                await multipart(groups, gid, key, choose)
                bodies.pop((gid, key), None)
            if choose.random() < 0.02:
                await groups.checkpointer.checkpoint()
        shutil.copytree(path, tmp_path / "after")
        before, applied = await rows(groups), groups.applied_all()
        assert len(before["kv"]) > 60
        await groups.close(checkpoint=False)
        copies = await opened(str(tmp_path / "after"))
        assert copies.statistics().replayed > 0
        assert await rows(copies) == before
        assert copies.applied_all() == applied
        for (gid, key), body in bodies.items():
            raw = copies.view.get(object_key(gid, BUCKET, key))
            assert raw is not None
            stored = copies.machine.objects.decode(raw)
            assert stored.size == len(body)
            if body:
                assert await copies.volume.read_body(stored.extents[0].data_id) == body
        assert (await put(copies, 1, b"next")[0]).index == applied[1] + 1
        await copies.close()

    run(work)


async def multipart(groups: GroupSet, gid: int, key: bytes, choose: random.Random) -> None:
    """One upload of two small parts, completed or aborted."""
    import hashlib

    upload_id = (await groups.propose(gid, CreateUpload(BUCKET, key, 1, "", choose.randbytes(8), {}, {}))).data
    etags = []
    for number in (1, 2):
        body = choose.randbytes(10)
        etags.append(hashlib.md5(body).digest())
        data_id = groups.volume.next_data_id()
        part = Part(number, len(body), etags[-1], 1, (Extent(data_id, len(body), INLINE, 0, xxh3_64_intdigest(body)),))
        assert (await groups.propose(gid, PutPart(BUCKET, key, upload_id, part), body, data_id)).reason == ""
    if choose.random() < 0.5:
        assert (await groups.propose(gid, AbortUpload(BUCKET, key, upload_id))).reason == ""
        await groups.propose(gid, DeleteObjects(BUCKET, (DeleteEntry(key),), 1, b"12345678"))
        return
    parts = tuple(CompletePart(number + 1, etag) for number, etag in enumerate(etags))
    etag = hashlib.md5(b"".join(etags)).digest()
    done = await groups.propose(gid, CompleteUpload(BUCKET, key, upload_id, parts, 1, choose.randbytes(8), etag, 0))
    assert done.reason == ""


def test_completions_are_remembered_for_a_week_and_no_longer(tmp_path: Path) -> None:
    async def work() -> None:
        groups = await opened(made_volume(tmp_path, 0))
        await ensure(groups, 1)
        week = 7 * 86_400_000
        ids: list[bytes] = []
        for number, now in enumerate([1000 + n for n in range(20)] + [week + 900] + [week + 2000 + n for n in range(5)]):
            ids.append(await completed_upload(groups, b"k%d" % number, now))
            if now < week:
                assert all(groups.machine.uploads.completed(1, BUCKET, b"k%d" % n, item) for n, item in enumerate(ids))
        left = [n for n, item in enumerate(ids) if groups.machine.uploads.completed(1, BUCKET, b"k%d" % n, item)]
        assert left == [20, 21, 22, 23, 24, 25]
        await groups.close()

    run(work)


async def completed_upload(groups: GroupSet, key: bytes, now_ms: int) -> bytes:
    """The id of an upload of one empty part that was completed."""
    import hashlib

    upload_id = (await groups.propose(1, CreateUpload(BUCKET, key, now_ms, "", os.urandom(8), {}, {}))).data
    etag = hashlib.md5(b"").digest()
    await groups.propose(1, PutPart(BUCKET, key, upload_id, Part(1, 0, etag, now_ms, ())))
    whole = hashlib.md5(etag).digest()
    done = await groups.propose(1, CompleteUpload(BUCKET, key, upload_id, (CompletePart(1, etag),), now_ms, os.urandom(8), whole, 0))
    assert done.reason == ""
    return upload_id


def test_what_was_on_its_way_at_a_crash_is_whole_or_not_there(tmp_path: Path) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 1)
        for number in range(10):
            await put(groups, 1, b"sure %d" % number, b"s" * 100)[0]
        waits = [put(groups, 1, b"maybe %d" % number, bytes([number]) * 20_000)[0] for number in range(50)]
        await asyncio.sleep(0.001)
        after = await crashed(groups, path, tmp_path / "after")
        del waits
        shard = after.machine.shards.snapshot(1, BUCKET)
        assert shard is not None
        assert 10 <= shard.keys <= 60
        assert after.applied(1) == 1 + shard.keys  # a prefix of the log
        for number in range(shard.keys - 10):
            raw = after.view.get(object_key(1, BUCKET, b"maybe %d" % number))
            assert raw is not None
            body = await after.volume.read_body(after.machine.objects.decode(raw).extents[0].data_id)
            assert body == bytes([number]) * 20_000
        await after.close()

    run(work)


def test_a_damaged_group_takes_no_write_and_says_why_while_reads_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 1, 2)
        await put(groups, 1, b"good", b"kept")[0]
        await groups.checkpointer.checkpoint()
        await put(groups, 1, b"victim", b"V" * 3000)[0]
        for number in range(5):
            await put(groups, 2, b"k%d" % number, b"later")[0]
            await put(groups, 1, b"l%d" % number, b"later")[0]
        copy = tmp_path / "after"
        shutil.copytree(path, copy)
        await groups.close(checkpoint=False)
        (log,) = [file for file in (copy / "log").iterdir() if b"V" * 3000 in file.read_bytes()]
        data = bytearray(log.read_bytes())
        at = data.index(b"victim")  # in the command of the record, not in its body
        data[at] ^= 0xFF
        log.write_bytes(data)

        after = await opened(str(copy))
        assert after.damage_of(1)
        with pytest.raises(ClientError) as caught:
            put(after, 1, b"new")
        assert caught.value.reason is Reason.UNAVAILABLE
        assert caught.value.message == after.damage_of(1) != ""
        raw = after.view.get(object_key(1, BUCKET, b"good"))
        assert raw is not None
        assert await after.volume.read_body(after.machine.objects.decode(raw).extents[0].data_id) == b"kept"
        assert after.statistics().damaged >= 1
        cause = after.damage_of(1)
        await after.close()  # with a checkpoint: the damage is not forgotten with the log
        again = await opened(str(copy))
        assert again.damage_of(1) == cause
        with pytest.raises(ClientError):
            put(again, 1, b"new")
        await again.close()

    run(work)


def test_a_volume_that_cannot_be_opened_is_given_back(tmp_path: Path) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 1)
        await groups.close()
        identity = (tmp_path / "0000" / "volume.json").read_bytes()
        for file in (tmp_path / "0000" / "log").iterdir():
            file.unlink()
        for _ in range(2):  # the second time the same error, not that somebody holds the lock
            with pytest.raises(DiskError) as caught:
                await opened(path)
            assert not isinstance(caught.value, VolumeBusy)
        assert (tmp_path / "0000" / "volume.json").read_bytes() == identity

    run(work)


def test_bytes_under_way_are_bounded_by_group_and_by_volume(tmp_path: Path) -> None:
    async def work() -> None:
        groups = await opened(made_volume(tmp_path, 0))
        await ensure(groups, *range(30))
        body = bytes(3 * MIB)
        waits = []
        with pytest.raises(ClientError) as caught:
            for _ in range(30):
                waits.append(put(groups, 1, b"k", body)[0])  # noqa: PERF401 - the first refusal ends it
        assert caught.value.reason is Reason.SLOW_DOWN
        assert len(waits) == GROUP_UNCOMMITTED_BYTES_MAX // (3 * MIB)
        with pytest.raises(ClientError):
            for gid in range(2, 30):
                waits.append(put(groups, gid, b"k", body)[0])  # noqa: PERF401
        assert len(waits) == UNCOMMITTED_BYTES_MAX // (3 * MIB)
        outcomes = await asyncio.gather(*waits)
        assert {outcome.reason for outcome in outcomes} == {""}
        assert groups.statistics().uncommitted_bytes == 0
        assert (await put(groups, 1, b"k", body)[0]).reason == ""
        await groups.close()

    run(work)


def test_an_entry_that_is_too_large_leaves_no_hole_in_the_log(tmp_path: Path) -> None:
    async def work() -> None:
        path = made_volume(tmp_path, 0)
        groups = await opened(path)
        await ensure(groups, 1)
        with pytest.raises(ClientError) as caught:
            put(groups, 1, b"k", bytes(COMMAND_BYTES_MAX))
        assert caught.value.reason is Reason.TOO_LARGE
        assert (await put(groups, 1, b"k", b"fits")[0]).index == 2
        after = await crashed(groups, path, tmp_path / "after")
        assert after.applied(1) == 2
        assert not after.damage_of(1)
        await after.close()

    run(work)


def test_when_the_volume_fails_everybody_who_waits_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        groups = await opened(made_volume(tmp_path, 0))
        await ensure(groups, 1)
        failures: list[DiskError] = []
        groups.on_failed = failures.append
        waits = [put(groups, 1, b"k%d" % number, b"x")[0] for number in range(5)]
        groups.volume.fail(DiskError("the disk is gone"))
        for wait in waits:
            with pytest.raises(DiskError, match="gone"):
                await wait
        with pytest.raises(ClientError) as caught:
            put(groups, 1, b"k")
        assert caught.value.reason is Reason.UNAVAILABLE
        assert [str(failure) for failure in failures] == ["the disk is gone"]
        assert groups.view.get(object_key(1, BUCKET, b"k1")) is None
        await groups.close()

    run(work)
