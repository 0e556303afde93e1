"""Offline verification: quiet about whatever workers left, also when they were killed; and every kind of lie in the rows is named."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import lmdb
import msgspec
import pytest

from tests.unit.cluster.workers import Machine, run
from tests.unit.jobs.reclaim import SIZE, checkpoint, collect, collector, made, put, written
from titans3.engine.segments import SegmentRow
from titans3.errors import FormatError, VolumeBusy
from titans3.jobs.references import verify_rows
from titans3.jobs.verify import OfflineVolume, Report, verify_volume
from titans3.limits import KIB, MIB
from titans3.meta.keys import MANIFEST, OBJECTS, PARTS, SHARDS, TABLE_AT, UPLOADS, VERSIONS
from titans3.meta.rows import open_value, seal_value
from titans3.model.command import CompletePart, DeleteEntry, EnsureShard
from titans3.model.control import BucketRecord
from titans3.model.version import INLINE, MANIFEST_ROWS, BucketUsage, Part, Shard, Version
from titans3.ring.placement import bucket_groups

Change = Callable[[bytes, bytes], tuple[bytes, bytes] | None]


def verified(machine: Machine) -> Report:
    report = Report()
    with ExitStack() as stack:
        volumes = [OfflineVolume(path, stack) for path in machine.paths]
        for volume in volumes:
            verify_volume(volume, report)
        verify_rows(volumes, report)
    return report


async def upload(machine: Machine, bucket: BucketRecord, key: bytes, sizes: list[int], *, complete: bool) -> None:
    worker = machine[0]
    upload_id = await worker.store.create_upload(
        bucket, key, owner="me", headers={}, metadata={}, checksum_algorithm="", checksum_composite=False
    )
    parts = []
    for number, size in enumerate(sizes, 1):
        body = os.urandom(size)
        md5, found = hashlib.md5(body).digest(), ()
        if size > 64 * KIB:
            sink = await worker.store.sink(bucket, key, length=size, headers={}, metadata={}, part=number, upload_id=upload_id)
            await sink.write(memoryview(body), ())
            found = await sink.finish(md5)
        await worker.store.put_part(bucket, key, upload_id, Part(number, size, md5, 0, found), b"" if found else body)
        parts.append(CompletePart(number, md5))
    if complete:
        etag = hashlib.md5(b"".join(part.etag for part in parts)).digest()
        await worker.store.complete_upload(
            bucket, key, upload_id, parts=tuple(parts), etag=etag, size=sum(sizes), checksum=None, condition=None
        )


async def fill(machine: Machine) -> BucketRecord:
    """Objects, versions, markers and uploads of every kind, replaced, deleted, abandoned."""
    bucket = await made(machine)
    keys = [b"small/%d" % number for number in range(40)] + [b"k" * 1000, b"k" * 500 + b"a", b"k" * 500 + b"b", b"\0\xff/"]
    for versioning in (0, 1, 2):
        if versioning:
            for gid in bucket_groups(bucket.bucket, bucket.shards):
                await machine[0].dispatcher.propose(gid, EnsureShard(bucket.bucket, (1 << 40) + versioning, versioning))
        for number, key in enumerate(keys):
            size = (0, 10, 4 * KIB, SIZE)[(number + versioning) % 4]
            await put(machine[number % 2], bucket, key, os.urandom(size))
            if number % 7 == 3:
                await machine[0].store.delete(bucket, (DeleteEntry(key),), "me")
        await upload(machine, bucket, b"complete", [SIZE, SIZE, 100], complete=True)
        await upload(machine, bucket, b"manifest", [SIZE] * 12, complete=True)
        await upload(machine, bucket, b"open", [SIZE, 500], complete=False)
        await put(machine[1], bucket, b"cut", os.urandom(5 * MIB), cut=True)
    return bucket


@pytest.mark.parametrize("end", ["closed", "killed", "killed after a free"])
def test_what_workers_leave_is_clean(tmp_path: Path, end: str) -> None:
    async def work() -> Machine:
        machine = Machine(tmp_path)
        await machine.__aenter__()
        bucket = await fill(machine)
        await collect(machine)
        if end == "closed":
            await machine.__aexit__()
            return machine
        key = machine.key_on(bucket, 0, "late")
        await put(machine[1], bucket, key, os.urandom(SIZE))  # rows on volume 0, bytes on volume 1
        await checkpoint(machine)
        await put(machine[1], bucket, machine.key_on(bucket, 1), os.urandom(SIZE))
        await put(machine[1], bucket, key, b"small")
        if end == "killed after a free":
            round_ = asyncio.ensure_future(collector(machine[0]).round())
            while not round_.done():  # volume 0 makes no checkpoint: its row names what volume 1 has no more
                await machine[1].owner.sets[1].checkpointer.checkpoint()
                await asyncio.sleep(0.01)
        for worker in machine.workers:
            await worker.kill()
        return machine

    machine = run(work, 60)
    report = verified(machine)
    assert report.findings == []
    assert (report.pending > 0) == (end != "closed")
    assert (report.unsettled > 0) == (end == "killed after a free")
    assert report.bodies > 40
    assert report.extents >= 60
    again = verified(machine)
    assert (again.bodies, again.extents, again.bytes, again.rows) == (report.bodies, report.extents, report.bytes, report.rows)


def test_orphans_are_counted_and_a_held_volume_is_refused(tmp_path: Path) -> None:
    async def work() -> Machine:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for me in (0, 1):
                await written(machine[me], bucket, b"orphan", os.urandom(SIZE))
            with ExitStack() as stack, pytest.raises(VolumeBusy):
                OfflineVolume(machine.paths[0], stack)
            return machine

    report = verified(run(work, 60))
    assert (report.unnamed, report.findings) == (2, [])
    with ExitStack() as stack, pytest.raises(FormatError):
        OfflineVolume(str(tmp_path), stack)


# lies in the rows --------------------------------------------------------------------------------------------------

_version = msgspec.msgpack.Decoder(Version).decode
_encode = msgspec.msgpack.encode
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    async def work() -> Machine:
        machine = Machine(tmp_path_factory.mktemp("verify"))
        async with machine:
            await fill(machine)
            await collect(machine)
        return machine

    return run(work, 60)


def changed(machine: Machine, tmp_path: Path, table: int, change: Change, name: str = "kv") -> Report:
    """The report after the first row of a table that ``change`` takes was changed in a copy, with a good checksum."""
    copy = tmp_path / "copy"
    paths = []
    for path in machine.paths:
        shutil.copytree(path, copy / Path(path).name)
        paths.append(str(copy / Path(path).name))
    is_changed = False
    for path in paths:
        with lmdb.open(f"{path}/meta", max_dbs=8, map_size=1 << 32, lib_version=0) as environment:
            database = environment.open_db(name.encode())
            with environment.begin(write=True, db=database) as txn:
                for key, stored in list(txn.cursor().iternext(True, True)):
                    if is_changed or (name == "kv" and key[TABLE_AT] != table):
                        continue
                    new = change(key, open_value(key, stored))
                    if new is not None:
                        txn.delete(key)
                        txn.put(new[0], seal_value(*new))
                        is_changed = True
    assert is_changed
    report = Report()
    with ExitStack() as stack:
        volumes = [OfflineVolume(path, stack) for path in paths]
        for volume in volumes:
            verify_volume(volume, report)
        verify_rows(volumes, report)
    return report


def of_version(change: Callable[[Version], Version | None]) -> Change:
    def one(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
        new = change(_version(value)) if len(key) < 500 else None  # not a link of a long key
        return None if new is None else (key, _encode(new))

    return one


def of_extent(**fields: object) -> Change:
    def one(version: Version) -> Version | None:
        if not version.extents:
            return None
        first = version.extents[0]
        return replace(version, extents=(replace(first, **fields), *version.extents[1:]))

    return of_version(one)


def of_shard(name: str) -> Change:
    def one(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
        shard = msgspec.msgpack.decode(value, type=Shard)
        return (key, _encode(replace(shard, **{name: getattr(shard, name) + 1})))

    return one


def moved(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The row hangs on something else."""
    return key[:5] + b"\x7f" + key[6:], value


