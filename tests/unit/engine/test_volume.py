"""A volume on real files with LMDB: identity, lock, log, bodies, extents, space, faults."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.faults.powerloss_disk import SimulatedDisk
from tests.faults.powerloss_store import CLUSTER, VOLUME, PowerStore, Rows, content
from titans3.engine.bodies import BodyDamaged
from titans3.engine.compaction import records_of
from titans3.engine.datawalk import walk_extents
from titans3.engine.extent import ExtentIdent
from titans3.engine.files import OsFiles, write_all
from titans3.engine.identity import format_volume, read_identity
from titans3.engine.log import Flushed
from titans3.engine.metadata import StoredMeta
from titans3.engine.reader import ExtentReader
from titans3.engine.record import Record
from titans3.engine.recovery import read_header
from titans3.engine.volume import Volume, VolumeOptions, VolumeState
from titans3.errors import DiskError, FormatError, VolumeBusy, VolumeFull
from titans3.limits import CACHE_WRITTEN_SHARE, KIB, MIB, PIECE_BYTES
from titans3.meta.environment import Checkpoint, Position
from titans3.model.command import PutObject, decode_command, encode_command
from titans3.model.version import Version

UUID_CLUSTER, UUID_VOLUME = "6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e01", "6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e02"
SMALL = VolumeOptions(
    log_segment_bytes=MIB, data_segment_bytes=4 * MIB, own_segment_bytes_min=2 * MIB, reserve_bytes=0, compact=False,
    compaction_bytes_per_second=0,
)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(work(), 60))


def formatted(tmp_path: Path) -> str:
    """Path of a new volume."""
    path = str(tmp_path / "0000")
    format_volume(OsFiles(), path, cluster=UUID_CLUSTER, uuid=UUID_VOLUME, index=2, created_ms=5)
    return path


class Bench:
    """A volume that keeps every body and applies nothing else."""

    def __init__(self, path: str, options: VolumeOptions = SMALL, files: OsFiles | None = None) -> None:
        self.volume = Volume(path, options=options, files=files or OsFiles())
        self.volume.on_flushed = self._flushed
        self.index = 0
        self.flushed: list[int] = []

        async def locate(index: int, data_id: bytes) -> object:
            return self.volume.locate(data_id)

        self.reader = ExtentReader(locate, lambda index: path)  # type: ignore[arg-type]

    def _flushed(self, flushed: list[Flushed]) -> None:
        for item in flushed:
            self.flushed.append(item.record.index)
            self._keep(item.record, item.segment, item.offset)

    def _keep(self, record: Record, segment: int, offset: int) -> None:
        self.index = max(self.index, record.index)
        if any(record.data_id):
            self.volume.put_loc(record.data_id, segment, offset, record.stored_bytes)

    async def start(self, closed_at: Position | None = None) -> Bench:
        await self.volume.open()
        self.recovery = await self.volume.recover(self._keep, closed_at)
        return self

    def put(self, key: bytes, body: bytes) -> bytes:
        self.index += 1
        data_id = self.volume.next_data_id()
        command = encode_command(PutObject(4, key, Version(1, 1, 0, 0, len(body), bytes(16), 0, 0)))
        self.volume.append(Record(7, self.index, 1, 1, command, body, data_id))
        return data_id

    async def put_large(self, key: bytes, body: bytes, *, known: bool = True) -> tuple[object, ...]:
        data_id = self.volume.next_data_id()
        sink = self.volume.sink(ExtentIdent(data_id, 7, 4, key, data_id), len(body) if known else None)
        md5 = hashlib.md5()
        for start in range(0, len(body), 300_001):
            await sink.write(memoryview(body)[start : start + 300_001], (md5,))
        assert md5.digest() == hashlib.md5(body).digest()
        return await sink.finish(md5.digest())

    async def get_large(self, extents: tuple[object, ...], start: int, length: int) -> bytes:
        source = self.reader.source(extents, start, length)  # type: ignore[arg-type]
        out = b""
        while (piece := await source.next()) is not None:
            assert len(piece) <= PIECE_BYTES
            out += piece
        return out

    async def checkpoint(self) -> None:
        meta = self.volume.meta
        assert isinstance(meta, StoredMeta)
        position = self.volume.checkpoint_begins()
        frozen = meta.view.freeze()
        assert frozen is not None
        meta.environment.commit(frozen, Checkpoint(position, {}))
        meta.view.thaw()
        self.volume.checkpoint_ended()

    async def stop(self) -> None:
        self.reader.close()
        await self.volume.close()


def test_identity_is_refused_when_foreign_newer_or_missing(tmp_path: Path) -> None:
    path = formatted(tmp_path)
    assert read_identity(OsFiles(), path).index == 2
    with pytest.raises(FormatError, match="already holds"):
        format_volume(OsFiles(), path, cluster=UUID_CLUSTER, uuid=UUID_VOLUME, index=2, created_ms=5)
    text = Path(path, "volume.json").read_text()
    Path(path, "volume.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatError, match="newer"):
        read_identity(OsFiles(), path)
    Path(path, "volume.json").unlink()
    with pytest.raises(FormatError, match="no volume"):
        read_identity(OsFiles(), path)


def test_format_cli(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "titans3.engine.format_cli", str(tmp_path / "v"), "--cluster", UUID_CLUSTER, "--uuid", UUID_VOLUME,
        "--index", "0", "--created-ms", "1",
    ]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
    again = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
    assert again.returncode == 1
    assert "already holds a volume" in again.stderr


def test_a_second_process_cannot_open_the_volume(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        code = (
            "import asyncio, sys\nfrom titans3.engine.volume import Volume\n"
            "try: asyncio.run(Volume(sys.argv[1]).open())\nexcept Exception as error: print(type(error).__name__, error)"
        )
        shown = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=False
        )
        assert "VolumeBusy" in shown.stdout
        assert "in use" in shown.stdout
        with pytest.raises(VolumeBusy, match="in use"):
            await Volume(path).open()
        await bench.stop()
        again = await Bench(path).start()
        assert again.volume.epoch > bench.volume.epoch
        await again.stop()

    run(work)


def test_bodies_survive_reopening_with_and_without_checkpoint(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bodies: dict[bytes, bytes] = {}
        for turn in range(4):
            bench = await Bench(path).start()
            assert bench.recovery.cause == ""
            for data_id, body in bodies.items():
                assert await bench.volume.read_body(data_id) == body
            for number in range(200):
                body = os.urandom(number * 331 % 66_000)
                bodies[bench.put(b"k%d" % number, body)] = body
                if number % 9 == 0:
                    await asyncio.sleep(0)
            await bench.volume.drain()
            assert bench.flushed == sorted(bench.flushed)
            assert len(bench.flushed) == 200
            if turn % 2:
                await bench.checkpoint()
            await bench.stop()

    run(work)


class Counting(OsFiles):
    """Counts the bytes of segments that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
        """See ``Files``."""
        count = super().preadv(fd, buffer, offset, nowait=nowait)
        self.read += count
        return count


