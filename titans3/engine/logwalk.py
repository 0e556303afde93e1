"""Walking a log: every batch after the checkpoint in order, what is damaged between them, and where the log ends.

Invariants
* Only a tail is cut: a batch that does not hold and has no intact batch after it, in its segment or a later one. Anything
  else that does not hold is ``Damage`` and is reported with what could be salvaged of it.
* A segment ends where its successor says it ended; bytes behind that were never acknowledged.

Blocking reads: runs in a thread. The walk writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from titans3.engine.batch import MAGIC, Batch, BatchHeader, Digest, parse_batch, parse_digest, parse_header, salvage
from titans3.engine.files import Files, read_at
from titans3.engine.record import SEGMENT_START, Record, parse_start
from titans3.engine.segment import CONTENT, SegmentHeader
from titans3.errors import DiskError
from titans3.limits import BLOCK_BYTES, MIB
from titans3.meta.environment import MADE_ANEW

_WINDOW = 4 * MIB


class Damage(msgspec.Struct):
    """Batches ``first`` … ``first + count - 1`` do not hold; ``records`` are those whose own checksum does."""

    path: str
    offset: int
    first: int
    count: int
    digest: Digest | None  # of the batch before ``first``
    records: list[tuple[Record, int]]
    segment: int


class Whole(msgspec.Struct):
    """An intact batch and the segment it lies in."""

    segment: int
    path: str
    batch: Batch


class LogFile(msgspec.Struct):
    """A log segment as found: header, path, and what its first batch says of its predecessor (if it is intact)."""

    header: SegmentHeader
    path: str
    first_batch: int = 0
    predecessor: int = 0
    predecessor_end: int = 0
    predecessor_batch: int = 0


class PositionLost(DiskError):
    """The checkpoint's position is not in the log: the log is not the one the metadata belongs to."""


