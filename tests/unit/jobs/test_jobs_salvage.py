"""Salvage without metadata: what was committed comes back whole, under names that cannot meet or leave the folder; the rest is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster.workers import Machine, run, version
from tests.unit.jobs.reclaim import SIZE, check, checkpoint, collect, made, put, sets, written
from titans3.errors import ClientError
from titans3.jobs.salvage import Salvage
from titans3.jobs.salvaged import Salvaged, file_name
from titans3.limits import KIB, MIB
from titans3.model.command import CompletePart, Condition, DeleteEntry, EnsureShard
from titans3.model.control import BucketRecord
from titans3.model.version import Part
from titans3.ring.placement import bucket_groups


def salvaged(machine: Machine, out: Path) -> tuple[Salvaged, dict[tuple[str, str, bool], Any]]:
    """(counts, manifest by bucket, key and whether it is the latest), with ``meta`` gone."""
    work = Salvage()
    for path in machine.paths:
        shutil.rmtree(Path(path, "meta"), ignore_errors=True)
        work.read(path)
    done = work.write(str(out))
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        if line["file"] is not None:
            path = os.path.realpath(out / line["file"])
            assert path.startswith(os.path.realpath(out) + os.sep)
            line["body"] = Path(path).read_bytes()
            assert len(line["body"]) == line["size"]
    files = {os.path.relpath(Path(folder, name), out) for folder, _, names in os.walk(out) for name in names}
    assert files == {line["file"] for line in lines if line["file"]} | {"manifest.jsonl"}
    return done, {(line["bucket"], line["key"], line["latest"]): line for line in lines}


async def upload(machine: Machine, bucket: BucketRecord, key: bytes, bodies: list[bytes], end: str) -> bytes:
    store = machine[0].store
    upload_id = await store.create_upload(
        bucket, key, owner="me", headers={"content-type": "text/x"}, metadata={"a": "b"}, checksum_algorithm="", checksum_composite=False
    )
    parts = []
    for number, body in enumerate(bodies, 1):
        md5, found = hashlib.md5(body).digest(), ()
        if len(body) > 64 * KIB:
            sink = await store.sink(bucket, key, length=len(body), headers={}, metadata={}, part=number, upload_id=upload_id)
            await sink.write(memoryview(body), ())
            found = await sink.finish(md5)
        await store.put_part(bucket, key, upload_id, Part(number, len(body), md5, 0, found), b"" if found else body)
        parts.append(CompletePart(number, md5))
    if end == "complete":
        etag = hashlib.md5(b"".join(part.etag for part in parts)).digest()
        await store.complete_upload(
            bucket, key, upload_id, parts=tuple(parts), etag=etag, size=sum(map(len, bodies)), checksum=None, condition=None
        )
    elif end == "abort":
        await store.abort_upload(bucket, key, upload_id)
    return upload_id


KEYS = [b"plain", b"a/b", b"..", b".", b"../../x", b"/etc/passwd", b"x" * 1024, b"%2E%2E", b"#sha256-0", b"\xc3\xbc", b"nul\x00", b"k#1"]


def test_small_and_large_bodies_come_back_by_name(tmp_path: Path) -> None:
    async def work() -> tuple[Machine, dict[bytes, bytes]]:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies: dict[bytes, bytes] = {}
            for number, key in enumerate((*KEYS, *KEYS[:6])):
                bodies[key] = os.urandom((10, SIZE, 0, 4 * KIB, 70 * KIB)[number % 5])
                await put(machine[number % 2], bucket, key, bodies[key])
            bodies[b"cut"] = os.urandom(5 * MIB)
            await put(machine[0], bucket, b"cut", bodies[b"cut"], cut=True)
            for key in (b"gone small", b"gone large"):
                await put(machine[0], bucket, key, os.urandom(10 if b"small" in key else SIZE))
                await machine[0].store.delete(bucket, (DeleteEntry(key),), "me")
            pieces = [os.urandom(SIZE), os.urandom(SIZE), b"end"]
            bodies[b"parts"] = b"".join(pieces)
            await upload(machine, bucket, b"parts", pieces, "complete")
            return machine, bodies

    machine, bodies = run(work, 60)
    assert file_name(b"..") == "%2E%2E"
    done, found = salvaged(machine, tmp_path / "out")
    assert (done.failed, done.problems, done.others) == ([], [], 0)
    assert {key: line["body"] for (_, key, _), line in found.items()} == {key.decode(): body for key, body in bodies.items()}
    assert all(line["certain"] for line in found.values())
    parts = found["bucket", "parts", True]
    assert (parts["headers"], parts["metadata"]) == ({"content-type": "text/x"}, {"a": "b"})


def test_uploads_that_were_not_completed_hide_nothing(tmp_path: Path) -> None:
    async def work() -> tuple[Machine, bytes, bytes]:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            body, part = os.urandom(SIZE), os.urandom(SIZE)
            for key, end in ((b"open", "open"), (b"aborted", "abort")):
                await put(machine[0], bucket, key, body)
                await asyncio.sleep(0.002)  # which is the newer one is known to the millisecond
                await upload(machine, bucket, key, [part], end)
            await upload(machine, bucket, b"only", [part], "open")
            done = await upload(machine, bucket, b"done", [part, b"x"], "complete")
            with pytest.raises(ClientError):
                await machine[0].store.abort_upload(bucket, b"done", done)
            return machine, body, part

    machine, body, part = run(work, 60)
    _, found = salvaged(machine, tmp_path / "out")
    assert found["bucket", "open", True]["body"] == part
    assert not found["bucket", "open", True]["certain"]
    assert found["bucket", "open", False]["body"] == body, "beside it"
    assert found["bucket", "aborted", True]["body"] == body
    assert ("bucket", "aborted", False) not in found
    assert found["bucket", "only", True]["body"] == part
    assert found["bucket", "done", True]["body"] == part + b"x"


def test_refused_and_abandoned_bodies_hide_nothing(tmp_path: Path) -> None:
    async def work() -> Machine:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            none = Condition(if_none_match=("*",))
            for key, size in ((b"small", 100), (b"large", SIZE)):
                await put(machine[0], bucket, key, b"y" * size)
                with pytest.raises(ClientError):
                    if size == 100:
                        await machine[0].store.put(bucket, key, version(b"n" * size), b"n" * size, none)
                    else:
                        await machine[0].store.put(bucket, key, await written(machine[0], bucket, key, b"n" * size), b"", none)
            await put(machine[0], bucket, b"never", b"y" * SIZE)
            await written(machine[0], bucket, b"never", b"n" * SIZE)
            sink = await machine[0].store.sink(bucket, b"unfinished", length=None, headers={}, metadata={})
            await sink.write(memoryview(bytes(3 * MIB)), ())
            sink.abandon()
            await put(machine[0], bucket, b"unfinished", b"y")
            return machine

    _, found = salvaged(run(work, 60), tmp_path / "out")
    for key in ("small", "large", "never", "unfinished"):
        bodies = [line["body"][:1] for (_, name, _), line in found.items() if name == key and line["file"]]
        assert b"y" in bodies, key


def test_versions_deleted_by_id_do_not_come_back(tmp_path: Path) -> None:
    async def work() -> Machine:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            for gid in bucket_groups(bucket.bucket, bucket.shards):
                await machine[0].dispatcher.propose(gid, EnsureShard(bucket.bucket, 1 << 40, 1))
            for key, size in ((b"small", 100), (b"large", SIZE)):
                await put(machine[0], bucket, key, b"1" * size)
                second = await put(machine[0], bucket, key, b"2" * size)
                await machine[0].store.delete(bucket, (DeleteEntry(key, second.version_id),), "me")
            await collect(machine)
            return machine

    done, found = salvaged(run(work, 60), tmp_path / "out")
    assert done.failed == []
    assert {key: line["body"][:1] for (_, key, _), line in found.items()} == {"small": b"1", "large": b"1"}


def test_buckets_with_one_name_and_odd_names_do_not_meet(tmp_path: Path) -> None:
    async def work() -> Machine:
        async with Machine(tmp_path) as machine:
            store = machine[0].store
            for body in (b"older", b"newer"):
                bucket, _ = await store.create_bucket("again", "me", "us-east-1")
                await put(machine[0], bucket, b"k", body)
                if body == b"older":
                    # Its row is gone, its bytes are not: nothing was deleted when the segments were all there was.
                    await store.delete(bucket, (DeleteEntry(b"k", "null"),), "me")
                    await store.delete_bucket("again")
            odd, _ = await store.create_bucket("manifest.jsonl", "me", "us-east-1")
            await put(machine[0], odd, b"k", b"odd")
            return machine

    machine = run(work, 60)
    done, found = salvaged(machine, tmp_path / "out")
    assert done.failed == []
    assert {line["body"] for line in found.values()} >= {b"newer", b"odd"}
    assert (tmp_path / "out" / "again" / "k").read_bytes() == b"newer"
    assert (tmp_path / "out" / "manifest.jsonl#" / "k").read_bytes() == b"odd"


def test_what_compaction_copied_comes_back(tmp_path: Path) -> None:
    async def work() -> tuple[Machine, dict[bytes, bytes]]:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies = {b"k%d" % number: os.urandom(SIZE if number % 2 else 60 * KIB) for number in range(80)}
            for key, body in bodies.items():
                await put(machine[0], bucket, key, body)
                await put(machine[0], bucket, key + b"/gone", bytes(reversed(body)))
            for number in range(200):  # logs move on, so that what is behind may be compacted
                await put(machine[number % 2], bucket, b"turn", os.urandom(60 * KIB))
            for key in list(bodies):
                await machine[0].store.delete(bucket, (DeleteEntry(key + b"/gone"),), "me")
                if key.endswith((b"1", b"2", b"3")):
                    await machine[0].store.delete(bucket, (DeleteEntry(key),), "me")
                    del bodies[key]
            await collect(machine)
            moved = 0
            for _ in range(4):
                await checkpoint(machine)
                for groups in sets(machine).values():
                    moved += await groups.volume.compact()
            assert moved > 20
            turn = os.urandom(100)
            await put(machine[0], bucket, b"turn", turn)
            bodies[b"turn"] = turn
            await check(machine, bucket, bodies)
            assert any(row.flags for groups in sets(machine).values() for row in groups.volume._segments.table.values())
            return machine, bodies

    machine, bodies = run(work, 60)
    done, found = salvaged(machine, tmp_path / "out")
    assert (done.failed, done.problems) == ([], [])
    latest = {key.encode(): line["body"] for (_, key, is_latest), line in found.items() if is_latest}
    assert {key: latest.get(key) for key in bodies} == bodies


def test_damage_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    async def work() -> tuple[Machine, dict[bytes, bytes]]:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            bodies = {b"k%d" % number: os.urandom(SIZE if number % 2 else 4 * KIB) for number in range(30)}
            for key, body in bodies.items():
                await put(machine[0], bucket, key, b"before" + key)
                await put(machine[0], bucket, key, body)
            return machine, bodies

    machine, bodies = run(work, 60)
    hurt = (b"k3", b"k4")
    for path in (path for volume in machine.paths for path in Path(volume).rglob("*.seg")):
        raw = bytearray(path.read_bytes())
        for key in hurt:
            at = raw.find(bodies[key][1000:1100])
            if at >= 0:
                raw[at] ^= 1
        path.write_bytes(raw)
    extra = Path(machine.paths[0], "data", "00000001000000ff.seg")
    extra.write_bytes(bytes(4096) + b"lost" + bytes(4092))
    done, found = salvaged(machine, tmp_path / "out")
    assert len(done.failed) == len(hurt)
    assert len(done.problems) == 1
    assert extra.name in done.problems[0]
    for key, body in bodies.items():
        line = found["bucket", key.decode(), True]
        assert line.get("body") == (None if key in hurt else body)
    for key in hurt:
        assert found["bucket", key.decode(), False]["body"] == b"before" + key, "the one before a damaged one"


def titans3(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("titans3")
    return subprocess.run([command, "tools", "disk", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_volume_that_is_held_is_refused_and_one_volume_can_be_named(tmp_path: Path) -> None:
    async def work() -> tuple[Machine, bytes]:
        async with Machine(tmp_path) as machine:
            bucket = await made(machine)
            key = machine.key_on(bucket, 1)
            await put(machine[1], bucket, key, b"x" * SIZE)
            for command in (("verify",), ("salvage", "--out", str(tmp_path / "held"))):
                shown = await asyncio.to_thread(titans3, *command, machine.paths[1])
                assert (shown.returncode, "in use" in shown.stderr) == (1, True), shown
            assert not (tmp_path / "held").exists()
            return machine, key

    machine, key = run(work, 60)
    shown = titans3("verify", machine.paths[1])
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "clean"), shown
    shutil.rmtree(Path(machine.paths[1], "meta"))
    shown = titans3("salvage", machine.paths[1], "--out", str(tmp_path / "out"))
    assert (shown.returncode, shown.stderr) == (0, ""), shown
    assert (tmp_path / "out" / "#bucket-1" / key.decode()).stat().st_size == SIZE, "its bucket's name lies on the other volume"
    shown = titans3("salvage", str(tmp_path), "--out", str(tmp_path / "none"))
    assert (shown.returncode, "is no volume" in shown.stderr) == (1, True), shown
