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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TypeVar

import msgspec

from titans3.clock import Clock, SystemClock
from titans3.engine import recovery as recovering
from titans3.engine.bodies import read_nowait, read_wait
from titans3.engine.descriptors import Descriptors
from titans3.engine.files import Files, OsFiles
from titans3.engine.identity import VolumeIdentity, lock_volume, read_identity
from titans3.engine.location import BODY, Location
from titans3.engine.log import Flushed, Log, Tail
from titans3.engine.logwalk import LogFile, LogWalk
from titans3.engine.metadata import StoredMeta, VolumeMeta
from titans3.engine.prepare import OpenSegment, Preparer, SegmentMaker
from titans3.engine.record import Record
from titans3.engine.recovery import Recovery, Replay
from titans3.engine.segment import LOG, folder_of, segment_name
from titans3.engine.segments import Segments
from titans3.errors import DiskError, VolumeFull
from titans3.limits import DATA_SEGMENT_BYTES, LOG_SEGMENT_BYTES, OVERLAY_BYTES
from titans3.meta.environment import Position
from titans3.observe.failpoint import hit

T = TypeVar("T")
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
    reserve_bytes: int = -1  # -1: two log segments, one compaction target, dirty pages of two checkpoints
    threads: int = 4
    descriptors: int = 256

    @property
    def reserve(self) -> int:
        """Bytes of the file system that writes must leave free."""
        if self.reserve_bytes >= 0:
            return self.reserve_bytes
        return 2 * self.log_segment_bytes + self.data_segment_bytes + 2 * 2 * OVERLAY_BYTES


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
    ) -> None:
        self.path = path
        self.options = options or VolumeOptions()
        self.on_flushed: Callable[[list[Flushed]], None] = _ignore_flushed
        self.on_failed: Callable[[DiskError], None] = _ignore_failed
        self.state = VolumeState.OPENING
        self.cause = ""
        self.identity: VolumeIdentity
        self.epoch = 0
        self.meta: VolumeMeta
        self._files: Files = files or OsFiles()
        self._clock = clock or SystemClock()
        self._open_meta = open_meta
        self._lock_fd = -1
        self._segments: Segments
        self._maker: SegmentMaker
        self._preparer: Preparer
        self._log: Log | None = None
        self._position: Position
        self._writer = b""
        self._sequence = 0
        self._frozen_waiters: list[asyncio.Future[None]] = []
        self._committed_waiters: list[asyncio.Future[None]] = []
        self._droppable: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="volume")
        self._descriptors = Descriptors(self._files, self.options.descriptors)

    # open and close ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Lock, check the identity, open the metadata, raise the epoch. Raises DiskError (in use), FormatError (not ours, newer)."""
        self._loop = asyncio.get_running_loop()
        self._lock_fd = lock_volume(self._files, self.path)
        try:
            self.identity = read_identity(self._files, self.path)
            self.meta = self._open_meta(self.path, self.identity)
            self._raise_epoch()
        except BaseException:
            self._files.close(self._lock_fd)
            self._lock_fd = -1
            raise
        self._segments = Segments(self.meta.rows)
        self._segments.load(self.meta.stored_segments())

    def _raise_epoch(self) -> None:
        found = recovering.survey(self._files, self.path, self.identity.uuid_bytes)
        self._position = self.meta.position() or Position(0, 0, 0, 0)
        epochs = [self._position.epoch] + [file.header.epoch for file in found.log + found.data]
        self.epoch = max(epochs) + 1
        self._position = Position(self._position.segment, self._position.offset, self._position.batch, self.epoch)
        self.meta.persist(self._position)
        self._writer = self.identity.uuid_bytes[:4] + self.epoch.to_bytes(4, "big")
        self._sequence = self._clock.wall_ms() << 20

    async def recover(self, replay: Callable[[Record, int, int], None]) -> Recovery:
        """Replay every record after the checkpoint as ``replay(record, segment, offset)`` on the loop, then be ready to write.

        Raises PositionLost when the log is not the one the metadata belongs to, DiskError.
        """
        started = self._clock.monotonic()
        recovery = Recovery()
        found = await self._in_thread(self._survey_and_sync)
        hit("recovery")
        self._adopt(found, recovery)
        files = recovering.log_files_from(found, self._position.segment)
        position = self._position
        walk = LogWalk(
            self._files, files, segment=position.segment, offset=position.offset, batch=position.batch
        )
        run = Replay(walk, recovery)
        batches = iter(run)
        while (records := await self._in_thread(next, batches, None)) is not None:
            for record, segment, offset in records:
                replay(record, segment, offset)
        await self._in_thread(self._remove_spares, files, run.used)
        tail = run.tail
        self._position = Position(tail.segment, tail.offset, tail.batch, self.epoch)
        self._start(tail)
        self.state, self.cause = VolumeState.OK, ""
        if recovery.cause:
            self.state, self.cause = VolumeState.DAMAGED, recovery.cause
        recovery.seconds = self._clock.monotonic() - started
        return recovery

    def _survey_and_sync(self) -> recovering.Found:
        found = recovering.survey(self._files, self.path, self.identity.uuid_bytes)
        log = [file.path for file in recovering.log_files_from(found, self._position.segment)]
        recovering.sync_segments(self._files, log)
        recovering.sync_folders(self._files, self.path)
        return found

    def _adopt(self, found: recovering.Found, recovery: Recovery) -> None:
        """Bring the table of segments and the files together."""
        table = self._segments.table
        present = {file.header.number for file in found.log + found.data}
        for number in [number for number in table if number not in present]:
            if table[number].live:
                recovery.lost.append(f"segment {number:016x} is gone, with {table[number].live} live bytes")
            else:
                self._segments.remove(number)
        for file in found.log:
            number = file.header.number
            if number not in table and number >= self._position.segment:
                self._segments.add(number, LOG, file.header.capacity)
        for number in table:
            self._segments.seal(number)

    def _remove_spares(self, files: list[LogFile], used: set[int]) -> None:
        """Segments of earlier epochs that hold no batch: never used, or torn at their first one."""
        for file in files:
            if file.header.number not in used and file.header.number > self._position.segment:
                self._files.unlink(file.path)
                del self._segments.table[file.header.number]

    def _start(self, tail: Tail) -> None:
        self._maker = SegmentMaker(
            self._files, self.path, volume=self.identity.uuid_bytes, epoch=self.epoch, clock=self._clock
        )
        self._preparer = Preparer(
            self._maker, self.options.log_segment_bytes,
            on_failed=self._failed_elsewhere, on_full=self._full_elsewhere,
        )
        self._log = Log(
            self._files, self._preparer, tail, epoch=self.epoch, segment_bytes=self.options.log_segment_bytes,
            loop=self._loop, on_flushed=self._flushed, on_failed=self._fail, on_segment=self._log_segment,
        )

    async def close(self) -> None:
        """Flush what is pending, end the threads, give the volume back. Does not checkpoint."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._log is not None:
            await self._log.drain()
            log, self._log = self._log, None
            left = await self._in_thread(self._preparer.stop)
            await self._in_thread(log.stop)
            for segment in left:
                self._files.close(segment.fd)
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
        """Wait until everything appended was flushed and delivered, or the volume failed."""
        assert self._log is not None
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

    def _fail(self, error: DiskError) -> None:
        """The disk is out for this process. Loop thread."""
        if self.state in (VolumeState.FAILED, VolumeState.CLOSED):
            return
        self.state, self.cause = VolumeState.FAILED, str(error)
        if self._log is not None:
            self._log.fail(error)
        self.on_failed(error)

    def _failed_elsewhere(self, error: DiskError) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _full_elsewhere(self, full: VolumeFull) -> None:
        self._loop.call_soon_threadsafe(self._full, full)

    def _full(self, full: VolumeFull) -> None:
        if self.state is VolumeState.OK:
            self.state, self.cause = VolumeState.FULL, str(full)

    # checkpoint and retention --------------------------------------------------------------------------------------

    def checkpoint_begins(self) -> Position:
        """Call right before the overlay is frozen, on the loop: puts the ``seg`` rows and returns the position that goes with the rows."""
        position = self.position
        self._droppable = self._segments.droppable(position.segment)
        self._segments.write_rows()
        self._frozen_waiters, self._committed_waiters = self._committed_waiters, []
        return position

    def checkpoint_ended(self) -> None:
        """Call after that checkpoint is committed and the overlay dropped: what it proved dead is unlinked now."""
        for waiter in self._frozen_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._frozen_waiters = []
        if self._droppable:
            task = self._loop.create_task(self._unlink(self._droppable))
            self._droppable = []
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def wait_checkpoint(self) -> None:
        """Wait until a checkpoint that holds everything up to now is committed: what was freed before stays freed."""
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
            await self._in_thread(self._unlink_paths, paths)
        except OSError as error:
            self._fail(DiskError(f"a dead segment cannot be unlinked: {error}"))
            return
        for number in numbers:
            self._segments.remove(number)

    def _unlink_paths(self, paths: list[str]) -> None:
        for path in paths:
            hit("unlink")
            self._files.unlink(path)
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            self._files.sync_dir(folder, "segment.unlink")

    # bodies and locations ------------------------------------------------------------------------------------------

    def next_data_id(self) -> bytes:
        """A new data id, 16 bytes: nearly ordered by time, unique by volume and epoch."""
        sequence = self._sequence = max(self._sequence + 1, self._clock.wall_ms() << 20)
        return sequence.to_bytes(8, "big") + self._writer

    def put_loc(self, data_id: bytes, segment: int, offset: int, length: int) -> None:
        """The body of a record is alive: called at apply, also in replay. ``length`` is ``record.stored_bytes``."""
        self._segments.put(data_id, Location(segment, offset, length, BODY))

    def free(self, data_id: bytes) -> int:
        """A data id is dead: its row is gone; the bytes that died, 0 if it was not here."""
        return self._segments.drop(data_id)

    def locate(self, data_id: bytes) -> Location | None:
        """Where a data id lies in this volume."""
        return self._segments.locate(data_id)

    def _segment_path(self, location: Location) -> str:
        row = self._segments.table.get(location.segment)
        kind = LOG if row is None else row.kind
        return f"{self.path}/{folder_of(kind)}/{segment_name(location.segment)}"

    def read_body_nowait(self, data_id: bytes) -> bytes | None:
        """The small body of a data id, ``None`` if it is not all in the page cache. Raises BodyDamaged; KeyError if it is not here."""
        location = self._segments.locate(data_id)
        if location is None:
            raise KeyError(data_id)
        handle = self._descriptors.acquire(self._segment_path(location))
        try:
            return read_nowait(self._files, handle, location, data_id)
        finally:
            handle.release()

    async def read_body(self, data_id: bytes) -> bytes:
        """The small body of a data id, verified, from the disk if need be. Raises BodyDamaged, DiskError, KeyError."""
        body = self.read_body_nowait(data_id)
        if body is not None:
            return body
        location = self._segments.locate(data_id)
        assert location is not None
        handle = self._descriptors.acquire(self._segment_path(location))
        try:
            return await self._in_thread(read_wait, self._files, handle, location, data_id)
        finally:
            handle.release()
