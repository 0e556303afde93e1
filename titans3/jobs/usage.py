"""What each bucket holds, by the counters of its shards: counted again and again, from the last checkpoint.

Invariants
* The counters are exact (``titans3.meta.buckets``); the sum is as old as ``counted`` says, and as the checkpoint was then.
* Rows are read by a thread, some groups at a time; the job rests RESTS times as long as it worked, so that it never takes more than a
  twentieth of a CPU, however many buckets there are.
* Nobody closes the environment while a thread reads it: a job that is cancelled waits for its thread.
* A worker counts the shards of its own volumes; whoever wants the whole adds them up.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec

from titans3.cluster.owner import Owner
from titans3.limits import GROUPS, METRICS_USAGE_BUCKETS_MAX
from titans3.meta.buckets import ShardState
from titans3.model.version import BucketUsage

ROUND_SECONDS = 10.0  # from one count to the next, at least
RESTS = 19
_GROUPS_AT_ONCE = 32
T = TypeVar("T")
_decode = msgspec.msgpack.Decoder(ShardState).decode


class Usage:
    """Counts the shards of a worker's volumes. ``run`` until cancelled."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.buckets: dict[int, BucketUsage] = {}
        self.counted = 0.0  # when the last count began, in time of the loop; 0: never

    async def run(self) -> None:
        """Count, rest, and again."""
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            worked = await self.count()
            await asyncio.sleep(max(ROUND_SECONDS - (loop.time() - begin), worked * RESTS))

    async def count(self) -> float:
        """Count once; the seconds of work. Raises DiskError for a damaged row."""
        loop = asyncio.get_running_loop()
        begin, worked = loop.time(), 0.0
        found: dict[int, BucketUsage] = {}
        for index in list(self._owner.sets):
            for first in range(0, GROUPS, _GROUPS_AT_ONCE):
                groups = self._owner.sets.get(index)
                if groups is None:
                    return worked  # the worker is closing
                start = loop.time()
                rows = await _whole(loop.run_in_executor(None, groups.environment.shard_rows, first, first + _GROUPS_AT_ONCE))
                for bucket, row in rows:
                    state = _decode(row)
                    usage = state.usage()
                    before = found.get(bucket)
                    found[bucket] = usage if before is None else before + usage
                took = loop.time() - start
                worked += took
                await asyncio.sleep(took)  # between two steps others have their turn
        self.buckets, self.counted = found, begin
        return worked

    @property
    def age_seconds(self) -> float:
        """Since the last count began, -1 if there was none."""
        return asyncio.get_running_loop().time() - self.counted if self.counted else -1.0

    def largest(self) -> dict[int, BucketUsage]:
        """The buckets with the most bytes here, METRICS_USAGE_BUCKETS_MAX at most: what fits a message."""
        if len(self.buckets) <= METRICS_USAGE_BUCKETS_MAX:
            return self.buckets
        first = sorted(self.buckets.items(), key=lambda item: -item[1].stored_bytes)[:METRICS_USAGE_BUCKETS_MAX]
        return dict(first)


async def _whole(work: asyncio.Future[T]) -> T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
