"""What lies where on volumes that no server holds: for people who look for a cause. Only reads; bodies are checked, and shown to nobody.

Invariants
* A place that is told was found by its rows as of the last checkpoint; what a killed server still has in its log is ``pending``.
* Nothing sealed is opened and no body is told: of records that may hold secrets the length and a digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import lmdb
import msgspec

from titans3.engine.datawalk import read_extent
from titans3.engine.files import read_at
from titans3.engine.location import EXTENT, Location, loc_key, parse_location
from titans3.engine.record import body_matches, parse_record
from titans3.engine.segment import CONTENT, DATA, LOG, PACKED, segment_name
from titans3.engine.segments import SEALED, SegmentRow
from titans3.errors import FormatError
from titans3.jobs.verify import OfflineVolume, Report, Stored, check_log, check_stored
from titans3.limits import BATCH_BYTES_MAX
from titans3.meta import keys
from titans3.meta.rows import RowDamaged, open_value
from titans3.model.command import decode_command
from titans3.model.control import BucketRecord, Rec
from titans3.model.version import INLINE, MANIFEST_ROWS, MARKER, Extent, Part, Shard, Upload, Version

_KINDS = {LOG: "log", DATA: "data", PACKED: "packed"}
_RECORDS = {1: "entry", 2: "hard state", 3: "truncation", 4: "snapshot", 5: "segment start"}
_segment_row = msgspec.msgpack.Decoder(SegmentRow).decode
_version = msgspec.msgpack.Decoder(Version).decode
_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode
_rec = msgspec.msgpack.Decoder(Rec).decode
# Records of the control plane whose values hold no secret.
_OPEN = ("/buckets/", "/ids/", "/config/", "/feature_level", "/purge/", "/sweep/")
_TABLES = {
    keys.LAYER_COUNTER: "layer counter", keys.OBJECTS: "object", keys.LAYERS: "layer", keys.UPLOAD_INDEX: "upload index",
    keys.VERSIONS: "older version", keys.MANIFEST: "manifest", keys.UPLOADS: "upload", keys.PARTS: "part",
    keys.COMPLETED: "completed upload",
    keys.SHARDS: "shard", keys.FENCES: "sweep fence", keys.MIN_REVISION: "minimum revision", keys.GC: "waits for the collector",
    keys.DEDUPE: "remembered results", keys.CONTROL: "record", keys.STORE_REVISION: "store revision",
}  # fmt: skip


class SegmentShown(msgspec.Struct):
    """``state``: active, sealed or ``no row`` (written after the last checkpoint). Bytes; ``used`` of the file, ``live`` by its row."""

    segment: str
    kind: str
    state: str
    epoch: int
    used: int
    live: int


class VolumeShown(msgspec.Struct):
    """A volume as it lies on its disk. ``pending``: entries of the log behind the last checkpoint. Space in bytes."""

    index: int
    path: str
    uuid: str
    created_ms: int
    log_segments: int
    data_segments: int
    log_bytes: int
    data_bytes: int
    live_bytes: int
    metadata_bytes: int
    free_bytes: int
    groups: int
    damaged_groups: int
    pending: int
    segments: list[SegmentShown] = []
    findings: list[str] = []


def show_volume(volume: OfflineVolume, *, segments: bool) -> VolumeShown:
    """What is on a volume, without reading its bodies."""
    report = Report()
    volume.read_headers(report)
    check_log(volume, report)
    rows = {int.from_bytes(key, "big"): _segment_row(value) for key, value in volume.rows(volume.environment.seg, report)}
    states = volume.environment.groups()
    space = os.statvfs(volume.path)
    shown = VolumeShown(
        volume.identity.index, volume.path, volume.identity.uuid, volume.identity.created_ms, 0, 0, 0, 0,
        sum(row.live for row in rows.values()), volume.environment.size_bytes(), space.f_bavail * space.f_frsize, len(states),
        sum(bool(state.damaged) for state in states.values()), volume.pending,
    )  # fmt: skip
    for number, header in sorted(volume.headers.items()):
        used = os.stat(volume.path_of(number)).st_blocks * 512
        if header.kind == LOG:
            shown.log_segments, shown.log_bytes = shown.log_segments + 1, shown.log_bytes + used
        else:
            shown.data_segments, shown.data_bytes = shown.data_segments + 1, shown.data_bytes + used
        if segments:
            row = rows.get(number)
            state = "no row" if row is None else "sealed" if row.state == SEALED else "active"
            shown.segments.append(
                SegmentShown(segment_name(number), _KINDS[header.kind], state, header.epoch, used, 0 if row is None else row.live)
            )
    shown.findings = report.findings
    return shown


# places ----------------------------------------------------------------------------------------------------------------


def show_place(volume: OfflineVolume, segment: int, offset: int, *, save: str = "") -> dict[str, Any]:
    """The record or extent whose header lies at ``offset`` of a segment; ``save``: a new file for its body. Raises FormatError."""
    if not volume.headers:
        volume.read_headers(Report())
    header = volume.headers.get(segment)
    if header is None:
        raise FormatError(f"{volume.path} has no segment {segment_name(segment)} with a valid header")
    if offset < CONTENT:
        return {"segment": segment_name(segment), **msgspec.to_builtins(header), "volume": header.volume.hex(), "kind": _KINDS[header.kind]}
    path = volume.path_of(segment)
    fd = volume.files.open(path, os.O_RDONLY)
    try:
        if header.kind == LOG:
            found = parse_record(memoryview(read_at(volume.files, fd, BATCH_BYTES_MAX * 2, offset)), header.salt, offset)
            if found is None:
                raise FormatError(f"{path}: no record begins at byte {offset}, or its header is damaged")
            record = found[0]
            shown: dict[str, Any] = {
                "segment": segment_name(segment), "offset": offset, "what": _RECORDS[record.kind], "bytes": found[1],
                "group": record.gid, "index": record.index, "term": record.term, "body_bytes": len(record.body),
                "data_id": record.data_id.hex(), "checksum": f"{record.checksum:016x}", "body_matches": body_matches(record),
            }  # fmt: skip
            if record.kind == 1:
                shown["command"] = _command(record.command)
            if save:
                _save(save, bytes(record.body))
            return shown
        extent = read_extent(volume.files, fd, offset, header.salt)
    finally:
        volume.files.close(fd)
    if extent is None:
        raise FormatError(f"{path}: no extent begins at byte {offset}, or its header is damaged")
    ident = extent.header.ident
    shown = {
        "segment": segment_name(segment), "offset": offset, "what": "extent", "granted": extent.header.granted,
        "data_id": ident.data_id.hex(),
        "group": ident.gid, "bucket": ident.bucket, "key": _text(ident.key), "part": ident.part, "upload_id": ident.upload_id.hex(),
        "created_ms": ident.created_ms, "finished": extent.trailer is not None,
        "abandoned": extent.trailer is not None and not extent.is_whole,
    }  # fmt: skip
    if extent.trailer is not None:
        report = Report()
        stored = Stored(Location(segment, offset, extent.used, EXTENT))
        check_stored(volume, loc_key(ident.data_id, ident.piece), stored, report)
        shown |= {"length": extent.trailer.length, "checksum": f"{extent.trailer.root:016x}", "body_matches": not report.findings}
        if save:
            fd = volume.files.open(path, os.O_RDONLY)
            try:
                _save(save, bytes(read_at(volume.files, fd, extent.trailer.length, offset + extent.header.header_bytes)))
            finally:
                volume.files.close(fd)
    return shown


def _save(path: str, body: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(body)


def _command(data: bytes) -> dict[str, Any]:
    """Which command it is and what it is about; of one that may hold a secret no more than that."""
    try:
        command = decode_command(data)
    except (LookupError, msgspec.MsgspecError) as error:
        return {"unknown": str(error)}
    shown: dict[str, Any] = {"name": type(command).__name__}
    for name in ("bucket", "key", "revision", "upload_id"):
        value = getattr(command, name, None)
        if value is not None:
            shown[name] = _text(value) if name == "key" else value.hex() if isinstance(value, bytes) else value
    ops = getattr(command, "ops", None)
    if ops is not None:
        shown["records"] = [key for key, _ in ops]
    return shown


# keys ------------------------------------------------------------------------------------------------------------------


def show_key(volumes: Sequence[OfflineVolume], index: int, gid: int, bucket: int, key: bytes) -> list[dict[str, Any]]:
    """All versions of a key, newest first, each with its extents, where they lie and whether they are as they were written."""
    volume = volumes[index]
    environment = volume.environment
    found = []
    with environment.begin() as txn:
        row = keys.object_key(gid, bucket, key)
        raw = environment.layers.get(txn, row)
        if raw is None:
            return []
        newest = _version(raw)
        found.append(newest)
        if newest.older:
            prefix = keys.version_prefix(gid, newest.object_id)
            found += [_version(value) for _, value in environment.layers.scan(txn, prefix, keys.successor(prefix))]
        return [_shown_version(volumes, index, gid, version, txn) for version in found]


def _shown_version(volumes: Sequence[OfflineVolume], index: int, gid: int, version: Version, txn: Any) -> dict[str, Any]:
    extents: list[Extent] = list(version.extents)
    if version.flags & MANIFEST_ROWS:
        prefix = keys.manifest_prefix(gid, version.object_id, version.seq)
        rows = volumes[index].environment.layers.scan(txn, prefix, keys.successor(prefix))
        extents = [extent for _, value in rows for part in _parts(value) for extent in part.extents]
    return {
        "version_id": version.version_id, "marker": bool(version.flags & MARKER), "size": version.size, "etag": version.etag_text,
        "modified_ms": version.modified_ms, "owner": version.owner, "seq": version.seq, "object_id": version.object_id,
        "extents": [_shown_extent(volumes, index, extent) for extent in extents],
    }  # fmt: skip


def _shown_extent(volumes: Sequence[OfflineVolume], index: int, extent: Extent) -> dict[str, Any]:
    place = index if extent.policy == INLINE else extent.placement - 1
    shown: dict[str, Any] = {
        "data_id": extent.data_id.hex(), "length": extent.length, "policy": "inline" if extent.policy == INLINE else "single",
        "volume": place, "checksum": f"{extent.checksum:016x}",
    }  # fmt: skip
    volume = volumes[place]
    with volume.environment.begin() as txn:
        key = loc_key(extent.data_id)
        stored = txn.get(key, db=volume.environment.loc)
    if stored is None:
        return {**shown, "state": "not there, as of the last checkpoint"}
    if not volume.headers:
        volume.read_headers(Report())
    location = parse_location(open_value(key, stored))
    found, report = Stored(location), Report()
    check_stored(volume, key, found, report)
    matches = not report.findings and (found.length, found.checksum) == (extent.length, extent.checksum)
    state = "good" if matches else "; ".join(report.findings) or "other bytes than the row names"
    return {**shown, "segment": segment_name(location.segment), "offset": location.offset, "state": state}


# rows ------------------------------------------------------------------------------------------------------------------


def dump_rows(
    volume: OfflineVolume, *, groups: frozenset[int] = frozenset(), bucket: int = -1, prefix: bytes = b""
) -> Iterator[dict[str, Any]]:
    """Every row of a volume's metadata as plain values, in the order of the tree; damaged ones are named.

    ``groups``: of these alone; ``bucket``, ``prefix``: object and upload rows of these alone, and nothing of the control plane.
    """
    for key, stored in _logical_rows(volume):
        gid, table = int.from_bytes(key[:4], "big"), key[keys.TABLE_AT]
        if groups and gid not in groups:
            continue
        if bucket >= 0 and (
            table not in _OF_BUCKETS
            or int.from_bytes(key[5:13], "big") != bucket
            or (table == keys.OBJECTS and not key[13:].startswith(prefix))
        ):
            continue
        line: dict[str, Any] = {"volume": volume.identity.index, "group": gid, "table": _TABLES.get(table, f"{table:#x}")}
        if isinstance(stored, str):
            yield {**line, "row": key.hex(), "damaged": stored}
            continue
        try:
            yield {**line, **_shown_row(key, table, stored)}
        except msgspec.MsgspecError as damage:
            yield {**line, "row": key.hex(), "damaged": str(damage)}


def _logical_rows(volume: OfflineVolume) -> Iterator[tuple[bytes, bytes | str]]:
    """Keys and values, keys that are cut over layers put together; a text instead of a value says what is wrong with it."""
    environment, layers = volume.environment, volume.environment.layers
    seen = b""
    key = bytes(keys.PREFIX_BYTES)
    with environment.begin() as txn, txn.cursor(environment.kv) as cursor:
        try:
            for key, stored in cursor.iternext(True, True):
                table = key[keys.TABLE_AT]
                if table in (keys.LAYERS, keys.LAYER_COUNTER):
                    continue
                try:
                    if table in keys.LONG_TABLES:
                        prefix = key[: keys.PREFIX_BYTES]
                        if prefix != seen:
                            seen = prefix
                            yield from layers.scan(txn, prefix, keys.successor(prefix))
                    else:
                        yield key, open_value(key, stored)
                except RowDamaged as damage:
                    yield key, str(damage)
        except lmdb.Error as error:
            yield key, f"the tree cannot be walked behind this row: {error}"


_OF_BUCKETS = frozenset((keys.OBJECTS, keys.UPLOAD_INDEX, keys.UPLOADS, keys.COMPLETED, keys.SHARDS))
_DECODED: dict[int, Any] = {
    keys.OBJECTS: Version, keys.VERSIONS: Version, keys.UPLOADS: Upload, keys.SHARDS: Shard, keys.GC: Extent, keys.PARTS: Part,
    keys.MANIFEST: tuple[Part, ...],
}  # fmt: skip


def _shown_row(key: bytes, table: int, value: bytes) -> dict[str, Any]:
    if table == keys.CONTROL:
        rec = _rec(value)
        shown: dict[str, Any] = {"key": rec.key, "revision": rec.rev}
        if rec.key.startswith(_OPEN):
            shown["value"] = _plain(_opened(rec))
        else:
            shown |= {"value_bytes": len(rec.value), "value_sha256": hashlib.sha256(rec.value).hexdigest()}
        return shown
    shown = {"row": key[5:].hex()}
    if table in _OF_BUCKETS:
        shown = {"bucket": int.from_bytes(key[5:13], "big")}
        if table == keys.OBJECTS:
            shown["key"] = _text(key[13:])
        elif table == keys.UPLOAD_INDEX:
            with suppress(IndexError):
                shown["key"], shown["upload_id"] = _text(keys.split_upload_index(key)[0]), key[-16:].hex()
        elif table != keys.SHARDS:
            shown["upload_id"] = key[13:].hex()
    kind = _DECODED.get(table)
    if kind is not None:
        shown["value"] = _plain(msgspec.msgpack.decode(value, type=kind))
    else:
        shown["value_bytes"] = len(value)
    return shown


def _opened(rec: Rec) -> Any:
    if rec.key.startswith("/buckets/"):
        return msgspec.msgpack.decode(rec.value, type=BucketRecord)
    try:
        return msgspec.msgpack.decode(rec.value)
    except msgspec.MsgspecError:
        return rec.value


def _plain(value: Any) -> Any:
    """For JSON: structs by their fields, bytes as hex, but for what is text."""
    if isinstance(value, msgspec.Struct):
        return {name: _text(found) if name == "key" and isinstance(found, bytes) else _plain(found)
                for name, found in msgspec.structs.asdict(value).items()}  # fmt: skip
    if isinstance(value, bytes):
        return value.hex() if not value.isascii() or not value.decode("ascii").isprintable() else value.decode("ascii")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(item) for name, item in value.items()}
    return value


def _text(key: bytes) -> str:
    """A key as JSON has it; a byte that is no UTF-8 as ``\\xNN``."""
    return key.decode("utf-8", "backslashreplace")
