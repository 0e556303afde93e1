"""Offline verification of volumes: everything alive is read and checked. Whether the metadata agrees with it: ``references``.

Invariants
* No segment and no row is changed. The lock of each volume is held meanwhile; a volume that a server holds is refused.
* What is reported is named: bucket id and key where they can be told, else segment and offset.
* A log that was not replayed yet (the server was killed) is walked and judged as opening the volume will, but not applied: rows are
  those of the last checkpoint, and ``pending`` says how many entries come behind it.

Memory: about 200 bytes for each body and extent of a volume.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import lmdb
import msgspec

from titans3.engine.bodies import BodyDamaged, name_of
from titans3.engine.datawalk import FoundExtent, read_extent, walk_extents
from titans3.engine.extent import Granules
from titans3.engine.files import Files, OsFiles, read_at
from titans3.engine.identity import VolumeIdentity, lock_volume, read_identity
from titans3.engine.location import EXTENT, Location, parse_location
from titans3.engine.logwalk import LogFile, LogWalk
from titans3.engine.record import Record, command_of, unpack_body
from titans3.engine.recovery import Recovery, Replay, read_header
from titans3.engine.segment import CONTENT, COPIES, DATA, LOG, SegmentHeader, folder_of, number_of, segment_name
from titans3.engine.segments import ACTIVE, SegmentRow, counted
from titans3.errors import DiskError, FormatError
from titans3.limits import MIB
from titans3.meta.environment import Environment, GroupState, is_cut
from titans3.meta.rows import RowDamaged, open_value

FINDINGS_MAX = 1000
_CHECKSUM_AT = slice(48, 56)  # of the body, in a record: docs/formats/segments.md
_segment_row = msgspec.msgpack.Decoder(SegmentRow).decode


class Report(msgspec.Struct):
    """What was looked at, and what is wrong with it. ``cut``: there are more findings than are listed.

    ``pending``: entries of logs behind the last checkpoints. ``unsettled``: references that only their replay can judge.
    ``unnamed``: extents that no row names; the sweep frees them.
    """

    segments: int = 0
    bodies: int = 0
    extents: int = 0
    bytes: int = 0
    rows: int = 0
    pending: int = 0
    unsettled: int = 0
    unnamed: int = 0
    findings: list[str] = []
    cut: bool = False

    def find(self, text: str) -> None:
        """Note something wrong."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)
        else:
            self.cut = True


class Stored(msgspec.Struct, gc=False):
    """A body or extent of a volume: where, how long, its checksum (of an extent: the root of its table); ``length`` -1 if it is damaged.

    ``is_named``: a row named it. ``is_known``: it has a ``loc`` row; else only recovery would give it one.
    """

    place: Location
    length: int = -1
    checksum: int = 0
    is_named: bool = False
    is_known: bool = True


class OfflineVolume:
    """A volume that no server holds: its segments by number, its rows as of the last checkpoint."""

    def __init__(self, path: str, stack: ExitStack, files: Files | None = None) -> None:
        """Lock it and open its metadata. Raises DiskError, FormatError, VolumeBusy."""
        self.path, self.files = path, files or OsFiles()
        self.identity: VolumeIdentity = read_identity(self.files, path)
        stack.callback(self.files.close, lock_volume(self.files, path))
        if not os.path.exists(os.path.join(path, "meta", "data.mdb")):
            raise FormatError(f"{path} has no metadata (meta/data.mdb); `titans3 tools disk salvage` reads bodies without it")
        if is_cut(os.path.join(path, "meta", "data.mdb")):
            raise DiskError(f"{path}/meta/data.mdb is damaged: it ends before its last page, or its head does not hold")
        try:
            self.environment = Environment(
                os.path.join(path, "meta"), cluster=self.identity.cluster_bytes, volume=self.identity.uuid_bytes
            )
        except lmdb.Error as error:
            raise DiskError(f"{path}/meta cannot be opened: {error}") from error
        stack.callback(self.environment.close)
        self.headers: dict[int, SegmentHeader] = {}
        self.stored: dict[bytes, Stored] = {}
        self.pending = 0
        self.has_damaged_rows = False

    def path_of(self, number: int) -> str:
        """File of a segment whose header is known."""
        return f"{self.path}/{folder_of(self.headers[number].kind)}/{segment_name(number)}"

    def read_headers(self, report: Report) -> None:
        """Every segment's header."""
        for sub in ("log", "data"):
            for name in sorted(self.files.listdir(f"{self.path}/{sub}")):
                number = number_of(name)
                if number is None:
                    continue
                header = read_header(self.files, f"{self.path}/{sub}/{name}")
                if header is None or header.number != number:
                    report.find(f"{self.path}/{sub}/{name}: no valid segment header")
                elif header.volume != self.identity.uuid_bytes or folder_of(header.kind) != sub:
                    report.find(f"{self.path}/{sub}/{name}: belongs elsewhere")
                else:
                    report.segments += 1
                    self.headers[number] = header

    def rows(self, database: Any, report: Report) -> Iterable[tuple[bytes, bytes]]:
        """Rows of a database whose checksum holds; the others are findings. So is a tree that cannot be walked to its end."""
        count = 0
        try:
            with self.environment.begin() as txn, txn.cursor(database) as cursor:
                for key, stored in cursor.iternext(True, True):
                    count += 1
                    try:
                        value = open_value(key, stored)
                    except RowDamaged as damage:
                        self.has_damaged_rows = True
                        report.find(f"{self.path}: {damage}")
                        continue
                    report.rows += 1
                    yield key, value
                entries = txn.stat(database)["entries"]
        except lmdb.Error as error:
            self.has_damaged_rows = True
            report.find(f"{self.path}/meta: the tree cannot be walked: {error}")
            return
        if count != entries:
            self.has_damaged_rows = True
            report.find(f"{self.path}/meta: the tree says {entries} rows and has {count}")


