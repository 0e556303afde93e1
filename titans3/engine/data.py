"""Data segments of a volume: grants, extent writers, coalesced syncs. Hot: every large PUT.

Invariants
* An extent's header is written under the lock that grants it, so headers reach a file in the order of their offsets: whatever a
  later sync makes durable, a walk over the segment never stops at a hole.
* ``finish`` returns only after an ``fdatasync`` that began after the trailer was written. One sync per segment is in flight;
  who comes meanwhile joins the next.
* A piece is hashed and written by a thread, or by the loop where threads bring nothing (``LongWork``): in a segment that is there, and not
  soon after the disk made the loop wait.
* Offsets that were granted and neither finished nor abandoned hold back the segment's walked position.
* A segment is sealed when it is full and nothing in it is open; after any restart all of them are.
* Of what was written no more than ``cache_written_bytes`` stay in the page cache, the last (``Written``); of an extent that is larger
  nothing does: while it arrives some ``_BEHIND_BYTES`` and what the disk lags. It would put out what is read again, and where a
  machine's memory comes from a host as it is used, each mebibyte of it costs anew.

Threads: grants and pieces in the volume's pool for writing or on the loop, everything else on the loop. The kernel syncs by itself
(``Syncs``), or a pool of threads.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

import msgspec

from titans3.engine.extent import (
    LAST,
    ExtentIdent,
    Granules,
    granted_bytes,
    header_bytes,
    pack_header,
    pack_trailer,
    used_bytes,
)
from titans3.engine.files import Files, write_all
from titans3.engine.kernel_sync import Syncs
from titans3.engine.location import EXTENT, Location
from titans3.engine.log import SLOW_SECONDS, THREADED_SECONDS
from titans3.engine.prepare import OpenSegment, SegmentMaker
from titans3.engine.segment import CONTENT, DATA
from titans3.engine.segments import Segments
from titans3.engine.written import Written
from titans3.errors import DiskError
from titans3.limits import KIB, MIB, OWN_SEGMENT_BYTES_MIN
from titans3.long_work import LongWork
from titans3.model.version import SINGLE, Extent
from titans3.observe.failpoint import hit

_HERE_BYTES_MAX = 16 * KIB  # of a trailer that the loop writes
_BEHIND_BYTES = 8 * MIB  # what was written so long before is on the medium by now, if the disk keeps up
_THREADED_TIMES = 40  # as long as the loop was made to wait by the disk, threads write; up to THREADED_SECONDS
_EARLY_BYTES = 4 * MIB  # extents from here on are written back while they arrive: their sync waits for less


class Digest(Protocol):
    """Anything with ``update``."""

    def update(self, data: memoryview, /) -> None: ...


class DataFile:
    """A data segment open for writing."""

    def __init__(self, segment: OpenSegment, following: int) -> None:
        self.segment = segment
        self.next = following
        self.open: set[int] = set()  # offsets granted, neither finished nor abandoned
        self.full = False
        self.known = False  # the loop has put it into the table
        self.flight: asyncio.Future[None] | None = None
        self.joining: asyncio.Future[None] | None = None


class DataSegments:
    """Grants extents and syncs them. ``on_failed`` is called on the loop after a failed sync."""

    def __init__(
        self,
        files: Files,
        maker: SegmentMaker,
        segments: Segments,
        *,
        index: int,
        capacity: int,
        own_bytes_min: int = OWN_SEGMENT_BYTES_MIN,
        pool: Executor,
        sync_pool: Executor,
        syncs: Syncs | None,
        loop: asyncio.AbstractEventLoop,
        on_failed: Callable[[DiskError], None],
        reserve: int = 0,
        cache_written_bytes: int,
        work: LongWork,
    ) -> None:
        """``reserve``: bytes of the file system that a new segment must leave free. ``sync_pool`` is for when there are no ``syncs``.

        ``cache_written_bytes``: how much of what was written last stays in the page cache.
        """
        self.written = Written(files, cache_written_bytes, lambda work: loop.run_in_executor(pool, work))
        self._kernel = syncs
        self.files = files
        self._reserve = reserve
        self.index = index
        self.loop = loop
        self.pool = pool
        self._maker = maker
        self._segments = segments
        self._capacity = capacity
        self._own_bytes_min = min(own_bytes_min, capacity - CONTENT)
        self._sync_pool = sync_pool
        self._on_failed = on_failed
        self._lock = threading.Lock()  # grants; may be held while a segment is made
        self._state = threading.Lock()  # ``open`` and ``next`` of files; held for moments
        self._current: DataFile | None = None
        self._files_open: set[DataFile] = set()
        self.failure: DiskError | None = None
        self.syncs = 0
        self._threaded_until = 0.0
        self.work = work
        self.is_closed = False

    # pool threads --------------------------------------------------------------------------------------------------

    def grant(self, ident: ExtentIdent, granted: int, flags: int = 0) -> tuple[DataFile, int]:
        """(file, offset) of a new extent whose header is written. Raises VolumeFull, DiskError."""
        try:
            if granted >= self._own_bytes_min:
                file = DataFile(self._maker.make(DATA, CONTENT + granted, flags, keep=self._reserve), CONTENT)
                file.full = True
                with self._state:
                    self._files_open.add(file)
                return file, self._place(file, ident, granted)
            with self._lock:
                current = self._current
                if current is None or current.next + granted > current.segment.header.capacity:
                    fresh = DataFile(self._maker.make(DATA, self._capacity, keep=self._reserve), CONTENT)
                    if current is not None:
                        current.full = True  # only now: what is full may be sealed and closed at any time
                    self._current = current = fresh
                    with self._state:
                        self._files_open.add(current)
                return current, self._place(current, ident, granted)
        except OSError as error:
            raise DiskError(f"an extent header cannot be written: {error}") from error

    def grant_here(self, ident: ExtentIdent, granted: int) -> tuple[DataFile, int] | None:
        """The same for the loop: ``None`` if that may take a while, for a segment has to be made. Raises DiskError."""
        if self.is_closed:
            raise _closed()
        if granted >= self._own_bytes_min or not self._lock.acquire(blocking=False):
            return None
        try:
            current = self._current
            if current is None or current.next + granted > current.segment.header.capacity:
                return None
            return current, self._place(current, ident, granted)
        except OSError as error:
            raise DiskError(f"an extent header cannot be written: {error}") from error
        finally:
            self._lock.release()

    def _place(self, file: DataFile, ident: ExtentIdent, granted: int) -> int:
        offset = file.next
        header = pack_header(ident, salt=file.segment.header.salt, offset=offset, granted=granted)
        with self._state:
            file.open.add(offset)
            file.next = offset + granted
        write_all(self.files, file.segment.fd, (header,), offset)
        return offset

    # loop ----------------------------------------------------------------------------------------------------------

    def note(self, file: DataFile) -> None:
        """Put a file into the table of segments, once."""
        if not file.known:
            file.known = True
            header = file.segment.header
            self._segments.add(header.number, DATA, header.capacity, header.flags, walked=CONTENT)

    def settle(self, file: DataFile, offset: int) -> None:
        """An extent is finished or abandoned."""
        with self._state:
            file.open.discard(offset)
        self._seal_if_done(file)

    def _seal_if_done(self, file: DataFile) -> None:
        with self._state:
            done = file.full and not file.open and file.flight is None and file in self._files_open
            if done:
                self._files_open.discard(file)
        if done:
            self.files.close(file.segment.fd)
            if file.known:
                self._segments.seal(file.segment.number)

    @property
    def is_walked(self) -> bool:
        """Whether the table knows every extent, as the last ``write_walked`` left it."""
        table = self._segments.table
        return all(not file.known or table[file.segment.number].walked == file.next for file in self._files_open)

    def write_walked(self) -> None:
        """Before a checkpoint: how far each open segment needs no walk."""
        for file in list(self._files_open):
            self._seal_if_done(file)
        with self._state:
            reached = [(file, min(file.open, default=file.next)) for file in self._files_open if file.known]
        for file, walked in reached:
            row = self._segments.table[file.segment.number]
            if row.walked != walked:
                row.walked = walked
                row.freed = [offset for offset in row.freed if offset >= walked]
                self._segments.touch(file.segment.number)

    async def sync(self, file: DataFile) -> None:
        """Everything written to the file before this call is on the medium. Raises DiskError."""
        if self.failure is not None:
            raise self.failure
        if file.joining is None:
            file.joining = self.loop.create_future()
            if file.flight is None:
                self._start_sync(file)
        await asyncio.shield(file.joining if file.joining is not None else self._flying(file))

    @property
    def is_quick(self) -> bool:
        """Whether the loop may write itself: it goes into the page cache, unless the kernel makes writers wait."""
        return time.monotonic() >= self._threaded_until

    def begin_here(self) -> tuple[float, int]:
        """The loop is about to write; what ``wrote_here`` wants."""
        return time.monotonic(), _waits()

    def wrote_here(self, begin: tuple[float, int]) -> None:
        """The loop wrote. If it was made to wait (others that use the processor are no reason), threads write for a while."""
        now = time.monotonic()
        took = now - begin[0]
        if took > SLOW_SECONDS and _waits() > begin[1]:
            self._threaded_until = now + min(took * _THREADED_TIMES, THREADED_SECONDS)

    def _flying(self, file: DataFile) -> asyncio.Future[None]:
        assert file.flight is not None
        return file.flight

    def _start_sync(self, file: DataFile) -> None:
        file.flight, file.joining = file.joining, None
        self.syncs += 1
        if self._kernel is not None:
            try:
                hit("extent sync")
            except OSError as error:
                self.loop.call_soon(self._synced, file, error)
                return
            try:
                self._kernel.begin(file.segment.fd, "extent.sync", lambda error: self._synced(file, error))
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    self._kernel = None
            else:
                return
        running = self.loop.run_in_executor(self._sync_pool, self._sync_file, file)
        running.add_done_callback(lambda done: self._synced(file, done.exception()))

    def _sync_file(self, file: DataFile) -> None:
        hit("extent sync")
        self.files.sync(file.segment.fd, "extent.sync")

    def _synced(self, file: DataFile, error: BaseException | None) -> None:
        flight = self._flying(file)
        file.flight = None
        if error is not None:
            failure = DiskError(f"sync of {file.segment.path} failed: {error}")
            self.failure = failure
            for waiter in (flight, file.joining):
                if waiter is not None:
                    waiter.set_exception(failure)
                    waiter.exception()  # a waiter that went away is no reason for a warning
            file.joining = None
            self._on_failed(failure)
            return
        flight.set_result(None)
        if file.joining is not None:
            self._start_sync(file)
        else:
            self._seal_if_done(file)

    def finished(self, file: DataFile, offset: int, data_id: bytes, used: int) -> None:
        """An extent is durable: its loc row."""
        self.note(file)
        self._segments.put(data_id, Location(file.segment.number, offset, used, EXTENT))
        self.settle(file, offset)

    def drop(self, data_id: bytes) -> int:
        """A finished extent is dead after all."""
        return self._segments.drop(data_id)

    async def drain(self) -> None:
        """Wait for the syncs under way, and for those who joined them."""
        while flights := [file.flight for file in self._files_open if file.flight is not None]:
            await asyncio.wait(flights)

    def close(self) -> None:
        """Close the files; the next open of the volume seals them."""
        self.is_closed = True
        for file in self._files_open:
            self.files.close(file.segment.fd)
        self._files_open.clear()


def _closed() -> DiskError:
    return DiskError("the volume was closed")  # its descriptors may be other files' by now


def _waits() -> int:
    """How often this thread has waited for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class ExtentWriter:
    """Writes one extent. ``length`` is the most it takes; fewer bytes leave dead space behind them."""

    def __init__(self, store: DataSegments, ident: ExtentIdent, length: int) -> None:
        self._store = store
        self._ident = ident
        self._capacity = length
        self._granules = Granules()
        self._place: tuple[DataFile, int] | None = None
        self._granted = 0
        self._is_passing = length > store.written.limit
        self._busy: asyncio.Future[None] | None = None
        self._state = "open"
        self.written = 0
        store.work.writers += 1  # until it is finished or abandoned

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return self._capacity - self.written

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        """Hash, checksum and write a piece. Raises VolumeFull, DiskError. The piece is free afterwards."""
        assert self._state == "open"
        assert len(piece) <= self.room
        store = self._store
        if store.work.is_here(store.work.writers) and store.is_quick and self._is_granted_here():
            assert self._busy is None or self._busy.done(), "one call at a time"
            self._busy = store.work.here(self._step_here, piece, digests)
            await asyncio.shield(self._busy)
        else:
            await self._run(self._step, piece, digests)
        self.written += len(piece)

    async def _run(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._busy is None or self._busy.done(), "one call at a time"
        self._busy = self._store.loop.run_in_executor(self._store.pool, function, *arguments)
        await asyncio.shield(self._busy)

    def _is_granted_here(self) -> bool:
        if self._place is None:
            begin = self._store.begin_here()
            self._granted = granted_bytes(self._ident, self._capacity)
            try:
                self._place = self._store.grant_here(self._ident, self._granted)
            finally:
                self._store.wrote_here(begin)
        return self._place is not None

    def _step_here(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        if self._store.is_closed:
            raise _closed()
        self._hash(piece, digests)
        begin = self._store.begin_here()
        try:
            self._put(piece)
        finally:
            self._store.wrote_here(begin)

    def _step(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        if self._place is None:
            self._grant()
        self._hash(piece, digests)
        self._put(piece)

    def _hash(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        for digest in digests:
            digest.update(piece)
        self._granules.update(piece)

    def _put(self, piece: memoryview) -> None:
        assert self._place is not None
        file, offset = self._place
        files, place = self._store.files, offset + header_bytes(self._ident) + self.written
        hit("extent write")
        try:
            write_all(files, file.segment.fd, (piece,), place)
        except OSError as error:
            raise DiskError(f"write to {file.segment.path} failed: {error}") from error
        if self._capacity >= _EARLY_BYTES:
            files.begin_write_back(file.segment.fd, place, len(piece))
            if self._is_passing and self.written >= _BEHIND_BYTES:
                files.uncache(file.segment.fd, place - _BEHIND_BYTES, len(piece))

    def _grant(self) -> None:
        self._granted = granted_bytes(self._ident, self._capacity)
        self._place = self._store.grant(self._ident, self._granted)

    def _finish(self, table: bytes, flags: int, blob: bytes) -> None:
        if self._place is None:
            self._grant()
        assert self._place is not None
        file, offset = self._place
        trailer, self._root = pack_trailer(
            self._ident.data_id, self.written, table, salt=file.segment.header.salt, flags=flags, blob=blob
        )
        try:
            write_all(self._store.files, file.segment.fd, (trailer,), offset + self._granted - len(trailer))
        except OSError as error:
            raise DiskError(f"write to {file.segment.path} failed: {error}") from error

    async def finish(self, last: bool, total: int, md5: bytes) -> Extent:
        """Trailer and sync; the extent is durable and has its loc row. ``total`` and ``md5`` (whole body) only matter with ``last``."""
        assert self._state == "open"
        blob = msgspec.msgpack.encode({"size": total, "md5": md5}) if last else b""
        table, flags = self._granules.finish(), LAST if last else 0
        if self._place is not None and len(table) <= _HERE_BYTES_MAX and self._store.is_quick:
            if self._store.is_closed:
                raise _closed()
            begin = self._store.begin_here()
            try:
                self._finish(table, flags, blob)
            finally:
                self._store.wrote_here(begin)
        else:
            await self._run(self._finish, table, flags, blob)
        assert self._place is not None
        file, offset = self._place
        self._store.note(file)
        await self._store.sync(file)
        if self._is_passing and self._state == "open":
            await self._run(self._store.files.uncache, file.segment.fd, offset, self._granted)
        if self._state != "open":
            raise DiskError("the extent was abandoned while it was synced")
        self._state = "finished"
        self._store.work.writers -= 1
        if not self._is_passing:
            self._store.written.add(file.segment.path, offset, self._granted)
        self._store.finished(file, offset, self._ident.data_id, used_bytes(self._ident, self.written, len(blob)))
        return Extent(self._ident.data_id, self.written, SINGLE, self._store.index + 1, self._root)

    def abandon(self) -> None:
        """The bytes are dead. Safe at any time before a commit that refers to them, and twice."""
        before, self._state = self._state, "abandoned"
        if before == "finished":
            self._store.drop(self._ident.data_id)
        elif before == "open":
            self._store.work.writers -= 1
            if self._busy is not None and not self._busy.done():
                self._busy.add_done_callback(self._release)
            else:
                self._release(None)

    def _release(self, done: asyncio.Future[None] | None) -> None:
        if done is not None and not done.cancelled():
            done.exception()
        if self._place is not None:
            self._store.note(self._place[0])
            self._store.settle(*self._place)