def test_what_a_live_process_closed_is_opened_without_reading_what_is_blank(tmp_path: Path) -> None:
    """And everything is there, as if it had been read; a position that is not the checkpoint's changes nothing."""

    async def work() -> None:
        path = formatted(tmp_path)
        bodies: dict[bytes, bytes] = {}
        large: list[tuple[tuple[object, ...], bytes]] = []
        closed_at: Position | None = None
        read: dict[str, int] = {}
        for turn, how in enumerate(("first", "told", "not told", "told", "told wrongly", "told", "last")):
            files = Counting()
            hint = closed_at if how == "told" else None
            if how == "told wrongly":
                assert closed_at is not None
                hint = msgspec.structs.replace(closed_at, batch=closed_at.batch - 1)
            bench = await Bench(path, files=files).start(hint)
            read[how] = files.read
            assert bench.recovery.cause == ""
            assert bench.recovery.batches == 0
            for data_id, body in bodies.items():
                assert await bench.volume.read_body(data_id) == body
            for extents, body in large:
                assert await bench.get_large(extents, 0, len(body)) == body
            for number in range(5):
                body = os.urandom(1000 + number)
                bodies[bench.put(b"%d-%d" % (turn, number), body)] = body
            body = os.urandom(700_000 + turn)
            large.append((await bench.put_large(b"large%d" % turn, body), body))
            await bench.volume.drain()
            await bench.checkpoint()
            if how == "last":
                bench.put(b"more", b"than the checkpoint has")
                await bench.volume.drain()
            await bench.stop()
            closed_at = bench.volume.closed_at
            assert (closed_at is None) == (how == "last")
        assert read["not told"] - read["told"] > 4 * MIB  # of its segments 5 MiB are blank
        assert read["told wrongly"] - read["told"] > 4 * MIB
        bench = await Bench(path).start(closed_at)
        assert bench.recovery.batches == 1
        await bench.stop()

    run(work)


