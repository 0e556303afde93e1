"""Long work on the loop: when, in what order, how much in a turn; and pieces of bodies written by it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.engine.test_volume import SMALL, Bench, formatted, run
from titans3.engine import data
from titans3.engine.extent import ExtentIdent
from titans3.engine.files import OsFiles, Piece
from titans3.engine.sink import BodySink
from titans3.engine.volume import Volume, VolumeOptions
from titans3.errors import DiskError
from titans3.limits import KIB, MIB
from titans3.long_work import BODIES_MIN, BUSY_SHARE, IDLE_SHARE, TURN_SECONDS, LongWork


def test_where_processors_are_idle_or_nobody_knows_threads_do_it() -> None:
    for idle in (None, 1.0, IDLE_SHARE):
        work = LongWork(lambda idle=idle: idle)  # type: ignore[misc]
        assert work.pressure == 0.0 and not work.is_here(100)
    assert LongWork().pressure == 0.0
    assert LongWork(lambda: BUSY_SHARE).pressure == LongWork(lambda: 0.0).pressure == 1.0
    between = LongWork(lambda: (IDLE_SHARE + BUSY_SHARE) / 2)
    assert 0.4 < between.pressure < 0.6
    assert between.is_here(BODIES_MIN) and not between.is_here(BODIES_MIN - 1)


@pytest.mark.asyncio
async def test_steps_are_done_in_order_and_others_first() -> None:
    work, done = LongWork(), list[str]()
    steps = [work.here_last(done.append, "last"), *(work.here(done.append, name) for name in "abc")]
    assert not done, "in the next turn"
    await asyncio.gather(*steps)
    assert done == ["a", "b", "c", "last"]


@pytest.mark.asyncio
async def test_between_turns_the_loop_does_whatever_else_is_ready() -> None:
    work, events = LongWork(), list[str]()

    def step() -> None:
        time.sleep(TURN_SECONDS)
        events.append("step")

    steps = [work.here(step) for _ in range(10)]
    while not steps[-1].done():
        events.append("turn")
        await asyncio.sleep(0)
    assert events.count("step") == 10
    assert "step step" not in " ".join(events), events


@pytest.mark.asyncio
async def test_steps_that_keep_coming_do_not_hold_up_the_last_for_ever() -> None:
    work = LongWork()
    last = work.here_last(lambda: None)

    def step() -> None:
        time.sleep(TURN_SECONDS)
        if not last.done():
            work.here(step)
            work.here(step)

    work.here(step)
    await asyncio.wait_for(last, 10)


@pytest.mark.asyncio
async def test_what_a_step_raises_is_for_who_waits_and_who_left_stops_nothing() -> None:
    work, done = LongWork(), list[str]()
    left, failed, after = work.here(done.append, "left"), work.here(lambda: 1 // 0), work.here(done.append, "after")
    left.cancel()
    with pytest.raises(ZeroDivisionError):
        await failed
    await after
    assert done == ["left", "after"]


class Witness:
    """A digest that notes who computes it."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def update(self, data: memoryview, /) -> None:
        self.threads.add(threading.get_ident())


class Busy(Bench):
    """A volume of a worker whose machine has nothing idle."""

    def __init__(self, path: str, options: VolumeOptions = SMALL, files: OsFiles | None = None) -> None:
        super().__init__(path, options, files)
        self.work = LongWork(lambda: 0.0)
        self.volume = Volume(path, options=options, files=files or OsFiles(), work=self.work)
        self.volume.on_flushed = self._flushed

    def sink_of(self, key: bytes, size: int) -> BodySink:
        data_id = self.volume.next_data_id()
        return self.volume.sink(ExtentIdent(data_id, 7, 4, key, data_id), size)


def test_bodies_under_way_at_once_are_written_by_the_loop_in_segments_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SLOW_SECONDS", 30.0)
    path = formatted(tmp_path)
    bodies = {b"%d" % number: os.urandom(700 * KIB) for number in range(12)}
    here = threading.get_ident()

    async def work() -> None:
        bench = await Busy(path).start()
        sinks = {key: bench.sink_of(key, len(body)) for key, body in bodies.items()}
        witnesses = [Witness() for _ in range(7)]
        for at, witness in zip(range(0, 700 * KIB, 100 * KIB), witnesses, strict=True):
            await asyncio.gather(*(sink.write(memoryview(bodies[key])[at : at + 100 * KIB], (witness,)) for key, sink in sinks.items()))
        assert witnesses[0].threads - {here}  # twelve bodies need three segments of 4 MiB
        assert all(witness.threads == {here} for witness in witnesses[1:])
        assert bench.work.writers == 12
        extents = {key: await sink.finish(bytes(16)) for key, sink in sinks.items()}
        assert bench.work.writers == 0
        for key, body in bodies.items():
            assert await bench.get_large(extents[key], 0, len(body)) == body
        alone, witness = bench.sink_of(b"alone", MIB), Witness()
        for _ in range(4):
            await alone.write(memoryview(bytes(256 * KIB)), (witness,))
        assert here not in witness.threads
        alone.abandon()
        alone.abandon()
        assert bench.work.writers == 0
        await bench.stop()

    run(work)


class Waiting(OsFiles):
    """A disk that makes writers wait now and then."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def pwritev(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        seconds, self.seconds = self.seconds, 0.0
        time.sleep(seconds)
        return super().pwritev(fd, pieces, offset)


def test_after_the_disk_made_the_loop_wait_threads_write_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SLOW_SECONDS", 0.2)  # this machine's own disk may be busy with other tests
    monkeypatch.setattr(data, "THREADED_SECONDS", 1.0)
    path, files, here = formatted(tmp_path), Waiting(), threading.get_ident()

    async def work() -> None:
        bench = await Busy(path, files=files).start()
        sinks = [bench.sink_of(b"%d" % number, MIB) for number in range(3)]

        async def turn() -> set[int]:
            witness = Witness()
            for sink in sinks:
                await sink.write(memoryview(bytes(64 * KIB)), (witness,))
            return witness.threads

        await turn()
        assert await turn() == {here}
        files.seconds = 0.25
        found = await turn()
        assert here in found and len(found) > 1  # the first of them waited, the others did not
        assert here not in await turn()
        await asyncio.sleep(1.1)
        assert await turn() == {here}
        for sink in sinks:
            sink.abandon()
        await bench.stop()

    run(work)


def test_what_waits_for_its_turn_when_the_volume_is_closed_is_not_written(tmp_path: Path) -> None:
    """Its descriptor may be another file's by then."""
    path = formatted(tmp_path)

    async def work() -> None:
        bench = await Busy(path).start()
        sinks = [bench.sink_of(b"%d" % number, MIB) for number in range(3)]
        for sink in sinks:
            await sink.write(memoryview(bytes(64 * KIB)), ())
        late = bench.sink_of(b"late", MIB)
        bench.work.here(bench.volume._data.close)
        with pytest.raises(DiskError, match="closed"):
            await sinks[0].write(memoryview(bytes(64 * KIB)), ())
        with pytest.raises(DiskError, match="closed"):
            await late.write(memoryview(bytes(64 * KIB)), ())
        await bench.stop()

    run(work)
