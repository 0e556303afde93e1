"""Buckets: names in the control plane, shards in the groups; both change in an order that no crash can make wrong.

Invariants
* Bucket ids are never reused. A name is won by one ``cas``.
* CreateBucket answers after every shard is there; a crash in between is finished by the first write that finds a shard missing.
* DeleteBucket seals every shard, and only when all are empty and sealed does the name go. A write is in a shard's log before the
  seal (the delete then fails) or after it (the write is then refused): no cache is trusted. What is left is purged later.
* Every step carries the op id and can be repeated by anybody: the sweeper finishes or undoes what a crash left.
* EnsureShard carries a revision at which its bucket was there as it was read. Purging raises the minimum of a group to the revision
  that took the name away: whoever read the bucket before that cannot bring its shard back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

import msgspec

from titans3.cluster.control.interface import Conflict, Op
from titans3.cluster.control.system import SystemControl
from titans3.cluster.dispatch import Dispatcher
from titans3.errors import ClientError, Reason
from titans3.limits import BUCKET_SHARDS
from titans3.model.command import EnsureShard, Outcome, Purge, Seal, Unseal
from titans3.model.configuration import Configuration, configuration_key
from titans3.model.control import ACTIVE, DELETING, BucketRecord, Rec, bucket_of
from titans3.ring.placement import bucket_groups

HALF_DONE_SECONDS = 30.0
_READ_TRIES = 20
SWEEP_SECONDS = 5.0
PURGE_ROWS = 1000
_logger = logging.getLogger("titans3.buckets")
_encode = msgspec.msgpack.Encoder().encode


class PurgeRecord(msgspec.Struct, array_like=True, frozen=True):
    """A deleted bucket whose rows are still to go: ``/purge/<id>``."""

    format: int
    bucket: int
    shards: int
    op_id: bytes
    revision: int


_decode_purge = msgspec.msgpack.Decoder(PurgeRecord).decode


class Buckets:
    """Bucket operations of one worker."""

    def __init__(self, control: SystemControl, dispatcher: Dispatcher, now_ms: Callable[[], int]) -> None:
        self._control, self._dispatcher, self._now_ms = control, dispatcher, now_ms
        self._cache = control.cache
        self._sweeper: asyncio.Task[None] | None = None
        self._half_done: dict[bytes, float] = {}  # op ids of deletions under way, and when the sweeper first saw them

    # lookups -------------------------------------------------------------------------------------------------------

    def find_nowait(self, name: str) -> BucketRecord | None:
        """From this worker's cache."""
        return self._cache.buckets.get(name)

    async def find(self, name: str) -> BucketRecord:
        """The bucket; a miss is read again linearizably. Raises BUCKET_ABSENT."""
        record = self._cache.buckets.get(name)
        if record is None:
            rec = await self._read(name)
            if rec is None:
                raise ClientError(Reason.BUCKET_ABSENT, bucket=name)
            record = bucket_of(rec)
        return record

    async def _read(self, name: str) -> Rec | None:
        return await self._control.get(f"/buckets/{name}")

    async def refusal(self, record: BucketRecord, refused: ClientError) -> ClientError:
        """What to raise when an owner says that a bucket is gone: SLOW_DOWN if its name is there again and this worker's cache is late."""
        rec = await self._read(record.name)
        if rec is None or bucket_of(rec).bucket == record.bucket:
            return ClientError(Reason.BUCKET_ABSENT, bucket=record.name)
        return ClientError(Reason.SLOW_DOWN, f"bucket {record.name} was made anew: {refused}")

    async def by_id(self, bucket: int) -> tuple[BucketRecord, int] | None:
        """The live bucket of an id and a revision at which it was there as it is; linearizable."""
        for _ in range(_READ_TRIES):
            records, revision = await self._control.list(f"/ids/{bucket:020d}")
            if not records:
                return None
            rec = await self._control.get(f"/buckets/{records[0].value.decode()}")
            record = None if rec is None else bucket_of(rec)
            if rec is None or record is None or record.bucket != bucket:
                return None
            if rec.rev <= revision:
                return record, revision
        raise ClientError(Reason.SLOW_DOWN, "the bucket changes faster than it can be read")

    async def all(self) -> list[BucketRecord]:
        """Every bucket, by name; linearizable."""
        records, _ = await self._control.list("/buckets/")
        return [bucket_of(rec) for rec in records]

    # create --------------------------------------------------------------------------------------------------------

    async def create(
        self, name: str, owner: str, region: str, configurations: Sequence[Configuration] = ()
    ) -> tuple[BucketRecord, bool]:
        """(record, whether it is new; then it has ``configurations``). Raises BUCKET_EXISTS, BUCKET_BUSY."""
        for _ in range(100):
            known = await self._read(name)
            if known is not None:
                return self._existing(bucket_of(known), owner), False
            counter = await self._control.get("/ids/bucket")
            bucket = 1 if counter is None else int(counter.value)
            record = BucketRecord(1, bucket, name, owner, region, self._now_ms(), BUCKET_SHARDS)
            ops = [
                (f"/buckets/{name}", _encode(record)), ("/ids/bucket", b"%d" % (bucket + 1)),
                (f"/ids/{bucket:020d}", name.encode()),
                *((configuration_key(bucket, value.KIND), _encode(value)) for value in configurations),
            ]
            try:
                revision = await self._control.cas(
                    ops, {f"/buckets/{name}": 0, "/ids/bucket": 0 if counter is None else counter.rev}
                )
            except Conflict:
                continue
            record = msgspec.structs.replace(record, revision=revision)
            await self._make_shards(record, revision)
            return record, True
        raise ClientError(Reason.CONFLICT, "too many buckets are being made at once")

    async def _make_shards(self, record: BucketRecord, revision: int) -> None:
        """Every shard of a new bucket. One that a purge of another bucket refused is made by a later revision."""
        for _ in range(_READ_TRIES):
            ensure = EnsureShard(record.bucket, revision, record.versioning, record.quota)
            outcomes = await self._all_shards(record, ensure)
            if not any(outcome.reason for outcome in outcomes):
                return
            found = await self.by_id(record.bucket)
            if found is None:
                return  # deleted meanwhile
            record, revision = found

    @staticmethod
    def _existing(record: BucketRecord, owner: str) -> BucketRecord:
        if record.state == DELETING:
            raise ClientError(Reason.BUCKET_BUSY, bucket=record.name)
        if record.owner != owner:
            raise ClientError(Reason.BUCKET_EXISTS, bucket=record.name)
        return record

    async def _all_shards(self, record: BucketRecord, command: EnsureShard | Seal | Unseal) -> list[Outcome]:
        """Outcomes in shard order, when all are there: nothing of this is under way after it. Raises the first error."""
        groups = bucket_groups(record.bucket, record.shards)
        found = await asyncio.gather(*(self._dispatcher.propose(gid, command) for gid in groups), return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in found if isinstance(outcome, Outcome)]

    # versioning, quota ---------------------------------------------------------------------------------------------

    async def set_versioning(self, name: str, versioning: int) -> None:
        """1 enabled, 2 suspended. Raises BUCKET_ABSENT, BUCKET_BUSY."""
        await self._change(name, versioning=versioning)

    async def set_quota(self, name: str, quota: int) -> None:
        """Bytes, 0 for none. Raises BUCKET_ABSENT, BUCKET_BUSY."""
        await self._change(name, quota=quota)

    async def _change(self, name: str, **fields: int) -> None:
        """Fields of the record that shards know, too.

        From the ``cas`` on every worker's writes name its revision, and a shard that is behind is brought up before it takes one; shards
        are brought up before the answer for the sake of workers that could not be told.
        """
        path = f"/buckets/{name}"
        for _ in range(20):
            rec = await self._read(name)
            if rec is None:
                raise ClientError(Reason.BUCKET_ABSENT, bucket=name)
            record, revision = bucket_of(rec), rec.rev
            if record.state == DELETING:
                raise ClientError(Reason.BUCKET_BUSY, bucket=name)
            changed = msgspec.structs.replace(record, **fields)
            if changed != record:
                record = changed
                try:
                    revision = await self._control.cas([(path, _encode(record))], {path: rec.rev})
                except Conflict:
                    continue
            await self._make_shards(record, revision)
            return
        raise ClientError(Reason.BUCKET_BUSY, bucket=name)

    # delete --------------------------------------------------------------------------------------------------------

    async def delete(self, name: str) -> None:
        """Delete an empty bucket. Raises BUCKET_ABSENT, BUCKET_NOT_EMPTY, BUCKET_BUSY."""
        for _ in range(20):
            rec = await self._read(name)
            if rec is None:
                raise ClientError(Reason.BUCKET_ABSENT, bucket=name)
            record = bucket_of(rec)
            if record.state == DELETING:
                raise ClientError(Reason.BUCKET_BUSY, bucket=name)
            marked = msgspec.structs.replace(record, state=DELETING, op_id=os.urandom(16))
            try:
                revision = await self._control.cas([(f"/buckets/{name}", _encode(marked))], {f"/buckets/{name}": rec.rev})
            except Conflict:
                continue
            await self._finish(marked, revision)
            return
        raise ClientError(Reason.BUCKET_BUSY, bucket=name)

    async def _finish(self, record: BucketRecord, revision: int) -> None:
        """From DELETING to gone, or back to ACTIVE. Raises BUCKET_NOT_EMPTY, BUCKET_BUSY."""
        try:
            outcomes = await self._all_shards(record, Seal(record.bucket, record.op_id))
        except ClientError:
            await self._undo_quietly(record, revision)
            raise
        reasons = {outcome.reason for outcome in outcomes} - {""}
        if reasons:
            await self._undo(record, revision)
            reason = Reason.BUCKET_NOT_EMPTY if Reason.BUCKET_NOT_EMPTY in reasons else Reason.BUCKET_BUSY
            raise ClientError(reason, bucket=record.name)
        purge = PurgeRecord(1, record.bucket, record.shards, record.op_id, revision + 1)
        path = f"/buckets/{record.name}"
        configured, _ = await self._control.list(configuration_key(record.bucket, ""))  # nothing comes to them any more
        ops: list[Op] = [(rec.key, None) for rec in configured]
        ops += [(path, None), (f"/ids/{record.bucket:020d}", None), (f"/purge/{record.bucket:020d}", _encode(purge))]
        await self._decide(ops, path, revision)

    async def _undo(self, record: BucketRecord, revision: int) -> None:
        """Back to ACTIVE. The seals go first: a bucket that is active takes writes."""
        await self._all_shards(record, Unseal(record.bucket, record.op_id))
        path = f"/buckets/{record.name}"
        await self._decide([(path, _encode(msgspec.structs.replace(record, state=ACTIVE, op_id=b"")))], path, revision)

    async def _undo_quietly(self, record: BucketRecord, revision: int) -> None:
        try:
            await self._undo(record, revision)
        except ClientError as error:
            _logger.info("the deletion of bucket %s is finished or undone later: %s", record.name, error)

    async def _decide(self, ops: list[Op], path: str, revision: int) -> None:
        """The last step of a deletion. Raises BUCKET_BUSY when somebody else took it."""
        try:
            await self._control.cas(ops, {path: revision})
        except Conflict as conflict:
            raise ClientError(Reason.BUCKET_BUSY, bucket=path.removeprefix("/buckets/")) from conflict

    # sweeper -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Sweep while this worker owns the system group."""
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def close(self) -> None:
        """Stop sweeping."""
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if self._control.local is None:
                continue
            try:
                await self.sweep()
            except (ClientError, Conflict) as error:
                _logger.info("bucket sweep will be tried again: %s", error)

    async def sweep(self) -> None:
        """Finish deletions that were left half done, purge what deleted buckets left."""
        now = asyncio.get_running_loop().time()
        deleting = [record for record in self._cache.buckets.values() if record.state == DELETING]
        self._half_done = {record.op_id: self._half_done.get(record.op_id, now) for record in deleting}
        for record in deleting:
            if now - self._half_done[record.op_id] < HALF_DONE_SECONDS:
                continue
            rec = await self._read(record.name)
            if rec is None or bucket_of(rec) != record:
                continue
            _logger.warning("finishing the deletion of bucket %s", record.name)
            try:
                await self._finish(record, rec.rev)
            except ClientError as error:
                _logger.warning("bucket %s stays: %s", record.name, error.reason)
        for key, rec in [item for item in self._cache.records.items() if item[0].startswith("/purge/")]:
            await self._purge(key, rec)

    async def _purge(self, key: str, rec: Rec) -> None:
        purge = _decode_purge(rec.value)
        for gid in bucket_groups(purge.bucket, purge.shards):
            command = Purge(purge.bucket, purge.op_id, max(purge.revision, rec.rev), PURGE_ROWS)  # rec.rev took the name away
            while (outcome := await self._dispatcher.propose(gid, command)).data == b"more":
                pass
            if outcome.reason:
                raise ClientError(Reason(outcome.reason), f"group {gid}: {outcome.message}")
        await self._control.cas([(key, None)], {key: rec.rev})
