"""What the segments of a volume tell without its metadata: entries of the log, where bodies and extents lie, where the log ends.

Invariants
* A torn tail, never acknowledged, is no history: the last batch of a segment counts only if it holds, or a later batch says it was there.
* Of copies of a body or extent the one in the highest segment is taken, and only if it holds: compaction put it there later.
* Nothing is written. What cannot be read is in ``problems`` and hides nothing else.

Memory: about 300 bytes for each entry and extent of the volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from titans3.engine.batch import Batch
from titans3.engine.compaction import batches_of
from titans3.engine.datawalk import walk_extents
from titans3.engine.extent import LAST, ExtentIdent
from titans3.engine.files import Files, OsFiles, read_at
from titans3.engine.identity import VolumeIdentity, read_identity
from titans3.engine.location import BODY, EXTENT, Location
from titans3.engine.logwalk import LogFile
from titans3.engine.record import (
    COPIED,
    ENTRY,
    NO_DATA,
    SEGMENT_START,
    Record,
    body_matches,
    padded,
    parse_record,
    parse_start,
)
from titans3.engine.recovery import survey, was_used
from titans3.engine.segment import DATA, LOG
from titans3.errors import DiskError, FormatError
from titans3.meta.environment import Position

_OPEN_MAX = 200  # segments at a time


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Where an entry lies. ``is_copy``: compaction copied it, because its body was alive."""

    gid: int
    index: int
    segment: int
    offset: int
    length: int
    is_copy: bool


class FoundBody(msgspec.Struct, frozen=True, gc=False):
    """A small body whose bytes match: where, and their checksum."""

    place: Location
    checksum: int


class FoundRun(msgspec.Struct, frozen=True):
    """A whole extent: where, its length, root checksum, what it says of itself, and whether it is its object's last; then the MD5."""

    place: Location
    length: int
    checksum: int
    ident: ExtentIdent
    is_last: bool
    md5: bytes


