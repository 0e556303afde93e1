"""Every record of the control plane in the memory of every worker.

Invariants
* The cache is a whole store at one revision: a list, then events without a gap. A gap means: list again.
* Whoever changes a record gets its answer only after every live worker has applied it (see ``system``), so on one machine a
  cache is stale only while its worker is cut off from the owner, and then for at most POLL_SECONDS after it is back. After
  STALE_SECONDS_MAX of that it says so, and nobody is let in by it any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from titans3.model.control import BucketRecord, Event, Rec, bucket_of

POLL_SECONDS = 1.0
STALE_SECONDS_MAX = 10.0
EVENTS_MAX = 4096


class ControlCache:
    """Records by key, buckets by name. ``is_stale``: the owner was not reached for too long; what is here may have been revoked."""

    def __init__(self) -> None:
        self.revision = -1
        self.records: dict[str, Rec] = {}
        self.buckets: dict[str, BucketRecord] = {}
        self.ring: deque[Event] = deque(maxlen=EVENTS_MAX)
        self.oldest = 0  # events after this revision are in the ring
        self._wakeups: set[asyncio.Event] = set()
        self.on_change: list[Callable[[Event], None]] = []
        self.closed = False
        self.is_stale = False

    def replace(self, records: Iterable[Rec], revision: int) -> None:
        """A fresh list."""
        fresh = {record.key: record for record in records}
        for key in [key for key in self.records if key not in fresh]:
            self._take(Event(key, None, revision))
        for record in fresh.values():
            known = self.records.get(record.key)
            if known is None or known.rev != record.rev:
                self._take(Event(record.key, record.value, record.rev))
        self.revision = revision
        self.ring.clear()
        self.oldest = revision
        self._wake()

    def follow(self, previous: int, revision: int, events: Iterable[Event]) -> bool:
        """Apply events; false when they do not follow what is here (list again)."""
        if revision <= self.revision:
            return True
        if previous != self.revision:
            return False
        for event in events:
            self._take(event)
            if len(self.ring) == EVENTS_MAX:
                self.oldest = self.ring[0].rev
            self.ring.append(event)
        self.revision = revision
        self._wake()
        return True

    def _take(self, event: Event) -> None:
        key, value = event.key, event.value
        if value is None:
            self.records.pop(key, None)
        else:
            rec = self.records[key] = Rec(key, value, event.rev)
        if key.startswith("/buckets/"):
            if value is None:
                self.buckets.pop(key[9:], None)
            else:
                self.buckets[key[9:]] = bucket_of(rec)
        for callback in self.on_change:
            callback(event)

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.set()

    def close(self) -> None:
        """Nobody waits any longer."""
        self.closed = True
        self._wake()

    async def wait_beyond(self, revision: int) -> None:
        """Until the cache is beyond a revision."""
        while self.revision <= revision:
            await self.wait_change(revision)

    async def wait_change(self, revision: int) -> None:
        """Until the cache is beyond a revision, or closed while this waits."""
        wakeup = asyncio.Event()
        self._wakeups.add(wakeup)
        try:
            if self.revision <= revision:
                await wakeup.wait()
        finally:
            self._wakeups.discard(wakeup)
