"""The sweep: finds extents that no version, part or queue row names: a process died between writing a body and committing it, or the
outcome of a commit was not known.

Invariants
* Whether an extent is in use is decided by its group, at apply, together with a fence: from then on a commit that would name it is
  refused (``SweepFence``). Neither age nor clock decides; an age only says when extents of this life of the volume are looked at.
* Extents of earlier lives are all looked at, once: how far a volume is swept is a record of the control plane (``/sweep/<volume
  uuid>``: the owner epoch), written after the checkpoint that holds the frees, so that a crash repeats them.
* Of this life, an extent is looked at when it is older than ``age_seconds`` and older than every large body that is still being written
  for its group: a fence never passes an open sink.
* What cannot be judged (its group or its row is damaged) stays, and holds up nothing else.

Cost: one read of each extent's header in segments with extents not looked at yet, and one look-up of its key; a fence is proposed
only for what the look-up does not find.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from titans3.cluster.control.interface import Conflict, ControlPlane
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.engine.extent import ExtentIdent
from titans3.errors import ClientError, DiskError, PeerError, Reason
from titans3.model.command import DataRef, SweepFence
from titans3.model.version import MANIFEST_ROWS

START_SECONDS = 120.0  # after the start: clients come first
PERIOD_SECONDS = 3600.0  # between rounds over what this life wrote
AGE_SECONDS = 86_400.0
RETRY_SECONDS = 60.0  # doubles with each failure, up to the period
AGAIN_SECONDS = 86_400.0  # before earlier lives are looked at again because some extents could not be judged
CANDIDATES_PER_FENCE = 200
LOOKUPS_PER_PAUSE = 100
PAUSE_SECONDS = 0.02
_logger = logging.getLogger("titans3.jobs")
Wanted = Callable[[ExtentIdent], bool]


class SweepStatistics(msgspec.Struct, frozen=True):
    """Counters since the start. ``unjudged``: extents whose group or row is damaged."""

    looked_at: int
    fenced: int
    freed: int
    unjudged: int = 0
    rounds: int = 0


class _Seen(msgspec.Struct):
    """What a sealed segment holds of this life: sequences of its oldest and newest extent; those below ``reached`` were looked at."""

    oldest: int
    newest: int
    reached: int = 0


class Sweep:
    """Sweeps the volumes of one worker: earlier lives once, this life in rounds."""

    def __init__(
        self,
        owner: Owner,
        dispatcher: Dispatcher,
        control: ControlPlane,
        *,
        start_seconds: float = START_SECONDS,
        period_seconds: float = PERIOD_SECONDS,
        age_seconds: float = AGE_SECONDS,
    ) -> None:
        self._owner, self._dispatcher, self._control = owner, dispatcher, control
        self._start_seconds, self._period_seconds = start_seconds, period_seconds
        self._age_ms = int(age_seconds * 1000)
        self._seen: dict[int, dict[int, _Seen]] = {}
        self._again: dict[int, float] = {}
        self._next = 0.0  # round, in time of the loop
        self._looked_at = self._fenced = self._freed = self._unjudged = self._rounds = 0

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        self._next = self._next or loop.time() + self._start_seconds  # it may have been cancelled and be run again
        retry = RETRY_SECONDS
        while True:
            await asyncio.sleep(max(0.0, self._next - loop.time()))
            if await self._round():
                retry = RETRY_SECONDS
                self._next = loop.time() + self._period_seconds
            else:
                self._next = loop.time() + retry
                retry = min(2 * retry, self._period_seconds)

    async def _round(self) -> bool:
        """Both sweeps of every volume; whether all came to their ends."""
        ended = True
        self._rounds += 1
        for volume, groups in sorted(self._owner.sets.items()):
            if groups.failure is not None:
                continue
            try:
                await self.sweep(groups)
                await self.sweep_aged(groups)
            except (ClientError, PeerError, DiskError, Conflict) as error:
                ended = False
                _logger.info("the sweep of volume %d tries again later: %s", volume, error)
        return ended

    async def sweep(self, groups: GroupSet) -> int:
        """Sweep a volume's earlier lives; how many extents were freed. Raises what look-ups and proposals raise."""
        volume, index = groups.volume, groups.volume.identity.index
        now = asyncio.get_running_loop().time()
        if now < self._again.get(index, now):
            return 0
        path = f"/sweep/{volume.identity.uuid}"
        record = await self._control.get(path)
        swept = 0 if record is None else int(record.value)
        last = volume.epoch - 1
        if swept >= last:
            return 0
        freed, unjudged = self._freed, self._unjudged
        read: set[int] = set()
        while (number := _next(volume.sealed_data(), read)) is not None:
            idents = [ident for ident in await volume.extents_of(number) if swept < _epoch(ident) <= last]
            await self._sweep_some(groups, idents)
        if self._unjudged > unjudged:
            self._again[index] = now + AGAIN_SECONDS
        else:
            await self._control.cas([(path, b"%d" % last)], {path: 0 if record is None else record.rev})
        return self._told(groups, freed)

    async def sweep_aged(self, groups: GroupSet) -> int:
        """Sweep what this life of a volume wrote long enough ago; how many extents were freed. Raises as ``sweep``."""
        volume, freed = groups.volume, self._freed
        limit = max(0, self._owner.now_ms() - self._age_ms) << 20
        seen = self._seen.setdefault(volume.identity.index, {})
        present = volume.sealed_data()
        for number in [number for number in seen if number not in set(present)]:
            del seen[number]
        read = {number for number, known in seen.items() if known.newest < known.reached or known.oldest >= limit}
        while (sealed := _next(volume.sealed_data(), read)) is not None:
            idents = [ident for ident in await volume.extents_of(sealed) if _epoch(ident) == volume.epoch]
            sequences = [_sequence(ident) for ident in idents]
            known = seen.setdefault(sealed, _Seen(0, 0))
            known.oldest, known.newest = min(sequences, default=0), max(sequences, default=-1)
            open_from = self._owner.open_since(volume.identity.index)
            reached = known.reached
            wanted = [ident for ident in idents if reached <= _sequence(ident) < min(limit, open_from.get(ident.gid, limit))]
            await self._sweep_some(groups, wanted)
            known.reached = min(limit, *open_from.values()) if open_from else limit
        return self._told(groups, freed)

    def _told(self, groups: GroupSet, before: int) -> int:
        if self._freed > before:
            _logger.info("volume %s: %d extents that nothing named were freed", groups.volume.path, self._freed - before)
        return self._freed - before

    async def _sweep_some(self, groups: GroupSet, idents: Sequence[ExtentIdent]) -> None:
        """Free, durably, those of a segment's extents that nothing names."""
        suspects: dict[tuple[int, bytes], list[ExtentIdent]] = {}
        for number, ident in enumerate(idents, 1):
            self._looked_at += 1
            if not await self._is_found(ident):
                suspects.setdefault((ident.gid, ident.data_id[8:16]), []).append(ident)
            if number % LOOKUPS_PER_PAUSE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
        unused: list[bytes] = []
        for (gid, writer), some in suspects.items():
            for first in range(0, len(some), CANDIDATES_PER_FENCE):
                unused += await self._fence(gid, writer, some[first : first + CANDIDATES_PER_FENCE])
        if unused:
            await self._owner.free(groups.volume.identity.index, unused)
            self._freed += len(unused)

    async def _is_found(self, ident: ExtentIdent) -> bool:
        """Whether the newest version of the key, or the part of the upload, names the extent; also when that cannot be told."""
        try:
            return await self._is_named(ident)
        except DiskError as error:
            self._pass_over(ident, error)
        except ClientError as error:
            if error.reason != Reason.UNAVAILABLE:
                raise
            self._pass_over(ident, error)
        return True

    def _pass_over(self, ident: ExtentIdent, error: Exception) -> None:
        self._unjudged += 1
        _logger.debug("extent %s cannot be judged: %s", ident.data_id.hex(), error)

    async def _is_named(self, ident: ExtentIdent) -> bool:
        found = await self._dispatcher.find(ident.gid, ident.bucket, ident.key, "", False)
        if found is not None:
            version = found.version
            extents = version.extents
            if version.flags & MANIFEST_ROWS:
                extents = tuple(extent for part in await self._dispatcher.parts_of(ident.gid, version) for extent in part.extents)
            if any(extent.data_id == ident.data_id for extent in extents):
                return True
        if not ident.upload_id:
            return False
        parts = await self._dispatcher.parts(ident.gid, ident.bucket, ident.key, ident.upload_id, ident.part - 1, 1)
        return any(extent.data_id == ident.data_id for part in parts for extent in part.extents)

    async def _fence(self, gid: int, writer: bytes, some: Sequence[ExtentIdent]) -> list[bytes]:
        """Data ids that are not in use and never will be."""
        watermark = max(_sequence(ident) for ident in some)
        refs = tuple(DataRef(ident.data_id, ident.bucket, ident.key, ident.upload_id, ident.part) for ident in some)
        try:
            outcome = await self._dispatcher.propose(gid, SweepFence(int.from_bytes(writer, "big"), watermark, refs))
        except ClientError as error:
            if error.reason != Reason.UNAVAILABLE:
                raise
            self._unjudged += len(some)
            return []
        assert not outcome.reason, "a fence is never refused"
        self._fenced += len(some)
        used = {outcome.data[at : at + 16] for at in range(0, len(outcome.data), 16)}
        return [ident.data_id for ident in some if ident.data_id not in used]

    def statistics(self) -> SweepStatistics:
        """Counters."""
        return SweepStatistics(self._looked_at, self._fenced, self._freed, self._unjudged, self._rounds)


def _next(numbers: Sequence[int], read: set[int]) -> int | None:
    """The lowest number that was not read yet, now read. Compaction moves extents to higher numbers only, so none slips by."""
    number = next((number for number in numbers if number not in read), None)
    if number is not None:
        read.add(number)
    return number


def _epoch(ident: ExtentIdent) -> int:
    return int.from_bytes(ident.data_id[12:16], "big")


def _sequence(ident: ExtentIdent) -> int:
    return int.from_bytes(ident.data_id[:8], "big")
