"""The control plane of one machine: a single-voter system group on volume 0, cached in every worker.

Invariants
* The worker that owns volume 0 decides; the others ask it over their link, and wait for it while it moves.
* ``cas`` returns after every sibling that listens has applied the change, or after ACK_SECONDS for one that does not answer. A sibling
  that does not listen lists when it starts, before it serves.
* A retried change has one effect: it carries a request id, and the window of that id begins with its first try (I11).
* A watcher sees every change after its revision once, in order, those of one revision together; or it gets Compacted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from titans3.cluster.control.cache import POLL_SECONDS, STALE_SECONDS_MAX, ControlCache
from titans3.cluster.control.interface import Compacted, Conflict, Lease, NotSupported, Op
from titans3.cluster.groups import GroupSet
from titans3.cluster.messages import (
    CONTROL_CAS,
    CONTROL_GET,
    CONTROL_LIST,
    EVENTS,
    ControlCas,
    ControlDone,
    ControlList,
    Events,
    Records,
)
from titans3.cluster.siblings import Here, Siblings
from titans3.errors import ClientError, DiskError, PeerError, Reason
from titans3.limits import MIB, SYSTEM_GROUP
from titans3.meta.control import get_record, list_records, store_revision
from titans3.model.command import Cas
from titans3.model.control import Event, Rec
from titans3.rpc.link import Answer, LinkServer

ACK_SECONDS = 2.0
LIST_BYTES_MAX = 4 * MIB  # of a page of records between workers
_LIST_TRIES = 20
_logger = logging.getLogger("titans3.control")
_encode = msgspec.msgpack.Encoder().encode
_cas = msgspec.msgpack.Decoder(ControlCas).decode
_done = msgspec.msgpack.Decoder(ControlDone).decode
_ask_list = msgspec.msgpack.Decoder(ControlList).decode
_events = msgspec.msgpack.Decoder(Events).decode
_records = msgspec.msgpack.Decoder(Records).decode
_record: msgspec.msgpack.Decoder[Rec | None] = msgspec.msgpack.Decoder(Rec | None)
Listing = tuple[list[Rec], int]


class ControlStatistics(msgspec.Struct, frozen=True):
    """A worker's cache as of now. ``age_seconds``: since the owner was last reached; 0 on the owner."""

    revision: int
    records: int
    buckets: int
    is_stale: bool
    age_seconds: float