def verify_volume(volume: OfflineVolume, report: Report) -> None:
    """Read everything alive of a volume and check it; ``volume.stored`` says what that was."""
    volume.read_headers(report)
    volume.stored = {
        key: Stored(parse_location(value)) for key, value in volume.rows(volume.environment.loc, report)
    }
    _check_segments(volume, report)
    check_log(volume, report)
    for key, stored in sorted(volume.stored.items(), key=lambda item: (item[1].place.segment, item[1].place.offset)):
        if stored.is_known:
            check_stored(volume, key, stored, report)


def _check_segments(volume: OfflineVolume, report: Report) -> None:
    """``seg`` rows against ``loc`` rows and files; whole extents behind the last checkpoint's walk are stored, too."""
    live: dict[int, int] = {}
    for stored in volume.stored.values():
        live[stored.place.segment] = live.get(stored.place.segment, 0) + counted(stored.place)
    rows: dict[int, SegmentRow] = {}
    for key, value in volume.rows(volume.environment.seg, report):
        number = int.from_bytes(key, "big")
        row = rows[number] = _segment_row(value)
        if row.live != live.get(number, 0):
            report.find(f"{volume.path}: segment {segment_name(number)} counts {row.live} live bytes and has {live.get(number, 0)}")
        if row.live and number not in volume.headers:
            report.find(f"{volume.path}: segment {segment_name(number)} is not there, with {row.live} live bytes")
    for number in live.keys() - rows.keys():
        report.find(f"{volume.path}: segment {segment_name(number)} has {live[number]} live bytes and no row")
    for number, header in volume.headers.items():
        known = rows.get(number)
        if header.kind != DATA or header.flags & COPIES or (known is not None and known.state != ACTIVE):
            continue
        try:
            _walk(volume, header, known, report)
        except OSError as error:
            report.find(f"{volume.path_of(number)}: {error}")


def _walk(volume: OfflineVolume, header: SegmentHeader, row: SegmentRow | None, report: Report) -> None:
    dead = set() if row is None else set(row.freed)
    for found in walk_extents(volume.files, volume.path_of(header.number), header, CONTENT if row is None else max(CONTENT, row.walked)):
        ident = found.header.ident
        key = ident.data_id + ident.piece.to_bytes(2, "big")
        if found.is_whole and found.offset not in dead and key not in volume.stored:
            assert found.trailer is not None
            place = Location(header.number, found.offset, found.used, EXTENT)
            volume.stored[key] = Stored(place, found.trailer.length, found.trailer.root, is_known=False)


def check_log(volume: OfflineVolume, report: Report) -> None:
    """The log behind the checkpoint, as recovery judges it."""
    recovery = replay_of(volume, report)
    volume.pending = recovery.records
    report.pending += recovery.records
    for gid, state in _states(volume, report):
        if state.damaged:
            report.find(f"{volume.path}: group {gid} is damaged: {state.damaged}")
    if recovery.unproven:
        report.find(f"{volume.path}: no group is proven whole: {recovery.unproven}")
    for gid, cause in recovery.damaged.items():
        report.find(f"{volume.path}: group {gid} is damaged: {cause}")
    for body in recovery.bodies:
        report.find(str(BodyDamaged(body.path, body.offset, body.data_id, body.bucket, body.key)))


