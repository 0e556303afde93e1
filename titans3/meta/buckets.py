"""Shards of buckets in the groups of a volume: seal, counters, minimum revisions.

Invariants
* No object command passes without the shard's row: a missing one is SHARD_ABSENT, and so is one below the revision that the command
  names; a sealed one is BUCKET_BUSY.
* ``EnsureShard.revision`` is the control plane's revision at which its proposer read the bucket. Purging raises the group's
  minimum above the deletion, so a proposer with an older read cannot bring a deleted bucket back.
* Counters are exact: they change with the rows they count, in one apply.
* With a quota a shard's bytes grow to its grant and no further (I14); how grants are divided is ``cluster/quota``. A change of the
  quota takes the grant away. A grant of a round that a later one fenced off, or that knew an older bucket than the shard, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from titans3.errors import Reason
from titans3.meta.keys import min_revision_key, shard_key
from titans3.meta.refusal import Refused
from titans3.model.command import EnsureShard, Outcome, QuotaFence, QuotaGrant, Seal, Unseal
from titans3.model.version import ROW_FORMAT, BucketUsage, Shard

if TYPE_CHECKING:
    from titans3.meta.machine import Rows


class ShardState(msgspec.Struct, array_like=True, gc=False):
    """``Shard`` while it is being counted; same fields, same bytes."""

    format: int
    revision: int
    versioning: int = 0
    seal: bytes = b""
    keys: int = 0
    versions: int = 0
    markers: int = 0
    stored_bytes: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    quota: int = 0
    grant: int = 0
    ballot: int = 0

    def usage(self) -> BucketUsage:
        """The counters."""
        return BucketUsage(self.keys, self.versions, self.markers, self.stored_bytes, self.uploads, self.upload_bytes)

    def need_grant(self, growth: int) -> None:
        """Raises Refused(QUOTA), its message the growth, if a bucket with a quota would hold more here than was granted."""
        if growth > 0 and self.stored_bytes + self.upload_bytes + growth > self.grant:
            raise Refused(Reason.QUOTA, str(growth))


class Shards:
    """Shards of one volume, cached; ``dirty`` ones are put before a freeze."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._cache: dict[tuple[int, int], ShardState] = {}
        self.dirty: set[tuple[int, int]] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ShardState).decode

    def find(self, gid: int, bucket: int) -> ShardState | None:
        """The shard, or ``None``."""
        state = self._cache.get((gid, bucket))
        if state is None:
            raw = self._rows.get(shard_key(gid, bucket))
            if raw is None:
                return None
            state = self._cache[gid, bucket] = self._decode(raw)
        return state

    def writable(self, gid: int, bucket: int, revision: int = 0) -> ShardState:
        """The shard of a bucket that takes writes and is not behind ``revision``, marked dirty. Raises Refused."""
        name = (gid, bucket)
        state = self._cache.get(name) or self.find(gid, bucket)
        if state is None or state.revision < revision:
            raise Refused(Reason.SHARD_ABSENT)
        if state.seal:
            raise Refused(Reason.BUCKET_BUSY)
        self.dirty.add(name)
        return state

    def snapshot(self, gid: int, bucket: int) -> Shard | None:
        """The counters as of now."""
        state = self.find(gid, bucket)
        return None if state is None else Shard(*msgspec.structs.astuple(state))

    def min_revision(self, gid: int) -> int:
        """Revisions below this belong to deleted buckets."""
        raw = self._rows.get(min_revision_key(gid))
        return 0 if raw is None else int.from_bytes(raw, "big")

    def raise_min_revision(self, gid: int, revision: int) -> None:
        """Raise the minimum."""
        if revision > self.min_revision(gid):
            self._rows.put(min_revision_key(gid), revision.to_bytes(8, "big"))

    def ensure(self, gid: int, index: int, command: EnsureShard) -> Outcome:
        """Make or update a shard."""
        state = self.find(gid, command.bucket)
        if state is None:
            if command.revision < self.min_revision(gid):
                raise Refused(Reason.SHARD_ABSENT, "the bucket was read before a deletion")
            state = ShardState(ROW_FORMAT, command.revision, command.versioning, quota=command.quota)
            self._cache[gid, command.bucket] = state
        elif command.revision > state.revision:
            state.revision, state.versioning = command.revision, command.versioning
            if state.quota != command.quota:
                state.quota, state.grant = command.quota, 0
        self.dirty.add((gid, command.bucket))
        return Outcome(index=index)

    def quota_fence(self, gid: int, index: int, command: QuotaFence) -> Outcome:
        """Take back what was granted and not used; answers the ballot in force and the bytes used, 8 bytes each."""
        state = self.writable(gid, command.bucket, command.revision)
        used = state.stored_bytes + state.upload_bytes
        if command.ballot >= state.ballot:
            state.ballot, state.grant = command.ballot, min(state.grant, used)
        return Outcome("", index, None, (), state.ballot.to_bytes(8, "big") + used.to_bytes(8, "big"))

    def quota_grant(self, gid: int, index: int, command: QuotaGrant) -> Outcome:
        """Let the shard grow. Refused with CONFLICT for a round that is no longer the last, or that knew an older bucket."""
        state = self.writable(gid, command.bucket)
        if command.ballot != state.ballot or command.revision < state.revision:
            raise Refused(Reason.CONFLICT)
        state.grant = command.grant
        return Outcome(index=index)

    def seal(self, gid: int, index: int, command: Seal) -> Outcome:
        """Refuse writes from now on, if the shard is empty."""
        state = self.find(gid, command.bucket)
        if state is None:
            state = self._cache[gid, command.bucket] = ShardState(ROW_FORMAT, 0)
        if state.seal and state.seal != command.op_id:
            raise Refused(Reason.BUCKET_BUSY)
        if state.keys or (command.uploads_count and state.uploads):
            raise Refused(Reason.BUCKET_NOT_EMPTY)
        state.seal = command.op_id
        self.dirty.add((gid, command.bucket))
        return Outcome(index=index)

    def unseal(self, gid: int, index: int, command: Unseal) -> Outcome:
        """Take writes again."""
        state = self.find(gid, command.bucket)
        if state is not None and state.seal == command.op_id:
            state.seal = b""
            self.dirty.add((gid, command.bucket))
        return Outcome(index=index)

    def remove(self, gid: int, bucket: int) -> None:
        """The shard's row goes (end of a purge)."""
        self._cache.pop((gid, bucket), None)
        self.dirty.discard((gid, bucket))
        self._rows.delete(shard_key(gid, bucket))

    def put_dirty(self) -> None:
        """Put changed rows."""
        for name in self.dirty:
            self._rows.put(shard_key(*name), self._encode(self._cache[name]))
        self.dirty.clear()
