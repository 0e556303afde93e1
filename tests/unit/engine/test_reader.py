"""An answer that has begun ends with the bytes it began with, whatever happens to the object meanwhile; and lets go of all it held."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path

import msgspec
import pytest

from tests.unit.engine.test_volume import Bench, formatted, run
from titans3.engine import reader as reading
from titans3.engine.bodies import BodyDamaged
from titans3.engine.files import OsFiles
from titans3.engine.reader import ExtentReader, ExtentSource, Run
from titans3.engine.volume import VolumeOptions
from titans3.errors import DiskError
from titans3.limits import MIB, PIECE_SECONDS
from titans3.model.version import Extent

OWN = VolumeOptions(  # every extent above 1 MiB gets a segment of its own
    log_segment_bytes=MIB, data_segment_bytes=4 * MIB, own_segment_bytes_min=MIB, reserve_bytes=0, compact=False,
    compaction_bytes_per_second=0,
)


class Small:
    """A small part's body in the log of the volume."""

    def __init__(self, bench: Bench, data_id: bytes, length: int) -> None:
        self.bench, self.data_id, self.length = bench, data_id, length

    async def read(self) -> bytes:
        return await self.bench.volume.read_body(self.data_id)


def held_open(path: str) -> list[str]:
    """Unlinked data segments that this process holds open."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if name.startswith(f"{path}/data") and name.endswith("(deleted)"):
            names.append(name)
    return names


async def extents_of(bench: Bench, *bodies: bytes) -> list[Run]:
    """One extent each."""
    found: list[Run] = []
    for body in bodies:
        made = await bench.put_large(b"key", body)
        assert len(made) == 1
        assert isinstance(made[0], Extent)
        found.append(made[0])
    return found


async def rest(source: ExtentSource, *, at_hand: bool = True) -> bytes:
    """What is left of it; ``at_hand``: what is here is taken without waiting, as an answer does."""
    out = b""
    while True:
        piece = source.next_nowait() if at_hand else None
        if piece is None:
            piece = await source.next()
        if piece is None:
            source.close()
            return out
        out += piece


async def gone(bench: Bench, runs: list[Run], *, unlinked: int) -> None:
    """The object is overwritten: everything is freed, a checkpoint proves it, the segments are unlinked."""
    before = len(os.listdir(f"{bench.volume.path}/data"))
    for item in runs:
        assert bench.volume.free(item.data_id) > 0  # type: ignore[union-attr]
    for _ in range(3):
        await bench.checkpoint()
        await asyncio.sleep(0.05)
    bench.reader.sweep()
    assert before - len(os.listdir(f"{bench.volume.path}/data")) == unlinked


@pytest.mark.parametrize("sizes", [(3 * MIB, 2 * MIB + 5, 4 * MIB + 1), (9 * MIB,)], ids=["three extents", "one extent"])
def test_an_object_that_is_overwritten_and_unlinked_is_read_to_its_end(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(size) for size in sizes]
        runs = await extents_of(bench, *bodies)
        source = bench.reader.source(runs, 0, sum(sizes))
        first = await source.next()
        assert first is not None
        await gone(bench, runs, unlinked=len(sizes))
        assert len(held_open(path)) == len(sizes)
        with pytest.raises(DiskError, match="has no extent"):
            await bench.get_large(tuple(runs), 0, 10)  # who comes now finds nothing
        assert bytes(first) + await rest(source) == b"".join(bodies)
        bench.reader.sweep()
        assert held_open(path) == [], "the space is back"
        await bench.stop()

    run(work)


def test_the_table_of_an_extent_may_leave_memory_under_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = formatted(tmp_path)
    monkeypatch.setattr(reading, "TABLES_BYTES_MAX", 600)  # one extent at a time

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        body, other = os.urandom(5 * MIB), os.urandom(2 * MIB)
        runs = await extents_of(bench, body)
        others = await extents_of(bench, other)
        source = bench.reader.source(runs, 0, len(body))
        first = await source.next()
        assert first is not None
        await gone(bench, runs, unlinked=1)
        out = bytes(first)
        while (piece := await source.next()) is not None:
            out += piece
            assert await bench.get_large(tuple(others), 0, 10) == other[:10]
        assert out == body
        source.close()
        bench.reader.sweep()
        assert held_open(path) == []
        await bench.stop()

    run(work)


def test_a_small_part_inside_a_large_object_is_kept_too(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        large, small = os.urandom(3 * MIB), os.urandom(5000)
        runs = await extents_of(bench, large)
        data_id = bench.put(b"part", small)
        await bench.volume.drain()
        source = bench.reader.source([*runs, Small(bench, data_id, len(small))], 0, len(large) + len(small))
        first = await source.next()
        assert first is not None
        bench.volume.free(data_id)
        with pytest.raises(KeyError):
            await bench.volume.read_body(data_id)
        assert bytes(first) + await rest(source) == large + small
        await bench.stop()

    run(work)


def test_compaction_under_a_reader_is_not_seen(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        shared = msgspec.structs.replace(OWN, data_segment_bytes=12 * MIB, own_segment_bytes_min=8 * MIB)
        bench = await Bench(path, shared).start()
        bodies = [os.urandom(3_500_000) for _ in range(6)]
        runs = await extents_of(bench, *bodies)
        kept = [runs[0], runs[3]]
        source = bench.reader.source(kept, 0, 7_000_000)
        first = await source.next()
        assert first is not None
        for number in (1, 2, 4, 5):
            bench.volume.free(runs[number].data_id)  # type: ignore[union-attr]
        await bench.checkpoint()
        moved = await bench.volume.compact()
        for _ in range(3):
            await bench.checkpoint()
            await asyncio.sleep(0.05)
        bench.reader.sweep()
        assert moved >= 1
        assert held_open(path), "an old place is gone"
        assert bytes(first) + await rest(source) == bodies[0] + bodies[3]
        assert await bench.get_large(tuple(kept), 0, 7_000_000) == bodies[0] + bodies[3]
        bench.reader.sweep()
        assert held_open(path) == []
        await bench.stop()

    run(work)


def test_an_extent_that_is_not_there_is_told_before_the_first_byte(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(2 * MIB) for _ in range(3)]
        runs = await extents_of(bench, *bodies)
        await gone(bench, runs[2:], unlinked=1)
        source = bench.reader.source(runs, 0, 6 * MIB)
        with pytest.raises(DiskError, match="has no extent"):
            await source.next()
        source.close()
        within = bench.reader.source(runs, MIB, 3 * MIB)  # a range that does not touch it
        assert await rest(within) == b"".join(bodies)[MIB : 4 * MIB]
        await bench.stop()

    run(work)


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_an_answer_that_is_given_up_lets_go_of_everything(tmp_path: Path, pieces: int) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(2 * MIB) for _ in range(5)]
        runs = await extents_of(bench, *bodies)
        source = bench.reader.source(runs, 0, 10 * MIB)
        for _ in range(pieces):
            assert await source.next() is not None
        if not pieces:  # the client goes while the first piece is being fetched
            task = asyncio.ensure_future(source.next())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await gone(bench, runs, unlinked=5)
        source.close()
        await asyncio.sleep(0.05)
        bench.reader.sweep()
        assert held_open(path) == []
        await bench.stop()

    run(work)


def test_more_segments_than_one_answer_may_hold_are_held_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = formatted(tmp_path)
    monkeypatch.setattr(reading, "HELD_SEGMENTS_MAX", 2)
    monkeypatch.setattr(reading, "_HOLDS_AT_ONCE", 1)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(MIB + 10 * number) for number in range(1, 8)]
        runs = await extents_of(bench, *bodies)
        source = bench.reader.source(runs, 0, sum(map(len, bodies)))
        out = b""
        while (piece := await source.next()) is not None:
            out += piece
            assert len(source._places) <= 2
        assert out == b"".join(bodies)
        await bench.stop()

    run(work)


def test_any_range_of_any_mixture_of_runs(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(size) for size in (1, MIB, 70_000, 5, 2 * MIB + 1, 65_536)]
        runs = await extents_of(bench, *bodies)
        for number in (0, 3):
            runs[number] = Small(bench, bench.put(b"s", bodies[number]), len(bodies[number]))
        await bench.volume.drain()
        whole = b"".join(bodies)
        edges = [0]
        for body in bodies:
            edges.append(edges[-1] + len(body))
        points = sorted({max(0, min(len(whole), edge + step)) for edge in edges for step in (-1, 0, 1)} | {65_537, MIB + 3})
        for start in points:
            for end in points:
                if start <= end:
                    for at_hand in (True, False):
                        source = bench.reader.source(runs, start, end - start)
                        assert await rest(source, at_hand=at_hand) == whole[start:end], (start, end)
        await bench.stop()

    run(work)


def test_pieces_that_are_here_and_pieces_that_are_not_take_turns(tmp_path: Path) -> None:
    path = formatted(tmp_path)
    chance = random.Random(7)

    class Forgetful(OsFiles):
        """The page cache has lost one piece in two."""

        def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
            if nowait and chance.random() < 0.5:
                raise BlockingIOError
            return super().preadv(fd, buffer, offset)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        bodies = [os.urandom(size) for size in (5 * MIB, 70_000, 9 * MIB + 3)]
        runs = await extents_of(bench, *bodies)

        async def locate(index: int, data_id: bytes) -> object:
            return bench.volume.locate(data_id)

        reader = ExtentReader(locate, lambda index: path, files=Forgetful())  # type: ignore[arg-type]
        for _ in range(20):
            assert await rest(reader.source(runs, 0, sum(map(len, bodies)))) == b"".join(bodies)
        statistics = reader.statistics()
        assert 0 < statistics.waits < statistics.reads
        reader.close()
        await bench.stop()

    run(work)


def test_a_descriptor_stays_open_until_the_thread_that_reads_it_is_done(tmp_path: Path) -> None:
    """Else its number could be another file's by the time the thread reads."""
    path = formatted(tmp_path)
    entered, go = threading.Event(), threading.Event()
    closed: list[int] = []

    class Slow(OsFiles):
        def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
            if nowait:
                raise BlockingIOError
            if len(buffer) > MIB // 2:
                entered.set()
                assert go.wait(20)
            return super().preadv(fd, buffer, offset)

        def close(self, fd: int) -> None:
            closed.append(fd)
            super().close(fd)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        runs = await extents_of(bench, os.urandom(3 * MIB))

        async def locate(index: int, data_id: bytes) -> object:
            return bench.volume.locate(data_id)

        reader = ExtentReader(locate, lambda index: path, files=Slow())  # type: ignore[arg-type]
        source = reader.source(runs, 0, 3 * MIB)
        task = asyncio.ensure_future(source.next())
        await asyncio.to_thread(entered.wait, 20)
        task.cancel()
        await asyncio.wait([task])
        source.close()
        reader.close()
        await asyncio.sleep(0.02)
        assert closed == []
        go.set()
        while not closed:
            await asyncio.sleep(0.005)
        assert len(closed) == 1
        await bench.stop()

    run(work)


