"""Objects from segments alone, when the metadata is gone: every record and extent says which bucket and key it belongs to.

Invariants
* Sources are only read. Output names are made from keys so that they cannot leave the output folder.
* Bytes are written only if their checksums match; what does not match is listed, not written.
* Of several bodies of a key the latest is taken; a delete that is still in a log counts. What was deleted long ago and not yet
  collected may come back: salvage prefers too much to too little.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO
from urllib.parse import quote

import msgspec

from titans3.engine.compaction import records_of
from titans3.engine.datawalk import walk_extents
from titans3.engine.extent import LAST, Granules
from titans3.engine.files import Files, OsFiles, read_at
from titans3.engine.record import ENTRY, body_matches
from titans3.engine.recovery import read_header
from titans3.engine.segment import DATA, number_of
from titans3.limits import MIB
from titans3.model.command import Cas, CompleteUpload, DeleteObjects, PutObject, PutPart, decode_command
from titans3.model.control import BucketRecord

_NAME_BYTES_MAX = 200
_bucket = msgspec.msgpack.Decoder(BucketRecord).decode
Name = tuple[int, bytes]
Write = Callable[[BinaryIO], bool]


class _Body(msgspec.Struct):
    """A body that can be written: when it was made (ms · 2^20), its size, how to write it; ``write`` ``None``: a delete."""

    time: int
    size: int
    write: Write | None
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    certain: bool = True


class _Extent(msgspec.Struct):
    path: str
    data_at: int
    length: int
    table: bytes
    ordinal: int
    offset: int
    is_last: bool
    blob: bytes


class Salvaged(msgspec.Struct):
    """Counts, and what could not be written by name."""

    objects: int = 0
    bytes: int = 0
    failed: list[str] = []


class Salvage:
    """Reads volumes, then writes what it found. Blocking."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or OsFiles()
        self._bodies: dict[Name, list[_Body]] = {}
        self._parts: dict[tuple[int, bytes, bytes], dict[int, list[_Body]]] = {}
        self._completed: dict[bytes, tuple[int, list[int]]] = {}
        self._extents: dict[bytes, list[_Extent]] = {}
        self._owners: dict[bytes, tuple[Name, bytes, int]] = {}
        self._buckets: dict[int, str] = {}

    def read(self, volume: str) -> None:
        """Take in every segment of a volume."""
        for sub in ("log", "data"):
            folder = f"{volume}/{sub}"
            for name in sorted(self._files.listdir(folder)):
                header = None if number_of(name) is None else read_header(self._files, f"{folder}/{name}")
                if header is None:
                    continue
                if header.kind == DATA:
                    self._read_extents(f"{folder}/{name}")
                else:
                    self._read_records(f"{folder}/{name}")

    def _read_records(self, path: str) -> None:
        for _, record, offset in records_of(self._files, path):
            if record.kind != ENTRY:
                continue
            command = decode_command(record.command)
            time = int.from_bytes(record.data_id[:8], "big")
            size = len(record.body)
            write = _record_writer(self._files, path, offset + record.stored_bytes - size, size, record.checksum)
            if len(record.body) and not body_matches(record):
                write = _nothing
            if isinstance(command, PutObject):
                version = command.version
                if size or not version.size:
                    time = time or version.modified_ms << 20
                    body = _Body(time, size, write, version.headers, version.metadata)
                    self._bodies.setdefault((command.bucket, command.key), []).append(body)
            elif isinstance(command, PutPart) and size:
                place = (command.bucket, command.key, command.upload_id)
                self._parts.setdefault(place, {}).setdefault(command.part.number, []).append(_Body(time, size, write))
            elif isinstance(command, CompleteUpload):
                self._completed[command.upload_id] = (command.now_ms << 20, [part.number for part in command.parts])
            elif isinstance(command, DeleteObjects):
                for entry in command.entries:
                    if not entry.version_id:
                        gone = _Body(command.now_ms << 20, 0, None)
                        self._bodies.setdefault((command.bucket, entry.key), []).append(gone)
            elif isinstance(command, Cas):
                for key, value in command.ops:
                    if key.startswith("/buckets/") and value is not None:
                        bucket = _bucket(value)
                        self._buckets[bucket.bucket] = bucket.name

    def _read_extents(self, path: str) -> None:
        header = read_header(self._files, path)
        assert header is not None
        for found in walk_extents(self._files, path, header):
            ident, trailer = found.header.ident, found.trailer
            if trailer is None:
                continue
            table = b"".join([mark.to_bytes(8, "big") for mark in trailer.table])
            self._extents.setdefault(ident.write_id, []).append(
                _Extent(
                    path, found.offset + found.header.header_bytes, trailer.length, table, ident.ordinal, ident.offset,
                    bool(trailer.flags & LAST), ident.blob,
                )
            )
            self._owners[ident.write_id] = ((ident.bucket, ident.key), ident.upload_id, ident.part)

    # joining -------------------------------------------------------------------------------------------------------

    def objects(self) -> Iterator[tuple[str, bytes, _Body]]:
        """(bucket, key, body) of the latest body of every key that was not deleted."""
        self._join_extents()
        for (bucket, key, upload_id), parts in self._parts.items():
            time, numbers = self._completed.get(upload_id, (0, []))
            certain = bool(numbers)
            numbers = numbers or sorted(parts)
            chosen = [max(parts[number], key=_time_of) for number in numbers if number in parts]
            if len(chosen) == len(numbers):
                writes = [body.write for body in chosen if body.write is not None]
                self._bodies.setdefault((bucket, key), []).append(
                    _Body(
                        max([time, *(body.time for body in chosen)]), sum(body.size for body in chosen), _all_of(writes),
                        chosen[0].headers, chosen[0].metadata, certain,
                    )
                )
        for (bucket, key), bodies in sorted(self._bodies.items(), key=lambda item: item[0]):
            latest = max(bodies, key=_time_of)
            if latest.write is not None:
                yield self._buckets.get(bucket, f"bucket-{bucket}"), key, latest

    def _join_extents(self) -> None:
        for write_id, extents in self._extents.items():
            unique = {extent.ordinal: extent for extent in extents}
            ordered = [unique[ordinal] for ordinal in sorted(unique)]
            whole = [extent.ordinal for extent in ordered] == list(range(len(ordered))) and ordered[-1].is_last
            if not whole:
                continue
            (bucket, key), upload_id, part = self._owners[write_id]
            blob = msgspec.msgpack.decode(ordered[0].blob) if ordered[0].blob else {}
            body = _Body(
                int.from_bytes(write_id[:8], "big"), sum(extent.length for extent in ordered),
                _all_of([_extent_writer(self._files, extent) for extent in ordered]), blob.get("headers", {}), blob.get("metadata", {}),
            )
            if part:
                self._parts.setdefault((bucket, key, upload_id), {}).setdefault(part, []).append(body)
            else:
                self._bodies.setdefault((bucket, key), []).append(body)

    def write(self, out: str) -> Salvaged:
        """Write every object below ``out/<bucket>/`` and a line about each into ``out/manifest.jsonl``."""
        done = Salvaged()
        os.makedirs(out, mode=0o700, exist_ok=True)
        with open(os.path.join(out, "manifest.jsonl"), "xb") as manifest:
            for bucket, key, body in self.objects():
                folder = os.path.join(out, quote(bucket, safe=""))
                os.makedirs(folder, mode=0o700, exist_ok=True)
                path = os.path.join(folder, file_name(key))
                assert body.write is not None
                with open(path, "xb") as file:
                    good = body.write(file)
                line: dict[str, object] = {
                    "bucket": bucket, "key": key.decode("utf-8", "replace"), "file": os.path.relpath(path, out), "size": body.size,
                    "headers": body.headers, "metadata": body.metadata, "certain": body.certain,
                }
                if good:
                    done.objects += 1
                    done.bytes += body.size
                else:
                    os.unlink(path)
                    line |= {"file": None, "error": "bytes do not match their checksum"}
                    done.failed.append(f"{bucket}/{key!r}")
                manifest.write(msgspec.json.encode(line) + b"\n")
        return done


