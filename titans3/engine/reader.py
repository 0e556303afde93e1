"""Reading extents of any volume of the node, read-only by path. Hot: every large GET.

Invariants
* Bytes leave only after their 64 KiB granules matched the extent's table, and the table matched its root and the manifest (I6).
* The event loop reads the page cache only (``RWF_NOWAIT``); what is not there is read in a small bounded pool (I9).
* An answer keeps its descriptors, so freeing, unlinking or moving does not hurt it: the extents of a body are found before its first piece
  is handed out, and each is held until its last byte was read. A reader that finds the file gone asks once more where the extent lies.
* A descriptor outlives the threads that read it, also when nobody waits for them any more.

Loop thread only, apart from the blocking reads it hands to its pool.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.engine.bodies import BodyDamaged
from titans3.engine.datawalk import FoundExtent, read_extent
from titans3.engine.descriptors import Descriptors, Handle
from titans3.engine.files import Files, OsFiles, read_at, read_into
from titans3.engine.location import EXTENT, Location
from titans3.engine.pieces import PieceBuffers
from titans3.engine.segment import parse_header, segment_name
from titans3.errors import DiskError
from titans3.limits import BLOCK_BYTES, FIRST_PIECE_BYTES, GRANULE_BYTES, MIB, PIECE_BYTES, PIECE_SECONDS
from titans3.model.version import SINGLE, Extent

TABLES_BYTES_MAX = 32 * MIB  # granule tables kept
_GRANULES = tuple(slice(at, at + GRANULE_BYTES) for at in range(0, PIECE_BYTES, GRANULE_BYTES))  # of a piece
_ENTRY_BYTES = 512  # what a kept extent costs beside its table
HELD_SEGMENTS_MAX = 512  # by one answer; the runs behind them are held when they are reached
HELD_BYTES_MAX = 1 * MIB  # of small runs, by one answer
_HOLDS_AT_ONCE = 64


class ReaderStatistics(msgspec.Struct, frozen=True):
    """Counters since the start."""

    reads: int
    waits: int
    opens: int
    relocations: int
    damaged: int
    extents_kept: int
    descriptors: int


class _Open:
    """An extent with its table in memory. Holds its descriptor until it leaves the cache and its last reader is done."""

    __slots__ = ("cost", "data_at", "found", "handle", "length", "root", "table")

    def __init__(self, handle: Handle, found: FoundExtent) -> None:
        assert found.trailer is not None
        self.handle = handle
        self.found = found
        self.table = found.trailer.table
        self.length = found.trailer.length
        self.root = found.trailer.root
        self.data_at = found.offset + found.header.header_bytes
        self.cost = _ENTRY_BYTES + len(self.table) * 8


class ExtentReader:
    """Reads any range of any extent. ``locate(volume index, data id)`` asks the owner; ``folder(volume index)`` is its path."""

    def __init__(
        self,
        locate: Callable[[int, bytes], Awaitable[Location | None]],
        folder: Callable[[int], str],
        *,
        files: Files | None = None,
        threads: int = 4,
        descriptors: int = 256,
    ) -> None:
        self._locate = locate
        self._folder = folder
        self._files: Files = files or OsFiles()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="extent reader")
        self._descriptors = Descriptors(self._files, descriptors)
        self._salts: dict[str, int] = {}
        self._kept: OrderedDict[bytes, _Open] = OrderedDict()
        self._kept_bytes = 0
        self._buffers = PieceBuffers()
        self._reads = self._waits = self._opens = self._relocations = self._damaged = 0

    async def read(self, extent: Extent, start: int, length: int, place: Place | None = None) -> memoryview:
        """Verified bytes ``start`` … ``start + length`` of an extent, at most PIECE_BYTES from the start of the granule of ``start`` on;
        ``place`` if it is held. Raises BodyDamaged, DiskError.
        """
        assert start >= 0
        assert start + length <= extent.length
        if not length:
            return memoryview(b"")
        opened = self._known(extent) or await self._open(extent, place)
        handle = opened.handle
        handle.users += 1
        try:
            buffer, at = self._buffer_for(opened, start, length)
            filled = self._read_cached(handle, buffer, at)
            if filled < len(buffer):
                self._waits += 1
                await handle.in_thread(self._pool, self._fill, handle, buffer[filled:], at + filled)
            return self._verified(opened, buffer, start, length)
        finally:
            handle.release()

    def read_nowait(self, extent: Extent, start: int, length: int) -> memoryview | None:
        """What ``read`` would give, if the extent's table is known, the page cache has all of it, and it fits into a piece. Raises
        BodyDamaged, DiskError.
        """
        opened = self._known(extent)
        if opened is None or not length or start % GRANULE_BYTES + length > PIECE_BYTES:
            return None
        buffer, at = self._buffer_for(opened, start, length)
        if self._read_cached(opened.handle, buffer, at) < len(buffer):
            return None
        return self._verified(opened, buffer, start, length)

    def _known(self, extent: Extent) -> _Open | None:
        """An extent whose table is kept. Raises BodyDamaged."""
        assert extent.policy == SINGLE
        opened = self._kept.get(extent.data_id)
        if opened is None:
            return None
        if opened.root != extent.checksum:
            self._damaged += 1
            raise self._damage(opened, opened.found.offset)
        self._kept.move_to_end(extent.data_id)
        return opened

    def _buffer_for(self, opened: _Open, start: int, length: int) -> tuple[memoryview, int]:
        """(a buffer for the granules of a range, where in the file they begin)."""
        first = start // GRANULE_BYTES * GRANULE_BYTES
        end = min(-(-(start + length) // GRANULE_BYTES) * GRANULE_BYTES, opened.length)
        return self._buffers.take(end - first), opened.data_at + first

    def _read_cached(self, handle: Handle, buffer: memoryview, at: int) -> int:
        """Bytes that the page cache has of it, from its beginning."""
        try:
            return self._files.preadv(handle.fd, buffer, at, nowait=True)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise DiskError(f"{handle.path} at byte {at}: {error}") from error

    def _verified(self, opened: _Open, view: memoryview, start: int, length: int) -> memoryview:
        """The range, out of the granules that ``view`` was filled with. Raises BodyDamaged."""
        self._reads += 1
        first, count = start // GRANULE_BYTES, -(-len(view) // GRANULE_BYTES)
        found = list(map(xxh3_64_intdigest, map(view.__getitem__, _GRANULES[:count])))
        stored = opened.table[first : first + count].tolist()
        if found != stored:
            self._damaged += 1
            wrong = next(at for at, digest in enumerate(found) if digest != stored[at])
            raise self._damage(opened, opened.data_at + (first + wrong) * GRANULE_BYTES)
        skipped = start - first * GRANULE_BYTES
        return view[skipped : skipped + length]

    def _fill(self, handle: Handle, view: memoryview, offset: int) -> None:
        try:
            filled = read_into(self._files, handle.fd, view, offset)
        except OSError as error:
            raise DiskError(f"{handle.path} at byte {offset}: {error}") from error
        if filled < len(view):
            raise DiskError(f"{handle.path} ends at byte {offset + filled}, inside an extent")

    def _damage(self, opened: _Open, offset: int) -> BodyDamaged:
        ident = opened.found.header.ident
        return BodyDamaged(opened.handle.path, offset, ident.data_id, ident.bucket, ident.key)

    async def _open(self, extent: Extent, place: Place | None) -> _Open:
        """Find, read and verify an extent's header and table, and keep them."""
        if place is None:
            place = await self.hold(extent)
        else:
            place[0].users += 1
        handle, offset = place
        try:
            return await self._load(extent, handle, offset)
        except BaseException:
            handle.release()
            raise

    async def hold(self, extent: Extent) -> Place:
        """Where an extent lies; the handle is the caller's to release. Raises DiskError."""
        opened = self._kept.get(extent.data_id)
        if opened is not None:
            opened.handle.users += 1
            return opened.handle, opened.found.offset
        volume = extent.placement - 1
        for attempt in range(2):
            location = await self._locate(volume, extent.data_id)
            if location is None or location.kind != EXTENT:
                raise DiskError(f"volume {volume} has no extent {extent.data_id.hex()}")
            path = f"{self._folder(volume)}/data/{segment_name(location.segment)}"
            try:
                return self._descriptors.acquire(path), location.offset
            except FileNotFoundError:
                if attempt:
                    raise DiskError(f"{path} is gone, with extent {extent.data_id.hex()}") from None
                self._relocations += 1
            except OSError as error:
                raise DiskError(f"{path} cannot be opened: {error}") from error
        raise AssertionError("unreachable")

    async def _load(self, extent: Extent, handle: Handle, offset: int) -> _Open:
        self._opens += 1
        try:
            found = self._read_frame(handle, offset, nowait=True)
        except BlockingIOError:
            found = await handle.in_thread(self._pool, self._read_frame, handle, offset)
        trailer = None if found is None else found.trailer
        if found is None or trailer is None or found.header.ident.data_id != extent.data_id or (
            trailer.root != extent.checksum or trailer.length != extent.length
        ):
            self._damaged += 1
            ident = None if found is None else found.header.ident
            raise BodyDamaged(
                handle.path, offset, extent.data_id, -1 if ident is None else ident.bucket, b"" if ident is None else ident.key
            )
        known = self._kept.get(extent.data_id)
        if known is not None:  # another reader was faster
            handle.release()
            return known
        opened = self._kept[extent.data_id] = _Open(handle, found)
        self._kept_bytes += opened.cost
        while self._kept_bytes > TABLES_BYTES_MAX:
            self._let_go(next(iter(self._kept)))
        return opened

    def _read_frame(self, handle: Handle, offset: int, *, nowait: bool = False) -> FoundExtent | None:
        salt = self._salts.get(handle.path)
        try:
            if salt is None:
                header = parse_header(read_at(self._files, handle.fd, BLOCK_BYTES, 0, nowait=nowait))
                if header is None:
                    return None
                if len(self._salts) > 4096:
                    self._salts.clear()
                salt = self._salts[handle.path] = header.salt
            return read_extent(self._files, handle.fd, offset, salt, nowait=nowait)
        except BlockingIOError:
            raise
        except OSError as error:
            raise DiskError(f"{handle.path} at byte {offset}: {error}") from error

    def _let_go(self, data_id: bytes) -> None:
        opened = self._kept.pop(data_id)
        self._kept_bytes -= opened.cost
        opened.handle.release()

    def sweep(self) -> None:
        """Let go of what was unlinked meanwhile, so that its space comes back. Call every second or so."""
        handles = {id(opened.handle): opened.handle for opened in self._kept.values()}
        unlinked = {known for known, handle in handles.items() if not self._files.is_linked(handle.fd)}
        gone = [data_id for data_id, opened in self._kept.items() if id(opened.handle) in unlinked]
        for data_id in gone:
            self._let_go(data_id)
        self._descriptors.sweep()

    def source(self, runs: Sequence[Run], start: int, length: int) -> ExtentSource:
        """The bytes ``start`` … ``start + length`` of consecutive runs, piece by piece."""
        return ExtentSource(self, runs, start, length)

    def statistics(self) -> ReaderStatistics:
        """Counters."""
        return ReaderStatistics(
            self._reads, self._waits, self._opens, self._relocations, self._damaged, len(self._kept), len(self._descriptors)
        )

    def close(self) -> None:
        """Let go of everything."""
        for data_id in list(self._kept):
            self._let_go(data_id)
        self._descriptors.close()
        self._pool.shutdown(wait=False)


