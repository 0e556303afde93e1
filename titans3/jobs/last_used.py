"""When access keys were last used, written for whoever wants to know which are still needed.

Invariants
* A request only puts its key into a dictionary; what is written is exact to GRANULARITY_MS and at most a ROUND_SECONDS late.
* Keys that are not stored (sessions) are not written, and a key that is going away does not come back: its record must be there.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from titans3.clock import Clock
from titans3.cluster.control.interface import Conflict, ControlPlane
from titans3.cluster.identities import Identities
from titans3.errors import ClientError, PeerError
from titans3.model.identity import FORMAT, LastUsed, credential_key, last_used_key

ROUND_SECONDS = 60.0
GRANULARITY_MS = 15 * 60 * 1000
_BATCH = 100
_encode = msgspec.msgpack.Encoder().encode
_logger = logging.getLogger("titans3.jobs")


class LastUsedWriter:
    """Of one worker."""

    def __init__(
        self, control: ControlPlane, identities: Identities, clock: Clock, region: str, *, round_seconds: float = ROUND_SECONDS
    ) -> None:
        self._control, self._identities, self._clock, self._region = control, identities, clock, region
        self._round_seconds = round_seconds

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._round_seconds)
            try:
                await self.write()
            except (ClientError, PeerError) as error:
                _logger.info("last uses are written in the next round: %s", error)

    async def write(self) -> int:
        """What was seen since the last call; how many records that were."""
        identities = self._identities
        seen, identities.seen = identities.seen, {}
        now = self._clock.wall_ms()
        due = []
        for access_key, service in seen.items():
            known = identities.record(last_used_key(access_key), LastUsed)
            if known is None or known.service != service or now - known.used_ms >= GRANULARITY_MS:
                due.append((access_key, LastUsed(FORMAT, now, service, self._region)))
        written = 0
        for start in range(0, len(due), _BATCH):
            ops: list[tuple[str, bytes | None]] = []
            expect: dict[str, int] = {}
            for access_key, used in due[start : start + _BATCH]:
                rec = identities.stored(credential_key(access_key))
                if rec is not None:
                    ops.append((last_used_key(access_key), _encode(used)))
                    expect[credential_key(access_key)] = rec.rev
            if not ops:
                continue
            try:
                await self._control.cas(ops, expect)
            except Conflict:
                continue  # a key changed meanwhile; it is seen again if it is used again
            written += len(ops)
        return written