def file_name(key: bytes) -> str:
    """A file name for a key: its characters percent-encoded, or a hash of it if that is too long. Never ``.`` or ``..``."""
    name = quote(key, safe="").replace(".", "%2E") if key.strip(b".") == b"" else quote(key, safe="")
    return name if len(name) <= _NAME_BYTES_MAX else "sha256-" + hashlib.sha256(key).hexdigest()


def _time_of(body: _Body) -> int:
    return body.time


def _nothing(file: BinaryIO) -> bool:
    return False


def _record_writer(files: Files, path: str, at: int, size: int, checksum: int) -> Write:
    def write(file: BinaryIO) -> bool:
        fd = files.open(path, os.O_RDONLY)
        try:
            file.write(read_at(files, fd, size, at) if size else b"")
        finally:
            files.close(fd)
        return True

    return write


def _extent_writer(files: Files, extent: _Extent) -> Write:
    def write(file: BinaryIO) -> bool:
        granules, left, at = Granules(), extent.length, extent.data_at
        fd = files.open(extent.path, os.O_RDONLY)
        try:
            while left:
                piece = read_at(files, fd, min(left, MIB), at)
                if not piece:
                    return False
                granules.update(memoryview(piece))
                file.write(piece)
                left -= len(piece)
                at += len(piece)
        finally:
            files.close(fd)
        return granules.finish() == extent.table

    return write


def _all_of(writes: Sequence[Write]) -> Write:
    def write(file: BinaryIO) -> bool:
        return all(one(file) for one in writes)

    return write
