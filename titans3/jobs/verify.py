"""Offline verification of volumes: everything alive is read and checked, and every row of the metadata points at something alive.

Invariants
* Nothing is changed. The lock of each volume is held meanwhile; a volume that a server holds is refused.
* What is reported is named: bucket id and key where they can be told, else segment and offset.
* A log that was not replayed yet (after a crash) is not looked at: opening the volume replays and judges it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import lmdb
import msgspec

from titans3.engine.bodies import BodyDamaged
from titans3.engine.datawalk import read_extent
from titans3.engine.extent import Granules
from titans3.engine.files import Files, OsFiles, read_at
from titans3.engine.identity import VolumeIdentity, lock_volume, read_identity
from titans3.engine.location import EXTENT, Location, parse_location
from titans3.engine.record import command_of, unpack_body
from titans3.engine.recovery import read_header
from titans3.engine.segment import SegmentHeader, folder_of, number_of, segment_name
from titans3.errors import DiskError, FormatError
from titans3.limits import MIB
from titans3.meta.environment import Environment
from titans3.meta.keys import MANIFEST, OBJECTS, PARTS, PREFIX_BYTES, TABLE_AT, VERSIONS, successor
from titans3.meta.rows import RowDamaged, open_value
from titans3.model.command import PutObject, PutPart, decode_command
from titans3.model.version import INLINE, Extent, Part, Version

FINDINGS_MAX = 1000
_version = msgspec.msgpack.Decoder(Version).decode
_part = msgspec.msgpack.Decoder(Part).decode
_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode


class Report(msgspec.Struct):
    """What was looked at, and what is wrong with it. ``cut``: there are more findings than are listed."""

    segments: int = 0
    bodies: int = 0
    extents: int = 0
    bytes: int = 0
    rows: int = 0
    findings: list[str] = []
    cut: bool = False

    def find(self, text: str) -> None:
        """Note something wrong."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)
        else:
            self.cut = True


class OfflineVolume:
    """A volume that no server holds: its segments by number, its rows as of the last checkpoint."""

    def __init__(self, path: str, stack: ExitStack, files: Files | None = None) -> None:
        """Lock it and open its metadata. Raises DiskError, FormatError, VolumeBusy."""
        self.path, self.files = path, files or OsFiles()
        self.identity: VolumeIdentity = read_identity(self.files, path)
        stack.callback(self.files.close, lock_volume(self.files, path))
        if not os.path.exists(os.path.join(path, "meta", "data.mdb")):
            raise FormatError(f"{path} has no metadata (meta/data.mdb); `titans3 tools disk salvage` reads bodies without it")
        try:
            self.environment = Environment(
                os.path.join(path, "meta"), cluster=self.identity.cluster_bytes, volume=self.identity.uuid_bytes
            )
        except lmdb.Error as error:
            raise DiskError(f"{path}/meta cannot be opened: {error}") from error
        stack.callback(self.environment.close)
        self.headers: dict[int, SegmentHeader] = {}

    def segments(self, report: Report) -> None:
        """Read every segment's header."""
        for sub in ("log", "data"):
            for name in sorted(self.files.listdir(f"{self.path}/{sub}")):
                number = number_of(name)
                if number is None:
                    continue
                header = read_header(self.files, f"{self.path}/{sub}/{name}")
                if header is None or header.number != number:
                    report.find(f"{self.path}/{sub}/{name}: no valid segment header")
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
                        report.find(f"{self.path}: {damage}")
                        continue
                    report.rows += 1
                    yield key, value
                entries = txn.stat(database)["entries"]
        except lmdb.Error as error:
            report.find(f"{self.path}/meta: the tree cannot be walked: {error}")
            return
        if count != entries:
            report.find(f"{self.path}/meta: the tree says {entries} rows and has {count}")

    def locations(self, report: Report) -> dict[bytes, Location]:
        """``loc`` rows by data id and piece."""
        return {key: parse_location(value) for key, value in self.rows(self.environment.loc, report)}


def verify_volume(volume: OfflineVolume, report: Report) -> dict[bytes, Location]:
    """Read everything alive of a volume and check it; its locations."""
    volume.segments(report)
    locations = volume.locations(report)
    for key, place in sorted(locations.items(), key=lambda item: (item[1].segment, item[1].offset)):
        header = volume.headers.get(place.segment)
        if header is None:
            report.find(f"{volume.path}: data id {key[:16].hex()} lies in segment {segment_name(place.segment)}, which is not there")
            continue
        path = f"{volume.path}/{folder_of(header.kind)}/{segment_name(place.segment)}"
        check: Callable[[OfflineVolume, str, SegmentHeader, bytes, Location, Report], None]
        check = _check_extent if place.kind == EXTENT else _check_body
        try:
            check(volume, path, header, key[:16], place, report)
        except (OSError, DiskError) as error:
            report.find(f"{path} at byte {place.offset}: {error}")
    return locations