class History:
    """The segments of one volume, read once."""

    def __init__(self, path: str, files: Files | None = None) -> None:
        """Reads every log and packed segment, and the headers and trailers of data segments. Raises DiskError, FormatError, OSError."""
        self.path, self.files = path, files or OsFiles()
        self.identity: VolumeIdentity = read_identity(self.files, path)
        self.entries: dict[tuple[int, int], Entry] = {}  # by gid and index
        self.bodies: dict[bytes, FoundBody] = {}
        self.extents: dict[bytes, FoundRun] = {}  # by data id; pieces other than 0 are not made yet
        self.problems: list[str] = []
        self.batches: set[int] = set()
        self.torn = 0
        found = survey(self.files, path, self.identity.uuid_bytes)
        self.segments: dict[int, LogFile] = {file.header.number: file for file in found.log + found.data}
        self.unheaded = [name for name in found.unheaded if was_used(self.files, name)]
        self.problems += [f"{name} has no valid header: what is in it is not found" for name in self.unheaded]
        self._end = Position(0, 0, 0, 0)
        for file in found.log:
            self._probe(file)
        for file in sorted(found.log + found.data, key=lambda file: file.header.number):
            try:
                self._read(file, found.log)
            except (OSError, DiskError, FormatError) as error:
                self.problems.append(f"{file.path} cannot be read to its end: {error}")
        epoch = max([file.header.epoch for file in self.segments.values()], default=0)
        self.end = Position(self._end.segment, self._end.offset, self._end.batch, epoch)

    def _probe(self, file: LogFile) -> None:
        """What the first batch of a log segment says of the segment before it."""
        first = next(batches_of(self.files, file.path, file.header), None)
        if first is not None and first.intact and first.records and first.records[0][0].kind == SEGMENT_START:
            file.first_batch = first.header.number
            file.predecessor, file.predecessor_end, file.predecessor_batch = parse_start(first.records[0][0])

    def _read(self, file: LogFile, log: list[LogFile]) -> None:
        if file.header.kind == DATA:
            self._read_data(file)
        elif file.header.kind == LOG:
            self._read_log(file, next((later for later in log if later.first_batch and later.predecessor == file.header.number), None))
        else:
            for batch in batches_of(self.files, file.path, file.header):
                self._take(file, batch)

    def _read_log(self, file: LogFile, successor: LogFile | None) -> None:
        end = file.header.capacity if successor is None else successor.predecessor_end
        last = None
        for batch in batches_of(self.files, file.path, file.header):
            if batch.offset >= end:
                break
            if last is not None:
                self._take_followed(file, last)
            last = batch
        if last is None:
            return
        is_told = successor is not None and successor.predecessor_batch >= last.header.number
        if is_told or (last.intact and not last.bad_bodies()):
            self._take_followed(file, last)
        else:
            self.torn += 1

    def _take_followed(self, file: LogFile, batch: Batch) -> None:
        number = batch.header.number
        if batch.intact:
            self.batches.add(number)
            if number > self._end.batch:
                self._end = Position(file.header.number, batch.offset + batch.header.length, number, 0)
        else:
            self.problems.append(
                f"batch {number} at byte {batch.offset} of {file.path} is damaged; {len(batch.records)} of its records hold"
            )
        self._take(file, batch)

    def _take(self, file: LogFile, batch: Batch) -> None:
        for record, offset in batch.records:
            if record.kind != ENTRY:
                continue
            number = file.header.number
            entry = Entry(record.gid, record.index, number, offset, padded(record.stored_bytes), bool(record.flags & COPIED))
            known = self.entries.get((record.gid, record.index))
            if known is None or known.is_copy or not entry.is_copy:
                self.entries[record.gid, record.index] = entry
            if record.data_id == NO_DATA:
                continue
            if body_matches(record):
                self.bodies[record.data_id] = FoundBody(Location(number, offset, record.stored_bytes, BODY), record.checksum)
            elif record.data_id not in self.bodies:
                self.problems.append(f"the body of the record at byte {offset} of {file.path} is damaged")

    def _read_data(self, file: LogFile) -> None:
        for found in walk_extents(self.files, file.path, file.header):
            if not found.is_whole or found.header.ident.piece:
                continue
            assert found.trailer is not None
            ident, trailer = found.header.ident, found.trailer
            blob = msgspec.msgpack.decode(trailer.blob) if trailer.blob else {}
            self.extents[ident.data_id] = FoundRun(
                Location(file.header.number, found.offset, found.used, EXTENT),
                trailer.length,
                trailer.root,
                ident,
                bool(trailer.flags & LAST),
                blob.get("md5", b""),
            )

    def is_whole_from(self, batch: int) -> bool:
        """Whether the log holds every batch behind ``batch``, and no segment of it is unreadable."""
        return (
            not self.unheaded
            and self.end.batch >= batch
            and all(number in self.batches for number in range(batch + 1, self.end.batch + 1))
        )

    def missing_from(self, batch: int) -> int:
        """Batches behind ``batch`` that are not there, as far as later ones tell."""
        return sum(1 for number in range(batch + 1, self.end.batch + 1) if number not in self.batches)

    def read(self, entries: list[Entry]) -> Iterator[tuple[Entry, Record]]:
        """Records of entries, one after the other. Raises DiskError for one that does not hold any more."""
        opened: dict[int, int] = {}
        try:
            for entry in entries:
                file = self.segments[entry.segment]
                fd = opened.get(entry.segment)
                if fd is None:
                    if len(opened) >= _OPEN_MAX:
                        self.files.close(opened.pop(next(iter(opened))))
                    fd = opened[entry.segment] = self.files.open(file.path, os.O_RDONLY)
                raw = memoryview(read_at(self.files, fd, entry.length, entry.offset))
                parsed = parse_record(raw, file.header.salt, entry.offset)
                if parsed is None:
                    raise DiskError(f"the record at byte {entry.offset} of {file.path} changed while it was read")
                yield entry, parsed[0]
        finally:
            for fd in opened.values():
                self.files.close(fd)