class Cached(OsFiles):
    """Whatever file system the test runs on."""

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
        return super().preadv(fd, buffer, offset)


def stepped(source: ExtentSource) -> bytes | memoryview | None:
    """The next piece of a source that must not have to wait for it."""
    coroutine = source.next()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        found: bytes | memoryview | None = stop.value
        return found
    coroutine.close()
    raise AssertionError("it waited")


def test_what_the_page_cache_has_is_read_without_a_task_or_a_turn_of_the_loop(tmp_path: Path) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        body = os.urandom(5 * MIB + 77)
        runs = await extents_of(bench, body)

        async def locate(index: int, data_id: bytes) -> object:
            return bench.volume.locate(data_id)

        reader = ExtentReader(locate, lambda index: path, files=Cached())  # type: ignore[arg-type]
        assert await rest(reader.source(runs, 0, len(body))) == body
        before = reader.statistics().waits
        source = reader.source(runs, 100, len(body) - 100)
        out = b""
        while (piece := stepped(source)) is not None:
            out += piece
        assert out == body[100:]
        assert source._ahead is None
        assert reader.statistics().waits == before
        source.close()
        reader.close()
        await bench.stop()

    run(work)


def test_after_a_piece_that_was_waited_for_the_next_one_is_read_ahead(tmp_path: Path) -> None:
    path = formatted(tmp_path)
    places: list[int] = []

    class Uncached(OsFiles):
        def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
            if nowait:
                raise BlockingIOError
            if len(buffer) > MIB // 2:
                places.append(offset)
            return super().preadv(fd, buffer, offset)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        body = os.urandom(4 * MIB)
        runs = await extents_of(bench, body)

        async def locate(index: int, data_id: bytes) -> object:
            return bench.volume.locate(data_id)

        reader = ExtentReader(locate, lambda index: path, files=Uncached())  # type: ignore[arg-type]
        source = reader.source(runs, 0, len(body))
        first = await source.next()
        assert first is not None
        while len(places) < 2:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)
        assert len(places) == 2, "one piece ahead, no more"
        assert bytes(first) + await rest(source) == body
        assert places == sorted(set(places)), "each once, in order"
        reader.close()
        await bench.stop()

    run(work)


