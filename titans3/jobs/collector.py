"""The collector: gives back the extents of what was overwritten, deleted or aborted.

Invariants
* A row leaves the GC queue only after the checkpoint that holds the free of its extent is committed on the extent's volume; a crash
  anywhere before repeats the free, which changes nothing the second time.
* A group without queue rows costs nothing: apply notes the groups that get one, and one bounded scan at the start finds what was left.
* An answer that is being read keeps its segment open; bytes that are freed are never written over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.errors import ClientError, DiskError, PeerError
from titans3.meta.keys import gc_prefix, successor
from titans3.model.command import GcDone
from titans3.model.version import Extent
from titans3.observe.failpoint import hit

TICK_SECONDS = 1.0
ROWS_PER_ROUND = 2000
GROUPS_PER_TURN = 64  # groups looked at in one turn of the loop at the start
FREE_SECONDS_MAX = 60.0
_logger = logging.getLogger("titans3.jobs")
_extent = msgspec.msgpack.Decoder(Extent).decode


class CollectorStatistics(msgspec.Struct, frozen=True):
    """Counters since the start."""

    rounds: int
    freed: int
    failures: int


class Collector:
    """Rounds over the volumes of one worker."""

    def __init__(self, owner: Owner, dispatcher: Dispatcher, group_volume: Callable[[int], int], groups: int) -> None:
        """``group_volume`` and ``groups``: which groups there are and where they lie."""
        self._owner, self._dispatcher = owner, dispatcher
        self._group_volume, self._groups = group_volume, groups
        self._primed: set[int] = set()
        self._rounds = self._freed = self._failures = 0

    async def run(self) -> None:
        """Until cancelled."""
        more = False
        while True:
            await asyncio.sleep(0.0 if more else TICK_SECONDS)
            more = False
            try:
                more = await self.round()
            except (ClientError, PeerError, DiskError, TimeoutError) as error:
                self._failures += 1
                _logger.debug("the collector tries again later: %s", error)

    async def round(self) -> bool:
        """Free one batch of every volume; whether there may be more at once. Raises what a free or proposal raises."""
        more = False
        for volume, groups in list(self._owner.sets.items()):
            if groups.failure is not None:
                continue
            if volume not in self._primed:
                await self._prime(volume, groups)
            more = await self._collect(groups) or more
        return more

    async def _prime(self, volume: int, groups: GroupSet) -> None:
        """Find what an earlier life left in the queue."""
        for number, gid in enumerate(gid for gid in range(self._groups) if self._group_volume(gid) == volume):
            start = gc_prefix(gid)
            if groups.view.scan(start, successor(start), 1):
                groups.machine.objects.gc_groups.add(gid)
            if number % GROUPS_PER_TURN == GROUPS_PER_TURN - 1:
                await asyncio.sleep(0)
        self._primed.add(volume)

    async def _collect(self, groups: GroupSet) -> bool:
        waiting = groups.machine.objects.gc_groups
        rows: dict[int, list[tuple[int, bytes]]] = {}
        by_volume: dict[int, list[bytes]] = {}
        count = 0
        for gid in list(waiting):
            start = gc_prefix(gid)
            found = groups.view.scan(start, successor(start), ROWS_PER_ROUND - count)
            if not found:
                waiting.discard(gid)
                continue
            for key, value in found:
                extent = _extent(value)
                by_volume.setdefault(extent.placement - 1, []).append(extent.data_id)
                rows.setdefault(gid, []).append((int.from_bytes(key[5:13], "big"), key[13:29]))
            count += len(found)
            if count >= ROWS_PER_ROUND:
                break
        if not rows:
            return False
        self._rounds += 1
        frees = [self._dispatcher.free(volume, data_ids) for volume, data_ids in by_volume.items()]
        async with asyncio.timeout(FREE_SECONDS_MAX):
            await asyncio.gather(*frees)
        hit("collect")
        for gid, gone in rows.items():
            await self._owner.propose(gid, GcDone(tuple(gone)))
        self._freed += count
        return count >= ROWS_PER_ROUND

    def statistics(self) -> CollectorStatistics:
        """Counters."""
        return CollectorStatistics(self._rounds, self._freed, self._failures)