def _check_body(
    volume: OfflineVolume, path: str, header: SegmentHeader, data_id: bytes, place: Location, report: Report
) -> None:
    fd = volume.files.open(path, os.O_RDONLY)
    try:
        buffer = bytearray(read_at(volume.files, fd, place.length, place.offset))
    finally:
        volume.files.close(fd)
    body = unpack_body(buffer, data_id)
    if body is None:
        bucket, key = _named(command_of(buffer))
        report.find(str(BodyDamaged(path, place.offset, data_id, bucket, key)))
        return
    report.bodies += 1
    report.bytes += len(body)


def _named(command: bytes) -> tuple[int, bytes]:
    try:
        decoded = decode_command(command)
    except (LookupError, msgspec.MsgspecError, IndexError):
        return -1, b""
    return (decoded.bucket, decoded.key) if isinstance(decoded, (PutObject, PutPart)) else (-1, b"")


def _check_extent(
    volume: OfflineVolume, path: str, header: SegmentHeader, data_id: bytes, place: Location, report: Report
) -> None:
    fd = volume.files.open(path, os.O_RDONLY)
    try:
        found = read_extent(volume.files, fd, place.offset, header.salt)
        if found is None or found.trailer is None or found.trailer.data_id != data_id:
            bucket, key = (-1, b"") if found is None else (found.header.ident.bucket, found.header.ident.key)
            report.find(str(BodyDamaged(path, place.offset, data_id, bucket, key)))
            return
        granules, left, at = Granules(), found.trailer.length, found.offset + found.header.header_bytes
        while left:
            piece = read_at(volume.files, fd, min(left, MIB), at)
            if not piece:
                break
            granules.update(memoryview(piece))
            left -= len(piece)
            at += len(piece)
    finally:
        volume.files.close(fd)
    table = b"".join([mark.to_bytes(8, "big") for mark in found.trailer.table])
    if left or granules.finish() != table:
        report.find(str(BodyDamaged(path, place.offset, data_id, found.header.ident.bucket, found.header.ident.key)))
        return
    report.extents += 1
    report.bytes += found.trailer.length


def verify_rows(volumes: Sequence[OfflineVolume], located: Sequence[dict[bytes, Location]], report: Report) -> None:
    """Check every row of every volume, and that each version and part has its bytes. ``located``: by volume index."""
    for index, volume in enumerate(volumes):
        prefixes: set[bytes] = set()
        for key, value in volume.rows(volume.environment.kv, report):
            table = key[TABLE_AT]
            if table == OBJECTS:
                prefixes.add(key[:PREFIX_BYTES])
            elif table in _DECODERS:
                _check_extents(key, _DECODERS[table](value), index, located, report)
        for database in (volume.environment.seg, volume.environment.meta):
            for _ in volume.rows(database, report):
                pass
        for prefix in sorted(prefixes):
            _check_objects(volume, prefix, index, located, report)


def _of_version(value: bytes) -> tuple[Extent, ...]:
    return _version(value).extents


def _of_part(value: bytes) -> tuple[Extent, ...]:
    return _part(value).extents


def _of_parts(value: bytes) -> tuple[Extent, ...]:
    return tuple(extent for part in _parts(value) for extent in part.extents)


_DECODERS = {VERSIONS: _of_version, PARTS: _of_part, MANIFEST: _of_parts}


def _check_objects(
    volume: OfflineVolume, prefix: bytes, index: int, located: Sequence[dict[bytes, Location]], report: Report
) -> None:
    """Newest versions of a bucket in a group; keys of any length."""
    environment = volume.environment
    try:
        with environment.begin() as txn:
            for key, value in environment.layers.scan(txn, prefix, successor(prefix)):
                _check_extents(key, _of_version(value), index, located, report)
    except RowDamaged:
        report.find(f"{volume.path}: rows of group {int.from_bytes(prefix[:4], 'big')} behind a damaged one were not checked")


def _check_extents(
    key: bytes, extents: tuple[Extent, ...], index: int, located: Sequence[dict[bytes, Location]], report: Report
) -> None:
    for extent in extents:
        place = index if extent.policy == INLINE else extent.placement - 1
        if place >= len(located) or extent.data_id + b"\0\0" not in located[place]:
            report.find(f"{_row_name(key)}: its bytes (data id {extent.data_id.hex()}) are not on volume {place}")


def _row_name(key: bytes) -> str:
    group, table = int.from_bytes(key[:TABLE_AT], "big"), key[TABLE_AT]
    if table == OBJECTS:
        return f"group {group}, bucket id {int.from_bytes(key[5:PREFIX_BYTES], 'big')}, key {key[PREFIX_BYTES:]!r}"
    return f"group {group}, row {key.hex()}"


