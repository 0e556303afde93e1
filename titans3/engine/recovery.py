"""Opening a volume: what lies in its folders, and the log's records after the checkpoint, in order.

Invariants
* Everything that is replayed was synced before: after ``kill -9`` an unsynced batch reads as valid and must not be served unsynced.
* Only an unacknowledged tail is cut, and it is left behind, not overwritten.
* A group whose continuity cannot be proven is in ``Recovery.damaged`` (or all are: ``unproven``); none of its records after
  the damage are replayed. All others replay on.

The table of cases is in docs/formats/segments.md, "What recovery does". Blocking: runs in a thread, except ``replay`` itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from titans3.engine.batch import Digest
from titans3.engine.bodies import name_of
from titans3.engine.files import Files, read_at
from titans3.engine.log import Tail
from titans3.engine.logwalk import Damage, LogFile, LogWalk
from titans3.engine.record import ENTRY, SEGMENT_START, Record, body_matches
from titans3.engine.segment import CONTENT, LOG, SegmentHeader, folder_of, number_of, parse_header
from titans3.errors import DiskError, FormatError
from titans3.limits import BLOCK_BYTES, MIB

_CHUNK_RECORDS = 2000
_CHUNK_BYTES = 8 * MIB


class DamagedBody(msgspec.Struct, frozen=True):
    """A small object whose bytes are not what was written."""

    bucket: int
    key: bytes
    data_id: bytes
    path: str
    offset: int


class Recovery(msgspec.Struct):
    """What opening a volume found. ``torn`` is normal after a crash; everything else is for an operator's eyes."""

    records: int = 0
    batches: int = 0
    extents: int = 0
    torn: str = ""
    damaged: dict[int, str] = {}
    unproven: str = ""  # not empty: the continuity of no group can be proven, for this reason
    bodies: list[DamagedBody] = []
    lost: list[str] = []
    seconds: float = 0.0

    def is_damaged(self, gid: int) -> bool:
        """Whether a group's log is not proven to be whole."""
        return bool(self.unproven) or gid in self.damaged

    @property
    def cause(self) -> str:
        """One line for an operator; empty when all is well."""
        if self.unproven:
            return self.unproven
        if self.damaged:
            return f"{len(self.damaged)} groups damaged: {next(iter(self.damaged.values()))}"
        return self.lost[0] if self.lost else ""


class Found(msgspec.Struct):
    """Segments of a volume by folder, in number order; ``unheaded`` have no valid header."""

    log: list[LogFile]
    data: list[LogFile]
    unheaded: list[str]


def survey(files: Files, folder: str, volume: bytes) -> Found:
    """Read the header of every segment. Raises FormatError for a newer format or another volume's segment."""
    found = Found([], [], [])
    for sub, target in (("log", found.log), ("data", found.data)):
        for name in sorted(files.listdir(f"{folder}/{sub}")):
            number = number_of(name)
            if number is None:
                continue
            path = f"{folder}/{sub}/{name}"
            header = read_header(files, path)
            if header is None or header.number != number:
                found.unheaded.append(path)
            elif header.volume != volume:
                raise FormatError(f"{path} belongs to volume {header.volume.hex()}, not {volume.hex()}")
            else:
                assert folder_of(header.kind) == sub, path
                target.append(LogFile(header, path))
    return found


def read_header(files: Files, path: str) -> SegmentHeader | None:
    """Header of a segment file, ``None`` if it is not valid."""
    fd = files.open(path, os.O_RDONLY)
    try:
        return parse_header(read_at(files, fd, BLOCK_BYTES, 0))
    finally:
        files.close(fd)


def was_used(files: Files, path: str) -> bool:
    """Whether anything was ever written behind the header block: the header must have been valid then."""
    fd = files.open(path, os.O_RDONLY)
    try:
        return any(read_at(files, fd, BLOCK_BYTES, CONTENT))
    finally:
        files.close(fd)


def sync_segments(files: Files, paths: list[str]) -> None:
    """What is about to be read as truth is on the medium. Raises DiskError."""
    for path in paths:
        fd = files.open(path, os.O_RDWR)
        try:
            files.sync(fd, "recovery.segment")
        except OSError as error:
            raise DiskError(f"{path} cannot be synced: {error}") from error
        finally:
            files.close(fd)


class Replay:
    """The records to replay, batch by batch. Iterate it (in a thread); ``recovery`` and ``tail`` are complete afterwards."""

    def __init__(self, walk: LogWalk, recovery: Recovery) -> None:
        self._walk = walk
        self.recovery = recovery
        self.used: set[int] = set()

    @property
    def tail(self) -> Tail:
        """Where the log ended: what the next batch follows."""
        segment, offset, batch = self._walk.end
        return Tail(segment, offset, batch, self._walk.digest)

    def __iter__(self) -> Iterator[list[tuple[Record, int, int]]]:
        """Lists of (record, segment, offset), in log order."""
        recovery = self.recovery
        pending: Damage | None = None
        for item in self._walk:
            digest = item.digest if isinstance(item, Damage) else item.batch.digest
            if pending is not None:
                self._judge(pending, digest)
                yield self._records(pending.segment, pending.path, pending.records)
                pending = None
            if isinstance(item, Damage):
                self.used.add(item.segment)
                pending = item
                continue
            self.used.add(item.segment)
            recovery.batches += 1
            yield self._records(item.segment, item.path, item.batch.records)
        assert pending is None, "a damaged batch is followed by an intact one, or it is a torn tail"
        recovery.torn = self._walk.torn

    def chunks(self) -> Iterator[list[tuple[Record, int, int]]]:
        """The same in lists of some thousand records or some MiB: one hop between threads for each."""
        chunk: list[tuple[Record, int, int]] = []
        size = 0
        for records in self:
            chunk.extend(records)
            size += sum([len(item[0].body) for item in records])
            if len(chunk) >= _CHUNK_RECORDS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _judge(self, damage: Damage, digest: Digest | None) -> None:
        recovery = self.recovery
        what = f"batch {damage.first} at byte {damage.offset} of {damage.path} is damaged"
        if damage.count > 1 or digest is None:
            recovery.unproven = recovery.unproven or f"{what}, and what it held is not known"
            return
        found: Digest = {}
        for record, _ in damage.records:
            count, last = found.get(record.gid, (0, 0))
            found[record.gid] = (count + 1, record.index if record.kind == ENTRY else last)
        for gid, expected in digest.items():
            if found.get(gid) != expected:
                recovery.damaged.setdefault(gid, what)

    def _records(self, segment: int, path: str, records: list[tuple[Record, int]]) -> list[tuple[Record, int, int]]:
        recovery = self.recovery
        if recovery.unproven:
            return []
        found: list[tuple[Record, int, int]] = []
        damaged = recovery.damaged
        for record, offset in records:
            if record.kind == SEGMENT_START or record.gid in damaged:
                continue
            if not body_matches(record):
                bucket, key = name_of(record.command)
                recovery.bodies.append(DamagedBody(bucket, key, record.data_id, path, offset))
            found.append((record, segment, offset))
        recovery.records += len(found)
        return found


def log_files_from(found: Found, segment: int) -> list[LogFile]:
    """Log segments at or after a position's segment."""
    return [file for file in found.log if file.header.kind == LOG and file.header.number >= segment]