class SystemControl:
    """ControlPlane over the system group. ``local`` is the group set of volume 0 if this worker owns it."""

    def __init__(self, siblings: Siblings, server: LinkServer, owner: Callable[[], int]) -> None:
        self._siblings, self._owner = siblings, owner
        self.cache = ControlCache()
        self.local: GroupSet | None = None
        self._known = 0  # applied index of the system group as its owner last told
        self._poller: asyncio.Task[None] | None = None
        self._reached = 0.0  # when the owner was last reached, in time of the loop
        server.handlers.update(
            {CONTROL_GET: self._on_get, CONTROL_LIST: self._on_list, CONTROL_CAS: self._on_cas, EVENTS: self._on_events}
        )

    # calls ---------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Rec | None:
        """One record. Raises ClientError(SLOW_DOWN) while the owner is not there."""
        if self.local is None:
            try:
                meta, _ = await self._ask(CONTROL_GET, key.encode())
            except Here:
                pass
            else:
                return _record.decode(meta)
        return get_record(self._need_local().view, SYSTEM_GROUP, key)

    async def list(self, prefix: str) -> Listing:
        """Records by prefix, and the store's revision. Raises ClientError(SLOW_DOWN) while the owner is not there."""
        for _ in range(_LIST_TRIES):
            if self.local is not None:
                return self._list_local(prefix)
            try:
                found = await self._list_pages(prefix)
            except Here:
                continue
            if found is not None:
                return found
        raise ClientError(Reason.SLOW_DOWN, "the control plane changes faster than it can be listed")

    async def _list_pages(self, prefix: str) -> Listing | None:
        """From the owner, page by page; ``None`` when it changed in between."""
        records: list[Rec] = []
        revision, after = -1, ""
        while True:
            page = _records((await self._ask(CONTROL_LIST, _encode(ControlList(prefix, after))))[0])
            self._known = max(self._known, page.applied)
            if revision not in (-1, page.revision):
                return None
            revision = page.revision
            records.extend(page.records)
            if not page.more:
                return records, revision
            after = records[-1].key

    async def cas(self, ops: Sequence[Op], expect: dict[str, int]) -> int:
        """Change records if all of ``expect`` holds (0: absent, -1: any); the new revision.

        Raises Conflict, ClientError(SLOW_DOWN: nothing was done, UNKNOWN_OUTCOME).
        """
        change = ControlCas(tuple(ops), expect, os.urandom(16), self._known)
        if self.local is not None:
            return (await self._cas_local(change)).revision
        try:
            answer, _ = await self._ask(CONTROL_CAS, _encode(change), lambda: _encode(msgspec.structs.replace(change, repeat=True)))
        except Here as here:
            return (await self._cas_local(msgspec.structs.replace(change, repeat=here.repeat))).revision
        except ClientError as error:
            if error.reason is Reason.CONFLICT:
                raise Conflict(error.message) from error
            raise
        done = _done(answer)
        self._known = max(self._known, done.applied)
        if self.cache.revision < done.revision:  # the owner could not reach this worker
            await self._relist()
        return done.revision

    async def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Event]:
        """Events after ``from_rev``; ends when this driver is closed. Raises Compacted."""
        cache, seen = self.cache, from_rev
        while not cache.closed:
            if seen < cache.oldest:
                raise Compacted
            found = [event for event in cache.ring if event.rev > seen and event.key.startswith(prefix)]
            seen = max(seen, cache.revision)  # before the first yield: what comes meanwhile is for the next round
            for event in found:
                yield event
            await cache.wait_change(seen)

    async def lease(self, ttl: float) -> Lease:
        """Leases come with drivers for many nodes."""
        raise NotSupported("one machine needs no leases")

    async def cas_leased(self, lease: Lease, key: str, value: bytes, expect: int) -> int:
        """See ``lease``."""
        raise NotSupported("one machine needs no leases")

    async def status(self) -> dict[str, object]:
        """Driver, owner and revision."""
        return {"driver": "system", "owner": self._owner(), "revision": self.cache.revision, "records": len(self.cache.records)}

    def statistics(self) -> ControlStatistics:
        """What this worker's cache has."""
        cache = self.cache
        age = asyncio.get_running_loop().time() - self._reached if self._reached and self.local is None else 0.0
        return ControlStatistics(cache.revision, len(cache.records), len(cache.buckets), cache.is_stale, age)

    async def start(self) -> None:
        """Fill the cache; returns when it is whole."""
        while True:
            try:
                await self._relist()
                break
            except (ClientError, PeerError):
                await asyncio.sleep(0.02)
        self._poller = asyncio.ensure_future(self._poll())

    async def close(self) -> None:
        """Stop watching; watchers end. Twice is as good as once."""
        self.cache.close()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])

    # owner ---------------------------------------------------------------------------------------------------------

    def _list_local(self, prefix: str) -> Listing:
        view = self._need_local().view
        return list_records(view, SYSTEM_GROUP, prefix), store_revision(view, SYSTEM_GROUP)

    async def _cas_local(self, change: ControlCas) -> ControlDone:
        local = self._need_local()
        known = change.known if change.repeat else local.applied(SYSTEM_GROUP)
        try:
            outcome = await local.propose(SYSTEM_GROUP, Cas(change.ops, change.expect, change.request_id, known))
        except DiskError as error:
            raise ClientError(Reason.UNKNOWN_OUTCOME, str(error)) from error
        if outcome.reason == Reason.CONFLICT:
            raise Conflict(outcome.message)
        if outcome.reason:
            raise ClientError(Reason(outcome.reason), outcome.message)
        revision = int.from_bytes(outcome.data, "big")
        events = tuple(Event(key, value, revision) for key, value in change.ops)
        await self._publish(Events(revision - 1, revision, events))
        return ControlDone(revision, local.applied(SYSTEM_GROUP))

    async def _publish(self, events: Events) -> None:
        """To this cache at once, to the siblings with their acknowledgement."""
        if not self.cache.follow(events.previous, events.revision, events.events):
            self.cache.replace(*self._list_local(""))
        meta = _encode(events)
        siblings = self._siblings
        pushes = [asyncio.ensure_future(self._push(worker, meta)) for worker in range(siblings.count) if worker != siblings.me]
        if pushes:
            _, late = await asyncio.wait(pushes, timeout=ACK_SECONDS)
            if late:
                _logger.warning("%d siblings are late with revision %d", len(late), events.revision)

    async def _push(self, worker: int, meta: bytes) -> None:
        link = self._siblings.link_nowait(worker) or await self._siblings.link_once(worker)
        if link is None:
            return  # it does not serve
        try:
            await link.call(EVENTS, meta)
        except (ClientError, PeerError) as error:
            _logger.info("worker %d did not take a change of the control plane: %s", worker, error)

    # siblings ------------------------------------------------------------------------------------------------------

    async def _ask(self, kind: int, meta: bytes, again: Callable[[], bytes] | None = None) -> Answer:
        return await self._siblings.ask(self._owner, lambda: self.local is not None, kind, meta, again=again)

    async def _relist(self) -> None:
        records, revision = await self.list("")
        if revision > self.cache.revision:
            self.cache.replace(records, revision)

    async def _poll(self) -> None:
        """Find what was missed while this worker was cut off."""
        loop, cache = asyncio.get_running_loop(), self.cache
        self._reached = loop.time()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                if self.local is None:
                    async with asyncio.timeout(STALE_SECONDS_MAX):
                        _, revision = await self.list("/settings/revision")
                        if revision > cache.revision:
                            await self._relist()
            except (ClientError, PeerError, TimeoutError) as error:
                if loop.time() - self._reached > STALE_SECONDS_MAX and not cache.is_stale:
                    cache.is_stale = True
                    _logger.warning("the control plane is not reached for %.0f s, requests are refused: %s", STALE_SECONDS_MAX, error)
                continue
            self._reached, cache.is_stale = loop.time(), False

    def _need_local(self) -> GroupSet:
        if self.local is None:
            raise ClientError(Reason.SLOW_DOWN, "this worker does not own volume 0")
        return self.local

    def _on_get(self, meta: bytes, body: bytes) -> Answer:
        return _encode(get_record(self._need_local().view, SYSTEM_GROUP, meta.decode())), b""

    def _on_list(self, meta: bytes, body: bytes) -> Answer:
        ask = _ask_list(meta)
        records, revision = self._list_local(ask.prefix)
        page: list[Rec] = []
        size, more = 0, False
        for record in records:
            if record.key > ask.after:
                size += len(record.key) + len(record.value) + 32
                if page and size > LIST_BYTES_MAX:
                    more = True
                    break
                page.append(record)
        return _encode(Records(tuple(page), revision, self._need_local().applied(SYSTEM_GROUP), more)), b""

    async def _on_cas(self, meta: bytes, body: bytes) -> Answer:
        try:
            return _encode(await self._cas_local(_cas(meta))), b""
        except Conflict as conflict:
            raise ClientError(Reason.CONFLICT, conflict.key) from conflict

    def _on_events(self, meta: bytes, body: bytes) -> Answer | Awaitable[Answer]:
        events = _events(meta)
        if self.cache.follow(events.previous, events.revision, events.events):
            return b"", b""
        return self._catch_up(events.revision)

    async def _catch_up(self, revision: int) -> Answer:
        """A change that does not follow what is here: list again before it is acknowledged."""
        while self.cache.revision < revision:
            await self._relist()
        return b"", b""
