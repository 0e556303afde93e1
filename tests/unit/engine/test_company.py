"""Flushes that are shared wait for what the loop is about to bring, within bounds; a record that is alone does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop

from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume
from titans3.engine.log import COMPANY_BYTES_MAX, COMPANY_MAX, TURNS_MAX, Flushed
from titans3.engine.record import Record
from titans3.engine.volume import Volume, VolumeOptions
from titans3.limits import MIB

OPTIONS = VolumeOptions(log_segment_bytes=4 * MIB, data_segment_bytes=4 * MIB, reserve_bytes=0, compact=False)


class Writer:
    """A volume, and how many records each of its flushes had."""

    def __init__(self, volume: Volume) -> None:
        self.volume, self.flushes, self.index = volume, list[int](), 0
        self._changed = asyncio.Event()
        volume.on_flushed = self._on_flushed

    def _on_flushed(self, batch: list[Flushed]) -> None:
        for item in batch:
            self.volume.put_loc(item.record.data_id, item.segment, item.offset, item.record.stored_bytes)
        self.flushes.append(len(batch))
        self._changed.set()

    def append(self, count: int = 1, body: bytes = b"body") -> None:
        for _ in range(count):
            self.index += 1
            self.volume.append(Record(7, self.index, 1, 1, b"command", body, self.volume.next_data_id()))

    async def all(self) -> list[int]:
        """Once everything is flushed; and forget it."""
        while sum(self.flushes) < self.index:
            self._changed.clear()
            await self._changed.wait()
        flushes, self.flushes, self.index = self.flushes, [], 0
        return flushes


def run(folder: Path, work: Callable[[Writer], Awaitable[None]], *, kernel_sync: bool) -> None:
    async def main() -> None:
        path = str(folder / "0000")
        cluster, uuid = "6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e01", "6d1f0a52-7a10-4c11-9d2a-0c1f5a3d9e02"
        format_volume(OsFiles(), path, cluster=cluster, uuid=uuid, index=0, created_ms=1)
        volume = Volume(path, options=msgspec.structs.replace(OPTIONS, kernel_sync=kernel_sync), files=OsFiles())
        writer = Writer(volume)
        await volume.open()
        await volume.recover(lambda record, segment, offset: None)
        await work(writer)
        await volume.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("kernel_sync", [True, False])
def test_records_of_the_next_turns_share_a_flush_once_flushes_are_shared(tmp_path: Path, kernel_sync: bool) -> None:
    async def work(writer: Writer) -> None:
        for _ in range(3):
            writer.append()
            assert await writer.all() == [1]
        writer.append()  # alone: it is on its way when the next ones come
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.append(3)
        assert await writer.all() == [1, 3]
        writer.append()  # flushes are shared now: one record a turn comes along
        for _ in range(4):
            await asyncio.sleep(0)
            writer.append()
        assert await writer.all() == [5]
        writer.append()  # whoever is alone again waits once
        assert await writer.all() == [1]
        writer.append()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.append()
        assert await writer.all() == [1, 1]

    run(tmp_path, work, kernel_sync=kernel_sync)


def test_what_never_stops_coming_is_not_waited_for(tmp_path: Path) -> None:
    async def work(writer: Writer) -> None:
        writer.append(2)
        assert await writer.all() == [2]
        for _ in range(4 * TURNS_MAX):
            writer.append()
            await asyncio.sleep(0)
        flushes = await writer.all()
        assert TURNS_MAX - 1 <= flushes[0] <= TURNS_MAX + 2
        writer.append(2)
        assert await writer.all() == [2]
        for _ in range(4):
            writer.append(COMPANY_MAX // 2)
            await asyncio.sleep(0)
        flushes = await writer.all()
        assert flushes[0] == COMPANY_MAX

    run(tmp_path, work, kernel_sync=True)


def test_many_bytes_wait_for_nobody(tmp_path: Path) -> None:
    async def work(writer: Writer) -> None:
        writer.append(2)
        assert await writer.all() == [2]
        for _ in range(TURNS_MAX - 2):
            writer.append(body=bytes(COMPANY_BYTES_MAX // 2))
            await asyncio.sleep(0)
        flushes = await writer.all()
        assert flushes[0] == 2

    run(tmp_path, work, kernel_sync=True)


def test_drain_takes_along_what_waits(tmp_path: Path) -> None:
    async def work(writer: Writer) -> None:
        writer.append(2)
        assert await writer.all() == [2]
        writer.append()
        await writer.volume.drain()
        assert writer.flushes == [1]

    run(tmp_path, work, kernel_sync=True)
