"""The control plane of one machine: a single-voter system group on volume 0, cached in every worker.

Invariants
* The worker that owns volume 0 decides; the others ask it over their link.
* ``cas`` returns after every sibling that can be reached has applied the change, or after ACK_SECONDS for one that cannot answer.
* A retried change has one effect: it carries a request id.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from titans3.cluster.control.cache import POLL_SECONDS, ControlCache
from titans3.cluster.control.interface import Compacted, Conflict, Lease, NotSupported, Op
from titans3.cluster.groups import GroupSet
from titans3.cluster.messages import CONTROL_CAS, CONTROL_GET, CONTROL_LIST, EVENTS, ControlCas, Events, Records
from titans3.cluster.siblings import Siblings
from titans3.errors import ClientError, PeerError, Reason
from titans3.limits import SYSTEM_GROUP
from titans3.meta.control import get_record, list_records, store_revision
from titans3.model.command import Cas
from titans3.model.control import Event, Rec
from titans3.rpc.link import Answer, LinkServer, PeerLost

ACK_SECONDS = 2.0
_logger = logging.getLogger("titans3.control")
_encode = msgspec.msgpack.Encoder().encode
_cas = msgspec.msgpack.Decoder(ControlCas).decode
_events = msgspec.msgpack.Decoder(Events).decode
_records = msgspec.msgpack.Decoder(Records).decode
_record = msgspec.msgpack.Decoder(Rec | None).decode


class SystemControl:
    """ControlPlane over the system group. ``local`` is the group set of volume 0 if this worker owns it."""

    def __init__(self, siblings: Siblings, server: LinkServer, owner: Callable[[], int]) -> None:
        self._siblings, self._owner = siblings, owner
        self.cache = ControlCache()
        self.local: GroupSet | None = None
        self._poller: asyncio.Task[None] | None = None
        self._relisting: asyncio.Task[None] | None = None
        server.handlers.update(
            {CONTROL_GET: self._on_get, CONTROL_LIST: self._on_list, CONTROL_CAS: self._on_cas, EVENTS: self._on_events}
        )

    # calls ---------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Rec | None:
        """One record."""
        if self.local is not None:
            return get_record(self.local.view, SYSTEM_GROUP, key)
        meta, _ = await self._ask(CONTROL_GET, key.encode())
        return _record(meta)

    async def list(self, prefix: str) -> tuple[list[Rec], int]:
        """Records by prefix, and the store's revision."""
        if self.local is not None:
            return self._list_local(prefix)
        meta, _ = await self._ask(CONTROL_LIST, prefix.encode())
        found = _records(meta)
        return list(found.records), found.revision

    async def cas(self, ops: Sequence[Op], expect: dict[str, int]) -> int:
        """Change records if all of ``expect`` holds (0: absent, -1: any); the new revision. Raises Conflict."""
        change = ControlCas(tuple(ops), expect, os.urandom(16))
        for _ in range(50):
            if self.local is not None:
                return await self._cas_local(change)
            try:
                meta, _body = await self._ask(CONTROL_CAS, _encode(change))
            except PeerLost:
                await asyncio.sleep(0.1)  # the owner restarts; the request id makes the repeat safe
                continue
            except ClientError as error:
                if error.reason == Reason.CONFLICT:
                    raise Conflict(error.message) from error
                raise
            return int.from_bytes(meta, "big")
        raise ClientError(Reason.SLOW_DOWN, "the control plane's worker is not there")

    async def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Event]:
        """Events after ``from_rev``. Raises Compacted."""
        seen = from_rev
        while True:
            if seen < self.cache.oldest:
                raise Compacted
            for event in [event for event in self.cache.ring if event.rev > seen and event.key.startswith(prefix)]:
                yield event
            seen = self.cache.revision
            await self.cache.wait_beyond(seen)

    async def lease(self, ttl: float) -> Lease:
        """Leases come with drivers for many nodes."""
        raise NotSupported("one machine needs no leases")

    async def cas_leased(self, lease: Lease, key: str, value: bytes, expect: int) -> int:
        """See ``lease``."""
        raise NotSupported("one machine needs no leases")

    async def status(self) -> dict[str, object]:
        """Driver, owner and revision."""
        return {"driver": "system", "owner": self._owner(), "revision": self.cache.revision, "records": len(self.cache.records)}

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
        """Stop watching."""
        for task in (self._poller, self._relisting):
            if task is not None:
                task.cancel()

    # owner ---------------------------------------------------------------------------------------------------------

    def _list_local(self, prefix: str) -> tuple[list[Rec], int]:
        assert self.local is not None
        return list_records(self.local.view, SYSTEM_GROUP, prefix), store_revision(self.local.view, SYSTEM_GROUP)

    async def _cas_local(self, change: ControlCas) -> int:
        assert self.local is not None
        known = self.local.applied(SYSTEM_GROUP)
        outcome = await self.local.propose(SYSTEM_GROUP, Cas(change.ops, change.expect, change.request_id, known))
        if outcome.reason == Reason.CONFLICT:
            raise Conflict(outcome.message)
        if outcome.reason:
            raise ClientError(Reason(outcome.reason), outcome.message)
        revision = int.from_bytes(outcome.data, "big")
        events = tuple(Event(key, value, revision) for key, value in change.ops)
        await self._publish(Events(revision - 1, revision, events))
        return revision

    async def _publish(self, events: Events) -> None:
        """To this cache at once, to the siblings with their acknowledgement."""
        if not self.cache.follow(events.previous, events.revision, events.events):
            self._relist_local()
        meta = _encode(events)
        waits = []
        for worker in range(self._siblings.count):
            if worker == self._siblings.me:
                continue
            link = self._siblings.link_nowait(worker)
            if link is None:
                waits.append(asyncio.ensure_future(self._push_later(worker, meta)))
            else:
                waits.append(link.call(EVENTS, meta))
        if waits:
            done, late = await asyncio.wait(waits, timeout=ACK_SECONDS)
            for task in done:
                if task.exception() is not None:
                    _logger.warning("a sibling did not take revision %d: %s", events.revision, task.exception())
            if late:
                _logger.warning("%d siblings are late with revision %d", len(late), events.revision)

    async def _push_later(self, worker: int, meta: bytes) -> Answer:
        return await self._siblings.call(worker, EVENTS, meta)

    def _relist_local(self) -> None:
        self.cache.replace(*self._list_local(""))

    # siblings ------------------------------------------------------------------------------------------------------

    async def _ask(self, kind: int, meta: bytes) -> Answer:
        owner = self._owner()
        if owner == self._siblings.me:
            raise ClientError(Reason.SLOW_DOWN, "volume 0 is being opened")
        return await self._siblings.call(owner, kind, meta)

    async def _relist(self) -> None:
        records, revision = await self.list("")
        if revision >= self.cache.revision:
            self.cache.replace(records, revision)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self.local is None:
                try:
                    _, revision = await self.list("/settings/revision")
                    if revision > self.cache.revision:
                        await self._relist()
                except (ClientError, PeerError) as error:
                    _logger.debug("control plane not reached: %s", error)

    def _need_local(self) -> GroupSet:
        if self.local is None:
            raise ClientError(Reason.SLOW_DOWN, "this worker does not own volume 0")
        return self.local

    def _on_get(self, meta: bytes, body: bytes) -> Answer:
        return _encode(get_record(self._need_local().view, SYSTEM_GROUP, meta.decode())), b""

    def _on_list(self, meta: bytes, body: bytes) -> Answer:
        self._need_local()
        records, revision = self._list_local(meta.decode())
        return _encode(Records(tuple(records), revision)), b""

    async def _on_cas(self, meta: bytes, body: bytes) -> Answer:
        self._need_local()
        try:
            revision = await self._cas_local(_cas(meta))
        except Conflict as conflict:
            raise ClientError(Reason.CONFLICT, conflict.key) from conflict
        return revision.to_bytes(8, "big"), b""

    def _on_events(self, meta: bytes, body: bytes) -> Answer:
        events = _events(meta)
        if not self.cache.follow(events.previous, events.revision, events.events) and (
            self._relisting is None or self._relisting.done()
        ):
            self._relisting = asyncio.ensure_future(self._relist())
        return b"", b""