def live(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    row = msgspec.msgpack.decode(value, type=SegmentRow)
    row.live -= 8
    return (key, _encode(row)) if row.live > 0 else None


CASES = {
    "length": (OBJECTS, of_extent(length=1), "in its extents"),
    "checksum": (OBJECTS, of_extent(checksum=1), "are not the ones it names"),
    "data id": (OBJECTS, of_extent(data_id=bytes(16)), "are not on volume"),
    "placement": (VERSIONS, of_extent(placement=77, policy=1), "are not on volume 76"),
    "size": (VERSIONS, of_version(lambda v: replace(v, size=v.size + 1) if v.extents else None), "in its extents"),
    "manifest size": (OBJECTS, of_version(lambda v: replace(v, size=1) if v.flags & MANIFEST_ROWS else None), "in its manifest"),
    "manifest": (MANIFEST, moved, "belongs to nothing"),
    "older versions": (VERSIONS, moved, "older versions of no key"),
    "parts": (PARTS, moved, "a part of no upload"),
    "upload": (UPLOADS, moved, "rows without a shard row"),
    "shard": (SHARDS, moved, "rows without a shard row"),
    **{f"counter {name}": (SHARDS, of_shard(name), f" {name} and has ") for name in BucketUsage.__struct_fields__},
}


@pytest.mark.parametrize("case", CASES)
def test_a_lie_in_a_row_is_named(closed: Machine, tmp_path: Path, case: str) -> None:
    table, change, text = CASES[case]
    report = changed(closed, tmp_path, table, change)
    assert any(text in finding for finding in report.findings), report.findings


def test_bytes_that_two_rows_name_are_named(closed: Machine, tmp_path: Path) -> None:
    seen: list[Version] = []

    def one(version: Version) -> Version | None:
        if not version.extents or version.extents[0].policy == INLINE:
            return None
        seen.append(version)
        return replace(version, extents=seen[0].extents, size=seen[0].size) if len(seen) > 1 else None

    report = changed(closed, tmp_path, OBJECTS, of_version(one))
    assert any("belong to another row, too" in finding for finding in report.findings), report.findings
    assert report.unnamed >= 1


def test_a_wrong_count_of_live_bytes_is_named(closed: Machine, tmp_path: Path) -> None:
    report = changed(closed, tmp_path, 0, live, "seg")
    assert ["live bytes and has" in finding for finding in report.findings] == [True]


def test_a_lost_loc_row_is_named(closed: Machine, tmp_path: Path) -> None:
    report = changed(closed, tmp_path, 0, lambda key, value: (bytes(18), value), "loc")
    assert any("are not on volume" in finding for finding in report.findings)
    assert len(report.findings) == 2, "the body with no name, and the name with no body"
