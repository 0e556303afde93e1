"""Objects at apply: commit, conditions, versions, deletion. Hot.

Invariants
* An unversioned bucket has one row per object. A versioned key has its newest version (or marker) in the object row and older
  ones in the versions table; ``seq`` is the log index, so order never depends on a clock.
* At most one null version exists per key: the newest row itself, or the one ``null_seq`` names.
* Whatever a change orphans is freed in the same apply: small bodies at once, extents through the GC queue (I12).
* An object id is the index of the entry that made the key's row and the key's place in that entry: one entry can make many.
* ``modified_ms`` never goes back within a key or a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from titans3.errors import Reason
from titans3.meta.buckets import Shards, ShardState
from titans3.meta.keys import gc_key, manifest_prefix, object_key, successor, version_key, version_prefix
from titans3.meta.refusal import Refused
from titans3.meta.walk import walk
from titans3.model.command import Condition, DeleteEntry, DeleteObjects, Outcome, PutObject, UpdateVersion
from titans3.model.version import (
    INLINE,
    MANIFEST_ROWS,
    MARKER,
    NULL,
    ROW_FORMAT,
    UNASKED_KIND,
    Extent,
    Part,
    Version,
    checksum_kind,
)

if TYPE_CHECKING:
    from titans3.meta.machine import Bodies, Rows

NEVER, ENABLED, SUSPENDED = 0, 1, 2
_PLACE_BITS = 8  # an entry makes at most 256 keys (DELETE_KEYS_PER_ENTRY is 250)


class Fences(Protocol):
    """Refuses data ids that a sweep has passed."""

    def is_fenced(self, gid: int, data_id: bytes) -> bool: ...


class Objects:
    """Object rows of one volume."""

    fences: Fences

    def __init__(self, rows: Rows, bodies: Bodies, shards: Shards, times: dict[int, int]) -> None:
        self.rows, self.bodies, self.shards, self.times = rows, bodies, shards, times
        self.gc_groups: set[int] = set()  # groups that got GC rows since the volume was opened; the collector takes them out
        self.encode = msgspec.msgpack.Encoder().encode
        self.decode = msgspec.msgpack.Decoder(Version).decode
        self.decode_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode

    # reads ---------------------------------------------------------------------------------------------------------

    def newest(self, gid: int, bucket: int, key: bytes) -> Version | None:
        """Newest version or marker."""
        raw = self.rows.get(object_key(gid, bucket, key))
        return None if raw is None else self.decode(raw)

    def find(self, gid: int, bucket: int, key: bytes, version_id: str) -> Version | None:
        """The version with an id (``null`` or 32 hex digits), or ``None``."""
        newest = self.newest(gid, bucket, key)
        return None if newest is None else self._find(gid, newest, version_id)

    def _find(self, gid: int, newest: Version, version_id: str) -> Version | None:
        if newest.version_id == version_id:
            return newest
        seq = newest.null_seq if version_id == "null" else _seq_of(version_id)
        raw = self.rows.get(version_key(gid, newest.object_id, seq)) if seq and newest.older else None
        found = None if raw is None else self.decode(raw)
        return found if found is not None and found.version_id == version_id else None

    def parts(self, gid: int, version: Version) -> list[Part]:
        """Parts from the manifest rows of a version."""
        return self.parts_at(gid, version.object_id, version.seq)

    def parts_at(self, gid: int, object_id: int, seq: int) -> list[Part]:
        """Parts from manifest rows, in order."""
        return [part for _, raw in self._manifest(gid, object_id, seq) for part in self.decode_parts(raw)]

    def _manifest(self, gid: int, object_id: int, seq: int) -> Iterator[tuple[bytes, bytes]]:
        prefix = manifest_prefix(gid, object_id, seq)
        return walk(self.rows, prefix, successor(prefix))

    # put -----------------------------------------------------------------------------------------------------------

    def put_object(self, gid: int, index: int, command: PutObject) -> Outcome:
        """Commit a version."""
        shard = self.shards.writable(gid, command.bucket, command.revision)
        version = command.version
        for extent in version.extents:
            if extent.policy != INLINE and self.fences.is_fenced(gid, extent.data_id):
                raise Refused(Reason.FENCED)
        row = object_key(gid, command.bucket, command.key)
        raw = self.rows.get(row)
        old = None if raw is None else self.decode(raw)
        if command.condition is not None:
            check_write(command.condition, old)
        if shard.quota:
            shard.need_grant(version.size - self._replaced_bytes(gid, shard, old))
        return Outcome("", index, self.commit(gid, index, shard, row, old, version))

    def _replaced_bytes(self, gid: int, shard: ShardState, old: Version | None) -> int:
        """What a new newest version of a key takes the place of."""
        if old is None or shard.versioning == ENABLED:
            return 0
        null = old if old.flags & NULL else self._find(gid, old, "null")
        return 0 if null is None else null.size

    def commit(
        self, gid: int, index: int, shard: ShardState, row: bytes, old: Version | None, version: Version, place: int = 0
    ) -> Version:
        """Put ``version`` as the newest of its key, the ``place``-th of the entry; what it replaces is freed."""
        flags = version.flags | NULL if shard.versioning != ENABLED else version.flags & ~NULL
        modified = max(version.modified_ms, self.times.get(gid, 0))
        object_id, null_seq, older = index << _PLACE_BITS | place, 0, False
        if old is None:
            shard.keys += 1
        else:
            object_id = old.object_id
            modified = max(modified, old.modified_ms)
            null_seq, older = self._displace(gid, index, shard, old, replaces_null=bool(flags & NULL))
        self.times[gid] = modified
        if flags & MARKER:
            shard.markers += 1
        else:
            shard.versions += 1
            shard.stored_bytes += version.size
        kind = 0
        if version.checksum is not None and version.checksum_kind != UNASKED_KIND:
            kind = checksum_kind(version.checksum)
        new = Version(
            ROW_FORMAT, flags, index, modified, version.size, version.etag, version.part_count, object_id,
            version.owner, version.storage_class, kind, version.extents,
            version.headers, version.metadata, version.checksum, null_seq, b"" if flags & NULL else version.nonce, older, version.tags,
            version.acl,
        )
        self.rows.put(row, self.encode(new))
        return new

    def _displace(self, gid: int, index: int, shard: ShardState, old: Version, *, replaces_null: bool) -> tuple[int, bool]:
        """Make room for a new newest version; (null_seq, older) for it."""
        if replaces_null and old.flags & NULL:
            self.drop(gid, index, shard, old)
            return 0, old.older
        null_seq = old.seq if old.flags & NULL else old.null_seq
        if replaces_null and null_seq:
            self._drop_older(gid, index, shard, old.object_id, null_seq)
            null_seq = 0
        self.rows.put(version_key(gid, old.object_id, old.seq), self.encode(old))
        return null_seq, True

    def update_version(self, gid: int, index: int, command: UpdateVersion) -> Outcome:
        """Change what hangs on one version."""
        self.shards.writable(gid, command.bucket)
        row = object_key(gid, command.bucket, command.key)
        raw = self.rows.get(row)
        newest = None if raw is None else self.decode(raw)
        found = newest
        if command.version_id:
            found = None if newest is None else self._find(gid, newest, command.version_id)
        if newest is None or found is None:
            raise Refused(Reason.VERSION_ABSENT if command.version_id else Reason.KEY_ABSENT)
        if found.flags & MARKER:
            if command.version_id:
                raise Refused(Reason.METHOD_ON_MARKER)
            raise Refused(Reason.KEY_ABSENT)
        if command.tags is not None:
            found = msgspec.structs.replace(found, tags=command.tags)
        if command.acl is not None:
            found = msgspec.structs.replace(found, acl=command.acl)
        self.rows.put(row if found.seq == newest.seq else version_key(gid, newest.object_id, found.seq), self.encode(found))
        return Outcome("", index, found)

    # delete --------------------------------------------------------------------------------------------------------

    def delete_objects(self, gid: int, index: int, command: DeleteObjects) -> Outcome:
        """Each key by itself."""
        shard = self.shards.writable(gid, command.bucket, command.revision)
        results = []
        assert len(command.entries) <= 1 << _PLACE_BITS
        for place, entry in enumerate(command.entries):
            try:
                results.append(self._delete(gid, index, shard, command, entry, place))
            except Refused as refused:
                results.append((str(refused.reason), entry.version_id, False))
        return Outcome("", index, None, tuple(results))

    def _delete(
        self, gid: int, index: int, shard: ShardState, command: DeleteObjects, entry: DeleteEntry, place: int
    ) -> tuple[str, str, bool]:
        row = object_key(gid, command.bucket, entry.key)
        raw = self.rows.get(row)
        old = None if raw is None else self.decode(raw)
        if entry.version_id:
            found = None if old is None else self._find(gid, old, entry.version_id)
            if entry.condition is not None:
                check_write(entry.condition, found)
            if found is None or old is None:
                return "", entry.version_id, False
            self._delete_version(gid, index, shard, row, old, found)
            return "", entry.version_id, bool(found.flags & MARKER)
        if entry.condition is not None:
            check_write(entry.condition, old)
        if shard.versioning == NEVER:
            if old is not None:
                self.drop(gid, index, shard, old)
                self.rows.delete(row)
                shard.keys -= 1
            return "", "", False
        if old is not None and old.flags & MARKER and old.seq == index:  # the same key twice in one request
            return "", old.version_id, True
        marker = Version(
            ROW_FORMAT, MARKER, 0, command.now_ms, 0, b"", 0, 0, command.owner, nonce=command.nonce
        )
        return "", self.commit(gid, index, shard, row, old, marker, place).version_id, True

    def _delete_version(
        self, gid: int, index: int, shard: ShardState, row: bytes, newest: Version, found: Version
    ) -> None:
        prefix = version_prefix(gid, newest.object_id)
        if found.seq != newest.seq:
            self._drop_older(gid, index, shard, newest.object_id, found.seq)
            null_seq = 0 if found.seq == newest.null_seq else newest.null_seq
            older = bool(self.rows.scan(prefix, successor(prefix), 1))
            if null_seq != newest.null_seq or older != newest.older:
                self.rows.put(row, self.encode(msgspec.structs.replace(newest, null_seq=null_seq, older=older)))
            return
        self.drop(gid, index, shard, newest)
        below = self.rows.scan(prefix, successor(prefix), 2) if newest.older else []
        if not below:
            self.rows.delete(row)
            shard.keys -= 1
            return
        next_newest = self.decode(below[0][1])
        null_seq = 0 if next_newest.flags & NULL else newest.null_seq
        promoted = msgspec.structs.replace(next_newest, null_seq=null_seq, older=len(below) > 1)
        self.rows.delete(below[0][0])
        self.rows.put(row, self.encode(promoted))

    def _drop_older(self, gid: int, index: int, shard: ShardState, object_id: int, seq: int) -> None:
        key = version_key(gid, object_id, seq)
        raw = self.rows.get(key)
        assert raw is not None, "a null_seq or found version has its row"
        self.drop(gid, index, shard, self.decode(raw))
        self.rows.delete(key)

    def drop(self, gid: int, index: int, shard: ShardState, version: Version) -> None:
        """Free what a version holds and take it off the counters; its row is the caller's."""
        if version.flags & MARKER:
            shard.markers -= 1
            return
        shard.versions -= 1
        shard.stored_bytes -= version.size
        if version.flags & MANIFEST_ROWS:
            for key, raw in self._manifest(gid, version.object_id, version.seq):
                for part in self.decode_parts(raw):
                    self.free(gid, index, part.extents)
                self.rows.delete(key)
        else:
            self.free(gid, index, version.extents)

    def free(self, gid: int, index: int, extents: tuple[Extent, ...]) -> None:
        """Small bodies die here; extents go to the GC queue."""
        for extent in extents:
            if extent.policy == INLINE:
                self.bodies.free(extent.data_id)
            else:
                self.rows.put(gc_key(gid, index, extent.data_id), self.encode(extent))
                self.gc_groups.add(gid)


def _seq_of(text: str) -> int:
    """Seq in a version id from a client, 0 if it is none; ``int`` alone would take signs, spaces and underscores."""
    return int(text[:16], 16) if len(text) == 32 and all(digit in "0123456789abcdef" for digit in text) else 0


def check_write(condition: Condition, old: Version | None) -> None:
    """A write's condition against the newest version; a delete marker counts as missing. Raises Refused."""
    live = None if old is None or old.flags & MARKER else old
    unwanted = condition.if_none_match
    if unwanted and live is not None and ("*" in unwanted or live.etag_text in unwanted):
        raise Refused(Reason.PRECONDITION)
    if condition.if_match:
        if live is None:
            raise Refused(Reason.KEY_ABSENT)
        if "*" not in condition.if_match and live.etag_text not in condition.if_match:
            raise Refused(Reason.PRECONDITION)
    if condition.size >= 0 and (live is None or live.size != condition.size):
        raise Refused(Reason.PRECONDITION)
    if condition.modified_ms >= 0 and (live is None or live.modified_ms // 1000 != condition.modified_ms // 1000):
        raise Refused(Reason.PRECONDITION)
