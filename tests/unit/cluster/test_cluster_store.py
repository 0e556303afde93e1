"""The store as handlers see it, over two workers: objects, multipart, deletes and markers, listings, buckets and their races."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.unit.cluster.workers import Machine, Worker, run, version
from titans3.cluster import buckets as bucket_module
from titans3.cluster.store import UploadPage
from titans3.errors import ClientError, DiskError, Reason
from titans3.limits import BUCKET_SHARDS, KIB, MIB
from titans3.model.command import CompletePart, Condition, DeleteEntry, EnsureShard, Seal
from titans3.model.control import ACTIVE, DELETING, BucketRecord
from titans3.model.version import INLINE, MANIFEST_ROWS, MARKER, SINGLE, Part, Version, decode_rows
from titans3.ring.placement import bucket_groups, ring_hash


async def refused(call: Awaitable[object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value


async def made(machine: Machine, name: str = "bucket", via: int = 0) -> BucketRecord:
    record, new = await machine[via].store.create_bucket(name, "me", "us-east-1")
    assert new
    return record


async def put(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes = b"", condition: Condition | None = None) -> Version:
    return await worker.store.put(bucket, key, version(body), body, condition)


async def put_large(worker: Worker, bucket: BucketRecord, key: bytes, body: bytes, length: int | None = -1) -> Version:
    sink = await worker.store.sink(bucket, key, length=len(body) if length == -1 else length, headers={}, metadata={})
    for start in range(0, len(body), MIB):
        await sink.write(memoryview(body)[start : start + MIB], ())
    extents = await sink.finish(hashlib.md5(body).digest())
    return await worker.store.put(bucket, key, version(body, extents=extents), b"", None)


async def read(worker: Worker, bucket: BucketRecord, key: bytes, of: Version, start: int = 0, size: int = -1) -> bytes:
    source = worker.store.open(bucket, key, of, start, of.size if size < 0 else size)
    pieces = []
    while (piece := await source.next()) is not None:
        pieces.append(bytes(piece))
    source.close()
    return b"".join(pieces)


async def names(worker: Worker, bucket: BucketRecord) -> list[bytes]:
    page = await worker.store.list_objects(bucket, prefix=b"", delimiter=b"", after=b"", limit=1000)
    assert not page.truncated
    return [key for key, _ in page.keys]


async def versioning(machine: Machine, bucket: BucketRecord, state: int) -> None:
    """What PutBucketVersioning will do to the shards."""
    _, revision = await machine[0].control.list("/nothing")
    revision += 1000 + state
    for gid in bucket_groups(bucket.bucket, bucket.shards):
        await machine[0].dispatcher.propose(gid, EnsureShard(bucket.bucket, revision, state))


# objects ----------------------------------------------------------------------------------------------------------------


def test_a_small_object_travels_in_its_entry_and_reads_back_whole_and_in_ranges(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for number, size in enumerate((0, 1, 4 * KIB, 64 * KIB)):
                key, body = b"small %d" % number, os.urandom(size)
                stored = await put(machine[number % 2], bucket, key, body)
                assert [extent.policy for extent in stored.extents] == ([INLINE] if size else [])
                for worker in machine.workers:
                    found = await worker.store.find(bucket, key, body=True)
                    assert found.version == stored
                    assert (found.body or b"") == body
                    assert (await worker.store.find(bucket, key)).body is None
                    assert await read(worker, bucket, key, stored) == body
                    if size > 10:
                        assert await read(worker, bucket, key, stored, 3, size - 5) == body[3:-2]

    run(work)


def test_a_large_object_goes_through_a_sink(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body = os.urandom(9 * MIB + 5)
            for number, length in enumerate((-1, None)):
                key = b"large %d" % number
                stored = await put_large(machine[number], bucket, key, body, length)
                assert {extent.policy for extent in stored.extents} == {SINGLE}
                for worker in machine.workers:
                    found = await worker.store.find(bucket, key, body=True)
                    assert (found.version, found.body) == (stored, None)
                    assert await read(worker, bucket, key, stored) == body
                    for start, size in ((0, 1), (64 * KIB - 1, 2), (MIB, 4 * MIB), (len(body) - 3, 3)):
                        assert await read(worker, bucket, key, stored, start, size) == body[start : start + size]

    run(work)


def test_an_overwrite_frees_what_it_replaces_and_a_reader_gets_old_or_new(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=1, volumes=1) as machine:
            bucket = await made(machine)
            volume = machine[0].owner.sets[0].volume
            old = await put(machine[0], bucket, b"k", b"old")
            new = await put(machine[0], bucket, b"k", b"new!")
            assert volume.locate(old.extents[0].data_id) is None
            assert (await machine[0].store.find(bucket, b"k", body=True)).body == b"new!"
            bodies = [bytes([number]) * 5000 for number in range(40)]

            async def reads() -> None:
                for _ in range(200):
                    body = (await machine[0].store.find(bucket, b"k", body=True)).body
                    assert body == b"new!" or (body is not None and len(set(body)) == 1 and len(body) == 5000)
                    await asyncio.sleep(0)

            await asyncio.gather(reads(), *(put(machine[0], bucket, b"k", body) for body in bodies))
            assert new.seq > old.seq

    run(work)


def test_errors_of_reads_and_conditions(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for worker in machine.workers:
                store = worker.store
                assert (await refused(store.find(bucket, b"none"))).reason is Reason.KEY_ABSENT
                assert (await refused(store.find(bucket, b"none", version_id="0" * 32))).reason is Reason.VERSION_ABSENT
                assert (await refused(store.bucket("none"))).reason is Reason.BUCKET_ABSENT
                assert (await refused(store.delete_bucket("none"))).reason is Reason.BUCKET_ABSENT
                assert (await refused(store.upload(bucket, b"k", bytes(16)))).reason is Reason.UPLOAD_ABSENT
                assert (await refused(store.abort_upload(bucket, b"k", bytes(16)))).reason is Reason.UPLOAD_ABSENT
                assert await store.completed(bucket, b"k", bytes(16)) is None
            await put(machine[0], bucket, b"k", b"1", Condition(if_none_match=("*",)))
            error = await refused(put(machine[1], bucket, b"k", b"2", Condition(if_none_match=("*",))))
            assert error.reason is Reason.PRECONDITION
            assert (await machine[0].store.find(bucket, b"k", version_id="null")).version.size == 1

    run(work)


def test_a_copy_through_the_store_has_bytes_of_its_own(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket, other = await made(machine), await made(machine, "other")
            for size in (100, 3 * MIB):
                body = os.urandom(size)
                source = await (put if size < MIB else put_large)(machine[0], bucket, b"from", body)
                reader = machine[1].store.open(bucket, b"from", source, 0, size)
                sink = await machine[1].store.sink(other, b"to", length=size, headers={}, metadata={})
                while (piece := await reader.next()) is not None:
                    await sink.write(memoryview(piece), ())
                extents = await sink.finish(hashlib.md5(body).digest())
                copy = await machine[1].store.put(other, b"to", version(body, extents=extents), b"", None)
                assert not {e.data_id for e in copy.extents} & {e.data_id for e in source.extents}
                await machine[0].store.delete(bucket, [DeleteEntry(b"from")], "me")
                assert await read(machine[0], other, b"to", copy) == body

    run(work)


def test_delete_is_silent_about_what_is_not_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            await put(machine[0], bucket, b"k", b"x")
            assert await machine[1].store.delete(bucket, [DeleteEntry(b"k")], "me") == [("", "", False)]
            ((reason, _, is_marker),) = await machine[1].store.delete(bucket, [DeleteEntry(b"k")], "me")
            assert reason in ("", str(Reason.KEY_ABSENT))
            assert not is_marker
            assert await names(machine[0], bucket) == []

    run(work)


def test_delete_markers_hide_a_key_and_versions_stay(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            await versioning(machine, bucket, 1)
            for key in (machine.key_on(bucket, 0), machine.key_on(bucket, 1)):
                store = machine[0].store
                first, second = await put(machine[0], bucket, key, b"1"), await put(machine[1], bucket, key, b"22")
                assert first.version_id != second.version_id
                ((reason, marker_id, is_marker),) = await store.delete(bucket, [DeleteEntry(key)], "me")
                assert (reason, is_marker) == ("", True)
                error = await refused(store.find(bucket, key))
                assert error.reason is Reason.KEY_ABSENT
                marker = error.fields["marker"]
                assert isinstance(marker, Version)
                assert marker.version_id == marker_id
                assert marker.flags & MARKER
                assert (await store.find(bucket, key, version_id=marker_id)).version.flags & MARKER
                assert (await store.find(bucket, key, version_id=first.version_id, body=True)).body == b"1"
                assert key not in await names(machine[1], bucket)
                assert (await refused(store.delete_bucket("bucket"))).reason is Reason.BUCKET_NOT_EMPTY
                ((reason, gone, is_marker),) = await store.delete(bucket, [DeleteEntry(key, marker_id)], "me")
                assert (reason, gone, is_marker) == ("", marker_id, True)
                assert (await store.find(bucket, key, body=True)).body == b"22"
                for item in (first, second):
                    await store.delete(bucket, [DeleteEntry(key, item.version_id)], "me")
                assert (await refused(store.find(bucket, key))).fields == {}

    run(work)


# multipart --------------------------------------------------------------------------------------------------------------


async def upload_parts(machine: Machine, bucket: BucketRecord, key: bytes, bodies: dict[int, bytes]) -> tuple[bytes, list[Part]]:
    """An upload whose parts come through different workers, small ones in entries and large ones through sinks."""
    upload_id = await machine[0].store.create_upload(
        bucket, key, owner="me", headers={"content-type": "x/y"}, metadata={"a": "b"}, checksum_algorithm="", checksum_composite=False
    )
    parts = []
    for number, body in bodies.items():
        store = machine[number % 2].store
        etag = hashlib.md5(body).digest()
        if len(body) <= 64 * KIB:
            parts.append(await store.put_part(bucket, key, upload_id, Part(number, len(body), etag, 0, ()), body))
        else:
            sink = await store.sink(bucket, key, length=len(body), headers={}, metadata={}, upload_id=upload_id, part=number)
            await sink.write(memoryview(body), ())
            extents = await sink.finish(etag)
            parts.append(await store.put_part(bucket, key, upload_id, Part(number, len(body), etag, 0, extents), b""))
    return upload_id, parts


async def complete(worker: Worker, bucket: BucketRecord, key: bytes, upload_id: bytes, parts: list[Part]) -> Version:
    return await worker.store.complete_upload(
        bucket, key, upload_id, parts=tuple(CompletePart(part.number, part.etag) for part in parts),
        etag=hashlib.md5(b"".join(part.etag for part in parts)).digest(), size=-1, checksum=None, condition=None,
    )


@pytest.mark.parametrize("count", [1, 5, 150])
def test_multipart_over_workers_and_volumes(tmp_path: Path, count: int) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 1)
            bodies = {n: os.urandom(64 * KIB + (n * 7919) % (90 * KIB)) for n in range(1, count)}
            bodies[count] = os.urandom(300)
            upload_id, parts = await upload_parts(machine, bucket, key, bodies)
            assert (await machine[0].store.upload(bucket, key, upload_id)).headers == {"content-type": "x/y"}
            listed, more = await machine[0].store.parts(bucket, key, upload_id, after=0, limit=3)
            assert ([part.number for part in listed], more) == (list(range(1, min(count, 3) + 1)), count > 3)
            done = await complete(machine[0], bucket, key, upload_id, parts)
            assert bool(done.flags & MANIFEST_ROWS) is (count > 1)
            assert done.part_count == count
            if count > 1:
                assert {e.placement for part in parts for e in part.extents if e.policy == SINGLE} == {1, 2}  # two volumes
            whole = b"".join(bodies.values())
            for worker in machine.workers:
                found = await worker.store.find(bucket, key)
                assert found.version == done
                assert await read(worker, bucket, key, done) == whole
                choose = random.Random(count)
                for _ in range(10):
                    start = choose.randrange(len(whole))
                    size = choose.randint(1, min(len(whole) - start, 200 * KIB))
                    assert await read(worker, bucket, key, done, start, size) == whole[start : start + size]
                assert [part.size for part in await worker.store.parts_of(bucket, key, done)] == [len(b) for b in bodies.values()]
                assert await worker.store.completed(bucket, key, upload_id) == done
                assert (await refused(worker.store.upload(bucket, key, upload_id))).reason is Reason.UPLOAD_ABSENT
            assert await complete(machine[1], bucket, key, upload_id, parts) == done  # a client's repeat
            await put(machine[1], bucket, key, b"replaced")
            if count > 1:
                assert (await refused(read(machine[0], bucket, key, done))).reason is Reason.SLOW_DOWN

    run(work)


def test_open_uploads_are_listed_over_all_shards_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            choose = random.Random(5)
            keys = [choose.choice((b"a/", b"b/", b"")) + bytes([choose.randint(97, 102)]) * choose.randint(1, 3) for _ in range(60)]
            ids: list[tuple[bytes, bytes]] = []
            for number, key in enumerate(keys):
                upload_id = await machine[number % 2].store.create_upload(
                    bucket, key, owner="", headers={}, metadata={}, checksum_algorithm="", checksum_composite=False
                )
                ids.append((key, upload_id))
            ids.sort()
            for prefix, delimiter in ((b"", b""), (b"a/", b""), (b"", b"/"), (b"b", b"/"), (b"zz", b"")):
                for limit in (1, 3, 7, 1000):
                    found, prefixes = await all_uploads(machine[limit % 2], bucket, prefix, delimiter, limit)
                    inside = [item for item in ids if item[0].startswith(prefix)]
                    grouped = [item for item in inside if delimiter and delimiter in item[0][len(prefix) :]]
                    assert found == [item for item in inside if item not in grouped]
                    assert prefixes == sorted({key[: key.index(delimiter, len(prefix)) + 1] for key, _ in grouped})

    run(work)


async def all_uploads(
    worker: Worker, bucket: BucketRecord, prefix: bytes, delimiter: bytes, limit: int
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    found: list[tuple[bytes, bytes]] = []
    prefixes: list[bytes] = []
    page = UploadPage([], [], True, b"", b"")
    while page.truncated:
        page = await worker.store.list_uploads(
            bucket, prefix=prefix, delimiter=delimiter, after_key=page.after_key, after_upload=page.after_upload, limit=limit
        )
        assert len(page.uploads) + len(page.prefixes) <= limit
        found += [(item.key, item.upload_id) for item in page.uploads]
        prefixes += page.prefixes
    return found, prefixes


# listings ---------------------------------------------------------------------------------------------------------------


def test_a_listing_merges_all_shards_like_a_sorted_list(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            assert bucket.shards == BUCKET_SHARDS == 16
            choose = random.Random(1)
            keys = {
                b"/".join(bytes([choose.randint(97, 100)]) * choose.randint(1, 2) for _ in range(choose.randint(1, 4))) for _ in range(400)
            } | {b"//x", b"a", b"a/", b"\xc3\xbc", b"k\x00", b"k\x01"}
            await asyncio.gather(*(put(machine[len(key) % 2], bucket, key, key) for key in keys))
            gone = set(choose.sample(sorted(keys), 40))
            await machine[0].store.delete(bucket, [DeleteEntry(key) for key in gone], "me")
            for groups in machine[0].owner.sets.values():  # one owner from LMDB, the other from its overlay
                await groups.checkpointer.checkpoint()
            left = sorted(keys - gone)
            for prefix in (b"", b"a", b"a/", b"b/b", b"zz"):
                for delimiter in (b"", b"/"):
                    expected = model(left, prefix, delimiter)
                    for limit in (1, 7, 1000):
                        assert await everything(machine[limit % 2], bucket, prefix, delimiter, limit) == expected
            after = choose.choice(left)
            page = await machine[1].store.list_objects(bucket, prefix=b"", delimiter=b"", after=after, limit=1000)
            assert [key for key, _ in page.keys] == [key for key in left if key > after]
            assert [row.size for row in decode_rows([row for _, row in page.keys])] == [len(key) for key, _ in page.keys]

    run(work)


def model(keys: list[bytes], prefix: bytes, delimiter: bytes) -> tuple[list[bytes], list[bytes]]:
    found, groups = [], []
    for key in keys:
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                found.append(key)
            elif key[: at + 1] not in groups:
                groups.append(key[: at + 1])
    return found, groups


async def everything(worker: Worker, bucket: BucketRecord, prefix: bytes, delimiter: bytes, limit: int) -> tuple[list[bytes], list[bytes]]:
    found: list[bytes] = []
    groups: list[bytes] = []
    after = b""
    while True:
        page = await worker.store.list_objects(bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        assert len(page.keys) + len(page.prefixes) <= limit
        found += [key for key, _ in page.keys]
        groups += page.prefixes
        if not page.truncated:
            return found, groups
        after = page.after


# buckets ----------------------------------------------------------------------------------------------------------------


def test_a_name_is_won_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path, count=3, volumes=2) as machine:
            for number in range(5):
                name = f"name{number}"
                results = await asyncio.gather(*(machine[n % 3].store.create_bucket(name, "me", "r") for n in range(9)))
                assert [new for _, new in results].count(True) == 1
                assert len({record.bucket for record, _ in results}) == 1
                assert (await refused(machine[1].store.create_bucket(name, "you", "r"))).reason is Reason.BUCKET_EXISTS
            names_made = await asyncio.gather(*(machine[n % 3].store.create_bucket(f"n{n}", "me", "r") for n in range(12)))
            assert len({record.bucket for record, _ in names_made}) == 12
            assert [record.name for record in await machine[2].store.buckets()] == sorted(
                [f"name{n}" for n in range(5)] + [f"n{n}" for n in range(12)]
            )
            for worker in machine.workers:
                assert worker.store.bucket_nowait("n11") == names_made[11][0]

    run(work)


def test_a_bucket_is_deleted_only_when_it_is_empty(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for key in (machine.key_on(bucket, 0), machine.key_on(bucket, 1)):
                await put(machine[0], bucket, key, b"x")
                assert (await refused(machine[1].store.delete_bucket("bucket"))).reason is Reason.BUCKET_NOT_EMPTY
                found = machine[0].store.bucket_nowait("bucket")
                assert found is not None and msgspec.structs.replace(found, revision=bucket.revision) == bucket  # as it was, active
                await put(machine[1], bucket, key, b"y")  # and takes writes
                await machine[1].store.delete(bucket, [DeleteEntry(key)], "me")
            await machine[1].store.delete_bucket("bucket")
            for worker in machine.workers:
                assert worker.store.bucket_nowait("bucket") is None
                assert (await refused(worker.store.bucket("bucket"))).reason is Reason.BUCKET_ABSENT
            again = await made(machine)
            assert again.bucket > bucket.bucket
            assert await names(machine[0], again) == []

    run(work)


@pytest.mark.parametrize("purged", [False, True])
def test_a_write_with_a_stale_record_is_no_such_bucket_or_try_again(tmp_path: Path, purged: bool) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            stale = await made(machine)
            await machine[0].store.delete_bucket("bucket")
            if purged:
                await machine[0].buckets.sweep()
                assert (await machine[0].control.list("/purge/"))[0] == []
            upload = {"owner": "", "headers": {}, "metadata": {}, "checksum_algorithm": "", "checksum_composite": False}
            for expected in (Reason.BUCKET_ABSENT, Reason.SLOW_DOWN):
                for worker in machine.workers:
                    for owner in (0, 1):
                        key = machine.key_on(stale, owner)
                        calls: list[Awaitable[object]] = [
                            put(worker, stale, key, b"x"), worker.store.create_upload(stale, key, **upload),  # type: ignore[arg-type]
                            worker.store.delete(stale, [DeleteEntry(key)], "me"),
                        ]
                        for call in calls:
                            assert (await refused(call)).reason is expected
                if expected is Reason.BUCKET_ABSENT:
                    fresh = await made(machine)  # the name is there again: the cache was late
            assert await names(machine[1], fresh) == []
            for groups in (*machine[0].owner.sets.values(), *machine[1].owner.sets.values()):
                for gid in bucket_groups(stale.bucket, stale.shards):
                    shard = groups.machine.shards.snapshot(gid, stale.bucket)
                    assert shard is None or (shard.seal and not shard.keys)

    run(work)


def test_nobody_who_read_a_bucket_before_its_end_brings_a_shard_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            labels = []
            stop = asyncio.Event()

            async def reads() -> None:
                while (found := await machine[1].buckets.by_id(bucket.bucket)) is not None:
                    labels.append(found[1])
                stop.set()

            async def others() -> None:
                while not stop.is_set():  # revisions rise between the mark and the end of the name
                    await machine[0].control.cas([("/settings/x", b"")], {})

            await asyncio.gather(reads(), others(), machine[0].store.delete_bucket("bucket"))
            await machine[0].buckets.sweep()
            assert labels
            for gid in bucket_groups(bucket.bucket, bucket.shards):
                outcome = await machine[1].dispatcher.propose(gid, EnsureShard(bucket.bucket, max(labels), 0))
                assert outcome.reason == Reason.SHARD_ABSENT

    run(work)


@pytest.mark.parametrize("seed", range(3))
def test_puts_against_delete_and_create_lose_nothing_and_resurrect_nothing(tmp_path: Path, seed: int) -> None:
    async def work() -> None:
        choose = random.Random(seed)
        async with Machine(tmp_path) as machine:
            for round_number in range(12):  # which of the two wins a round is up to the machine; every outcome has to be right
                bucket = await made(machine)
                done: list[bytes] = []

                pauses = [choose.random() * 0.02 for _ in range(8)]
                first = choose.random() * 0.02 if round_number % 3 else 0.0
                results = await asyncio.gather(
                    *(late_put(machine[n % 2], bucket, n, pause, done) for n, pause in enumerate(pauses)),
                    late_delete(machine[round_number % 2], first),
                )
                if results[-1]:
                    assert done == []  # nothing acknowledged was in it
                    assert (await refused(machine[0].store.bucket("bucket"))).reason is Reason.BUCKET_ABSENT
                    fresh = await made(machine)
                    assert await names(machine[1], fresh) == []
                    await machine[0].buckets.sweep()
                    assert await names(machine[0], fresh) == []
                    bucket = fresh
                else:
                    assert sorted(done) == await names(machine[1], bucket)
                    await put(machine[0], bucket, b"after", b"")
                    await machine[1].store.delete(bucket, [DeleteEntry(key) for key in [*done, b"after"]], "me")
                await machine[0].store.delete_bucket("bucket")

    run(work)


async def late_put(worker: Worker, bucket: BucketRecord, number: int, pause: float, done: list[bytes]) -> None:
    await asyncio.sleep(pause)
    with suppress(ClientError):
        await put(worker, bucket, b"key %d" % number, b"x")
        done.append(b"key %d" % number)


async def late_delete(worker: Worker, pause: float) -> bool:
    await asyncio.sleep(pause)
    (error,) = await asyncio.gather(worker.store.delete_bucket("bucket"), return_exceptions=True)
    assert error is None or (isinstance(error, ClientError) and error.reason in (Reason.BUCKET_NOT_EMPTY, Reason.BUCKET_BUSY))
    return error is None


def test_two_deletions_at_once_end_in_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            for _ in range(5):
                await made(machine)
                results = await asyncio.gather(*(machine[n % 2].store.delete_bucket("bucket") for n in range(4)), return_exceptions=True)
                assert results.count(None) == 1
                reasons = {error.reason for error in results if isinstance(error, ClientError)}
                assert reasons <= {Reason.BUCKET_BUSY, Reason.BUCKET_ABSENT}
                assert (await refused(machine[0].store.bucket("bucket"))).reason is Reason.BUCKET_ABSENT

    run(work)


async def mark(machine: Machine, bucket: BucketRecord, seals: int) -> BucketRecord:
    """A deletion whose worker died after it had sealed some shards."""
    import msgspec

    marked = msgspec.structs.replace(bucket, state=DELETING, op_id=os.urandom(16))
    await machine[0].control.cas([(f"/buckets/{bucket.name}", msgspec.msgpack.encode(marked))], {})
    for gid in bucket_groups(bucket.bucket, bucket.shards)[:seals]:
        await machine[0].dispatcher.propose(gid, Seal(bucket.bucket, marked.op_id))
    return marked


@pytest.mark.parametrize("seals", [0, 7, 16])
@pytest.mark.parametrize("empty", [True, False])
def test_a_deletion_that_was_left_half_done_is_finished_or_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seals: int, empty: bool
) -> None:
    monkeypatch.setattr(bucket_module, "HALF_DONE_SECONDS", 0.0)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = next(
                key for key in (b"k%d" % n for n in range(1000))
                if ring_hash(bucket.bucket, key, bucket.shards) == bucket_groups(bucket.bucket, bucket.shards)[-1]
            )
            if not empty:
                await put(machine[0], bucket, key, b"x")
            await mark(machine, bucket, seals if empty else min(seals, 15))
            assert (await refused(machine[1].store.create_bucket("bucket", "me", "r"))).reason is Reason.BUCKET_BUSY
            assert (await refused(machine[1].store.delete_bucket("bucket"))).reason is Reason.BUCKET_BUSY
            if seals == 16 and empty:
                assert (await refused(put(machine[1], bucket, key, b"y"))).reason is Reason.BUCKET_BUSY
            await machine[0].buckets.sweep()
            if empty:
                assert (await refused(machine[1].store.bucket("bucket"))).reason is Reason.BUCKET_ABSENT
                assert (await refused(put(machine[1], bucket, key, b"y"))).reason is Reason.BUCKET_ABSENT
            else:
                assert (await machine[1].store.bucket("bucket")).state == ACTIVE
                for number in range(40):
                    await put(machine[1], bucket, b"new %d" % number, b"y")

    run(work)


def test_a_deletion_is_given_half_a_minute_before_the_sweeper_takes_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            await mark(machine, bucket, 16)
            await machine[0].buckets.sweep()
            await machine[0].buckets.sweep()
            assert (await machine[0].store.bucket("bucket")).state == DELETING

    run(work)


def test_a_seal_that_nobody_stands_behind_comes_off(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for owner in (0, 1):
                key = machine.key_on(bucket, owner)
                await machine[0].dispatcher.propose(ring_hash(bucket.bucket, key, bucket.shards), Seal(bucket.bucket, os.urandom(16)))
                assert (await refused(put(machine[0], bucket, key, b"x"))).reason is Reason.SLOW_DOWN
                await put(machine[0], bucket, key, b"x")

    run(work)


def test_a_deletion_that_cannot_reach_a_shard_is_undone_or_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "HALF_DONE_SECONDS", 0.0)

    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            await machine[1].kill()
            assert (await refused(machine[0].store.delete_bucket("bucket"))).reason is Reason.SLOW_DOWN
            await machine.start(1)
            await machine[0].buckets.sweep()
            assert (await refused(machine[1].store.bucket("bucket"))).reason is Reason.BUCKET_ABSENT
            assert (await refused(put(machine[0], bucket, machine.key_on(bucket, 1), b""))).reason is Reason.BUCKET_ABSENT

    run(work)


def test_a_purge_takes_uploads_and_parts_of_a_deleted_bucket(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 1)
            upload_id, _ = await upload_parts(machine, bucket, key, {1: os.urandom(100 * KIB), 2: b"small"})
            done_id, done_parts = await upload_parts(machine, bucket, key, {1: b"whole"})
            await complete(machine[0], bucket, key, done_id, done_parts)
            await machine[0].store.delete(bucket, [DeleteEntry(key)], "me")
            await machine[0].store.delete_bucket("bucket")
            await machine[0].buckets.sweep()
            gid = ring_hash(bucket.bucket, key, bucket.shards)
            machine_of = machine[1].owner.sets[1].machine
            assert machine_of.shards.snapshot(gid, bucket.bucket) is None
            assert machine_of.uploads.parts(gid, upload_id, 0, 10) == []
            assert machine_of.uploads.completed(gid, bucket.bucket, key, done_id) is None
            assert (await machine[0].control.list("/purge/"))[0] == []

    run(work)


# faults -----------------------------------------------------------------------------------------------------------------


def test_a_body_that_is_not_in_the_page_cache_is_read_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 1)
            await put(machine[0], bucket, key, b"cold")
            monkeypatch.setattr(machine[1].owner.sets[1].volume, "read_body_nowait", lambda data_id: None)
            for worker in machine.workers:
                assert (await worker.store.find(bucket, key, body=True)).body == b"cold"

    run(work)


def test_a_flipped_bit_and_a_lost_body_are_named_and_never_served(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 1)
            body = b"B" * 5000
            stored = await put(machine[0], bucket, key, body)
            volume = machine[1].owner.sets[1].volume
            (log,) = [file for file in (Path(volume.path) / "log").iterdir() if body in file.read_bytes()]
            with log.open("r+b") as file:
                file.seek(log.read_bytes().index(body) + 777)
                file.write(b"b")
            for worker in machine.workers:
                assert (await refused(worker.store.find(bucket, key, body=True))).reason is Reason.BODY_DAMAGED
                assert (await worker.store.find(bucket, key)).version == stored  # its name is still there
                assert (await refused(read(worker, bucket, key, stored, 0, 10))).reason is Reason.BODY_DAMAGED
            volume.free(stored.extents[0].data_id)  # as if its segment were lost
            for worker in machine.workers:
                assert (await refused(worker.store.find(bucket, key, body=True))).reason is Reason.BODY_DAMAGED
            await put(machine[0], bucket, key, b"whole again")
            assert (await machine[0].store.find(bucket, key, body=True)).body == b"whole again"

    run(work)


def test_a_failed_volume_takes_no_write_and_goes_on_reading(tmp_path: Path) -> None:
    async def work() -> None:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key, other = machine.key_on(bucket, 1), machine.key_on(bucket, 0)
            await put(machine[0], bucket, key, b"before")
            waiting = [asyncio.ensure_future(put(worker, bucket, key, b"during")) for worker in machine.workers]
            await asyncio.sleep(0)
            machine[1].owner.sets[1].volume.fail(DiskError("fdatasync failed"))
            for wait in waiting:
                assert (await refused(wait)).reason in (Reason.UNKNOWN_OUTCOME, Reason.UNAVAILABLE)
            for worker in machine.workers:
                assert (await refused(put(worker, bucket, key, b"after"))).reason is Reason.UNAVAILABLE
                assert (await worker.store.find(bucket, key, body=True)).body == b"before"
                await put(worker, bucket, other, b"elsewhere")
                large = await put_large(worker, bucket, other, os.urandom(MIB))  # on the volume that is well
                assert {extent.placement for extent in large.extents} == {1}

    run(work)