def replay_of(
    volume: OfflineVolume, report: Report, take: Callable[[Record, int, int], None] | None = None,
    end_at: Callable[[int, int, int], None] | None = None,
) -> Recovery:
    """Walk the log behind the checkpoint as opening the volume will, after ``read_headers``.

    ``take(record, segment, offset)`` gets it, ``end_at(segment, offset, batch)`` where it ended.
    """
    recovery = Recovery()
    try:
        position = volume.environment.position()
    except DiskError as error:
        report.find(f"{volume.path}: {error}")
        return recovery
    start = (0, 0, 0) if position is None else (position.segment, position.offset, position.batch)
    files = [
        LogFile(header, volume.path_of(number))
        for number, header in sorted(volume.headers.items())
        if header.kind == LOG and number >= start[0]
    ]
    try:
        run = Replay(LogWalk(volume.files, files, segment=start[0], offset=start[1], batch=start[2]), recovery)
        for records in run:
            if take is not None:
                for item in records:
                    take(*item)
        if end_at is not None and run.tail.batch:
            end_at(run.tail.segment, run.tail.offset, run.tail.batch)
    except (DiskError, OSError) as error:
        report.find(f"{volume.path}: the log cannot be replayed: {error}")
    return recovery


def _states(volume: OfflineVolume, report: Report) -> list[tuple[int, GroupState]]:
    try:
        return list(volume.environment.groups().items())
    except DiskError as error:
        report.find(f"{volume.path}: {error}")
        return []


def check_stored(volume: OfflineVolume, key: bytes, stored: Stored, report: Report) -> None:
    """Read a body or an extent; its length and checksum are known afterwards, or it is a finding."""
    place = stored.place
    header = volume.headers.get(place.segment)
    if header is None:
        report.find(f"{volume.path}: data id {key[:16].hex()} lies in segment {segment_name(place.segment)}, which is not there")
        return
    path = volume.path_of(place.segment)
    check: Callable[[OfflineVolume, str, SegmentHeader, bytes, Stored, Report], None]
    check = _check_extent if place.kind == EXTENT else _check_body
    try:
        check(volume, path, header, key[:16], stored, report)
    except (OSError, DiskError) as error:
        report.find(f"{path} at byte {place.offset}: {error}")


def _check_body(volume: OfflineVolume, path: str, header: SegmentHeader, data_id: bytes, stored: Stored, report: Report) -> None:
    place = stored.place
    fd = volume.files.open(path, os.O_RDONLY)
    try:
        buffer = bytearray(read_at(volume.files, fd, place.length, place.offset))
    finally:
        volume.files.close(fd)
    body = unpack_body(buffer, data_id)
    if body is None:
        bucket, key = name_of(command_of(buffer))
        report.find(str(BodyDamaged(path, place.offset, data_id, bucket, key)))
        return
    stored.length, stored.checksum = len(body), int.from_bytes(buffer[_CHECKSUM_AT], "big")
    report.bodies += 1
    report.bytes += len(body)


def _check_extent(volume: OfflineVolume, path: str, header: SegmentHeader, data_id: bytes, stored: Stored, report: Report) -> None:
    offset = stored.place.offset
    fd = volume.files.open(path, os.O_RDONLY)
    try:
        found = read_extent(volume.files, fd, offset, header.salt)
        if found is None or found.trailer is None or found.trailer.data_id != data_id:
            bucket, key = (-1, b"") if found is None else (found.header.ident.bucket, found.header.ident.key)
            report.find(str(BodyDamaged(path, offset, data_id, bucket, key)))
            return
        is_good = _data_matches(volume.files, fd, found)
    finally:
        volume.files.close(fd)
    if not is_good:
        report.find(str(BodyDamaged(path, offset, data_id, found.header.ident.bucket, found.header.ident.key)))
        return
    stored.length, stored.checksum = found.trailer.length, found.trailer.root
    report.extents += 1
    report.bytes += found.trailer.length


def _data_matches(files: Files, fd: int, found: FoundExtent) -> bool:
    """Whether the bytes are those of the extent's granule table."""
    assert found.trailer is not None
    granules, left, at = Granules(), found.trailer.length, found.offset + found.header.header_bytes
    while left:
        piece = read_at(files, fd, min(left, MIB), at)
        if not piece:
            return False
        granules.update(memoryview(piece))
        left -= len(piece)
        at += len(piece)
    return granules.finish() == b"".join([mark.to_bytes(8, "big") for mark in found.trailer.table])
