"""Buckets: names in the control plane, shards in the groups; both change in an order that no crash can make wrong.

Invariants
* Bucket ids are never reused. A name is won by one ``cas``.
* CreateBucket answers after every shard is there; a crash in between is finished by the first write that finds a shard missing.
* DeleteBucket seals every shard, and only when all are empty and sealed does the name go. A write is in a shard's log before the
  seal (the delete then fails) or after it (the write is then refused): no cache is trusted. What is left is purged later.
* Every step carries the op id and can be repeated by anybody: the sweeper finishes or undoes what a crash left.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

import msgspec

from titans3.cluster.control.interface import Conflict
from titans3.cluster.control.system import SystemControl
from titans3.cluster.dispatch import Dispatcher
from titans3.errors import ClientError, PeerError, Reason
from titans3.limits import BUCKET_SHARDS
from titans3.model.command import EnsureShard, Outcome, Purge, Seal, Unseal
from titans3.model.control import ACTIVE, DELETING, BucketRecord, Rec
from titans3.ring.placement import bucket_groups

HALF_DONE_MS = 30_000
SWEEP_SECONDS = 5.0
PURGE_ROWS = 1000
_logger = logging.getLogger("titans3.buckets")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(BucketRecord).decode


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
            record = _decode(rec.value)
        return record

    async def _read(self, name: str) -> Rec | None:
        try:
            return await self._control.get(f"/buckets/{name}")
        except PeerError as error:
            raise ClientError(Reason.SLOW_DOWN, str(error)) from error

    async def by_id(self, bucket: int) -> tuple[BucketRecord, int] | None:
        """The live bucket of an id and the revision at which it was read; linearizable."""
        records, revision = await self._control.list(f"/ids/{bucket:020d}")
        if not records:
            return None
        rec = await self._control.get(f"/buckets/{records[0].value.decode()}")
        record = None if rec is None else _decode(rec.value)
        return None if record is None or record.bucket != bucket else (record, revision)

    async def all(self) -> list[BucketRecord]:
        """Every bucket, by name; linearizable."""
        records, _ = await self._control.list("/buckets/")
        return [_decode(rec.value) for rec in records]

    # create --------------------------------------------------------------------------------------------------------

    async def create(self, name: str, owner: str, region: str) -> tuple[BucketRecord, bool]:
        """(record, whether it is new). Raises BUCKET_EXISTS, BUCKET_BUSY."""
        for _ in range(100):
            known = await self._read(name)
            if known is not None:
                return self._existing(_decode(known.value), owner), False
            counter = await self._control.get("/ids/bucket")
            bucket = 1 if counter is None else int(counter.value)
            record = BucketRecord(1, bucket, name, owner, region, self._now_ms(), BUCKET_SHARDS)
            ops = [
                (f"/buckets/{name}", _encode(record)), ("/ids/bucket", b"%d" % (bucket + 1)),
                (f"/ids/{bucket:020d}", name.encode()),
            ]
            try:
                revision = await self._control.cas(
                    ops, {f"/buckets/{name}": 0, "/ids/bucket": 0 if counter is None else counter.rev}
                )
            except Conflict:
                continue
            await self._all_shards(record, lambda gid: EnsureShard(bucket, revision, record.versioning))
            return record, True
        raise ClientError(Reason.CONFLICT, "too many buckets are being made at once")

    @staticmethod
    def _existing(record: BucketRecord, owner: str) -> BucketRecord:
        if record.state == DELETING:
            raise ClientError(Reason.BUCKET_BUSY, bucket=record.name)
        if record.owner != owner:
            raise ClientError(Reason.BUCKET_EXISTS, bucket=record.name)
        return record

    async def _all_shards(self, record: BucketRecord, make: Callable[[int], EnsureShard | Seal | Unseal]) -> list[Outcome]:
        groups = bucket_groups(record.bucket, record.shards)
        return await asyncio.gather(*(self._dispatcher.propose(gid, make(gid)) for gid in groups))

    # delete --------------------------------------------------------------------------------------------------------

    async def delete(self, name: str) -> None:
        """Delete an empty bucket. Raises BUCKET_ABSENT, BUCKET_NOT_EMPTY, BUCKET_BUSY."""
        for _ in range(20):
            rec = await self._read(name)
            if rec is None:
                raise ClientError(Reason.BUCKET_ABSENT, bucket=name)
            record = _decode(rec.value)
            if record.state == DELETING:
                raise ClientError(Reason.BUCKET_BUSY, bucket=name)
            marked = msgspec.structs.replace(record, state=DELETING, op_id=os.urandom(16), revision=self._now_ms())
            try:
                revision = await self._control.cas([(f"/buckets/{name}", _encode(marked))], {f"/buckets/{name}": rec.rev})
            except Conflict:
                continue
            await self._finish(marked, revision)
            return
        raise ClientError(Reason.BUCKET_BUSY, bucket=name)

    async def _finish(self, record: BucketRecord, revision: int) -> None:
        """From DELETING to gone, or back to ACTIVE. Raises BUCKET_NOT_EMPTY, BUCKET_BUSY."""
        outcomes = await self._all_shards(record, lambda gid: Seal(record.bucket, record.op_id))
        reasons = {outcome.reason for outcome in outcomes} - {""}
        path = f"/buckets/{record.name}"
        if reasons:
            await self._all_shards(record, lambda gid: Unseal(record.bucket, record.op_id))
            back = msgspec.structs.replace(record, state=ACTIVE, op_id=b"")
            await self._control.cas([(path, _encode(back))], {path: revision})
            reason = Reason.BUCKET_NOT_EMPTY if Reason.BUCKET_NOT_EMPTY in reasons else Reason.BUCKET_BUSY
            raise ClientError(reason, bucket=record.name)
        purge = PurgeRecord(1, record.bucket, record.shards, record.op_id, revision + 1)
        await self._control.cas(
            [(path, None), (f"/ids/{record.bucket:020d}", None), (f"/purge/{record.bucket:020d}", _encode(purge))],
            {path: revision},
        )

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
            except (ClientError, PeerError, Conflict) as error:
                _logger.info("bucket sweep will be tried again: %s", error)

    async def sweep(self) -> None:
        """Finish deletions that were left half done, purge what deleted buckets left."""
        for rec in [rec for key, rec in self._cache.records.items() if key.startswith("/buckets/")]:
            record = _decode(rec.value)
            if record.state == DELETING and self._now_ms() - record.revision > HALF_DONE_MS:
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
            command = Purge(purge.bucket, purge.op_id, purge.revision, PURGE_ROWS)
            while (await self._dispatcher.propose(gid, command)).data == b"more":
                pass
        await self._control.cas([(key, None)], {key: rec.rev})
