"""Syncs without a thread: told once each, errors told as such, and a log that goes on where there are none."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import uvloop

from titans3.engine import log as log_module
from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume
from titans3.engine.kernel_sync import FLYING_MAX, Done, KernelSyncs, Syncs, kernel_syncs
from titans3.engine.log import Flushed
from titans3.engine.record import Record
from titans3.engine.volume import Volume, VolumeOptions
from titans3.limits import MIB

VOLUME = "6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e02"
OPTIONS = VolumeOptions(log_segment_bytes=4 * MIB, data_segment_bytes=4 * MIB, reserve_bytes=0, compact=False)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """On the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


def made() -> KernelSyncs:
    """Of the running loop."""
    syncs = kernel_syncs(asyncio.get_running_loop())
    if syncs is None:
        pytest.skip("this kernel does not sync by itself")
    return syncs


def test_every_sync_is_told_of_once(tmp_path: Path) -> None:
    async def work() -> None:
        syncs = made()
        told: list[tuple[int, OSError | None]] = []
        descriptors = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(FLYING_MAX)]
        everything = asyncio.Event()

        def tell(number: int, error: OSError | None) -> None:
            told.append((number, error))
            assert threading.current_thread() is threading.main_thread()
            if len(told) == FLYING_MAX + 1:
                everything.set()
            elif len(told) == FLYING_MAX:  # one that is begun by another one's end
                syncs.begin(descriptors[0], "again", lambda error: tell(FLYING_MAX, error))

        for number, fd in enumerate(descriptors):
            os.pwrite(fd, b"x" * 10_000, 0)
            syncs.begin(fd, "here", lambda error, number=number: tell(number, error))  # type: ignore[misc]
        with pytest.raises(BlockingIOError):
            syncs.begin(descriptors[0], "one too many", lambda error: tell(-1, error))
        await everything.wait()
        await asyncio.sleep(0.05)
        assert sorted(told, key=lambda item: item[0]) == [(number, None) for number in range(FLYING_MAX + 1)]
        syncs.detach()
        syncs.close()
        for fd in descriptors:
            os.close(fd)

    run(work)


def test_what_cannot_be_synced_is_refused_at_once_and_after_detach_nobody_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        syncs = made()
        told: list[OSError | None] = []
        reader, writer = os.pipe()
        with pytest.raises(OSError) as refused:
            syncs.begin(writer, "a pipe", told.append)
        assert refused.value.errno == errno.EINVAL
        os.close(reader)
        os.close(writer)
        with pytest.raises(OSError) as refused:
            syncs.begin(writer, "closed", told.append)
        assert refused.value.errno == errno.EBADF
        fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x", 0)
        syncs.begin(fd, "here", told.append)
        syncs.detach()
        syncs.close()  # waits for it
        await asyncio.sleep(0.05)
        assert told == []
        os.close(fd)

    run(work)


class Watched(OsFiles):
    """Remembers which thread wrote; ``refusal`` is what the kernel says to a sync; the first write takes ``slow`` seconds."""

    __slots__ = ("refusal", "slow", "threads")

    def __init__(self, refusal: int = 0, slow: float = 0.0) -> None:
        self.threads: list[str] = []
        self.refusal, self.slow = refusal, slow

    def pwritev(self, fd: int, pieces: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
        if threading.current_thread().name != "segment preparer":
            self.threads.append(threading.current_thread().name)
            if self.slow and len(self.threads) == 2:
                time.sleep(self.slow)
        return super().pwritev(fd, pieces, offset)

    def syncs(self, loop: asyncio.AbstractEventLoop) -> Syncs | None:
        return Refusing(made(), self.refusal) if self.refusal else made()


class Refusing:
    """Syncs that are not begun."""

    def __init__(self, inner: KernelSyncs, refusal: int) -> None:
        self._refusal, self.detach, self.close = refusal, inner.detach, inner.close

    def begin(self, fd: int, site: str, done: Done) -> None:
        raise OSError(self._refusal, os.strerror(self._refusal))


LOOP, THREAD = "MainThread", "log flush"


async def writers(tmp_path: Path, files: Watched, *sizes: int) -> list[str]:
    """The threads that wrote entries with bodies of these sizes, one after the other; each must be acknowledged and there afterwards."""
    path = str(tmp_path / "0000")
    format_volume(OsFiles(), path, cluster="6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e01", uuid=VOLUME, index=0, created_ms=1)
    volume = Volume(path, options=OPTIONS, files=files)
    flushed: list[Record] = []
    arrived = asyncio.Event()

    def on_flushed(batch: list[Flushed]) -> None:
        for item in batch:
            flushed.append(item.record)
            volume.put_loc(item.record.data_id, item.segment, item.offset, item.record.stored_bytes)
        arrived.set()

    volume.on_flushed = on_flushed
    await volume.open()
    await volume.recover(lambda record, segment, offset: None)
    for index, size in enumerate(sizes, 1):
        arrived.clear()
        volume.append(Record(7, index, 1, 1, b"command", bytes(size), volume.next_data_id()))
        await arrived.wait()
    assert [len(record.body) for record in flushed] == list(sizes)
    threads = list(files.threads)
    await volume.close()
    return threads


def test_small_batches_are_written_on_the_loop_and_new_segments_and_large_ones_on_the_thread(tmp_path: Path) -> None:
    async def work() -> None:
        assert await writers(tmp_path, Watched(), 10, 10, 60_000, 1_100_000, 10) == [THREAD, LOOP, LOOP, THREAD, LOOP]

    run(work)


def test_a_kernel_without_it_leaves_the_log_to_the_thread(tmp_path: Path) -> None:
    async def work() -> None:
        assert await writers(tmp_path, Watched(errno.EINVAL), 10, 10, 10, 10) == [THREAD, LOOP, THREAD, THREAD]  # asked once

    run(work)


def test_a_kernel_that_has_no_room_for_a_sync_is_asked_again(tmp_path: Path) -> None:
    async def work() -> None:
        assert await writers(tmp_path, Watched(errno.EAGAIN), 10, 10, 10) == [THREAD, LOOP, LOOP]

    run(work)


def test_a_disk_that_lets_writers_wait_gets_the_thread_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "THREADED_SECONDS", 0.3)

    async def work() -> None:
        files = Watched(slow=0.05)
        assert await writers(tmp_path, files, 10, 10, 10) == [THREAD, LOOP, THREAD]

    run(work)
