"""A volume: a self-contained store in one folder, owned by one worker at a time.

Invariants
* The lock is held from ``open`` to ``close`` (I7), and the owner epoch is raised and durable before anything is written.
* Nothing is served before ``recover`` returned: what it replayed is synced.
* After a failed sync the state is ``FAILED`` for the life of the process: no write, nothing acknowledged (I13). Reads go on.
* Below the reserve ``check_room`` refuses; deletes do not ask it, and the reserve holds what they need.

Loop thread only; blocking work is handed to the volume's own threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TypeVar

import msgspec

from titans3.clock import Clock, SystemClock
from titans3.engine import recovery as recovering
from titans3.engine.bodies import BodyDamaged, read_nowait, read_wait
from titans3.engine.compaction import CompactionStatistics, Compactor
from titans3.engine.data import DataSegments, ExtentWriter
from titans3.engine.datawalk import walk_extents
from titans3.engine.descriptors import Descriptors
from titans3.engine.extent import ExtentIdent
from titans3.engine.files import Files, OsFiles
from titans3.engine.identity import VolumeIdentity, lock_volume, read_identity
from titans3.engine.kernel_sync import Syncs
from titans3.engine.location import BODY, EXTENT, Location
from titans3.engine.log import Flushed, Log, LogStatistics, Tail
from titans3.engine.logwalk import LogFile, LogWalk
from titans3.engine.metadata import StoredMeta, VolumeMeta
from titans3.engine.prepare import OpenSegment, Preparer, SegmentMaker
from titans3.engine.record import Record
from titans3.engine.recovery import Recovery, Replay, read_header
from titans3.engine.segment import CONTENT, COPIES, DATA, KIND_NAMES, LOG, folder_of, number_of, segment_name
from titans3.engine.segments import ACTIVE, Segments
from titans3.engine.sink import BodySink
from titans3.errors import DiskError, FormatError, VolumeFull
from titans3.limits import (
    CACHE_WRITTEN_SHARE,
    DATA_SEGMENT_BYTES,
    EXTENT_BYTES_MAX,
    LOG_SEGMENT_BYTES,
    MIB,
    OVERLAY_BYTES,
    OWN_SEGMENT_BYTES_MIN,
)
from titans3.long_work import LongWork
from titans3.meta.environment import MADE_ANEW, Position
from titans3.observe.failpoint import hit
from titans3.threads import background_threads

T = TypeVar("T")
_TICK_SECONDS = 0.5
_FULL_SECONDS = 3.0  # between attempts to compact without room
_MOVED_SECONDS = 30.0  # a volume that has just moved, because its processors are busy, compacts later
_PATIENCE_SECONDS = 5.0  # how long what is in the log's queue waits for room before it is told that nobody knows
_TELL_SECONDS = 60.0  # between two warnings that the volume is full
_DAMAGED_BODIES_MAX = 100
_logger = logging.getLogger("titans3.engine")


class VolumeState(StrEnum):
    """What a volume can do. ``DAMAGED``: it serves, but something of it is lost or unproven; ``cause`` says what."""

    OPENING = "opening"
    OK = "ok"
    FULL = "full"
    DAMAGED = "damaged"
    FAILED = "failed"
    CLOSED = "closed"


class VolumeOptions(msgspec.Struct, frozen=True):
    """Sizes an operator or a test may set."""

    log_segment_bytes: int = LOG_SEGMENT_BYTES
    data_segment_bytes: int = DATA_SEGMENT_BYTES
    reserve_bytes: int = -1  # -1: as ``reserve`` says
    sharing: int = 1  # volumes on the same file system; each of them needs log segments and pages of checkpoints
    own_segment_bytes_min: int = OWN_SEGMENT_BYTES_MIN
    compaction_bytes_per_second: int = 64 * MIB  # 0: as fast as it goes
    kernel_sync: bool = True  # where the kernel has it
    cache_written_bytes: int = -1  # -1: as ``cache_written`` says
    compact: bool = True  # by itself, in the background
    threads: int = 4
    descriptors: int = 256

    @property
    def reserve(self) -> int:
        """Bytes of the file system that writes must leave free.

        By itself: for each volume there two log segments and the dirty pages of two checkpoints, and one target of a compaction.
        """
        if self.reserve_bytes >= 0:
            return self.reserve_bytes
        return self.sharing * (2 * self.log_segment_bytes + 2 * 2 * OVERLAY_BYTES) + self.data_segment_bytes

    @property
    def cache_written(self) -> int:
        """Bytes of what was written last that stay in the page cache; by itself a share of the memory for the volumes of a file system."""
        memory: int = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.cache_written_bytes >= 0:
            return min(self.cache_written_bytes, memory)  # more cannot stay, and need not be remembered
        return memory // CACHE_WRITTEN_SHARE // self.sharing


class Space(msgspec.Struct, frozen=True):
    """Bytes of a volume. ``live + dead + log`` is the sum of its segments; ``log``: what the next checkpoint may free or is prepared."""

    live: int
    dead: int
    log: int
    reserve: int
    free: int


class BodyStatistics(msgspec.Struct, frozen=True):
    """Small bodies since the volume was opened: read from the page cache, waited for, found damaged (copies of compaction among them)."""

    cached: int
    waited: int
    damaged: int


class VolumeStatistics(msgspec.Struct, frozen=True):
    """A volume as of now."""

    state: str
    cause: str
    epoch: int
    segments: int
    log: LogStatistics
    syncs: int
    compaction: CompactionStatistics
    space: Space
    kinds: dict[str, tuple[int, int]]  # segments and their bytes, by kind
    bodies: BodyStatistics
    descriptors: int


def _ignore_flushed(flushed: list[Flushed]) -> None:
    raise AssertionError("on_flushed is not set")


def _ignore_failed(error: DiskError) -> None:
    _logger.error("volume failed: %s", error)


class Volume:
    """One volume. Set ``on_flushed`` and ``on_failed``, then ``open``, ``recover``, and use it; ``close`` at the end."""

    def __init__(
        self,
        path: str,
        *,
        options: VolumeOptions | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
        open_meta: Callable[[str, VolumeIdentity], VolumeMeta] = StoredMeta,
        work: LongWork | None = None,
    ) -> None:
        self.path = path
        self.options = options or VolumeOptions()
        self.on_flushed: Callable[[list[Flushed]], None] = _ignore_flushed
        self.on_failed: Callable[[DiskError], None] = _ignore_failed
        self.on_starved: Callable[[VolumeFull], None] = _ignore_failed
        self.state = VolumeState.OPENING
        self.cause = ""
        self.identity: VolumeIdentity
        self.epoch = 0
        self.meta: VolumeMeta
        self._files: Files = files or OsFiles()
        self._clock = clock or SystemClock()
        self._open_meta = open_meta
        self._work = work or LongWork()
        self.closed_at: Position | None = None  # after ``close``: where, if its last checkpoint has everything
        self.damaged_bodies: list[BodyDamaged] = []
        self._bodies_damaged = self._bodies_cached = self._bodies_waited = 0
        self._lock_fd = -1
        self._found: recovering.Found
        self._segments: Segments
        self._maker: SegmentMaker
        self._preparer: Preparer
        self._syncs: Syncs | None = None
        self._log: Log | None = None
        self._position: Position
        self._writer = b""
        self._sequence = 0
        self._frozen_waiters: list[asyncio.Future[None]] = []
        self._committed_waiters: list[asyncio.Future[None]] = []
        self._droppable: list[int] = []
        self._unlinking: set[int] = set()
        self._paths: dict[int, str] = {}  # of segments that were read
        self._tasks: set[asyncio.Task[None]] = set()
        self._data: DataSegments
        self._compactor: Compactor
        self._ticking: asyncio.Task[None] | None = None
        self._compacting = asyncio.Lock()
        self._compact_at = 0.0
        self._closing = False
        self._room = 0
        self.log_waits = False  # for room for its next segment: nothing can be written, not even a delete
        self._waits_since = 0.0
        self._full_told = -_TELL_SECONDS
        self.full_cause = ""  # why writes are refused, whatever else the state says
        self._checkpointed = 0  # log segment of the last committed checkpoint
        self._freezing = 0
        self._pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="volume")
        self._write_pool = background_threads("volume write")
        self._sync_pool = ThreadPoolExecutor(2, thread_name_prefix="volume sync")
        self._descriptors = Descriptors(self._files, self.options.descriptors)

    # open and close ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Lock, check the identity, open the metadata, raise the epoch. Raises DiskError (in use), FormatError (not ours, newer)."""
        self._loop = asyncio.get_running_loop()
        self._lock_fd = lock_volume(self._files, self.path)
        try:
            self.identity = read_identity(self._files, self.path)
            self.meta = self._open_meta(self.path, self.identity)
            self._found = await self._in_thread(
                recovering.survey, self._files, self.path, self.identity.uuid_bytes
            )
            self._refuse_lost_metadata()
            await self._raise_epoch()
        except BaseException:
            self._files.close(self._lock_fd)
            self._lock_fd = -1
            raise
        self._segments = Segments(self.meta.rows)
        self._segments.load(self.meta.stored_segments())

    def _refuse_lost_metadata(self) -> None:
        """The epoch is durable before the first segment is made. Segments without one had other metadata, which knows what is alive."""
        count = len(self._found.log) + len(self._found.data)
        if count and self.meta.position() is None:
            raise FormatError(f"the metadata in {self.path}/meta is gone, and {count} segments are there; {MADE_ANEW}")

    async def _raise_epoch(self) -> None:
        found = self._found
        self._position = self.meta.position() or Position(0, 0, 0, 0)
        epochs = [self._position.epoch] + [file.header.epoch for file in found.log + found.data]
        self.epoch = max(epochs) + 1
        self._position = Position(self._position.segment, self._position.offset, self._position.batch, self.epoch)
        await self._in_thread(self.meta.persist, self._position)
        self._writer = self.identity.uuid_bytes[:4] + self.epoch.to_bytes(4, "big")
        self._sequence = self._clock.wall_ms() << 20

    async def recover(self, replay: Callable[[Record, int, int], None], closed_at: Position | None = None) -> Recovery:
        """Replay every record after the checkpoint as ``replay(record, segment, offset)`` on the loop, then be ready to write.

        ``closed_at``: where a process that is alive says that it closed the volume (``closed_at`` of its Volume). If that is the
        checkpoint's position nothing is after it, and what was blank is not read to see that it still is.
        Raises PositionLost when the log is not the one the metadata belongs to, DiskError.
        """
        started = self._clock.monotonic()
        recovery = Recovery()
        try:
            tail = await self._replay(recovery, replay, closed_at)
        except (DiskError, OSError) as error:
            self.state, self.cause = VolumeState.FAILED, str(error)
            raise
        self._position = Position(tail.segment, tail.offset, tail.batch, self.epoch)
        self._start(tail)
        self.state, self.cause = VolumeState.OK, ""
        if recovery.cause:
            self.state, self.cause = VolumeState.DAMAGED, recovery.cause
        self._take_room(await self._in_thread(self._files.free_bytes, self.path))
        if closed_at is not None:
            self._compact_at = self._clock.monotonic() + _MOVED_SECONDS
        self._ticking = self._loop.create_task(self._tick())
        recovery.seconds = self._clock.monotonic() - started
        return recovery

    async def _replay(
        self, recovery: Recovery, replay: Callable[[Record, int, int], None], closed_at: Position | None
    ) -> Tail:
        """Sync, walk, replay; where the log ended."""
        found = self._found
        is_closed = closed_at is not None and closed_at == msgspec.structs.replace(self._position, epoch=closed_at.epoch)
        files = recovering.log_files_from(found, self._position.segment)
        position = self._position
        walk = LogWalk(self._files, files, segment=position.segment, offset=position.offset, batch=position.batch)
        await self._in_thread(walk.find)  # before anything is unlinked: another log than the metadata's is left as it is
        await self._in_thread(recovering.sync_segments, self._files, [file.path for file in files])
        hit("recovery")
        await self._adopt(found, recovery, is_closed=is_closed)
        run = Replay(walk, recovery)
        chunks = iter(()) if is_closed else run.chunks()
        while (records := await self._in_thread(next, chunks, None)) is not None:
            for record, segment, offset in records:
                replay(record, segment, offset)
        spares = [
            file for file in files
            if file.header.number not in run.used and file.header.number > position.segment
        ]
        for file in spares:  # of earlier epochs: never used, or torn at their first batch
            self._segments.remove(file.header.number)
        await self._in_thread(self._remove, [file.path for file in spares])
        return run.tail

    async def _adopt(self, found: recovering.Found, recovery: Recovery, *, is_closed: bool) -> None:
        """Bring the table of segments and the files together; walk what the last checkpoint had open. Seals everything.

        ``is_closed``: that checkpoint was the last thing that happened to the volume.
        """
        table = self._segments.table
        position = self._position.segment
        await self._in_thread(self._judge_unheaded, found.unheaded, recovery)
        present = {file.header.number for file in found.log + found.data}
        present.update(number for path in found.unheaded if (number := number_of(path.rpartition("/")[2])) is not None)
        for number in [number for number in table if number not in present]:
            if table[number].live:
                recovery.lost.append(f"segment {number:016x} is gone, with {table[number].live} live bytes")
            else:
                self._segments.remove(number)
        orphans: list[str] = []
        walks: list[tuple[LogFile, int, list[int]]] = []
        for file in found.log + found.data:
            header = file.header
            row = table.get(header.number)
            if row is None and (header.number < position if header.kind == LOG else header.flags & COPIES):
                orphans.append(file.path)
                continue
            if not is_closed and header.kind == DATA and not header.flags & COPIES and (row is None or row.state == ACTIVE):
                walks.append((file, max(CONTENT, 0 if row is None else row.walked), [] if row is None else row.freed))
            if row is None:
                self._segments.add(header.number, header.kind, header.capacity, header.flags)
        await self._in_thread(self._remove, orphans)
        for file, start, freed in walks:
            dead = set(freed)
            for extent in await self._in_thread(
                lambda: list(walk_extents(self._files, file.path, file.header, start))  # noqa: B023
            ):
                ident = extent.header.ident
                if not extent.is_whole or extent.offset in dead or self._segments.locate(ident.data_id, ident.piece):
                    continue
                place = Location(file.header.number, extent.offset, extent.used, EXTENT)
                self._segments.put(ident.data_id, place, ident.piece)
                recovery.extents += 1
        for number in table:
            self._segments.seal(number)

    def _judge_unheaded(self, paths: list[str], recovery: Recovery) -> None:
        """Segments without a valid header: being made when the process ended, or damaged."""
        for path in paths:
            number = number_of(path.rpartition("/")[2])
            row = None if number is None else self._segments.table.get(number)
            if row is None and not recovering.was_used(self._files, path):
                self._remove([path])
                continue
            what = f"the header of {path} is damaged"
            if "/log/" in path and number is not None and number >= self._position.segment:
                recovery.unproven = recovery.unproven or what
            elif row is None or row.live:
                recovery.lost.append(what)

    def _remove(self, paths: list[str]) -> None:
        for path in paths:
            hit("unlink")
            self._files.unlink(path)
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            self._files.sync_dir(folder, "segment.unlink")

    def _start(self, tail: Tail) -> None:
        self._maker = SegmentMaker(
            self._files, self.path, volume=self.identity.uuid_bytes, epoch=self.epoch, clock=self._clock
        )
        self._preparer = Preparer(
            self._maker, self.options.log_segment_bytes,
            on_failed=self._failed_elsewhere, on_full=self._full_elsewhere,
        )
        self._syncs = self._files.syncs(self._loop) if self.options.kernel_sync else None
        self._log = Log(
            self._files, self._preparer, tail, epoch=self.epoch, segment_bytes=self.options.log_segment_bytes,
            loop=self._loop, clock=self._clock, syncs=self._syncs, on_flushed=self._flushed, on_failed=self.fail,
            on_segment=self._log_segment,
        )
        self._data = DataSegments(
            self._files, self._maker, self._segments, index=self.identity.index,
            capacity=self.options.data_segment_bytes, own_bytes_min=self.options.own_segment_bytes_min,
            pool=self._write_pool, sync_pool=self._sync_pool, syncs=self._syncs, loop=self._loop, on_failed=self.fail,
            reserve=self.options.reserve, cache_written_bytes=self.options.cache_written, work=self._work,
        )
        self._compactor = Compactor(
            self._files, self._maker, self._segments, path_of=self._path_of, target_bytes=self.options.log_segment_bytes,
            bytes_per_second=self.options.compaction_bytes_per_second, on_damaged=self._body_damaged,
        )

    async def close(self) -> None:
        """Flush what is pending, end the threads, give the volume back. Does not checkpoint."""
        self._closing = True
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
            await self._in_thread(self._compactor.stop)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._log is not None:
            await self.drain()
            await self._data.drain()
            if self.state is VolumeState.OK and self.meta.position() == self.position and self._data.is_walked:
                self.closed_at = self.position
            log, self._log = self._log, None
            left = await self._in_thread(self._preparer.stop)
            syncs, self._syncs = self._syncs, None
            if syncs is not None:
                syncs.detach()
                await self._in_thread(syncs.close)
            await self._in_thread(log.stop)
            for segment in left:
                self._files.close(segment.fd)
            self._sync_pool.shutdown(wait=True)
            self._data.close()
        self._write_pool.shutdown(wait=True)
        self._pool.shutdown(wait=True)
        self._descriptors.close()
        if self._lock_fd >= 0:
            self.meta.close()
            self._files.close(self._lock_fd)
            self._lock_fd = -1
        self.state = VolumeState.CLOSED

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._pool, function, *arguments)

    # the log -------------------------------------------------------------------------------------------------------

    def append(self, record: Record) -> None:
        """Put a record into the next flush; ``on_flushed`` tells when it is durable. Raises DiskError once the volume failed."""
        assert self._log is not None, "recover() comes first"
        self._log.append(record)

    async def drain(self) -> None:
        """For a stop: wait until all that was appended is flushed and delivered, or the volume failed; without room it fails."""
        assert self._log is not None
        self._preparer.give_up()
        await self._log.drain()

    @property
    def position(self) -> Position:
        """Up to where the log was delivered: what a checkpoint that starts now makes durable."""
        log = self._log
        if log is None or log.batch == 0:
            return self._position
        return Position(log.segment, log.offset, log.batch, self.epoch)

    def _log_segment(self, segment: OpenSegment) -> None:
        assert self._log is not None
        before = self._segments.table.get(self._log.segment)
        if before is not None and before.kind == LOG:
            self._segments.seal(self._log.segment)
        self._segments.add(segment.number, LOG, segment.header.capacity)

    def _flushed(self, flushed: list[Flushed]) -> None:
        self.on_flushed(flushed)

    def fail(self, error: DiskError) -> None:
        """The disk is out for this process: no write, nothing acknowledged. Loop thread; also for a failed checkpoint."""
        if self.state in (VolumeState.FAILED, VolumeState.CLOSED):
            return
        self.state, self.cause = VolumeState.FAILED, str(error)
        if self._log is not None:
            self._log.fail(error)
        for waiter in (*self._frozen_waiters, *self._committed_waiters):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # a waiter that went away is no reason for a warning
        self._frozen_waiters, self._committed_waiters = [], []
        self.on_failed(error)

    def _failed_elsewhere(self, error: DiskError) -> None:
        self._loop.call_soon_threadsafe(self.fail, error)

    def _full_elsewhere(self, full: VolumeFull) -> None:
        self._loop.call_soon_threadsafe(self._full, full)

    def _full(self, full: VolumeFull) -> None:
        self._room = min(self._room, -1)
        if self._log is None:  # the volume was closed meanwhile
            return
        self._see_log()
        cause = f"{full}; {'the log waits for room, so nothing can be written' if self.log_waits else 'writes are refused'}"
        self._became_full(cause)

    def _see_log(self) -> None:
        waits = self._preparer.is_starving and self._preparer.is_awaited
        now = self._clock.monotonic()
        if not waits or not self.log_waits:
            self._waits_since = now
        self.log_waits = waits
        if waits and now - self._waits_since >= _PATIENCE_SECONDS:
            self.on_starved(VolumeFull(f"the log of {self.path} has waited {_PATIENCE_SECONDS:.0f} s for room: {self.full_cause}"))

    def _became_full(self, cause: str) -> None:
        told = self._clock.monotonic() - self._full_told < _TELL_SECONDS
        if not told and (not self.full_cause or self.log_waits):
            self._full_told = self._clock.monotonic()
            _logger.warning("volume %s is full: %s", self.path, cause)
        self.full_cause = cause
        if self.state in (VolumeState.OK, VolumeState.FULL):  # what is damaged stays shown as that
            self.state, self.cause = VolumeState.FULL, cause

    # space ---------------------------------------------------------------------------------------------------------

    def check_room(self, length: int = 0) -> None:
        """Call before a write that adds bytes; deletes need not. Raises VolumeFull below the reserve."""
        if self._room < length:
            raise VolumeFull(f"volume {self.path} is below its reserve of {self.options.reserve} bytes")

    def _take_room(self, free: int) -> None:
        """What the file system has free decides between OK and FULL."""
        self._room = free - self.options.reserve
        if self._log is not None:
            self._see_log()
            if self._preparer.is_starving:
                self._room = min(self._room, -1)
        if self.log_waits:
            return
        if self._room < 0:
            reserve = self.options.reserve
            self._became_full(f"{free} bytes are free, the reserve is {reserve}; writes are refused, reads and deletes go on")
        elif self.full_cause:
            self.full_cause = ""
            _logger.info("volume %s has room again", self.path)
            if self.state is VolumeState.FULL:
                self.state, self.cause = VolumeState.OK, ""

    async def refresh(self) -> None:
        """Look at the file system's free bytes now."""
        self._take_room(await self._in_thread(self._files.free_bytes, self.path))

    @property
    def room(self) -> int:
        """Bytes free beyond the reserve as of the last look. Cheap, where ``space`` looks at every segment."""
        return max(0, self._room)

    def space(self) -> Space:
        """Exact bytes of the segments, and what is free beyond the reserve as of the last look."""
        live = log = dead = 0
        for number, row in self._segments.table.items():
            live += row.live
            if row.kind == LOG and number >= self._checkpointed:
                log += row.total - row.live
            else:
                dead += row.total - row.live
        if self._log is not None:
            log += self._preparer.ready_bytes
        return Space(live, dead, log, self.options.reserve, max(0, self._room))

    async def _tick(self) -> None:
        """Twice a second: room, descriptors of unlinked files, compaction."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                await self.refresh()
                self._descriptors.sweep()
                if self.options.compact and not self._compacting.locked() and self._clock.monotonic() >= self._compact_at:
                    self._in_background(self._compact_quietly())
            except (DiskError, OSError) as error:
                self.fail(error if isinstance(error, DiskError) else DiskError(str(error)))
                return

    async def compact(self) -> int:
        """Compact once what is under half live; the number of data ids moved. Raises VolumeFull, DiskError."""
        async with self._compacting:
            return await self._compactor.run(self._checkpointed)

    async def _compact_quietly(self) -> None:
        try:
            await self.compact()
        except VolumeFull as full:
            _logger.warning("compaction of %s waits for room: %s", self.path, full)
            self._compact_at = self._clock.monotonic() + _FULL_SECONDS
        except (DiskError, OSError) as error:
            if self.state is not VolumeState.CLOSED and not self._closing:
                self.fail(error if isinstance(error, DiskError) else DiskError(str(error)))

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _body_damaged(self, error: BodyDamaged) -> None:
        _logger.error("%s", error)
        self._bodies_damaged += 1
        self.damaged_bodies.append(error)
        del self.damaged_bodies[:-_DAMAGED_BODIES_MAX]

    def statistics(self) -> VolumeStatistics:
        """Counters of the log, the data segments and compaction."""
        assert self._log is not None
        return VolumeStatistics(
            str(self.state), self.cause, self.epoch, len(self._segments.table), self._log.statistics(), self._data.syncs,
            self._compactor.statistics(), self.space(), self._kinds(),
            BodyStatistics(self._bodies_cached, self._bodies_waited, self._bodies_damaged), len(self._descriptors),
        )  # fmt: skip

    def _kinds(self) -> dict[str, tuple[int, int]]:
        totals: dict[int, list[int]] = {kind: [] for kind in KIND_NAMES}
        for row in self._segments.table.values():
            totals[row.kind].append(row.total)
        return {name: (len(totals[kind]), sum(totals[kind])) for kind, name in KIND_NAMES.items()}

    # checkpoint and retention --------------------------------------------------------------------------------------

    def checkpoint_begins(self) -> Position:
        """Call right before the overlay is frozen, on the loop: puts the ``seg`` rows and returns the position that goes with the rows."""
        position = self.position
        self._data.write_walked()
        self._droppable = [n for n in self._segments.droppable(position.segment) if n not in self._unlinking]
        self._freezing = position.segment
        self._segments.write_rows()
        self._frozen_waiters, self._committed_waiters = self._committed_waiters, []
        return position

    def checkpoint_ended(self) -> None:
        """Call after that checkpoint is committed and the overlay dropped: what it proved dead is unlinked now."""
        self._checkpointed = self._freezing
        for waiter in self._frozen_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._frozen_waiters = []
        if self._droppable:
            self._unlinking.update(self._droppable)
            self._in_background(self._unlink(self._droppable))
            self._droppable = []

    async def wait_checkpoint(self) -> None:
        """Wait until a checkpoint that holds everything up to now is committed: what was freed before stays freed. Raises DiskError."""
        if self.state is VolumeState.FAILED:
            raise DiskError(self.cause)
        waiter = self._loop.create_future()
        self._committed_waiters.append(waiter)
        await waiter

    async def _unlink(self, numbers: list[int]) -> None:
        """Unlink segments that a committed checkpoint calls dead, then forget their rows."""
        paths = []
        for number in numbers:
            path = f"{self.path}/{folder_of(self._segments.table[number].kind)}/{segment_name(number)}"
            self._descriptors.forget(path)
            paths.append(path)
        try:
            await self._in_thread(self._remove, paths)
        except OSError as error:
            self.fail(DiskError(f"a dead segment cannot be unlinked: {error}"))
            return
        for number in numbers:
            self._segments.remove(number)
            self._unlinking.discard(number)
            self._paths.pop(number, None)

    # bodies and locations ------------------------------------------------------------------------------------------

    def next_data_id(self) -> bytes:
        """A new data id, 16 bytes: nearly ordered by time, unique by volume and epoch."""
        sequence = self._sequence = max(self._sequence + 1, self._clock.wall_ms() << 20)
        return sequence.to_bytes(8, "big") + self._writer

    def put_loc(self, data_id: bytes, segment: int, offset: int, length: int, *, fresh: bool = False) -> None:
        """The body of a record is alive: called at apply, also in replay. ``length`` is ``record.stored_bytes``.

        ``fresh``: the data id was given by ``next_data_id`` for this record and has no place yet.
        """
        if fresh:
            self._segments.put_fresh(data_id, segment, offset, length)
        else:
            self._segments.put(data_id, Location(segment, offset, length, BODY))

    def free(self, data_id: bytes) -> int:
        """A data id is dead: its row is gone; the bytes that died, 0 if it was not here."""
        return self._segments.drop(data_id)

    def locate(self, data_id: bytes) -> Location | None:
        """Where a data id lies in this volume."""
        return self._segments.locate(data_id)

    def sealed_data(self) -> list[int]:
        """Numbers of data segments that hold something and get no more writes, oldest first. Compaction moves only to higher numbers."""
        return sorted(
            number
            for number, row in self._segments.table.items()
            if row.kind == DATA and (row.state != ACTIVE or row.flags & COPIES) and row.live and number not in self._unlinking
        )

    async def extents_of(self, number: int) -> list[ExtentIdent]:
        """What the alive extents of a sealed data segment say of themselves. Raises DiskError; empty if the segment is gone."""
        path = self._path_of(number)
        try:
            idents = await self._in_thread(_idents, self._files, path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiskError(f"{path} cannot be read: {error}") from error
        places = ((ident, self._segments.locate(ident.data_id)) for ident in idents)
        return [ident for ident, place in places if place is not None and place.segment == number]

    @property
    def writer(self) -> bytes:
        """Bytes 8 to 16 of the data ids that this owner gives."""
        return self._writer

    def _path_of(self, number: int) -> str:
        row = self._segments.table.get(number)
        kind = LOG if row is None else row.kind
        path = f"{self.path}/{folder_of(kind)}/{segment_name(number)}"
        if row is not None:
            self._paths[number] = path
        return path

    def read_body_nowait(self, data_id: bytes) -> bytes | None:
        """The small body of a data id, ``None`` if it is not all in the page cache. Raises BodyDamaged; KeyError if it is not here."""
        location = self._segments.locate(data_id)
        if location is None:
            raise KeyError(data_id)
        number = location.segment
        handle = self._descriptors.acquire(self._paths.get(number) or self._path_of(number))
        try:
            body = read_nowait(self._files, handle, location, data_id)
        except BodyDamaged:
            self._bodies_damaged += 1
            raise
        finally:
            handle.release()
        if body is not None:
            self._bodies_cached += 1
        return body

    async def read_body(self, data_id: bytes) -> bytes:
        """The small body of a data id, verified, from the disk if need be. Raises BodyDamaged, DiskError, KeyError."""
        body = self.read_body_nowait(data_id)
        if body is not None:
            return body
        location = self._segments.locate(data_id)
        assert location is not None
        handle = self._descriptors.acquire(self._path_of(location.segment))
        try:
            self._bodies_waited += 1
            return await handle.in_thread(self._pool, read_wait, self._files, handle, location, data_id)
        except BodyDamaged:
            self._bodies_damaged += 1
            raise
        finally:
            handle.release()

    # large bodies --------------------------------------------------------------------------------------------------

    def extent_writer(self, ident: ExtentIdent, length: int) -> ExtentWriter:
        """Writer of one extent of at most ``length`` bytes. Raises VolumeFull."""
        assert length <= EXTENT_BYTES_MAX
        self.check_room(length)
        if self.state is VolumeState.FAILED:
            raise DiskError(self.cause)
        return ExtentWriter(self._data, ident, length)

    def sink(self, ident: ExtentIdent, length: int | None) -> BodySink:
        """Takes a large body of known or unknown length; ``ident`` is of its first extent. Raises VolumeFull here or in ``write``."""
        self.check_room(length or 0)
        return BodySink(self.extent_writer, self.next_data_id, ident, length)


def _idents(files: Files, path: str) -> list[ExtentIdent]:
    """Of every whole extent of a data segment. Blocking."""
    header = read_header(files, path)
    if header is None:
        return []
    return [found.header.ident for found in walk_extents(files, path, header) if found.trailer is not None]
