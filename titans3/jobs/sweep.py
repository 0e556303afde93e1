"""The sweep: finds extents that no version, part or queue row names, left by a process that died between writing a body and committing it.

Invariants
* Only extents of earlier lives of their volume are looked at: what this life writes is committed or abandoned by it.
* Whether an extent is in use is decided by its group, at apply, together with a fence: from then on a commit that would name it is
  refused. No clock and no age is trusted (``SweepFence``).
* How far a volume is swept is a record of the control plane (``/sweep/<volume uuid>``: the owner epoch); a life is swept once.

Cost: one read of each extent's header in the segments of the lives that are not swept yet, and one look-up of its key; a fence is
proposed only for what the look-up does not find.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from titans3.cluster.control.interface import Conflict, ControlPlane
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.engine.extent import ExtentIdent
from titans3.errors import ClientError, DiskError, PeerError
from titans3.model.command import DataRef, SweepFence
from titans3.model.version import MANIFEST_ROWS

START_SECONDS = 120.0  # after the start: clients come first
RETRY_SECONDS = 60.0
CANDIDATES_PER_FENCE = 200
LOOKUPS_PER_PAUSE = 100
PAUSE_SECONDS = 0.02
_logger = logging.getLogger("titans3.jobs")


class SweepStatistics(msgspec.Struct, frozen=True):
    """Counters since the start."""

    looked_at: int
    fenced: int
    freed: int


class Sweep:
    """Sweeps the volumes of one worker, once a life."""

    def __init__(self, owner: Owner, dispatcher: Dispatcher, control: ControlPlane, *, start_seconds: float = START_SECONDS) -> None:
        self._owner, self._dispatcher, self._control = owner, dispatcher, control
        self._start_seconds = start_seconds
        self._looked_at = self._fenced = self._freed = 0

    async def run(self) -> None:
        """Sweep every volume once, then end."""
        await asyncio.sleep(self._start_seconds)
        todo = set(self._owner.sets)
        while todo:
            for volume in sorted(todo):
                groups = self._owner.sets.get(volume)
                if groups is None:
                    todo.discard(volume)
                    continue
                try:
                    await self.sweep(groups)
                    todo.discard(volume)
                except (ClientError, PeerError, DiskError, Conflict) as error:
                    _logger.info("the sweep of volume %d tries again later: %s", volume, error)
            if todo:
                await asyncio.sleep(RETRY_SECONDS)

    async def sweep(self, groups: GroupSet) -> int:
        """Sweep a volume's earlier lives; how many extents were freed. Raises what look-ups and proposals raise."""
        volume = groups.volume
        path = f"/sweep/{volume.identity.uuid}"
        record = await self._control.get(path)
        swept = 0 if record is None else int(record.value)
        last = volume.epoch - 1
        if swept >= last:
            return 0
        before = self._freed
        for number in volume.sealed_data():
            idents = [ident for ident in await volume.extents_of(number) if swept < _epoch(ident) <= last]
            await self._sweep_some(groups, idents)
        await self._control.cas([(path, b"%d" % last)], {path: 0 if record is None else record.rev})
        if self._freed > before:
            _logger.info("volume %s: %d extents that nothing named were freed", volume.path, self._freed - before)
        return self._freed - before

    async def _sweep_some(self, groups: GroupSet, idents: Sequence[ExtentIdent]) -> None:
        suspects: dict[tuple[int, bytes], list[ExtentIdent]] = {}
        for number, ident in enumerate(idents, 1):
            self._looked_at += 1
            if not await self._is_found(ident):
                suspects.setdefault((ident.gid, ident.data_id[8:16]), []).append(ident)
            if number % LOOKUPS_PER_PAUSE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
        for (gid, writer), some in suspects.items():
            for first in range(0, len(some), CANDIDATES_PER_FENCE):
                await self._fence(groups, gid, writer, some[first : first + CANDIDATES_PER_FENCE])

    async def _is_found(self, ident: ExtentIdent) -> bool:
        """Whether the newest version of the key, or the part of the upload, names the extent."""
        found = await self._dispatcher.find(ident.gid, ident.bucket, ident.key, "", False)
        if found is not None:
            version = found[0]
            extents = version.extents
            if version.flags & MANIFEST_ROWS:
                extents = tuple(extent for part in await self._dispatcher.parts_of(ident.gid, version) for extent in part.extents)
            if any(extent.data_id == ident.data_id for extent in extents):
                return True
        if not ident.upload_id:
            return False
        parts = await self._dispatcher.parts(ident.gid, ident.bucket, ident.key, ident.upload_id, ident.part - 1, 1)
        return any(extent.data_id == ident.data_id for part in parts for extent in part.extents)

    async def _fence(self, groups: GroupSet, gid: int, writer: bytes, some: Sequence[ExtentIdent]) -> None:
        watermark = max(int.from_bytes(ident.data_id[:8], "big") for ident in some)
        refs = tuple(DataRef(ident.data_id, ident.bucket, ident.key, ident.upload_id, ident.part) for ident in some)
        outcome = await self._dispatcher.propose(gid, SweepFence(int.from_bytes(writer, "big"), watermark, refs))
        self._fenced += len(some)
        used = {outcome.data[at : at + 16] for at in range(0, len(outcome.data), 16)}
        for ident in some:
            if ident.data_id not in used:
                groups.volume.free(ident.data_id)
                self._freed += 1

    def statistics(self) -> SweepStatistics:
        """Counters."""
        return SweepStatistics(self._looked_at, self._fenced, self._freed)


def _epoch(ident: ExtentIdent) -> int:
    return int.from_bytes(ident.data_id[12:16], "big")