def test_extents_of_every_kind_read_back_in_any_range(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        made = []
        for size in (1, 65_535, 65_536, 65_537, 900_000, 2 * MIB + 17, 5 * MIB + 3):
            for known in (True, False):
                body = os.urandom(size)
                made.append((body, await bench.put_large(b"x" * 1000, body, known=known)))
        for _ in range(2):
            for body, extents in made:
                size = len(body)
                for start, end in ((0, size), (size // 2, size), (size - 1, size), (size // 3, size // 3 * 2), (0, 0)):
                    assert await bench.get_large(extents, start, end - start) == body[start:end]
            await bench.stop()
            bench = await Bench(path).start()
            assert bench.recovery.cause == ""
        await bench.stop()

    run(work)


def test_an_abandoned_sink_leaves_dead_bytes_that_come_back(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        for finish in (False, True):
            data_id = bench.volume.next_data_id()
            sink = bench.volume.sink(ExtentIdent(data_id, 1, 1, b"k", data_id), 3 * MIB)
            await sink.write(memoryview(bytes(3 * MIB if finish else 100)), ())
            if finish:
                await sink.finish(b"")
                assert bench.volume.locate(data_id) is not None
            sink.abandon()
            sink.abandon()
            assert bench.volume.locate(data_id) is None
        assert bench.volume.space().live == 0
        before = len(os.listdir(f"{path}/data"))
        for _ in range(3):
            await bench.checkpoint()
            await asyncio.sleep(0.05)
        assert (before, os.listdir(f"{path}/data")) == (2, [])
        assert bench.volume.space().dead == 0
        await bench.stop()

    run(work)


def test_space_comes_back_by_unlinking_and_compaction_and_reads_go_on(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        small = {bench.put(b"s%d" % n, os.urandom(3000)): n for n in range(1500)}
        bodies = {}
        await bench.volume.drain()
        for data_id in small:
            bodies[data_id] = await bench.volume.read_body(data_id)
        large = [(body, await bench.put_large(b"large", body)) for body in (os.urandom(700_000) for _ in range(12))]
        streaming = bench.reader.source(large[0][1], 0, 700_000)  # type: ignore[arg-type]
        await bench.checkpoint()
        full = sum(os.path.getsize(f"{path}/{sub}/{name}") for sub in ("log", "data") for name in os.listdir(f"{path}/{sub}"))
        for data_id, number in small.items():
            if number % 10:
                assert bench.volume.free(data_id) > 3000
        for number, (_, extents) in enumerate(large):
            if number % 6:
                bench.volume.free(extents[0].data_id)  # type: ignore[attr-defined]
        await bench.checkpoint()
        moved = 0
        while (step := await bench.volume.compact()) > 0:
            moved += step
        assert 100 < moved <= 150 + 2  # what is in the segments still written to stays
        for _ in range(3):
            await bench.checkpoint()
            await asyncio.sleep(0.05)
        left = sum(os.path.getsize(f"{path}/{sub}/{name}") for sub in ("log", "data") for name in os.listdir(f"{path}/{sub}"))
        assert left < full / 2
        space = bench.volume.space()
        assert space.live + space.dead + space.log == left
        kinds = bench.volume.statistics().kinds
        assert kinds.keys() == {"log", "data", "packed"}
        assert kinds["packed"][0] >= 1, "what compaction moved is told, too"
        for data_id, number in small.items():
            if number % 10 == 0:
                assert await bench.volume.read_body(data_id) == bodies[data_id]
        assert b"".join([bytes(p) for p in [await streaming.next()] if p is not None]) == large[0][0]
        for number, (body, extents) in enumerate(large):
            if number % 6 == 0:
                assert await bench.get_large(extents, 5, 600_000) == body[5:600_005]
        await bench.stop()
        bench = await Bench(path).start()
        assert bench.recovery.cause == ""
        for number, (body, extents) in enumerate(large):
            if number % 6 == 0:
                assert await bench.get_large(extents, 5, 600_000) == body[5:600_005]
        await bench.stop()

    run(work)


def flip(path: str, needle: bytes) -> None:
    """Flip one bit in the middle of the only place in a volume where ``needle`` lies."""
    for sub in ("log", "data"):
        for name in os.listdir(f"{path}/{sub}"):
            file = Path(path, sub, name)
            at = file.read_bytes().find(needle)
            if at >= 0:
                with file.open("r+b") as stream:
                    stream.seek(at + len(needle) // 2)
                    byte = stream.read(1)[0]
                    stream.seek(at + len(needle) // 2)
                    stream.write(bytes([byte ^ 4]))
                return
    raise AssertionError("the bytes are nowhere")


def test_a_flipped_bit_is_found_on_read_and_named(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        small, large = os.urandom(5000), os.urandom(400_000)
        data_id = bench.put("naïve//key".encode(), small)
        extents = await bench.put_large(b"big one", large)
        bench.put(b"after", b"x")
        await bench.volume.drain()
        flip(path, small)
        with pytest.raises(BodyDamaged) as caught:
            bench.volume.read_body_nowait(data_id)
        assert (caught.value.bucket, caught.value.key) == (4, "naïve//key".encode())
        flip(path, large[200_000:200_100])
        with pytest.raises(BodyDamaged) as caught:
            await bench.get_large(extents, 0, 400_000)
        assert (caught.value.bucket, caught.value.key) == (4, b"big one")
        assert await bench.get_large(extents, 0, 100_000) == large[:100_000], "other granules still read"
        await bench.stop()

    run(work)


def test_everything_is_found_again_from_segments_alone(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path).start()
        for number in range(20):
            bench.put(b"small %d" % number, b"%d" % number * 50)
        await bench.volume.drain()
        await bench.put_large(b"large", b"L" * 300_000)
        await bench.stop()

    run(work)
    found = {}
    for name in os.listdir(f"{path}/log"):
        for _, record, _ in records_of(OsFiles(), f"{path}/log/{name}"):
            if any(record.data_id):
                command = decode_command(record.command)
                assert isinstance(command, PutObject)
                found[command.bucket, command.key] = bytes(record.body)
    for name in os.listdir(f"{path}/data"):
        header = read_header(OsFiles(), f"{path}/data/{name}")
        assert header is not None
        for extent in walk_extents(OsFiles(), f"{path}/data/{name}", header):
            assert extent.is_whole
            assert extent.trailer is not None
            found[extent.header.ident.bucket, extent.header.ident.key] = extent.trailer.length
    assert found.pop((4, b"large")) == 300_000
    assert found == {(4, b"small %d" % number): b"%d" % number * 50 for number in range(20)}


def test_short_writes_and_many_pieces(tmp_path: Path) -> None:
    class Short(OsFiles):
        def pwritev(self, fd: int, pieces: object, offset: int) -> int:
            assert len(pieces) <= 1000  # type: ignore[arg-type]
            return os.pwrite(fd, b"".join(pieces)[:777], offset)  # type: ignore[call-overload]

    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    pieces = [b"", *[bytes([n % 251]) * (n % 13) for n in range(2500)], b"end"]
    assert write_all(Short(), fd, pieces, 3) == len(b"".join(pieces))
    assert os.pread(fd, 1 << 20, 3) == b"".join(pieces)
    os.close(fd)


def test_a_large_extent_is_written_back_while_it_arrives_and_a_smaller_one_by_its_sync(tmp_path: Path) -> None:
    class Asked(OsFiles):
        __slots__ = ("ranges",)

        def __init__(self) -> None:
            self.ranges: list[tuple[int, int]] = []

        def begin_write_back(self, fd: int, offset: int, length: int) -> None:
            self.ranges.append((offset, length))
            super().begin_write_back(fd, offset, length)

    path, files, options = formatted(tmp_path), Asked(), VolumeOptions(data_segment_bytes=64 * MIB)
    body = b"".join(b"%08d" % number for number in range(5 * MIB // 8))

    async def work() -> None:
        bench = await Bench(path, options, files).start()
        await bench.put_large(b"smaller", b"smaller!" * (3 * MIB // 8))
        assert files.ranges == []
        large = await bench.put_large(b"large", body)
        assert sum(length for _, length in files.ranges) == 5 * MIB
        assert all(one + length == other for (one, length), (other, _) in zip(files.ranges, files.ranges[1:], strict=False))
        assert await bench.get_large(large, 0, 5 * MIB) == body
        await bench.stop()

    run(work)


def test_of_what_was_written_the_last_stays_in_the_page_cache(tmp_path: Path) -> None:
    """What an upload is given is taken from those before it, oldest first; one that is larger than all that goes while it arrives."""

    class Asked(OsFiles):
        __slots__ = ("given",)

        def __init__(self) -> None:
            self.given: list[tuple[str, int, int]] = []

        def uncache(self, fd: int, offset: int, length: int) -> None:
            self.given.append((os.readlink(f"/proc/self/fd/{fd}"), offset, length))
            super().uncache(fd, offset, length)

    path, files = formatted(tmp_path), Asked()
    options = VolumeOptions(data_segment_bytes=64 * MIB, own_segment_bytes_min=64 * MIB, cache_written_bytes=25 * MIB)
    bodies = {b"%d" % number: os.urandom(3 * MIB) for number in range(30)}
    large = os.urandom(31 * MIB)

    async def work() -> None:
        bench = await Bench(path, options, files).start()
        kept = {}
        for key, body in bodies.items():
            kept[key] = await bench.put_large(key, body)
        for _ in range(100):
            if len(files.given) >= 5:
                break
            await asyncio.sleep(0.02)
        spans = sorted(files.given)
        assert 5 <= len(spans) == len(set(spans)) <= 6  # blocks of 16 MiB; 65 of 90 at least
        assert {(offset % (16 * MIB), length) for _, offset, length in spans} == {(0, 16 * MIB)}
        files.given.clear()
        kept[b"large"] = await bench.put_large(b"large", large)
        assert len({name for name, _, _ in files.given}) == 1
        behind = sum(length for _, _, length in files.given[:-1])
        assert len(large) - 9 * MIB <= behind <= len(large) - 8 * MIB
        assert files.given[-1][2] >= len(large)
        for key, body in {**bodies, b"large": large}.items():
            assert await bench.get_large(kept[key], 0, len(body)) == body
        await bench.stop()

    run(work)


def _is_cached(path: Path, offset: int) -> bool | None:
    """Whether a page is in memory; ``None`` where nobody can say so, or the file system has no other place for it."""
    probe = path.parent / "probe"
    probe.write_bytes(bytes(MIB))
    found = []
    for file, at in ((probe, 0), (path, offset)):
        fd = os.open(file, os.O_RDWR)
        try:
            if file == probe:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            found.append(os.preadv(fd, [bytearray(4096)], at, os.RWF_NOWAIT) > 0)
        except BlockingIOError:
            found.append(False)
        except OSError:
            return None
        finally:
            os.close(fd)
    probe.unlink()
    return None if found[0] else found[1]


def test_nothing_that_was_written_stays_in_the_page_cache_if_nothing_may(tmp_path: Path) -> None:
    options = VolumeOptions(data_segment_bytes=64 * MIB, cache_written_bytes=0)
    assert VolumeOptions().cache_written * CACHE_WRITTEN_SHARE <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path, body = formatted(tmp_path), os.urandom(MIB)

    async def work() -> None:
        bench = await Bench(path, options).start()
        kept = await bench.put_large(b"k", body)
        (segment,) = [file for file in (Path(path) / "data").iterdir() if file.stat().st_blocks]
        assert _is_cached(segment, 256 * KIB) is not True
        assert await bench.get_large(kept, 0, MIB) == body
        await bench.stop()

    run(work)


def simulated() -> tuple[SimulatedDisk, PowerStore]:
    """A store on a simulated disk."""
    disk = SimulatedDisk()
    format_volume(disk, "/v", cluster=CLUSTER, uuid=VOLUME, index=0, created_ms=1)
    return disk, PowerStore(disk, [Rows()])


@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize(("site", "size"), [("log.flush", 100), ("extent.sync", 50_000)])
def test_a_failed_sync_takes_the_disk_out_and_acknowledges_nothing(site: str, size: int, by_kernel: bool) -> None:
    async def work() -> None:
        disk, store = simulated()
        disk.has_syncs = by_kernel
        await store.start()
        await store.put("before", 1, 200)
        disk.fail_sync = {site: errno.EIO}
        with pytest.raises(DiskError):
            await store.put("during", 2, size)
        disk.fail_sync = {}
        assert store.volume.state is VolumeState.FAILED
        assert "sync" in store.volume.cause or "write failed" in store.volume.cause
        with pytest.raises(DiskError):
            await store.put("after", 3, 100)
        with pytest.raises(DiskError):
            await store.put("after", 4, 50_000)
        assert await store.read("before") == content("before", 1, 200)
        await store.stop()

    run(work)


def test_a_full_disk_refuses_writes_lets_deletes_through_and_resumes() -> None:
    async def work() -> None:
        disk, store = simulated()
        store.volume.options = VolumeOptions(
            log_segment_bytes=128 * KIB, data_segment_bytes=256 * KIB, own_segment_bytes_min=160 * KIB,
            reserve_bytes=600 * KIB, compaction_bytes_per_second=0, compact=False,
        )
        disk.capacity = 3 * MIB
        await store.start()
        count = 0
        with pytest.raises(VolumeFull):
            while True:
                await store.volume.refresh()
                store.volume.check_room(100_000)
                await store.put(f"k{count}", 1, 100_000)
                count += 1
        await store.volume.refresh()
        assert count > 5
        for number in range(count):
            await store.delete(f"k{number}")
        for _ in range(3):
            await store.collect()
            await asyncio.sleep(0.02)
        await store.volume.refresh()
        assert store.volume.state is VolumeState.OK
        store.volume.check_room(100_000)
        await store.put("again", 1, 100_000)
        assert await store.read("again") == content("again", 1, 100_000)
        await store.stop()

    run(work)


def test_data_ids_rise_whatever_the_clock_does(tmp_path: Path) -> None:
    class Jumping:
        def __init__(self) -> None:
            self.ms = 2_000_000_000_000

        def wall_ms(self) -> int:
            self.ms -= 3_600_000
            return self.ms

        def monotonic(self) -> float:
            return 0.0

    path = formatted(tmp_path)

    async def work() -> None:
        volume = Volume(path, options=SMALL, clock=Jumping())
        await volume.open()
        ids = [volume.next_data_id() for _ in range(100)]
        assert ids == sorted(set(ids))
        await volume.close()
        later = Volume(path, options=SMALL, clock=Jumping())
        await later.open()
        assert not set(ids) & {later.next_data_id() for _ in range(200)}
        await later.close()

    run(work)


def test_compaction_with_little_room_takes_what_fits() -> None:
    """Room for the copy of the one segment that holds least, not for all together: it goes first, and its space makes room for the rest."""

    async def work() -> None:
        disk, store = simulated()
        await store.start()
        names = [[f"{size}-{number}" for number in range(16)] for size in (5_000, 7_000, 9_000)]
        for some in names:
            for name in some:
                await store.put(name, 1, int(name.partition("-")[0]))
        for some in names:
            for name in some[3:]:
                await store.delete(name)
        await store.collect()
        await store.checkpoint()
        assert len(store.volume._compactor.victims(1 << 62)) == 2
        disk.capacity = 0  # as if others had filled the disk
        with pytest.raises(VolumeFull):
            await store.volume.compact()
        used = -disk.free_bytes("/v")
        assert store.volume._compactor.victims(1 << 62)  # and they are still to be moved
        disk.capacity = used + 60_000
        assert await store.volume.compact() == 3
        await store.checkpoint()
        await asyncio.sleep(0.05)  # what was moved out is unlinked
        while victims := store.volume._compactor.victims(1 << 62):
            assert await store.volume.compact() > 0, victims
        for some in names:
            for name in some[:3]:
                assert await store.read(name) == content(name, 1, int(name.partition("-")[0]))
        await store.stop()

    run(work)
