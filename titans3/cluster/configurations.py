"""Configurations of buckets: records of the control plane beside the bucket's own.

Invariants
* A change expects the revision of the bucket's record: a configuration never outlives its bucket, because a deletion writes that
  record first and takes the configurations away in the same ``cas`` as the name.
* ``find_nowait`` is what requests are judged by: the worker's cache, which has a change before its answer. A value is decoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from titans3.cluster.control.interface import Conflict
from titans3.cluster.control.system import SystemControl
from titans3.errors import ClientError, Reason
from titans3.model.configuration import CONFIGURATION_PREFIX, Configuration, configuration_key
from titans3.model.control import DELETING, BucketRecord, Event, bucket_of

C = TypeVar("C", bound=Configuration)
_TRIES = 20
_encode = msgspec.msgpack.Encoder().encode


class Configurations:
    """Of one worker."""

    def __init__(self, control: SystemControl) -> None:
        self._control = control
        self._decoded: dict[str, Configuration] = {}
        self.on_change: list[Callable[[Event], None]] = []
        control.cache.on_change.append(self._forget)

    def _forget(self, event: Event) -> None:
        if event.key.startswith(CONFIGURATION_PREFIX):
            self._decoded.pop(event.key, None)
            for callback in self.on_change:
                callback(event)

    def find_nowait(self, bucket: BucketRecord, kind: type[C]) -> C | None:
        """From this worker's cache; ``None`` if it is not configured."""
        key = configuration_key(bucket.bucket, kind.KIND)
        rec = self._control.cache.records.get(key)
        if rec is None:
            return None
        found = self._decoded.get(key)
        if found is None:
            found = self._decoded[key] = msgspec.msgpack.decode(rec.value, type=kind)
        return cast(C, found)

    async def find(self, bucket: BucketRecord, kind: type[C]) -> C | None:
        """Linearizable."""
        rec = await self._control.get(configuration_key(bucket.bucket, kind.KIND))
        return None if rec is None else msgspec.msgpack.decode(rec.value, type=kind)

    async def set(self, bucket: BucketRecord, value: Configuration) -> None:
        """Replace what is configured. Raises BUCKET_ABSENT, BUCKET_BUSY."""
        await self._change(bucket, value.KIND, _encode(value))

    async def remove(self, bucket: BucketRecord, kind: type[Configuration]) -> None:
        """Take it away, if it is there. Raises BUCKET_ABSENT, BUCKET_BUSY."""
        await self._change(bucket, kind.KIND, None)

    async def _change(self, bucket: BucketRecord, kind: str, value: bytes | None) -> None:
        name, path = configuration_key(bucket.bucket, kind), f"/buckets/{bucket.name}"
        for _ in range(_TRIES):
            rec = await self._control.get(path)
            record = None if rec is None else bucket_of(rec)
            if rec is None or record is None or record.bucket != bucket.bucket:
                raise ClientError(Reason.BUCKET_ABSENT, bucket=bucket.name)
            if record.state == DELETING:
                raise ClientError(Reason.BUCKET_BUSY, bucket=bucket.name)
            if value is None and await self._control.get(name) is None:
                return
            try:
                await self._control.cas([(name, value)], {path: rec.rev})
            except Conflict:
                continue
            return
        raise ClientError(Reason.BUCKET_BUSY, bucket=bucket.name)
