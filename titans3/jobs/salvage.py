"""Objects from segments alone, when the metadata is gone: every record and extent says which bucket and key it belongs to.

Invariants
* Sources are only read, under the volume's lock. A segment or command that cannot be read is told and hides nothing else.
* Output names are made from bucket names and keys so that they cannot leave the output folder, nor meet each other.
* Bytes are written only if their checksums match; what does not match, or is not whole, is listed, not written.
* Of several bodies of a key the latest is taken; a delete that is still in a log counts. A body is *certain* when a log still says
  that it was committed without a condition, or compaction copied it because it was alive. An uncertain one (its upload may never have
  been completed, its condition may not have held) hides no other: the ones before it, up to a certain one, go to a folder beside. So do
  those before one that is damaged.
* What was deleted long ago and not yet compacted may come back: salvage prefers too much to too little.

Memory: about a kilobyte for each body in the volumes.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from titans3.engine.compaction import records_of
from titans3.engine.datawalk import FoundExtent, walk_extents
from titans3.engine.extent import LAST
from titans3.engine.files import Files, OsFiles
from titans3.engine.record import COPIED, ENTRY, Record, body_matches
from titans3.engine.recovery import read_header, was_used
from titans3.engine.segment import COPIES, DATA, SegmentHeader, number_of
from titans3.errors import DiskError, FormatError
from titans3.jobs.salvaged import Body, Extents, Folder, Run, Salvaged
from titans3.model.command import (
    AbortUpload,
    Cas,
    Command,
    CompleteUpload,
    CreateUpload,
    DeleteObjects,
    PutObject,
    PutPart,
    decode_command,
)
from titans3.model.control import BucketRecord
from titans3.model.version import INLINE

OTHERS_MAX = 8  # bodies beside the latest of a key
_bucket = msgspec.msgpack.Decoder(BucketRecord).decode
Name = tuple[int, bytes]


class _Upload(msgspec.Struct):
    """Parts of an upload by number; ``time`` and ``numbers`` when a log says that it was completed."""

    parts: dict[int, list[Body]] = {}
    time: int = 0
    index: int = 0
    numbers: tuple[int, ...] = ()
    certain: bool = False
    aborted: bool = False
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}


class _Commit(msgspec.Struct):
    """What a log says of a large body."""

    name: Name
    time: int
    index: int
    size: int
    certain: bool
    version_id: str


class Salvage:
    """Reads volumes, then writes what it found. Blocking."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or OsFiles()
        self._bodies: dict[Name, list[Body]] = {}
        self._uploads: dict[tuple[int, bytes, bytes], _Upload] = {}
        self._extents: dict[bytes, Extents] = {}  # by write id
        self._committed: dict[bytes, _Commit] = {}  # by the first data id
        self._removed: set[tuple[Name, str]] = set()  # versions deleted by their ids
        self._buckets: dict[int, str] = {}
        self.problems: list[str] = []

    # reading -------------------------------------------------------------------------------------------------------

    def read(self, volume: str) -> None:
        """Take in every segment of a volume."""
        for sub in ("log", "data"):
            folder = f"{volume}/{sub}"
            for name in sorted(self._files.listdir(folder)):
                if number_of(name) is None:
                    continue
                try:
                    self._read_segment(f"{folder}/{name}")
                except (OSError, DiskError, FormatError) as error:
                    self.problems.append(f"{folder}/{name} cannot be read to its end: {error}")

    def _read_segment(self, path: str) -> None:
        header = read_header(self._files, path)
        if header is None:
            if was_used(self._files, path):
                self.problems.append(f"{path} has no valid header: what is in it is not found")
        elif header.kind == DATA:
            for found in walk_extents(self._files, path, header):
                self._take_extent(path, header, found)
        else:
            for _, record, offset in records_of(self._files, path):
                if record.kind == ENTRY:
                    self._take_record(path, record, offset)

    def _take_record(self, path: str, record: Record, offset: int) -> None:
        try:
            command = decode_command(record.command)
        except (LookupError, msgspec.MsgspecError) as error:
            self.problems.append(f"{path} at byte {offset}: {error}")
            return
        size = len(record.body)
        run = Run(path, offset + record.stored_bytes - size, size, record.checksum)
        body = Body(
            _ms_of(record.data_id), size, (run,) if size else (), is_good=body_matches(record), certain=bool(record.flags & COPIED),
            index=record.index,
        )
        if isinstance(command, PutObject):
            self._take_put(command, body)
        elif isinstance(command, PutPart):
            if size:
                upload = self._upload(command.bucket, command.key, command.upload_id)
                upload.parts.setdefault(command.part.number, []).append(body)
        else:
            self._take_other(command, record.index)

    def _take_put(self, command: PutObject, body: Body) -> None:
        version, name = command.version, (command.bucket, command.key)
        is_certain, version_id = command.condition is None, f"{body.index:016x}{version.nonce.hex()}"
        if version.extents and version.extents[0].policy != INLINE:
            self._committed[version.extents[0].data_id] = _Commit(
                name, version.modified_ms, body.index, version.size, is_certain, version_id
            )
            return
        body.time = version.modified_ms
        body.certain = body.certain or is_certain
        body.headers, body.metadata, body.version_id = version.headers, version.metadata, version_id
        self._bodies.setdefault(name, []).append(body)

    def _take_other(self, command: Command, index: int) -> None:
        if isinstance(command, CreateUpload):
            upload = self._upload(command.bucket, command.key, index.to_bytes(8, "big") + command.nonce)
            upload.headers, upload.metadata = command.headers, command.metadata
        elif isinstance(command, CompleteUpload):
            upload = self._upload(command.bucket, command.key, command.upload_id)
            upload.time, upload.index, upload.numbers = command.now_ms, index, tuple(part.number for part in command.parts)
            upload.certain = command.condition is None
        elif isinstance(command, AbortUpload):
            self._upload(command.bucket, command.key, command.upload_id).aborted = True
        elif isinstance(command, DeleteObjects):
            for entry in command.entries:
                name = (command.bucket, entry.key)
                if entry.version_id:
                    self._removed.add((name, entry.version_id))
                else:
                    gone = Body(command.now_ms, 0, None, certain=entry.condition is None, index=index)
                    self._bodies.setdefault(name, []).append(gone)
        elif isinstance(command, Cas):
            for key, value in command.ops:
                if key.startswith("/buckets/") and value is not None:
                    bucket = _bucket(value)
                    self._buckets[bucket.bucket] = bucket.name

    def _upload(self, bucket: int, key: bytes, upload_id: bytes) -> _Upload:
        return self._uploads.setdefault((bucket, key, upload_id), _Upload())

    def _take_extent(self, path: str, header: SegmentHeader, found: FoundExtent) -> None:
        ident, trailer = found.header.ident, found.trailer
        extents = self._extents.setdefault(ident.write_id, Extents(ident))
        if ident.ordinal == 0:
            extents.first = ident
        extents.certain = extents.certain or bool(header.flags & COPIES)
        if trailer is None:
            return
        table = b"".join([mark.to_bytes(8, "big") for mark in trailer.table])
        extents.runs[ident.ordinal] = Run(path, found.offset + found.header.header_bytes, trailer.length, trailer.root, table)
        if trailer.flags & LAST:
            extents.last = ident.ordinal

    # joining -------------------------------------------------------------------------------------------------------

    def _join_extents(self) -> None:
        for write_id, extents in self._extents.items():
            ident = extents.first
            blob = msgspec.msgpack.decode(ident.blob) if ident.blob else {}
            committed = self._committed.get(write_id)
            body = Body(
                _ms_of(write_id) if committed is None else committed.time,
                sum(run.length for run in extents.runs.values()), extents.joined(),
                headers=blob.get("headers", {}), metadata=blob.get("metadata", {}),
                certain=extents.certain or (committed is not None and committed.certain), is_good=extents.is_whole,
                version_id="" if committed is None else committed.version_id, index=0 if committed is None else committed.index,
            )
            if ident.part:
                if extents.is_whole:
                    self._upload(ident.bucket, ident.key, ident.upload_id).parts.setdefault(ident.part, []).append(body)
            else:
                self._bodies.setdefault((ident.bucket, ident.key), []).append(body)
        for write_id in self._committed.keys() - self._extents.keys():  # collected since, or lost
            lost = self._committed[write_id]
            body = Body(lost.time, lost.size, (), certain=lost.certain, is_good=False, version_id=lost.version_id, index=lost.index)
            self._bodies.setdefault(lost.name, []).append(body)

    def _join_uploads(self) -> None:
        for (bucket, key, _), upload in self._uploads.items():
            numbers = upload.numbers or tuple(sorted(upload.parts))
            chosen = [max(upload.parts[number], key=_rank) for number in numbers if number in upload.parts]
            runs = tuple(run for part in chosen for run in part.runs or ())
            if not chosen and not upload.certain:
                continue
            time = 0 if upload.aborted and not upload.numbers else max([upload.time, *(part.time for part in chosen)])
            first = chosen[0] if chosen else Body(0, 0, ())
            self._bodies.setdefault((bucket, key), []).append(
                Body(
                    time, sum(part.size for part in chosen), runs,
                    headers=upload.headers or first.headers, metadata=upload.metadata or first.metadata, certain=upload.certain,
                    is_good=len(chosen) == len(numbers) and all(part.is_good for part in chosen), index=upload.index,
                )
            )

    def objects(self) -> Iterator[tuple[int, bytes, list[Body]]]:
        """(bucket id, key, bodies) of every key, the latest first, down to a delete that is certain."""
        self._join_extents()
        self._join_uploads()
        for name, bodies in sorted(self._bodies.items(), key=lambda item: item[0]):
            found: list[Body] = []
            for body in sorted(bodies, key=_rank, reverse=True):
                if body.runs is None:
                    if body.certain:
                        break
                elif (name, body.version_id) not in self._removed:
                    found.append(body)
            if found:
                yield *name, found

    def write(self, out: str) -> Salvaged:
        """Write every object below ``out/<bucket>/``, and a line about each body into ``out/manifest.jsonl``. Raises OSError."""
        names = self._folder_names()
        with Folder(out, self._files) as folder:
            for bucket, key, bodies in self.objects():
                self._write_key(folder, names.get(bucket, f"#bucket-{bucket}"), bucket, key, bodies)
        done = folder.done
        done.problems = self.problems
        return done

    def _write_key(self, folder: Folder, name: str, bucket: int, key: bytes, bodies: list[Body]) -> None:
        """Bodies down to one that is whole and certain."""
        number = 0
        has_good = any(body.is_good for body in bodies)
        is_written = False
        known: set[int] = set()
        for body in bodies:
            if not body.is_good and (is_written or (has_good and not body.certain)):
                continue  # collected long since, or never finished
            if body.runs and body.is_good and body.runs[0].checksum in known:
                continue  # the same bytes, before compaction copied them
            is_good = folder.write(name, self._buckets.get(bucket, ""), key, number, body)
            if is_good and body.runs:
                known.add(body.runs[0].checksum)
            is_written = is_written or is_good
            number += 1
            if (is_good and body.certain) or number > OTHERS_MAX:
                return

    def _folder_names(self) -> dict[int, str]:
        """Of buckets by id; of two that had one name the younger one has it."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for bucket in sorted(self._buckets, reverse=True):
            name = self._buckets[bucket]
            names[bucket] = f"{name}#{bucket}" if name in taken else name
            taken.add(name)
        return names


def _rank(body: Body) -> tuple[int, int, bool, bool]:
    """Later is better; of the same, the one whose bytes match."""
    return body.time, body.index, body.is_good, body.certain


def _ms_of(data_id: bytes) -> int:
    return int.from_bytes(data_id[:8], "big") >> 20