def test_pieces_grow_for_a_client_that_takes_them(tmp_path: Path) -> None:
    """1 MiB twice and while the last one took long, else 2; a range is cut at granules."""
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        body = os.urandom(9 * MIB + 5)
        runs = await extents_of(bench, body)

        async def locate(index: int, data_id: bytes) -> object:
            return bench.volume.locate(data_id)

        reader = ExtentReader(locate, lambda index: path, files=Cached())  # type: ignore[arg-type]
        assert await rest(reader.source(runs, 0, len(body))) == body
        source = reader.source(runs, 70_000, len(body) - 70_000)
        sizes, out = [], b""
        while (piece := await source.next()) is not None:
            sizes.append(len(piece))
            out += piece
            if len(sizes) in (2, 4):
                await asyncio.sleep(PIECE_SECONDS)
        assert out == body[70_000:]
        assert sizes == [MIB - 70_000 % 65536, MIB, MIB, 2 * MIB, MIB, 2 * MIB, MIB - 65536 + 5]
        source.close()
        reader.close()
        await bench.stop()

    run(work)


@pytest.mark.parametrize("at", [0, 3 * MIB + 70_000, 5 * MIB - 1])
def test_no_byte_of_a_damaged_piece_is_handed_out(tmp_path: Path, at: int) -> None:
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Bench(path, OWN).start()
        body = os.urandom(5 * MIB)
        runs = await extents_of(bench, body)
        assert await bench.get_large(tuple(runs), 0, len(body)) == body
        (segment,) = [name for name in Path(path, "data").iterdir() if body[:64] in name.read_bytes()]
        place = segment.read_bytes().index(body[:64]) + at
        fd = os.open(segment, os.O_RDWR)
        os.pwrite(fd, bytes([body[at] ^ 4]), place)
        os.close(fd)
        source = bench.reader.source(runs, 0, len(body))
        out = b""
        with pytest.raises(BodyDamaged) as caught:
            while (piece := await source.next()) is not None:
                out += piece
        assert out == body[: max(cut for cut in (0, MIB, 2 * MIB, 4 * MIB) if cut <= at)]
        assert caught.value.offset == place - at + at // 65536 * 65536
        source.close()
        await bench.stop()

    run(work)
