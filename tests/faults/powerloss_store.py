"""A small store over one volume, for crash tests: objects by key, with an in-memory model of the metadata.

The metadata's commits are modelled as atomic and durable (LMDB's own promise); the files beside it lose sectors and names. Apply,
checkpoint, garbage collection and compaction follow the protocol the real store uses: a data id is freed, the free is
checkpointed, and only then a ``G`` entry forgets it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.faults.powerloss_disk import SimulatedDisk
from titans3.clock import SystemClock
from titans3.engine.extent import ExtentIdent
from titans3.engine.identity import VolumeIdentity
from titans3.engine.location import BODY, Location, parse_location
from titans3.engine.log import Flushed
from titans3.engine.reader import ExtentReader
from titans3.engine.record import NO_DATA, Record
from titans3.engine.recovery import Recovery
from titans3.engine.segments import LocalRows, counted
from titans3.engine.volume import Volume, VolumeOptions
from titans3.limits import KIB
from titans3.meta.environment import Position
from titans3.model.version import Extent

SMALL_MAX = 3000
OPTIONS = VolumeOptions(
    log_segment_bytes=128 * KIB, data_segment_bytes=256 * KIB, own_segment_bytes_min=160 * KIB, reserve_bytes=0,
    compaction_bytes_per_second=0, compact=False, threads=2,
)
CLUSTER, VOLUME = "11" * 16, "22" * 16


class Rows:
    """Every row as of now; ``copy`` is what a checkpoint freezes."""

    def __init__(self) -> None:
        self.loc: dict[bytes, bytes] = {}
        self.seg: dict[bytes, bytes] = {}
        self.objects: dict[str, tuple[int, int, list[Any]]] = {}  # key -> (version, size, extents or [data id])
        self.garbage: set[bytes] = set()
        self.applied = 0
        self.position: Position | None = None

    def copy(self) -> Rows:
        twin = Rows()
        twin.loc, twin.seg, twin.objects = dict(self.loc), dict(self.seg), dict(self.objects)
        twin.garbage, twin.applied, twin.position = set(self.garbage), self.applied, self.position
        return twin

    def get_loc(self, key: bytes) -> bytes | None:
        return self.loc.get(key)

    def put_loc(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.loc.pop(key, None)
        else:
            self.loc[key] = value

    def put_seg(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.seg.pop(key, None)
        else:
            self.seg[key] = value


class ModelMeta:
    """Metadata with atomic commits. ``stored`` survives every crash."""

    def __init__(self, disk: SimulatedDisk, stored: list[Rows]) -> None:
        self._disk = disk
        self._stored = stored
        self.now = stored[0].copy()

    @property
    def rows(self) -> LocalRows:
        return self.now

    def position(self) -> Position | None:
        return self._stored[0].position

    def stored_segments(self) -> Iterable[tuple[bytes, bytes]]:
        return self._stored[0].seg.items()

    def persist(self, position: Position) -> None:
        twin = self._stored[0].copy()
        twin.position = position
        self.commit(twin)
        self.now.position = position

    def commit(self, frozen: Rows) -> None:
        self._disk.operate(happens_at_cut=False)
        self._stored[0] = frozen

    def close(self) -> None:
        pass


def content(key: str, version: int, size: int) -> bytes:
    """The bytes of a version."""
    return random.Random(f"{key}/{version}").randbytes(size)


class PowerStore:
    """One volume and its objects. Every method that returns has made its effect durable."""

    def __init__(self, disk: SimulatedDisk, stored: list[Rows], path: str = "/v") -> None:
        self.disk = disk
        self.meta: ModelMeta
        self.forgotten: set[bytes] = set()  # freed, checkpointed, and forgotten by a durable entry: never to come back
        self._stored = stored
        self._index = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.volume = Volume(path, options=OPTIONS, files=disk, clock=SystemClock(), open_meta=self._open_meta)
        self.volume.on_flushed = self._flushed
        self.volume.on_failed = self._failed
        self.reader = ExtentReader(self._locate, lambda index: path, files=disk, threads=1)

    def _open_meta(self, path: str, identity: VolumeIdentity) -> ModelMeta:
        self.meta = ModelMeta(self.disk, self._stored)
        return self.meta

    async def _locate(self, index: int, data_id: bytes) -> Location | None:
        return self.volume.locate(data_id)

    async def start(self) -> Recovery:
        await self.volume.open()
        recovery = await self.volume.recover(self._apply)
        self._index = self.meta.now.applied
        return recovery

    async def stop(self) -> None:
        self.reader.close()
        await self.volume.close()

    # apply
    def _apply(self, record: Record, segment: int, offset: int) -> None:
        now = self.meta.now
        if record.index <= now.applied:
            return
        assert record.index == now.applied + 1, "entries come in order, without a gap"
        now.applied = record.index
        op, key, version, size, extents = msgspec.msgpack.decode(record.command)
        if op == "G":
            now.garbage.difference_update(extents)
            return
        if op == "N":
            return
        old = now.objects.pop(key, None)
        if old is not None:
            now.garbage.update([item[0] if isinstance(item, list) else item for item in old[2]])
        if op == "P":
            if record.data_id != NO_DATA:
                self.volume.put_loc(record.data_id, segment, offset, record.stored_bytes)
                extents = [record.data_id]
            now.objects[key] = (version, size, extents)

    def _flushed(self, flushed: list[Flushed]) -> None:
        for item in flushed:
            self._apply(item.record, item.segment, item.offset)
            waiter = self._waiting.pop(item.record.index)
            if not waiter.done():
                waiter.set_result(None)

    def _failed(self, error: Exception) -> None:
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
        self._waiting.clear()

    async def _propose(self, command: list[Any], body: bytes = b"", data_id: bytes = NO_DATA) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.volume.append(Record(1, self._index + 1, 1, 1, msgspec.msgpack.encode(command), body, data_id))
        self._index += 1
        self._waiting[self._index] = waiter
        await waiter

    # operations
    async def put(self, key: str, version: int, size: int, *, known: bool = True) -> None:
        body = content(key, version, size)
        data_id = self.volume.next_data_id()
        if size <= SMALL_MAX:
            await self._propose(["P", key, version, size, None], body, data_id)
            return
        ident = ExtentIdent(data_id, 1, 7, key.encode(), data_id)
        sink = self.volume.sink(ident, size if known else None)
        view = memoryview(body)
        for start in range(0, size, 40_000):
            await sink.write(view[start : start + 40_000], ())
        extents = await sink.finish(b"")
        await self._propose(["P", key, version, size, [msgspec.to_builtins(extent, builtin_types=(bytes,)) for extent in extents]])

    async def delete(self, key: str) -> None:
        await self._propose(["D", key, 0, 0, None])

    async def nothing(self) -> None:
        await self._propose(["N", "", 0, 0, None])

    async def checkpoint(self) -> None:
        position = self.volume.checkpoint_begins()
        frozen = self.meta.now.copy()
        frozen.position = position
        await asyncio.sleep(0)
        self.meta.commit(frozen)
        self.volume.checkpoint_ended()

    async def collect(self) -> None:
        """Free garbage, checkpoint, forget it."""
        dead = sorted(self.meta.now.garbage)
        for data_id in dead:
            self.volume.free(data_id)
        await self.checkpoint()
        if dead:
            await self._propose(["G", "", 0, 0, dead])
            self.forgotten.update(dead)

    async def read(self, key: str) -> bytes:
        return await self.read_range(key, 0, self.meta.now.objects[key][1])

    async def read_range(self, key: str, start: int, length: int) -> bytes:
        extents = self.meta.now.objects[key][2]
        if extents and isinstance(extents[0], bytes):
            return (await self.volume.read_body(extents[0]))[start : start + length]
        found = [Extent(*item) for item in extents]
        source = self.reader.source(found, start, length)
        out = b""
        while (piece := await source.next()) is not None:
            out += piece
        return out

    # what must hold
    async def check(self, allowed: dict[str, set[int]]) -> None:
        """Every key has one of its allowed versions (0: absent), whole; nothing dead is alive; the counts are exact."""
        now = self.meta.now
        for key, versions in allowed.items():
            version, size, _ = now.objects.get(key, (0, 0, []))
            assert version in versions, f"{key}: version {version} is not one of {versions}"
            if version:
                assert await self.read(key) == content(key, version, size), f"{key}: bytes of version {version}"
        assert set(now.objects) <= set(allowed)
        counts: dict[int, int] = {}
        for row in now.loc.values():
            place = parse_location(row)
            assert place.segment in self.volume._segments.table
            counts[place.segment] = counts.get(place.segment, 0) + counted(place)
        for number, row_now in self.volume._segments.table.items():
            assert row_now.live == counts.get(number, 0), f"live bytes of {number:016x}"
        named = {item[0] if isinstance(item, list) else item for _, _, items in now.objects.values() for item in items}
        alive = {key[:16] for key in now.loc}
        assert not alive & self.forgotten, "a data id that was freed is alive again"
        for key_now, row in now.loc.items():
            if key_now[:16] not in named | now.garbage:
                assert parse_location(row).kind != BODY, "a body that nothing names is alive"
