"""From a group to whoever owns it: this worker, a sibling, or a sibling that is about to be back. Hot.

Invariants
* A local call costs no frame and no copy. A remote write carries a request id, so that after a lost connection it can be repeated and
  has one effect (I11).
* While an owner moves (rolling restart) requests wait for it, at most MOVE_SECONDS_MAX; a dead one costs 503 for its keys alone.
* The window of a request id begins at the owner's applied index when the first try arrives; for a repeat at what this worker knew of
  the group before the first try. What has left the window is refused (UNKNOWN_OUTCOME), never applied twice.
* Nothing above the feature level in force is proposed.
* What a sibling's B-tree is known to hold as it is now is read from there, without asking the sibling (``engine/neighbour.py``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import partial

import msgspec

from titans3.cluster import messages as m
from titans3.cluster.greeting import Greeting
from titans3.cluster.owner import Owner
from titans3.cluster.siblings import Here, Siblings
from titans3.cluster.store import Found
from titans3.engine.location import Location
from titans3.engine.neighbour import Elsewhere, Lent, Neighbour
from titans3.errors import ClientError, PeerError, Reason
from titans3.meta.listing import ShardPage, share
from titans3.model.command import Command, Outcome, PutObject, PutPart, encode_command
from titans3.model.version import BucketUsage, Completed, Part, Upload, Version
from titans3.ring.ownership import SYSTEM_VOLUME
from titans3.rpc.link import Answer, Link

_encode = msgspec.msgpack.Encoder().encode
_proposed = msgspec.msgpack.Decoder(m.Proposed).decode
_version = msgspec.msgpack.Decoder(Version).decode
_page = msgspec.msgpack.Decoder(ShardPage).decode
_parts = msgspec.msgpack.Decoder(list[Part]).decode
_upload: msgspec.msgpack.Decoder[Upload | None] = msgspec.msgpack.Decoder(Upload | None)
_completed: msgspec.msgpack.Decoder[Completed | None] = msgspec.msgpack.Decoder(Completed | None)
_uploads = msgspec.msgpack.Decoder(tuple[list[tuple[bytes, bytes, Upload]], bool]).decode
_location: msgspec.msgpack.Decoder[Location | None] = msgspec.msgpack.Decoder(Location | None)
_usage = msgspec.msgpack.Decoder(BucketUsage).decode
UploadRows = tuple[list[tuple[bytes, bytes, Upload]], bool]


class Dispatcher:
    """Calls by group or volume, wherever it is."""

    def __init__(self, owner: Owner, siblings: Siblings, greeting: Greeting) -> None:
        self.owner, self.siblings = owner, siblings
        self.ownership = owner.ownership
        self.feature_level = m.LEVEL_FIRST  # in force, as this worker's cache has it
        self.me = siblings.me
        self._prefix = os.urandom(8)
        self._numbers = itertools.count(1)
        self._known: dict[int, int] = {}  # applied index of a group as its owner last told
        owners = owner.ownership.owners
        self._places: list[tuple[Callable[[], int], Callable[[], bool]]] = [
            (partial(owners.__getitem__, volume), partial(_has, owner, volume)) for volume in range(len(owners))
        ]  # who owns a volume now, and whether it is here: what a call asks as long as it is held
        self._greeting = greeting
        self.local = 0  # calls that this worker answered itself
        self.neighbours: dict[int, Neighbour] = {}  # volumes of siblings that this worker reads itself, by index
        greeting.applied = owner.applied_all
        siblings.greet = self._greet

    def request_id(self) -> bytes:
        """A new request id, 16 bytes."""
        return self._prefix + next(self._numbers).to_bytes(8, "big")

    def is_local(self, gid: int) -> bool:
        """Whether this worker serves the group right now."""
        return self.ownership.volume_of(gid) in self.owner.sets

    # holding -------------------------------------------------------------------------------------------------------

    async def _ask(
        self, volume: int, kind: int, meta: bytes, body: bytes = b"", *, again: Callable[[], bytes] | None = None
    ) -> Answer:
        """A call to the owner of a volume, held while it moves. Raises Here when that is this worker by now."""
        owner, is_here = self._places[volume]
        return await self.siblings.ask(owner, is_here, kind, meta, body, again=again)

    async def _greet(self, worker: int, link: Link) -> None:
        """A link is up: learn who is there and what is applied there."""
        known = self._known
        for gid, index in (await self._greeting.greet(worker, link)).applied.items():
            if known.get(gid, 0) < index:
                known[gid] = index

    # writes --------------------------------------------------------------------------------------------------------

    def put(self, gid: int, command: PutObject | PutPart, body: bytes | memoryview) -> Awaitable[Outcome]:
        """Commit a version or part."""
        assert self.feature_level >= command.LEVEL, f"{type(command).__name__} is above the feature level"
        volume = self.ownership.volume_of(gid)
        here = self.owner.sets.get(volume)
        if here is not None:
            self.local += 1
            return self.owner.put_in(here, gid, command, body)
        return self._put_there(volume, gid, command, body)

    async def _put_there(self, volume: int, gid: int, command: PutObject | PutPart, body: bytes | memoryview) -> Outcome:
        command = msgspec.structs.replace(command, request_id=self.request_id())
        known = self._known.get(gid, 0)
        try:
            # A copy: a caller that gives up may use its buffer again before this turn's frames are written.
            return await self._ask_outcome(volume, m.PUT, gid, command, known, bytes(body))
        except Here as here:
            return await self.owner.put(gid, self.owner.windowed(gid, command, known, repeat=here.repeat), body)

    def propose(self, gid: int, command: Command) -> Awaitable[Outcome]:
        """Outcome of a command; it must have a ``request_id`` field or be idempotent by itself."""
        assert self.feature_level >= command.LEVEL, f"{type(command).__name__} is above the feature level"
        volume = self.ownership.volume_of(gid)
        here = self.owner.sets.get(volume)
        if here is not None:
            self.local += 1
            return self.owner.propose_in(here, gid, command)
        return self._propose_there(volume, gid, command)

    async def _propose_there(self, volume: int, gid: int, command: Command) -> Outcome:
        if hasattr(command, "request_id"):
            command = msgspec.structs.replace(command, request_id=self.request_id())
        known = self._known.get(gid, 0)
        try:
            return await self._ask_outcome(volume, m.PROPOSE, gid, command, known)
        except Here as here:
            return await self.owner.propose(gid, self.owner.windowed(gid, command, known, repeat=here.repeat))

    async def _ask_outcome(
        self, volume: int, kind: int, gid: int, command: Command, known: int, body: bytes = b""
    ) -> Outcome:
        data = encode_command(command)
        answer, _ = await self._ask(
            volume, kind, _encode(m.Propose(gid, data, known)), body, again=lambda: _encode(m.Propose(gid, data, known, repeat=True))
        )
        return self._learn(gid, _proposed(answer))

    def _learn(self, gid: int, answer: m.Proposed) -> Outcome:
        if self._known.get(gid, 0) < answer.applied:
            self._known[gid] = answer.applied
        return answer.outcome

    # reads ---------------------------------------------------------------------------------------------------------

    async def find(self, gid: int, bucket: int, key: bytes, version_id: str, want_body: bool) -> Found | None:
        """A version and, if asked and small, its body."""
        volume = self.ownership.volume_of(gid)
        if volume in self.owner.sets:
            self.local += 1
            found, unread = self.owner.find_nowait(gid, bucket, key, version_id, want_body)
            if unread:
                found = await self.owner.find(gid, bucket, key, version_id, want_body)
            return found
        neighbour = self.neighbours.get(volume)
        if neighbour is not None and not version_id:
            near = neighbour.find(gid, bucket, key, want_body)
            if near is not None:
                return Found(near.version, near.body if want_body else None, near)
        try:
            row, body = await self._ask(volume, m.FIND, _encode(m.Find(gid, bucket, key, version_id, want_body)))
        except Here:
            return await self.owner.find(gid, bucket, key, version_id, want_body)
        return Found(_version(row), body if want_body and body else None) if row else None

    async def list_shards(
        self, gids: Sequence[int], bucket: int, prefix: bytes, delimiter: bytes, after: bytes, want: int, *, versions: bool = False,
        near: bool = True,
    ) -> list[ShardPage]:
        """One page of all that this worker reads itself, and one per other owner; see ``ListShards``. An owner is asked for its share of
        the keys; what every shard may have, as common prefixes, for all. ``near``: siblings' volumes may be read here.
        """
        await self.owner.turns.wait()
        lent = self._lend(gids) if near and self.neighbours and not versions else {}
        local, remote = self._split(gids, lent)
        whole = versions or delimiter != b""
        calls = []
        for volume, some in remote:
            part = want if whole else share(want, len(some), len(gids))
            ask = m.ListShards(tuple(some), bucket, prefix, delimiter, after, part, versions)
            calls.append(self._ask(volume, m.LIST, _encode(ask)))
        waiting = asyncio.gather(*calls, return_exceptions=True)  # they leave in this turn, before the local page is made
        pages: list[ShardPage] = []
        if local:
            self.local += 1
            part = want if whole else share(want, len(local), len(gids))
            try:
                pages.append(self.owner.list_shards(local, bucket, prefix, delimiter, after, part, versions=versions, lent=lent))
            except Elsewhere:
                pages += await self.list_shards(local, bucket, prefix, delimiter, after, want, versions=versions, near=False)
            finally:
                for rows in lent.values():
                    rows.close()
        answers = await waiting
        if remote:  # theirs may all be here at once, and a page is still to be made of each
            await self.owner.turns.wait()
        for (_, some), answer in zip(remote, answers, strict=True):
            if isinstance(answer, Here):
                pages.append(self.owner.list_shards(some, bucket, prefix, delimiter, after, want, versions=versions))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                pages.append(_page(answer[0]))
        return pages

    def _lend(self, gids: Sequence[int]) -> dict[int, Lent]:
        """Rows of siblings' volumes that this worker can read itself."""
        by_volume: dict[int, list[int]] = {}
        for gid in gids:
            volume = self.ownership.volume_of(gid)
            if volume not in self.owner.sets:
                by_volume.setdefault(volume, []).append(gid)
        lent = {}
        for volume, some in by_volume.items():
            neighbour = self.neighbours.get(volume)
            rows = None if neighbour is None else neighbour.lend(some)
            if rows is not None:
                lent[volume] = rows
        return lent

    def _split(self, gids: Sequence[int], lent: Container[int] = ()) -> tuple[list[int], list[tuple[int, list[int]]]]:
        """Groups served here, those on volumes that are lent among them, and the others by owner (named by one of its volumes), or by
        volume while one may be on its way to another owner."""
        local: list[int] = []
        others: dict[int, tuple[int, list[int]]] = {}
        for gid in gids:
            volume = self.ownership.volume_of(gid)
            if volume in self.owner.sets or volume in lent:
                local.append(gid)
            else:
                others.setdefault(volume if self.siblings.moving else self.ownership.owners[volume], (volume, []))[1].append(gid)
        return local, list(others.values())

    async def parts_of(self, gid: int, version: Version) -> list[Part]:
        """Parts from the manifest rows of a version."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                meta = _encode(m.VersionRef(gid, version.object_id, version.seq))
                return _parts((await self._ask(volume, m.PARTS_OF, meta))[0])
            except Here:
                pass
        return self.owner.parts_of(gid, version.object_id, version.seq)

    async def upload(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Upload | None:
        """An open upload."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                return _upload.decode((await self._ask(volume, m.UPLOAD, _encode(m.UploadRef(gid, bucket, key, upload_id))))[0])
            except Here:
                pass
        return self.owner.upload(gid, bucket, key, upload_id)

    async def completed(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Completed | None:
        """What an earlier completion made."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                meta = _encode(m.UploadRef(gid, bucket, key, upload_id))
                return _completed.decode((await self._ask(volume, m.COMPLETED, meta))[0])
            except Here:
                pass
        return self.owner.completed(gid, bucket, key, upload_id)

    async def parts(self, gid: int, bucket: int, key: bytes, upload_id: bytes, after: int, limit: int) -> list[Part]:
        """Parts of an open upload."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                meta = _encode(m.UploadRef(gid, bucket, key, upload_id, after, limit))
                return _parts((await self._ask(volume, m.PARTS, meta))[0])
            except Here:
                pass
        return self.owner.parts(gid, upload_id, after, limit)

    async def list_uploads(
        self, gids: Sequence[int], bucket: int, prefix: bytes, after_key: bytes, after_upload: bytes, want: int
    ) -> list[UploadRows]:
        """One page per owner."""
        local, remote = self._split(gids)
        pages: list[UploadRows] = []
        if local:
            pages.append(self.owner.list_uploads(local, bucket, prefix, after_key, after_upload, want))
        for volume, some in remote:
            meta = _encode(m.ListUploads(tuple(some), bucket, prefix, after_key, after_upload, want))
            try:
                pages.append(_uploads((await self._ask(volume, m.UPLOADS, meta))[0]))
            except Here:
                pages.append(self.owner.list_uploads(some, bucket, prefix, after_key, after_upload, want))
        return pages

    async def usage(self, gids: Sequence[int], bucket: int) -> BucketUsage:
        """What the shards of a bucket hold, each as of a moment during this call."""
        local, remote = self._split(gids)
        found = self.owner.usage(local, bucket)
        for volume, some in remote:
            try:
                found += _usage((await self._ask(volume, m.USAGE, _encode(m.UsageAsk(tuple(some), bucket))))[0])
            except Here:
                found += self.owner.usage(some, bucket)
        return found

    async def ask_server(self, gid: int, kind: int, meta: bytes) -> bytes | None:
        """The answer of whoever serves a group; ``None`` if that is this worker."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                return (await self._ask(volume, kind, meta))[0]
            except Here:
                pass
        return None

    # data ----------------------------------------------------------------------------------------------------------

    async def locate(self, volume: int, data_id: bytes) -> Location | None:
        """Where an extent lies."""
        found = self.owner.sets.get(volume)
        if found is None:
            try:
                return _location.decode((await self._ask(volume, m.LOCATE, _encode(m.DataId(volume, (data_id,)))))[0])
            except Here:
                found = self.owner.sets[volume]
        return found.volume.locate(data_id)

    async def read_small(self, gid: int, data_id: bytes) -> bytes:
        """The body of an INLINE extent."""
        volume = self.ownership.volume_of(gid)
        if volume not in self.owner.sets:
            try:
                return (await self._ask(volume, m.BODY, _encode((gid, data_id))))[1]
            except Here:
                pass
        return await self.owner.read_small(gid, data_id)

    async def free(self, volume: int, data_ids: Sequence[bytes]) -> None:
        """Free data ids of a volume, durably."""
        if volume not in self.owner.sets:
            try:
                await self._ask(volume, m.FREE, _encode(m.DataId(volume, tuple(data_ids))))
                return
            except Here:
                pass
        await self.owner.free(volume, data_ids)

    def worker_for_body(self, gid: int) -> int:
        """Which worker writes a large body of a group: this one if it has a volume, else the group's owner, or while that gets its volume
        from another one, the owner of the system volume, which stays where it is."""
        if self.owner.roomiest() is not None:
            return self.me
        worker = self.ownership.owner_of(gid)
        return self.ownership.owners[SYSTEM_VOLUME] if worker == self.me or worker in self.siblings.moving else worker

    async def sink_call(self, worker: int, kind: int, meta: bytes, body: bytes | memoryview = b"") -> Answer:
        """A step of a large body on a sibling. Not repeated."""
        try:
            return await self.siblings.call(worker, kind, meta, body)
        except PeerError as error:
            raise ClientError(Reason.SLOW_DOWN, str(error)) from error


def _has(owner: Owner, volume: int) -> bool:
    return volume in owner.sets