class Inline(Protocol):
    """A run of bytes that is not an extent of a data segment: a small part's body, fetched from its group's volume."""

    length: int

    async def read(self) -> bytes: ...


Run = Extent | Inline
Place = tuple[Handle, int]  # a held segment, and the offset of an extent in it


class ExtentSource:
    """A :class:`~titans3.http.message.BodySource` over consecutive runs. What the page cache has is read when it is wanted; when a piece
    had to be waited for, the next one is read ahead. Pieces are of PIECE_BYTES: each costs a turn of the loop in which all its code comes
    back into the processor's caches. The first two, which a transport takes whether the client does or not, and those for a slow client
    are of FIRST_PIECE_BYTES.

    Before the first piece is handed out every run of the range is held, so that an extent that is not there is told while it can
    still be answered with an error. A run is let go when its last byte was read.
    """

    def __init__(self, reader: ExtentReader, runs: Sequence[Run], start: int, length: int) -> None:
        total = sum([run.length for run in runs])
        assert start >= 0
        assert start + length <= total
        self.length = length
        self._reader = reader
        self._runs, skipped = _runs_of(runs, start, length)
        self._piece_bytes, self._wanted, self._asked = FIRST_PIECE_BYTES, 0, 0.0
        self._plan = self._steps(start - skipped, length)
        self._reached = 0  # runs before it are held, or were
        self._places: dict[int, Place] = {}
        self._small: dict[int, bytes] = {}
        self._step: tuple[int, int, int, bool] | None = None  # of the plan, looked at and not there
        self._ahead: asyncio.Task[bytes | memoryview] | None = None
        self._has_waited = False  # for the piece that was read last
        self._closed = False

    async def next(self) -> bytes | memoryview | None:
        """The next piece of at most PIECE_BYTES, ``None`` at the end. Raises BodyDamaged, DiskError, and what a small run raises."""
        assert not self._closed
        if self._step is None:
            self._time()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            piece = await ahead
        else:
            step, self._step = self._step, None
            if step is None:
                step = next(self._plan, None)
            if step is None:
                return None
            piece = await self._fetch(*step)
        if self._has_waited and not self._closed:
            step = next(self._plan, None)
            self._ahead = None if step is None else asyncio.ensure_future(self._fetch(*step))
        return piece

    def next_nowait(self) -> memoryview | None:
        """The next piece if the page cache has all of it, and its run is held. Raises BodyDamaged, DiskError."""
        if self._ahead is not None or self._step is not None:
            return None
        self._time()
        step = next(self._plan, None)
        if step is None:
            return None
        number, start, length, is_last = step
        run = self._runs[number]
        piece = self._reader.read_nowait(run, start, length) if number < self._reached and isinstance(run, Extent) else None
        if piece is None:
            self._step = step
        elif is_last and (place := self._places.pop(number, None)) is not None:
            place[0].release()
        return piece

    def _time(self) -> None:
        """A piece is wanted: was the last one taken fast? What else took time meanwhile counts as well."""
        now, before = time.monotonic(), self._asked
        self._asked = now
        self._wanted += 1
        if self._wanted > 2:
            self._piece_bytes = PIECE_BYTES if now - before < PIECE_SECONDS else FIRST_PIECE_BYTES

    def _steps(self, start: int, length: int) -> Iterator[tuple[int, int, int, bool]]:
        """(number of the run, start in it, length, whether it is the run's last) of each piece of the runs, cut at granules so that none
        is verified twice.
        """
        for number, run in enumerate(self._runs):
            end = min(run.length, start + length)
            length -= end - start
            while start < end:
                stop = min(end, start // GRANULE_BYTES * GRANULE_BYTES + self._piece_bytes)
                yield number, start, stop - start, stop == end
                start = stop
            start = 0

    async def _fetch(self, number: int, start: int, length: int, is_last: bool) -> bytes | memoryview:
        """One piece; does not suspend if it is there."""
        self._has_waited = False
        if number >= self._reached:
            await self._hold()
        run = self._runs[number]
        if not isinstance(run, Extent):
            small = self._small.pop(number) if is_last else self._small[number]
            return memoryview(small)[start : start + length]
        piece = self._reader.read_nowait(run, start, length)
        if piece is None:
            self._has_waited = True
            piece = await self._reader.read(run, start, length, self._places.get(number))
        if is_last and (place := self._places.pop(number, None)) is not None:
            place[0].release()
        return piece

    async def _hold(self) -> None:
        """Hold the runs from ``_reached`` on: all that are left, or as many as one answer may hold."""
        while self._reached < len(self._runs):
            some = range(self._reached, min(self._reached + _HOLDS_AT_ONCE, len(self._runs)))
            if len(some) == 1:
                await self._hold_one(some[0])
            else:
                await asyncio.gather(*[self._hold_one(number) for number in some])
            self._reached = some.stop
            segments = {id(handle) for handle, _ in self._places.values()}
            if len(segments) >= HELD_SEGMENTS_MAX or sum(map(len, self._small.values())) >= HELD_BYTES_MAX:
                return

    async def _hold_one(self, number: int) -> None:
        run = self._runs[number]
        if not isinstance(run, Extent):
            self._small[number] = await run.read()
            return
        place = await self._reader.hold(run)
        if self._closed:
            place[0].release()
        else:
            self._places[number] = place

    def close(self) -> None:
        """No more pieces are wanted."""
        self._closed = True
        self._plan = iter(())  # which held this object
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        for handle, _ in self._places.values():
            handle.release()
        self._places.clear()
        self._small.clear()


def _runs_of(runs: Sequence[Run], start: int, length: int) -> tuple[list[Run], int]:
    """(runs with bytes in the range, bytes of the runs before them)."""
    found: list[Run] = []
    at = skipped = 0
    for run in runs:
        if at < start + length and at + run.length > start:
            found.append(run)
        elif not found:
            skipped += run.length
        at += run.length
    return found, skipped
