"""When a checkpoint starts, what it holds, how writers are paced, and what a failed one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from titans3.errors import DiskError
from titans3.limits import MIB
from titans3.meta.checkpoint import Checkpointer, CheckpointOptions
from titans3.meta.environment import Checkpoint, Environment, Position
from titans3.meta.keys import object_key
from titans3.meta.view import View


class Bench:
    """An environment with its checkpointer; the position counts what ``begin`` was asked."""

    def __init__(self, path: Path, options: CheckpointOptions, map_bytes: int = 1 << 32) -> None:
        self.env = Environment(str(path), cluster=b"c" * 16, volume=b"v" * 16, map_bytes=map_bytes)
        self.view = View(self.env)
        self.begun = self.ended = 0
        self.failures: list[DiskError] = []
        self.checkpointer = Checkpointer(
            self.view, self.env, begin=self._begin, ended=self._end, on_failed=self.failures.append, options=options
        )

    def _begin(self) -> Checkpoint:
        self.begun += 1
        return Checkpoint(Position(self.begun, 0, 0, 1), {})

    def _end(self) -> None:
        self.ended += 1

    def put(self, count: int, size: int = 1, first: int = 0) -> None:
        for number in range(first, first + count):
            self.view.put(object_key(1, 1, b"%08d" % number), bytes(size))

    async def close(self, *, checkpoint: bool = False) -> None:
        await self.checkpointer.close(checkpoint=checkpoint)
        self.view.close()
        self.env.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(("count", "size"), [(101, 1), (20, 6000)])
def test_rows_or_bytes_over_the_limit_start_one(tmp_path: Path, count: int, size: int) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(rows=100, bytes_max=100_000, seconds=1e9))
        bench.put(15)
        bench.checkpointer.check()
        assert bench.begun == 0
        bench.put(count, size)
        bench.checkpointer.check()
        bench.checkpointer.check()
        assert bench.begun == 1, "one at a time"
        await until(lambda: bench.ended == 1)
        assert bench.env.position() == Position(1, 0, 0, 1)
        assert bench.checkpointer.statistics().last_rows == max(count, 15)
        await bench.close()

    run(work)


def test_time_starts_one_only_if_there_is_something_or_someone_waits(tmp_path: Path) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(seconds=0.0))
        bench.checkpointer.start()
        await asyncio.sleep(0.4)
        assert bench.begun == 0
        bench.checkpointer.want()
        await until(lambda: bench.ended == 1)
        bench.put(1)
        await until(lambda: bench.ended == 2)
        await asyncio.sleep(0.4)
        assert bench.begun == 2
        await bench.close()

    run(work)


def test_what_is_put_while_one_runs_is_in_the_next(tmp_path: Path) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(rows=10, seconds=1e9))
        bench.put(11)
        bench.checkpointer.check()
        bench.put(11, first=100)
        assert bench.view.get(object_key(1, 1, b"00000005")) == b"\0", "the frozen overlay is still read"
        await bench.checkpointer.checkpoint()
        assert (bench.begun, bench.ended, bench.view.rows, bench.view.frozen) == (2, 2, 0, None)
        statistics = bench.checkpointer.statistics()
        assert (statistics.checkpoints, statistics.rows, statistics.last_rows) == (2, 22, 11)
        assert len(bench.view.scan(object_key(1, 1, b""), object_key(1, 2, b""), 100)) == 22
        await bench.close()

    run(work)


def test_writers_are_paced_by_rows_and_by_bytes(tmp_path: Path) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(rows=100, bytes_max=1_000_000, seconds=1e9))
        delays = []
        for step in range(6):
            bench.put(100, first=100 * step)
            delays.append(bench.checkpointer.delay_seconds)
        assert delays[0] == 0.0
        assert delays == sorted(delays)
        assert 0.05 < delays[1] < 0.1
        assert delays[3] == delays[5] == 0.2, "there is a longest delay"
        await bench.checkpointer.checkpoint()
        assert bench.checkpointer.delay_seconds == 0.0
        bench.put(10, 200_000)
        assert 0.05 < bench.checkpointer.delay_seconds < 0.1, "few rows, but large ones"
        await bench.close()

    run(work)


def test_a_failed_checkpoint_is_told_once_and_never_tried_again(tmp_path: Path) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(rows=10, seconds=0.0), map_bytes=MIB)
        bench.checkpointer.start()
        bench.put(3000, 1000)
        await bench.checkpointer.checkpoint()
        assert [str(error)[:17] for error in bench.failures] == ["checkpoint failed"]
        bench.put(50, first=5000)
        bench.checkpointer.check()
        await bench.checkpointer.checkpoint()
        await asyncio.sleep(0.4)
        assert (bench.begun, bench.ended, len(bench.failures)) == (1, 0, 1)
        assert bench.view.get(object_key(1, 1, b"00002999")) == bytes(1000), "reads go on"
        await bench.close(checkpoint=True)
        assert bench.begun == 1

    run(work)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_close_puts_the_last_rows_only_if_told(tmp_path: Path, checkpoint: bool) -> None:
    async def work() -> None:
        bench = Bench(tmp_path, CheckpointOptions(seconds=1e9))
        bench.put(3)
        await bench.close(checkpoint=checkpoint)
        again = Bench(tmp_path, CheckpointOptions())
        assert (again.view.get(object_key(1, 1, b"00000002")) is not None) is checkpoint
        await again.close()

    run(work)
