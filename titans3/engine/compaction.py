"""Compaction: what is alive in segments under half live is copied together, so that the rest can be unlinked.

Invariants
* Copies are synced before any loc row names them; a row is swapped on the loop and only if it still names the source (I5).
* A source is unlinked by retention, after a committed checkpoint holds every swap; nothing here unlinks. That may happen at any time
  while it is being read, when all in it died: what is gone is passed over.
* A body or granule that does not hold is never copied: it stays where it is, the source stays, and the damage is reported.
* One number throttles: bytes copied per second.
* Little room is enough: what does not fit together is tried alone, bodies and extents each for themselves.

Its target is flagged ``COPIES``: what no loc row names in it is dead, so a crash at any point leaves at most dead bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from titans3.engine.batch import MAGIC, Batch, batch_bytes, encode_batch, parse_batch, parse_header
from titans3.engine.bodies import BodyDamaged, name_of
from titans3.engine.datawalk import FoundExtent, walk_extents
from titans3.engine.extent import Granules, granted_bytes, pack_header, pack_trailer
from titans3.engine.files import Files, read_at, write_all
from titans3.engine.location import BODY, EXTENT, Location
from titans3.engine.prepare import OpenSegment, SegmentMaker
from titans3.engine.record import COPIED, NO_DATA, Record, body_matches, padded, parse_record
from titans3.engine.recovery import read_header
from titans3.engine.segment import CONTENT, COPIES, DATA, LOG, PACKED, SegmentHeader
from titans3.engine.segments import SEALED, Segments
from titans3.errors import DiskError, VolumeFull
from titans3.limits import BLOCK_BYTES, GRANULE_BYTES, MIB
from titans3.meta.rows import RowDamaged
from titans3.observe.failpoint import hit

_COPY_BATCH_BYTES = 1 * MIB
_SWAPS_PER_TURN = 256
_logger = logging.getLogger("titans3.engine")


class CompactionStatistics(msgspec.Struct, frozen=True):
    """Counters since the volume was opened."""

    rounds: int
    copied_bytes: int
    moved: int
    damaged: int


class _Item(msgspec.Struct):
    """Something in a source that may be alive. ``extent`` for data segments."""

    data_id: bytes
    source: Location
    path: str
    salt: int
    extent: FoundExtent | None = None
    piece: int = 0


class Compactor:
    """Compacts one volume; ``run`` on the loop, reading and writing in its own thread."""

    def __init__(
        self,
        files: Files,
        maker: SegmentMaker,
        segments: Segments,
        *,
        path_of: Callable[[int], str],
        target_bytes: int,
        bytes_per_second: int,
        on_damaged: Callable[[BodyDamaged], None],
    ) -> None:
        self._files = files
        self._maker = maker
        self._segments = segments
        self._path_of = path_of
        self._target_bytes = target_bytes
        self._rate = bytes_per_second
        self._on_damaged = on_damaged
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compaction")
        self._skip: set[int] = set()
        self._stopped = False
        self._stop = threading.Event()
        self._rounds = self._copied = self._moved = self._damaged = 0

    def victims(self, log_segment: int) -> list[int]:
        """Sealed segments under half live, those with least alive first; log segments only below the checkpoint's."""
        found = [
            (row.live, number)
            for number, row in self._segments.table.items()
            if row.state == SEALED
            and 0 < row.live * 2 < row.total
            and number not in self._skip
            and (row.kind != LOG or number < log_segment)
        ]
        return [number for _, number in sorted(found)]

    async def run(self, log_segment: int) -> int:
        """One round over bodies and one over extents; the number of data ids moved. Raises DiskError; VolumeFull if one had no room."""
        victims = self.victims(log_segment)
        moved = 0
        full: VolumeFull | None = None
        for is_data in (False, True):
            chosen: list[int] = []
            size = 0
            for number in victims:
                row = self._segments.table.get(number)
                if row is None:  # everything in it died meanwhile
                    continue
                if (row.kind == DATA) == is_data and (not chosen or size + row.live <= self._target_bytes):
                    chosen.append(number)
                    size += row.live
            try:
                moved += await self._round_that_fits(chosen, is_data)
            except VolumeFull as error:
                full = error
        if full is not None:
            raise full
        return moved

    async def _round_that_fits(self, chosen: list[int], is_data: bool) -> int:
        """Fewer victims as long as there is no room for all, the one with least alive last."""
        while True:
            if not chosen or self._stopped:
                return 0
            try:
                return await self._round(chosen, is_data)
            except VolumeFull:
                if len(chosen) == 1:
                    raise
                chosen = chosen[: len(chosen) // 2]

    async def _round(self, numbers: list[int], is_data: bool) -> int:
        loop = asyncio.get_running_loop()
        self._rounds += 1
        items: list[_Item] = []
        for number in numbers:
            gather = self._extents if is_data else self._records
            path = self._path_of(number)
            if self._stopped:
                return 0
            try:
                found = await loop.run_in_executor(self._pool, lambda: list(gather(number, path)))  # noqa: B023
            except FileNotFoundError:
                continue
            except OSError as unread:
                _logger.error("%s is not compacted, it cannot be read: %s", path, unread)
                continue
            items += [item for item in found if self._is_at_source(item)]
        self._skip.update(numbers)  # what cannot be moved is not tried again in this process
        if not items or self._stopped:
            return 0
        copy = self._copy_extents if is_data else self._copy_records
        try:
            target, places, damaged = await loop.run_in_executor(self._pool, copy, items)
        except VolumeFull:
            self._skip.difference_update(numbers)  # they can be moved, when there is room
            raise
        for error in damaged:
            self._damaged += 1
            self._on_damaged(error)
        number = target.number
        self._segments.add(number, target.header.kind, target.header.capacity, COPIES)
        hit("loc swap")
        moved = 0
        for position, (item, place) in enumerate(places):
            moved += self._is_at_source(item) and self._segments.move(item.data_id, item.source, place, item.piece)
            if position % _SWAPS_PER_TURN == _SWAPS_PER_TURN - 1:
                await asyncio.sleep(0)
        self._segments.seal(number)
        self._moved += moved
        return moved

    def _is_at_source(self, item: _Item) -> bool:
        """Whether the loc row names this place. A damaged row names none: its bytes count as live, so the source stays."""
        try:
            return self._segments.locate(item.data_id, item.piece) == item.source
        except RowDamaged as error:
            self._damaged += 1
            _logger.error("%s is not compacted: %s", item.path, error)
            return False

    def statistics(self) -> CompactionStatistics:
        """Counters."""
        return CompactionStatistics(self._rounds, self._copied, self._moved, self._damaged)

    def stop(self) -> None:
        """End soon; waits for the piece that is being copied. Not on the loop."""
        self._stopped = True
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # compaction thread ---------------------------------------------------------------------------------------------

    def _records(self, number: int, path: str) -> Iterator[_Item]:
        for header, record, offset in records_of(self._files, path):
            if record.data_id != NO_DATA:
                yield _Item(record.data_id, Location(number, offset, record.stored_bytes, BODY), path, header.salt)

    def _extents(self, number: int, path: str) -> Iterator[_Item]:
        header = read_header(self._files, path)
        if header is not None:
            for found in walk_extents(self._files, path, header, skips_blank=True):
                if found.is_whole:
                    place = Location(number, found.offset, found.used, EXTENT)
                    ident = found.header.ident
                    yield _Item(ident.data_id, place, path, header.salt, found, ident.piece)

    def _throttle(self, copied: int, since: float) -> None:
        self._copied += copied
        if self._stopped:
            raise DiskError("the volume is closing")
        if self._rate > 0:
            self._stop.wait(max(0.0, copied / self._rate - (time.monotonic() - since)))  # an end does not wait for the pace

    def _copy_records(self, items: list[_Item]) -> tuple[OpenSegment, list[tuple[_Item, Location]], list[BodyDamaged]]:
        groups: list[list[_Item]] = [[]]
        size = 0
        for item in items:
            if size + padded(item.source.length) > _COPY_BATCH_BYTES and groups[-1]:
                groups.append([])
                size = 0
            groups[-1].append(item)
            size += padded(item.source.length)
        capacity = CONTENT + sum([batch_bytes(sum([padded(i.source.length) for i in group]), 0) for group in groups])
        target = self._maker.make(PACKED, capacity, COPIES)
        places: list[tuple[_Item, Location]] = []
        damaged: list[BodyDamaged] = []
        try:
            offset = CONTENT
            for number, group in enumerate(groups, 1):
                since = time.monotonic()
                records, kept = self._read_records(group, damaged)
                if not records:
                    continue
                batch = encode_batch(
                    records, salt=target.header.salt, offset=offset, epoch=self._maker.epoch, number=number,
                    previous_segment=0, digest={},
                )
                write_all(self._files, target.fd, batch.pieces, offset)
                for item, at in zip(kept, batch.offsets, strict=True):
                    places.append((item, Location(target.number, at, item.source.length, BODY)))
                offset += batch.length
                self._throttle(batch.length, since)
            self._files.sync(target.fd, "compaction.records")
        except OSError as error:
            raise DiskError(f"compaction into {target.path} failed: {error}") from error
        finally:
            self._files.close(target.fd)
        return target, places, damaged

    def _read_records(self, group: list[_Item], damaged: list[BodyDamaged]) -> tuple[list[Record], list[_Item]]:
        records: list[Record] = []
        kept: list[_Item] = []
        opened: dict[str, int] = {}
        try:
            for item in group:
                place = item.source
                try:
                    fd = opened.get(item.path)
                    if fd is None:
                        fd = opened[item.path] = self._files.open(item.path, os.O_RDONLY)
                    raw = memoryview(read_at(self._files, fd, padded(place.length), place.offset))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    _logger.error("%s at byte %d cannot be read: %s", item.path, place.offset, error)
                    raw = memoryview(b"")
                parsed = parse_record(raw, item.salt, place.offset)
                if parsed is None or not body_matches(parsed[0]) or parsed[0].data_id != item.data_id:
                    bucket, key = (-1, b"") if parsed is None else name_of(parsed[0].command)
                    damaged.append(BodyDamaged(item.path, place.offset, item.data_id, bucket, key))
                    continue
                parsed[0].flags |= COPIED
                records.append(parsed[0])
                kept.append(item)
        finally:
            for fd in opened.values():
                self._files.close(fd)
        return records, kept

    def _copy_extents(self, items: list[_Item]) -> tuple[OpenSegment, list[tuple[_Item, Location]], list[BodyDamaged]]:
        sizes: list[int] = []
        for item in items:
            assert item.extent is not None
            assert item.extent.trailer is not None
            sizes.append(granted_bytes(item.extent.header.ident, item.extent.trailer.length))
        target = self._maker.make(DATA, CONTENT + sum(sizes), COPIES)
        places: list[tuple[_Item, Location]] = []
        damaged: list[BodyDamaged] = []
        try:
            offset = CONTENT
            for item, granted in zip(items, sizes, strict=True):
                try:
                    self._copy_extent(item, target, offset, granted)
                except BodyDamaged as error:
                    damaged.append(error)
                    continue
                except FileNotFoundError:
                    continue
                places.append((item, Location(target.number, offset, item.source.length, EXTENT)))
                offset += granted
            self._files.sync(target.fd, "compaction.extents")
        except OSError as error:
            raise DiskError(f"compaction into {target.path} failed: {error}") from error
        finally:
            self._files.close(target.fd)
        return target, places, damaged

    def _copy_extent(self, item: _Item, target: OpenSegment, offset: int, granted: int) -> None:
        found = item.extent
        assert found is not None
        trailer = found.trailer
        assert trailer is not None
        ident, salt = found.header.ident, target.header.salt
        shift = found.header.header_bytes
        granules = Granules()
        fd = self._files.open(item.path, os.O_RDONLY)
        try:
            write_all(self._files, target.fd, (pack_header(ident, salt=salt, offset=offset, granted=granted),), offset)
            position = 0
            while position < trailer.length:
                since = time.monotonic()
                piece = self._read_piece(item, fd, found.offset + shift + position, min(MIB, trailer.length - position))
                granules.update(piece)
                write_all(self._files, target.fd, (piece,), offset + shift + position)
                position += len(piece)
                self._throttle(len(piece), since)
        finally:
            self._files.close(fd)
        table = granules.finish()
        expected = b"".join([mark.to_bytes(8, "big") for mark in trailer.table])
        if table != expected:
            bad = next((n for n in range(len(trailer.table)) if table[n * 8 : n * 8 + 8] != expected[n * 8 : n * 8 + 8]), 0)
            at = found.offset + shift + bad * GRANULE_BYTES
            raise BodyDamaged(item.path, at, ident.data_id, ident.bucket, ident.key)
        last, _ = pack_trailer(
            ident.data_id, trailer.length, table, salt=salt, flags=trailer.flags, blob=trailer.blob
        )
        write_all(self._files, target.fd, (last,), offset + granted - len(last))

    def _read_piece(self, item: _Item, fd: int, offset: int, length: int) -> memoryview:
        """Bytes of a source. Raises BodyDamaged for what the disk does not give back."""
        try:
            piece = memoryview(read_at(self._files, fd, length, offset))
        except OSError as error:
            _logger.error("%s at byte %d cannot be read: %s", item.path, offset, error)
            piece = memoryview(b"")
        if len(piece) < length:
            assert item.extent is not None
            ident = item.extent.header.ident
            raise BodyDamaged(item.path, offset, ident.data_id, ident.bucket, ident.key)
        return piece


def records_of(files: Files, path: str) -> Iterator[tuple[SegmentHeader, Record, int]]:
    """(segment header, record, offset) of everything readable in a log or packed segment, damaged batches salvaged. Blocking."""
    segment = read_header(files, path)
    if segment is not None:
        for batch in batches_of(files, path, segment):
            for record, at in batch.records:
                yield segment, record, at


def batches_of(files: Files, path: str, segment: SegmentHeader) -> Iterator[Batch]:
    """Every batch of a log or packed segment whose header holds; of one that is damaged the records that hold. Blocking."""
    fd = files.open(path, os.O_RDONLY)
    try:
        offset = CONTENT
        while offset < segment.capacity:
            block = read_at(files, fd, BLOCK_BYTES, offset)
            header = parse_header(memoryview(block), segment.salt, offset)
            if header is None:
                following = _next_batch(files, fd, offset + BLOCK_BYTES, segment)
                if following is None:
                    return
                offset = following
                continue
            view = memoryview(read_at(files, fd, header.length, offset))
            if len(view) == header.length:
                yield parse_batch(view, header, segment.salt, offset)
            offset += header.length
    finally:
        files.close(fd)


def _next_batch(files: Files, fd: int, offset: int, segment: SegmentHeader) -> int | None:
    """Offset of the next valid batch header at or after ``offset``."""
    while offset < segment.capacity:
        run = read_at(files, fd, min(4 * MIB, segment.capacity - offset), offset)
        if not run:
            return None
        at = run.find(MAGIC)
        while at >= 0:
            if at % BLOCK_BYTES == 0 and parse_header(memoryview(run)[at:], segment.salt, offset + at) is not None:
                return offset + at
            at = run.find(MAGIC, at + 1)
        offset += len(run)
    return None
