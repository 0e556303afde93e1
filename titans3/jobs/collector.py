"""The collector: gives back the extents of what was overwritten, deleted or aborted.

Invariants
* A row leaves the GC queue only after the checkpoint that holds the free of its extent is committed on the extent's volume; a crash
  anywhere before repeats the free, which changes nothing the second time.
* A group without queue rows costs nothing: apply notes the groups that get one, and one bounded scan at the start finds what was left.
* A row is freed ``grace_seconds`` after it was first seen here, so that whoever just looked the body up still finds its extents. An answer
  that is being read keeps its segments open; bytes that are freed are never written over.
* Rows of a volume that cannot free, and groups that take no write, are passed over and tried again later; they hold up no others.
* No turn of the loop looks at more than ROWS_PER_TURN rows, no entry removes more than that, and no flush more than ROWS_AT_ONCE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

import msgspec

from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.errors import ClientError, DiskError, PeerError
from titans3.meta.keys import gc_key, gc_prefix, successor
from titans3.model.command import GcDone
from titans3.model.version import Extent
from titans3.observe.failpoint import hit

TICK_SECONDS = 1.0
GRACE_SECONDS = 5.0  # from the look-up of a body to its extents being held open
AGAIN_SECONDS = 30.0  # before rows that could not be freed are looked at again
FREE_SECONDS_MAX = 60.0
ROWS_PER_ROUND = 8000  # a round waits for one checkpoint, so this bounds the rate: some thousand rows a second
ROWS_PER_TURN = 250
PROPOSALS_AT_ONCE = 32  # they share a flush, and are applied in one turn:
ROWS_AT_ONCE = 1000
GROUPS_PER_TURN = 16  # groups looked at in one turn of the loop at the start; each may be a page that is not in memory
_Rows = tuple[int, list[tuple[int, bytes]]]  # gid; seq and data id of each
_FAILURES = (ClientError, PeerError, DiskError, TimeoutError)
_logger = logging.getLogger("titans3.jobs")
_extent = msgspec.msgpack.Decoder(Extent).decode


class CollectorStatistics(msgspec.Struct, frozen=True):
    """Counters since the start. ``freed`` extents, ``bytes`` of bodies in them; ``groups``: how many have rows in their queue now."""

    rounds: int
    freed: int
    failures: int
    bytes: int = 0
    groups: int = 0


class _Pass(msgspec.Struct):
    """A walk over the queue of a group: rows up to log index ``last``, from time ``start`` of the loop on; ``at``: how far it is."""

    last: int
    start: float
    at: bytes
    left: bool = False  # rows behind ``at`` could not be freed


class _Batch(msgspec.Struct):
    """Rows to free in a round, by group and volume of the extent: (seq, data id)."""

    rows: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
    count: int = 0
    lengths: dict[int, int] = {}

    def add(self, gid: int, key: bytes, extent: Extent) -> None:
        volume = extent.placement - 1
        self.rows.setdefault((gid, volume), []).append((int.from_bytes(key[5:13], "big"), key[13:29]))
        self.lengths[volume] = self.lengths.get(volume, 0) + extent.length
        self.count += 1

    def data_ids(self) -> dict[int, list[bytes]]:
        """What to free on each volume."""
        found: dict[int, list[bytes]] = {}
        for (_, volume), rows in self.rows.items():
            found.setdefault(volume, []).extend([data_id for _, data_id in rows])
        return found


class Collector:
    """Rounds over the volumes of one worker."""

    def __init__(
        self,
        owner: Owner,
        dispatcher: Dispatcher,
        group_volume: Callable[[int], int],
        groups: int,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """``group_volume`` and ``groups``: which groups there are and where they lie."""
        self._owner, self._dispatcher = owner, dispatcher
        self._group_volume, self._groups = group_volume, groups
        self._grace = grace_seconds
        self._primed: WeakSet[GroupSet] = WeakSet()
        self._passes: dict[int, _Pass] = {}
        self._rounds = self._freed = self._failures = self._bytes = 0

    async def run(self) -> None:
        """Until cancelled."""
        more = False
        while True:
            await asyncio.sleep(0.0 if more else TICK_SECONDS)
            more = False
            try:
                more = await self.round()
            except _FAILURES as error:
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        _logger.debug("the collector tries again later: %s", error)

    async def round(self) -> bool:
        """Free one batch of every volume; whether there may be more at once."""
        more = False
        for groups in list(self._owner.sets.values()):
            if groups.failure is not None:
                continue
            if groups not in self._primed:
                await self._prime(groups)
            more = await self._collect(groups) or more
        return more

    async def _prime(self, groups: GroupSet) -> None:
        """Find what an earlier life left in the queue."""
        volume = groups.volume.identity.index
        for number, gid in enumerate(gid for gid in range(self._groups) if self._group_volume(gid) == volume):
            try:
                has_rows = _has_rows(groups, gid)
            except DiskError:
                has_rows = True  # a damaged row: met again, and told, when its turn comes
            if has_rows:
                groups.machine.objects.gc_groups.add(gid)
            if number % GROUPS_PER_TURN == GROUPS_PER_TURN - 1:
                await asyncio.sleep(0)
        self._primed.add(groups)

    async def _collect(self, groups: GroupSet) -> bool:
        batch = await self._gather(groups)
        if not batch.count:
            return False
        self._rounds += 1
        by_volume = batch.data_ids()
        ends = await asyncio.gather(*(self._free(*item) for item in by_volume.items()))
        hit("collect")
        freed = {volume for volume, is_freed in zip(by_volume, ends, strict=True) if is_freed}
        done: list[_Rows] = []
        for (gid, volume), rows in batch.rows.items():
            if volume in freed:
                done += [(gid, rows[first : first + ROWS_PER_TURN]) for first in range(0, len(rows), ROWS_PER_TURN)]
            else:
                self._leave(gid)
        for some in _slices(done):
            await asyncio.gather(*(self._forget(gid, rows) for gid, rows in some))
        self._bytes += sum(size for volume, size in batch.lengths.items() if volume in freed)
        return batch.count >= ROWS_PER_ROUND and bool(freed)

    async def _gather(self, groups: GroupSet) -> _Batch:
        """Rows whose time has come."""
        batch = _Batch()
        now = asyncio.get_running_loop().time()
        for gid in list(groups.machine.objects.gc_groups):
            walk = self._passes.get(gid)
            if walk is None:
                walk = self._begin(groups, gid, now + self._grace)
            if now < walk.start or groups.damage_of(gid):
                continue
            try:
                await self._walk(groups, gid, walk, batch)
            except DiskError as error:
                self._failed(error)
                self._begin(groups, gid, now + AGAIN_SECONDS)
            await asyncio.sleep(0)
            if batch.count >= ROWS_PER_ROUND:
                break
        return batch

    async def _walk(self, groups: GroupSet, gid: int, walk: _Pass, batch: _Batch) -> None:
        had_rows = False
        while batch.count < ROWS_PER_ROUND:
            want = min(ROWS_PER_TURN, ROWS_PER_ROUND - batch.count)
            found = groups.view.scan(walk.at, gc_key(gid, walk.last + 1, b""), want)
            had_rows = had_rows or bool(found)
            for key, value in found:
                batch.add(gid, key, _extent(value))
            if len(found) < want:
                self._end(groups, gid, walk, had_rows=had_rows)
                return
            walk.at = found[-1][0] + b"\0"
            await asyncio.sleep(0)

    def _begin(self, groups: GroupSet, gid: int, start: float) -> _Pass:
        walk = self._passes[gid] = _Pass(groups.applied(gid), start, gc_prefix(gid))
        return walk

    def _end(self, groups: GroupSet, gid: int, walk: _Pass, *, had_rows: bool) -> None:
        """The end of a pass: what it found may still be there, what came meanwhile waits for its own grace."""
        now = asyncio.get_running_loop().time()
        if walk.left:
            self._begin(groups, gid, now + AGAIN_SECONDS)
        elif had_rows or _has_rows(groups, gid):
            self._begin(groups, gid, now + self._grace)
        else:
            del self._passes[gid]
            groups.machine.objects.gc_groups.discard(gid)

    def _leave(self, gid: int) -> None:
        """Rows of the group stay in its queue for now."""
        walk = self._passes.get(gid)
        if walk is None:
            return
        walk.left = True
        if walk.at == gc_prefix(gid):  # its pass has ended
            walk.start = max(walk.start, asyncio.get_running_loop().time() + AGAIN_SECONDS)
            walk.left = False

    async def _free(self, volume: int, data_ids: Iterable[bytes]) -> bool:
        """Whether the bodies are gone from their volume, durably."""
        try:
            async with asyncio.timeout(FREE_SECONDS_MAX):
                await self._dispatcher.free(volume, tuple(data_ids))
        except _FAILURES as error:
            self._failed(error)
            return False
        return True

    async def _forget(self, gid: int, rows: list[tuple[int, bytes]]) -> None:
        try:
            await self._owner.propose(gid, GcDone(tuple(rows)))
        except _FAILURES as error:
            self._failed(error)
            self._leave(gid)
        else:
            self._freed += len(rows)

    def statistics(self) -> CollectorStatistics:
        """Counters."""
        groups = sum(len(groups.machine.objects.gc_groups) for groups in self._owner.sets.values())
        return CollectorStatistics(self._rounds, self._freed, self._failures, self._bytes, groups)


def _slices(done: list[_Rows]) -> Iterator[list[_Rows]]:
    """At most PROPOSALS_AT_ONCE with ROWS_AT_ONCE rows each."""
    some: list[_Rows] = []
    count = 0
    for item in done:
        if some and (len(some) == PROPOSALS_AT_ONCE or count + len(item[1]) > ROWS_AT_ONCE):
            yield some
            some, count = [], 0
        some.append(item)
        count += len(item[1])
    if some:
        yield some


def _has_rows(groups: GroupSet, gid: int) -> bool:
    start = gc_prefix(gid)
    return bool(groups.view.scan(start, successor(start), ROWS_PER_TURN))  # not one: rows just removed are passed over in steps of this
