"""Multipart uploads at apply, and the purge of deleted buckets.

Invariants
* Parts and upload change in one entry; CompleteUpload checks number, order, ETag, size and the combined ETag against the parts as they are.
* A completed upload leaves a row by upload id, so that a client's repeat gets the same answer. Every completion takes away what is older
  than COMPLETED_MS by the group's time among the oldest uploads of its bucket here, and a job (``ExpireUploads``) the rest, so these rows
  do not grow for ever.
* Parts that a completion does not list are freed in the same entry.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from titans3.errors import Reason
from titans3.limits import MANIFEST_CHUNK_PARTS, MANIFEST_INLINE_EXTENTS
from titans3.meta.buckets import Shards
from titans3.meta.keys import (
    completed_key,
    completed_prefix,
    manifest_key,
    object_key,
    part_key,
    part_prefix,
    successor,
    upload_index_key,
    upload_key,
    upload_prefix,
)
from titans3.meta.objects import Objects, check_write
from titans3.meta.refusal import Refused
from titans3.model.command import AbortUpload, CompleteUpload, CreateUpload, ExpireUploads, Outcome, Purge, PutPart
from titans3.model.version import INLINE, MANIFEST_ROWS, MULTIPART, ROW_FORMAT, Completed, Part, Upload, Version

if TYPE_CHECKING:
    from titans3.meta.machine import Rows

COMPLETED_MS = 7 * 86_400_000  # no client repeats a completion after that
_EXPIRED_ROWS = 8  # looked at by a completion


class Uploads:
    """Upload and part rows of one volume."""

    def __init__(self, rows: Rows, objects: Objects, shards: Shards) -> None:
        self._rows, self._objects, self._shards = rows, objects, shards
        self._encode = msgspec.msgpack.Encoder().encode
        self._upload = msgspec.msgpack.Decoder(Upload).decode
        self._part = msgspec.msgpack.Decoder(Part).decode
        self._completed = msgspec.msgpack.Decoder(Completed).decode

    # reads ---------------------------------------------------------------------------------------------------------

    def find(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Upload | None:
        """An open upload of this key."""
        raw = self._rows.get(upload_key(gid, bucket, upload_id)) if len(upload_id) == 16 else None
        upload = None if raw is None else self._upload(raw)
        return upload if upload is not None and upload.key == key else None

    def completed(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Completed | None:
        """What an earlier completion of this id made."""
        raw = self._rows.get(completed_key(gid, bucket, upload_id)) if len(upload_id) == 16 else None
        found = None if raw is None else self._completed(raw)
        return found if found is not None and found.key == key else None

    def part(self, gid: int, upload_id: bytes, number: int) -> Part | None:
        """One part."""
        raw = self._rows.get(part_key(gid, upload_id, number))
        return None if raw is None else self._part(raw)

    def parts(self, gid: int, upload_id: bytes, after: int, limit: int) -> list[Part]:
        """Parts above a number, ascending."""
        stop = successor(part_prefix(gid, upload_id))
        start = part_key(gid, upload_id, after + 1) if after < 0xFFFF else stop
        return [self._part(raw) for _, raw in self._rows.scan(start, stop, limit)]

    # commands ------------------------------------------------------------------------------------------------------

    def create(self, gid: int, index: int, command: CreateUpload) -> Outcome:
        """Start an upload."""
        shard = self._shards.writable(gid, command.bucket)
        assert len(command.nonce) == 8
        upload_id = index.to_bytes(8, "big") + command.nonce
        times = self._objects.times
        times[gid] = max(times.get(gid, 0), command.now_ms)
        upload = Upload(
            ROW_FORMAT, command.key, index, times[gid], command.owner, command.headers, command.metadata,
            command.checksum_algorithm, command.checksum_composite, command.storage_class, command.tags, command.acl,
            command.initiator,
        )
        self._rows.put(upload_key(gid, command.bucket, upload_id), self._encode(upload))
        self._rows.put(upload_index_key(gid, command.bucket, command.key, upload_id), b"")
        shard.uploads += 1
        return Outcome("", index, None, (), upload_id)

    def put_part(self, gid: int, index: int, command: PutPart) -> Outcome:
        """Commit a part; the last in log order wins."""
        shard = self._shards.writable(gid, command.bucket, command.revision)
        if self.find(gid, command.bucket, command.key, command.upload_id) is None:
            raise Refused(Reason.UPLOAD_ABSENT)
        part = command.part
        for extent in part.extents:
            if extent.policy != INLINE and self._objects.fences.is_fenced(gid, extent.data_id):
                raise Refused(Reason.FENCED)
        old = self.part(gid, command.upload_id, part.number)
        if shard.quota:
            shard.need_grant(part.size - (0 if old is None else old.size))
        if old is not None:
            shard.upload_bytes -= old.size
            self._objects.free(gid, index, old.extents)
        shard.upload_bytes += part.size
        new = msgspec.structs.replace(part, seq=index)
        self._rows.put(part_key(gid, command.upload_id, part.number), self._encode(new))
        return Outcome(index=index)

    def abort(self, gid: int, index: int, command: AbortUpload) -> Outcome:
        """Drop an upload and its parts."""
        shard = self._shards.writable(gid, command.bucket)
        if self.find(gid, command.bucket, command.key, command.upload_id) is None:
            raise Refused(Reason.UPLOAD_ABSENT)
        for part in self.parts(gid, command.upload_id, 0, 1 << 16):
            shard.upload_bytes -= part.size
            self._objects.free(gid, index, part.extents)
            self._rows.delete(part_key(gid, command.upload_id, part.number))
        self._remove(gid, command.bucket, command.key, command.upload_id)
        shard.uploads -= 1
        return Outcome(index=index)

    def _remove(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> None:
        self._rows.delete(upload_key(gid, bucket, upload_id))
        self._rows.delete(upload_index_key(gid, bucket, key, upload_id))

    def complete(self, gid: int, index: int, command: CompleteUpload) -> Outcome:
        """Turn parts into a version."""
        shard = self._shards.writable(gid, command.bucket, command.revision)
        done = self.completed(gid, command.bucket, command.key, command.upload_id)
        if done is not None:
            return Outcome("", index, done.version)
        upload = self.find(gid, command.bucket, command.key, command.upload_id)
        if upload is None:
            raise Refused(Reason.UPLOAD_ABSENT)
        stored = {part.number: part for part in self.parts(gid, command.upload_id, 0, 1 << 16)}
        chosen = _chosen(command, stored)
        row = object_key(gid, command.bucket, command.key)
        raw = self._rows.get(row)
        old = None if raw is None else self._objects.decode(raw)
        if command.condition is not None:
            check_write(command.condition, old)
        size = sum(part.size for part in chosen)
        if command.size >= 0 and command.size != size:
            raise Refused(Reason.PART_INVALID, "the object size does not match")
        extents = tuple(extent for part in chosen for extent in part.extents)
        inline = len(chosen) == 1 and len(extents) <= MANIFEST_INLINE_EXTENTS
        version = Version(
            ROW_FORMAT, MULTIPART | (0 if inline else MANIFEST_ROWS), 0, command.now_ms, size, command.etag, len(chosen),
            0, upload.owner, upload.storage_class, 0, extents if inline else (), upload.headers, upload.metadata, command.checksum,
            nonce=command.nonce, tags=upload.tags, acl=upload.acl,
        )
        version = self._objects.commit(gid, index, shard, row, old, version)
        if not inline:
            self._put_manifest(gid, version, chosen)
        kept = {part.number for part in chosen}
        for number, part in stored.items():
            shard.upload_bytes -= part.size
            if number not in kept:
                self._objects.free(gid, index, part.extents)
            self._rows.delete(part_key(gid, command.upload_id, number))
        self._remove(gid, command.bucket, command.key, command.upload_id)
        shard.uploads -= 1
        result = Completed(ROW_FORMAT, command.key, version, version.modified_ms)
        self._rows.put(completed_key(gid, command.bucket, command.upload_id), self._encode(result))
        self._expire(gid, command.bucket)
        return Outcome("", index, version)

    def _expire(self, gid: int, bucket: int) -> None:
        prefix = completed_prefix(gid, bucket)
        old = self._objects.times.get(gid, 0) - COMPLETED_MS
        for key, raw in self._rows.scan(prefix, successor(prefix), _EXPIRED_ROWS):
            if self._completed(raw).completed_ms < old:
                self._rows.delete(key)

    def expire(self, gid: int, index: int, command: ExpireUploads) -> Outcome:
        """Remove results that are too old; those that are not, or are gone, change nothing."""
        for upload_id in command.upload_ids:
            key = completed_key(gid, command.bucket, upload_id)
            raw = self._rows.get(key)
            if raw is not None and self._completed(raw).completed_ms < command.before_ms:
                self._rows.delete(key)
        return Outcome(index=index)

    def _put_manifest(self, gid: int, version: Version, parts: list[Part]) -> None:
        for start in range(0, len(parts), MANIFEST_CHUNK_PARTS):
            chunk = parts[start : start + MANIFEST_CHUNK_PARTS]
            key = manifest_key(gid, version.object_id, version.seq, chunk[0].number)
            self._rows.put(key, self._encode(chunk))

    # purge ---------------------------------------------------------------------------------------------------------

    def purge(self, gid: int, index: int, command: Purge) -> Outcome:
        """Remove what a deleted bucket left in this group; ``b"more"`` until nothing is left."""
        state = self._shards.find(gid, command.bucket)
        if state is None:
            self._shards.raise_min_revision(gid, command.revision)
            return Outcome(index=index)
        if state.seal != command.op_id:
            raise Refused(Reason.BUCKET_BUSY, "the shard is not sealed by this deletion")
        self._shards.dirty.add((gid, command.bucket))
        left = command.rows
        prefix = upload_prefix(gid, command.bucket)
        for key, raw in self._rows.scan(prefix, successor(prefix), max(1, left)):
            upload, upload_id = self._upload(raw), key[-16:]
            parts = self.parts(gid, upload_id, 0, max(1, left))
            for part in parts:
                self._objects.free(gid, index, part.extents)
                self._rows.delete(part_key(gid, upload_id, part.number))
                state.upload_bytes -= part.size
            left -= len(parts) + 2
            if left <= 0:
                return Outcome("", index, None, (), b"more")
            self._remove(gid, command.bucket, upload.key, upload_id)
            state.uploads -= 1
        prefix = completed_prefix(gid, command.bucket)
        start, stop = prefix, successor(prefix)
        for key, _ in self._rows.scan(start, stop, max(1, left)):
            self._rows.delete(key)
            left -= 1
        if left <= 0:
            return Outcome("", index, None, (), b"more")
        self._shards.remove(gid, command.bucket)
        self._shards.raise_min_revision(gid, command.revision)
        return Outcome(index=index)


def _chosen(command: CompleteUpload, stored: dict[int, Part]) -> list[Part]:
    """The listed parts, checked. Raises Refused."""
    if not command.parts:
        raise Refused(Reason.PART_INVALID, "no parts")
    chosen: list[Part] = []
    last = 0
    for item in command.parts:
        if item.number <= last:
            raise Refused(Reason.PART_ORDER)
        last = item.number
        part = stored.get(item.number)
        if part is None or part.etag != item.etag:
            raise Refused(Reason.PART_INVALID, f"part {item.number}")
        if item.checksum is not None and (part.checksum is None or part.checksum.value != item.checksum.value):
            raise Refused(Reason.PART_INVALID, f"part {item.number} checksum")
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size < command.part_bytes_min:
            raise Refused(Reason.PART_TOO_SMALL, f"{part.number} {part.size} {command.part_bytes_min} {part.etag.hex()}")
    if hashlib.md5(b"".join(part.etag for part in chosen), usedforsecurity=False).digest() != command.etag:
        raise Refused(Reason.PART_INVALID, "the parts changed")
    return chosen
