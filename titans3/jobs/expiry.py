"""The expiry of results: what completed uploads left for a client's repeat goes when no client repeats any more.

Invariants
* A result stays for COMPLETED_MS at least. Which rows are too old is told from the last checkpoint by a thread, and decided again by their
  group at apply.
* A completion takes old results of its bucket with it; what is left here is of buckets whose uploads ended. A group without results
  costs one look into the tree a round.
* Groups that take no write, and rows that are damaged, are passed over until the next round; they hold up no others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.groups import GroupSet
from titans3.cluster.messages import EXPIRY_LEVEL
from titans3.cluster.owner import Owner
from titans3.errors import ClientError, DiskError, PeerError
from titans3.meta.uploads import COMPLETED_MS
from titans3.model.command import ExpireUploads
from titans3.model.version import Completed

START_SECONDS = 900.0  # after the start: clients come first
PERIOD_SECONDS = 6 * 3600.0
ROWS_PER_TURN = 250  # read by a thread at once, and removed by an entry at most
PAUSE_SECONDS = 0.02
_FAILURES = (ClientError, PeerError, DiskError)
_logger = logging.getLogger("titans3.jobs")
_completed = msgspec.msgpack.Decoder(Completed).decode


class ExpiryStatistics(msgspec.Struct, frozen=True):
    """Counters since the start. ``removed`` results; ``failures``: groups that were passed over."""

    rounds: int
    removed: int
    failures: int


class Expiry:
    """Rounds over the groups of one worker."""

    def __init__(self, owner: Owner, dispatcher: Dispatcher, group_volume: Callable[[int], int], groups: int) -> None:
        """``group_volume`` and ``groups``: which groups there are and where they lie."""
        self._owner, self._dispatcher = owner, dispatcher
        self._group_volume, self._groups = group_volume, groups
        self._rounds = self._removed = self._failures = 0
        self._next = 0.0  # round, in time of the loop

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        self._next = self._next or loop.time() + START_SECONDS  # it may have been cancelled and be run again
        while True:
            await asyncio.sleep(max(0.0, self._next - loop.time()))
            await self.round()
            self._next = loop.time() + PERIOD_SECONDS

    async def round(self) -> int:
        """Look at every group once; how many results went."""
        if self._dispatcher.feature_level < EXPIRY_LEVEL:
            return 0  # an older worker would not know the command
        removed = self._removed
        self._rounds += 1
        for gid in range(self._groups):
            groups = self._owner.sets.get(self._group_volume(gid))
            if groups is None or groups.failure is not None or groups.damage_of(gid):
                continue
            try:
                await self._expire(groups, gid)
            except _FAILURES as error:
                self._failures += 1
                _logger.debug("results of uploads in group %d stay until the next round: %s", gid, error)
            await asyncio.sleep(PAUSE_SECONDS)
        return self._removed - removed

    async def _expire(self, groups: GroupSet, gid: int) -> None:
        """Remove what is too old in a group, ROWS_PER_TURN at a time."""
        before = self._owner.now_ms() - COMPLETED_MS
        after = b""
        while True:
            reading = asyncio.get_running_loop().run_in_executor(None, groups.environment.completed_rows, gid, after, ROWS_PER_TURN)
            try:
                rows = await asyncio.shield(reading)
            except asyncio.CancelledError:
                await asyncio.wait([reading])  # nobody closes the environment while a thread reads it
                raise
            old: dict[int, list[bytes]] = {}
            for bucket, upload_id, row in rows:
                if _completed(row).completed_ms < before:
                    old.setdefault(bucket, []).append(upload_id)
            for bucket, upload_ids in old.items():
                await self._dispatcher.propose(gid, ExpireUploads(bucket, before, tuple(upload_ids)))
                self._removed += len(upload_ids)
            if len(rows) < ROWS_PER_TURN:
                return
            bucket, upload_id, _ = rows[-1]
            after = bucket.to_bytes(8, "big") + upload_id
            await asyncio.sleep(PAUSE_SECONDS)

    def statistics(self) -> ExpiryStatistics:
        """Counters."""
        return ExpiryStatistics(self._rounds, self._removed, self._failures)