class _Window:
    """A segment's bytes by offset, read in large pieces."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.fd = files.open(path, os.O_RDONLY)
        self._end = files.size(self.fd)
        self._start = 0
        self._data = bytearray()

    def view(self, offset: int, length: int) -> memoryview:
        """Up to ``length`` bytes at ``offset``."""
        if offset < self._start or offset + length > self._start + len(self._data):
            wanted = min(max(length, _WINDOW), self._end - offset)
            self._data = read_at(self._files, self.fd, max(0, wanted), offset)
            self._start = offset
        at = offset - self._start
        return memoryview(self._data)[at : at + length]

    def close(self) -> None:
        self._files.close(self.fd)


class LogWalk:
    """One pass over ``segments`` (in number order) from a position. Iterate it; afterwards ``end`` says where the log ends."""

    def __init__(self, files: Files, segments: list[LogFile], *, segment: int, offset: int, batch: int) -> None:
        self._files = files
        self._segments = segments
        self._from = (segment, offset, batch)
        self.end: tuple[int, int, int] = (segment, offset, batch)
        self.digest: Digest = {}
        self.torn: str = ""
        self._ended = self._is_found = False

    def find(self) -> None:
        """Find where to start. Changes nothing. Raises PositionLost when the log does not hold that position."""
        segment, offset, batch = self._from
        self._probe()
        if segment:
            if all(file.header.number != segment for file in self._segments):
                raise PositionLost(f"the log has no segment {segment:016x}, where the last checkpoint ends; {MADE_ANEW}")
            self._check_position(segment, offset, batch)
        elif self._segments and self._segments[0].first_batch > 1:
            first = self._segments[0].first_batch
            raise PositionLost(f"the log starts with batch {first}, and no checkpoint names what was before; {MADE_ANEW}")
        self._is_found = True

    def __iter__(self) -> Iterator[Whole | Damage]:
        """Raises PositionLost, as ``find``."""
        if not self._is_found:
            self.find()
        segment, offset, expected = self._from
        expected += 1
        following = [file for file in self._segments if file.header.number >= segment]
        for at, file in enumerate(following):
            start = offset if file.header.number == segment else CONTENT
            window = _Window(self._files, file.path)
            try:
                for item in self._walk_segment(following, at, window, start, expected):
                    expected = item.first + item.count if isinstance(item, Damage) else item.batch.header.number + 1
                    yield item
            finally:
                window.close()
            if self._ended:
                return

    def _probe(self) -> None:
        """Read the first batch of every segment: who came before it."""
        for file in self._segments:
            window = _Window(self._files, file.path)
            try:
                found = self._batch_at(window, file, CONTENT)
            finally:
                window.close()
            if found is not None and found.intact and found.records and found.records[0][0].kind == SEGMENT_START:
                file.first_batch = found.header.number
                file.predecessor, file.predecessor_end, file.predecessor_batch = parse_start(found.records[0][0])

    def _check_position(self, segment: int, offset: int, batch: int) -> None:
        file = next(file for file in self._segments if file.header.number == segment)
        window = _Window(self._files, file.path)
        try:
            footer = window.view(offset - 32, 32)
            length = int.from_bytes(footer[16:20], "big") if len(footer) == 32 else 0
            found = self._batch_at(window, file, offset - length) if CONTENT <= offset - length < offset else None
        finally:
            window.close()
        if found is None or not found.intact or found.header.number != batch:
            raise PositionLost(f"batch {batch}, where the last checkpoint ends, is not at byte {offset} of {file.path}; {MADE_ANEW}")
        self._remember(found, segment)

    def _remember(self, found: Batch, segment: int) -> None:
        wrote: Digest = {}
        for record, _ in found.records:
            if record.kind != SEGMENT_START:
                count, last = wrote.get(record.gid, (0, 0))
                wrote[record.gid] = (count + 1, record.index if record.kind == 1 else last)
        self.digest = wrote
        self.end = (segment, found.offset + found.header.length, found.header.number)

    def _batch_at(self, window: _Window, file: LogFile, offset: int) -> Batch | None:
        header = parse_header(window.view(offset, BLOCK_BYTES), file.header.salt, offset)
        if header is None or offset + header.length > file.header.capacity:
            return None
        view = window.view(offset, header.length)
        if len(view) < header.length:
            return None
        return parse_batch(view, header, file.header.salt, offset)

    def _walk_segment(
        self, files: list[LogFile], at: int, window: _Window, offset: int, expected: int
    ) -> Iterator[Whole | Damage]:
        file = files[at]
        number = file.header.number
        successor = next((later for later in files[at + 1 :] if later.first_batch and later.predecessor == number), None)
        end = file.header.capacity if successor is None else successor.predecessor_end
        while offset < end:
            found = self._batch_at(window, file, offset)
            if found is not None and found.header.number == expected and found.intact:
                after = offset + found.header.length
                if found.bad_bodies() and self._later(files, at, window, after, end, expected) is None:
                    self._ended = True
                    self.torn = f"the last batch, {expected}, at byte {offset} of {file.path} holds a body that was not written"
                    return
                self._remember(found, number)
                yield Whole(number, file.path, found)
                offset = after
                expected += 1
                continue
            blank = not any(window.view(offset, BLOCK_BYTES))
            later = self._later(files, at, window, offset + BLOCK_BYTES, end, expected - 1)
            if later is None:
                self._ended = True
                if not blank:
                    self.torn = f"batch {expected} at byte {offset} of {file.path} was torn"
                return
            if later[0] != at and (later[2] == expected or (blank and successor is None)):
                return  # this segment ended here, or what is missing lay at the start of the next one
            damage, offset = self._damage(file, window, offset, later[1] if later[0] == at else end, expected, later[2])
            yield damage
            expected += damage.count

    def _damage(
        self, file: LogFile, window: _Window, offset: int, stop: int, expected: int, following: int
    ) -> tuple[Damage, int]:
        """What lies between ``offset`` and the next intact batch, and where to go on: behind one batch if its header tells its length."""
        salt = file.header.salt
        header: BatchHeader | None = parse_header(window.view(offset, BLOCK_BYTES), salt, offset)
        digest: Digest | None = None
        count = following - expected
        if header is not None and header.number == expected and offset + header.length <= stop:
            stop = offset + header.length
            digest = parse_digest(window.view(offset, header.length), header, salt)
            count = 1
        records = [
            item for item in salvage(window.view(offset, stop - offset), salt, offset) if item[0].kind != SEGMENT_START
        ]
        return Damage(file.path, offset, expected, count, digest, records, file.header.number), stop

    def _later(
        self, files: list[LogFile], at: int, window: _Window, offset: int, end: int, above: int
    ) -> tuple[int, int, int] | None:
        """(position in ``files``, offset, number) of the next intact batch with a number above ``above``."""
        file = files[at]
        salt = file.header.salt
        while offset < end:
            run = window.view(offset, min(_WINDOW, end - offset))
            if not run:
                break
            for step in _magics(run):
                header = parse_header(run[step : step + BLOCK_BYTES], salt, offset + step)
                if header is not None and header.number > above and offset + step + header.length <= file.header.capacity:
                    whole = memoryview(read_at(self._files, window.fd, header.length, offset + step))
                    if len(whole) == header.length and parse_batch(whole, header, salt, offset + step).intact:
                        return at, offset + step, header.number
            offset += len(run)
        for position in range(at + 1, len(files)):
            later = files[position]
            if later.first_batch:
                if later.first_batch > above:
                    return position, CONTENT, later.first_batch
                continue
            other = _Window(self._files, later.path)
            try:
                found_later = self._later([later], 0, other, CONTENT, later.header.capacity, above)
            finally:
                other.close()
            if found_later is not None:
                return position, found_later[1], found_later[2]
        return None


def _magics(run: memoryview) -> Iterator[int]:
    """Block-aligned positions where a batch may start."""
    for number, first in enumerate(bytes(run[::BLOCK_BYTES])):
        at = number * BLOCK_BYTES
        if first == MAGIC[0] and bytes(run[at : at + 4]) == MAGIC:
            yield at
