"""The file of lines: written by the loop, and by a thread where that may wait; turned, bounded, and anew when it was moved away."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from titans3.clock import SystemClock
from titans3.config.mounts import mounts
from titans3.observe.line_file import SLOW_SECONDS, THREADED_SECONDS, WAITING_BYTES_MAX, LineFile, LineFileStatistics


class Time:
    """Of a machine on which every look at the clock is so much later than the one before."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def made(
    folder: Path, *, file_bytes: int = 1 << 20, files_max: int = 3, time: Time | None = None, mounted: Callable[[], str] = mounts
) -> LineFile:
    clock, monotonic = SystemClock(), time or Time()
    return LineFile(
        str(folder / "logs"), "access.0", clock, file_bytes=file_bytes, files_max=files_max, monotonic=monotonic, mounted=mounted
    )  # fmt: skip


def text(folder: Path) -> str:
    return (folder / "logs" / "access.0.log").read_text()


def test_what_comes_is_written_at_once_when_the_file_is_open(tmp_path: Path) -> None:
    async def scene() -> None:
        file = made(tmp_path)
        file.append(b"one\n", 1)
        assert not (tmp_path / "logs").exists()
        await file.tick()
        assert text(tmp_path) == "one\n"
        file.append(b"two\nthree\n", 2)
        assert text(tmp_path) == "one\ntwo\nthree\n"
        assert file.statistics() == LineFileStatistics(3, 0, 0)
        assert (tmp_path / "logs" / "access.0.log").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / "logs").stat().st_mode & 0o027 == 0

    asyncio.run(scene())


def test_an_idle_file_is_not_opened(tmp_path: Path) -> None:
    asyncio.run(made(tmp_path).tick())
    assert not (tmp_path / "logs").exists()


def test_it_is_turned_when_it_is_long_and_the_oldest_goes(tmp_path: Path) -> None:
    async def scene() -> None:
        file = made(tmp_path, file_bytes=100, files_max=3)
        for number in range(60):
            file.append(b"%09d\n" % number, 1)
            if number % 3 == 0:
                await file.tick()
        await file.tick()
        assert file.statistics() == LineFileStatistics(60, 0, 0)

    asyncio.run(scene())
    files = sorted((tmp_path / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 3
    kept = "".join(path.read_text() for path in files).split()
    assert kept == [f"{number:09d}" for number in range(60 - len(kept), 60)]
    assert all(path.stat().st_size < 150 for path in files)


def test_a_file_that_was_moved_away_or_deleted_is_made_anew(tmp_path: Path) -> None:
    async def scene() -> None:
        file = made(tmp_path)
        path = tmp_path / "logs" / "access.0.log"
        file.append(b"one\n", 1)
        await file.tick()
        path.rename(tmp_path / "mine")
        await file.tick()
        file.append(b"two\n", 1)
        await file.tick()
        assert (text(tmp_path), (tmp_path / "mine").read_text()) == ("two\n", "one\n")
        path.unlink()
        await file.tick()
        file.append(b"three\n", 1)
        await file.tick()
        assert text(tmp_path) == "three\n"

    asyncio.run(scene())


def test_after_a_slow_write_a_thread_writes_for_a_while(tmp_path: Path) -> None:
    async def scene() -> None:
        time = Time()
        file = made(tmp_path, time=time)
        file.append(b"0\n", 1)
        await file.tick()
        time.step = SLOW_SECONDS * 2
        file.append(b"1\n", 1)
        time.step = 0.0
        file.append(b"2\n", 1)
        assert text(tmp_path) == "0\n1\n"
        await file.tick()
        file.append(b"3\n", 1)
        assert text(tmp_path) == "0\n1\n2\n"
        time.now += THREADED_SECONDS
        await file.tick()
        file.append(b"4\n", 1)
        assert text(tmp_path) == "0\n1\n2\n3\n4\n"
        assert file.statistics() == LineFileStatistics(5, 0, 0)

    asyncio.run(scene())


def test_on_a_network_file_system_only_a_thread_writes(tmp_path: Path) -> None:
    async def scene() -> None:
        file = made(tmp_path, mounted=lambda: "1 1 0:1 / / rw - nfs4 server:/ rw\n")
        for number in range(3):
            file.append(b"%d\n" % number, 1)
            await file.tick()
            file.append(b"-\n", 1)
            assert text(tmp_path).endswith(f"{number}\n")

    asyncio.run(scene())


@pytest.fixture
def size_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_is_counted_and_tried_again(tmp_path: Path, size_limit: None, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        time = Time()
        time.now = 1000.0
        file = made(tmp_path, time=time)
        file.append(b"one\n", 1)
        await file.tick()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
        file.append(b"two\n", 1)  # by the loop
        file.append(b"three\n", 1)
        await file.tick()  # by a thread
        assert file.statistics() == LineFileStatistics(1, 2, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        file.append(b"four\n", 1)
        await file.tick()
        assert text(tmp_path) == "one\nfour\n"

    asyncio.run(scene())
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1  # of two within a minute


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")

    async def scene() -> None:
        file = made(tmp_path)
        piece = b"x" * 1_000_000
        for _ in range(12):
            file.append(piece, 10)
        assert file.is_behind
        kept = -(-WAITING_BYTES_MAX // len(piece)) * 10
        assert file.statistics() == LineFileStatistics(0, 120 - kept, 0)
        await file.tick()
        assert file.statistics() == LineFileStatistics(0, 120, 1)
        (tmp_path / "logs").unlink()
        file.append(b"again\n", 1)
        await file.tick()
        assert text(tmp_path) == "again\n"
        assert not file.is_behind

    asyncio.run(scene())


def test_what_comes_while_a_thread_writes_keeps_its_order(tmp_path: Path) -> None:
    async def scene() -> None:
        file = made(tmp_path, file_bytes=2000)
        lines = 0

        async def ticking() -> None:
            while lines < 3000:
                await file.tick()
                await asyncio.sleep(0)

        ticks = asyncio.create_task(ticking())
        while lines < 3000:
            for _ in range(20):
                file.append(b"%05d\n" % lines, 1)
                lines += 1
            await asyncio.sleep(0)
        await ticks
        await file.tick()
        await file.tick()
        assert file.statistics() == LineFileStatistics(3000, 0, 0)

    asyncio.run(scene())
    newest = [int(line) for line in text(tmp_path).split()]
    older = sorted((tmp_path / "logs").glob("access.0.2*.log"))
    found = [int(line) for path in older for line in path.read_text().split()]
    assert sorted([*found, *newest])[-1] == 2999
    assert newest == sorted(newest)
