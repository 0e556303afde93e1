"""What a worker does for the groups of the volumes it owns: the same calls whether a sibling asks or the worker itself. Hot.

Invariants
* A write is answered after it was flushed and applied (I1); a small body gets its data id here, where its volume is.
* Reads see the view of this moment: one voter, one loop, so a read is linearizable.
* A missing shard is made from a linearizable read of the control plane, or the bucket is gone. A sealed one is refused as busy only
  while its bucket is there; a seal that no deletion stands behind any more is taken off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar
from weakref import WeakSet

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.cluster import messages as m
from titans3.cluster.groups import GroupSet
from titans3.cluster.sinks import ServedSinks
from titans3.cluster.store import Found
from titans3.cluster.turns import Turns
from titans3.engine.extent import ExtentIdent
from titans3.engine.hot import Hot
from titans3.engine.record import NO_DATA
from titans3.engine.sink import BodySink
from titans3.errors import ClientError, DiskError, Reason, VolumeFull
from titans3.meta import listing
from titans3.meta.keys import object_key
from titans3.meta.version_pages import page_versions
from titans3.model.command import (
    Command,
    CompleteUpload,
    CreateUpload,
    EnsureShard,
    Outcome,
    Purge,
    PutObject,
    PutPart,
    Seal,
    Unseal,
    decode_command,
)
from titans3.model.control import ACTIVE, BucketRecord
from titans3.model.version import INLINE, BucketUsage, Completed, Extent, Part, Upload, Version
from titans3.ring.ownership import Ownership
from titans3.rpc.link import Answer, Later, LinkServer

_encode = msgspec.msgpack.Encoder().encode
_GROWING = (PutObject, PutPart, CreateUpload, CompleteUpload)
_OF_BUCKETS: Final = (EnsureShard, Seal, Unseal, Purge)  # they deal with shards themselves
_ENSURE_TRIES = 4
_FREES_PER_TURN = 250
_SHARD_REASONS: Final = (Reason.SHARD_ABSENT, Reason.BUCKET_BUSY, Reason.QUOTA)
_NOTHING_LENT: Mapping[int, listing.Scanned] = MappingProxyType({})
C = TypeVar("C", bound=Command)


class FoundRow(Found, frozen=True, gc=False):
    """What was found, with the version's row as stored."""

    row: bytes = b""


class Owner:
    """Group sets of the volumes of this worker, by volume index."""

    def __init__(self, ownership: Ownership, server: LinkServer, hot: Hot | None = None) -> None:
        self.ownership = ownership
        self.hot = hot or Hot(0)
        self.turns = Turns()  # of pages, whoever asks
        self.sets: dict[int, GroupSet] = {}
        self.bucket_by_id: Callable[[int], Awaitable[tuple[BucketRecord, int] | None]]
        self.grow: Callable[[int, int, int], Awaitable[None]]  # bucket, group, bytes: returns when the shard may grow; raises QUOTA
        self.now_ms: Callable[[], int] = lambda: 0
        self.leaving = -1  # a volume that a sibling is about to own: large bodies go to others if there are any
        self.draining = False  # a successor waits: large bodies of siblings are finished, new ones go elsewhere
        self.sinks = ServedSinks(server, self._open_served)
        self._freeing: set[asyncio.Task[None]] = set()
        self._sinks_here: WeakSet[BodySink] = WeakSet()  # whoever may still commit what a sink wrote, holds the sink
        server.on_close.append(self._closing)
        decode = msgspec.msgpack.Decoder
        self._propose = decode(m.Propose).decode
        self._find = decode(m.Find).decode
        self._list = decode(m.ListShards).decode
        self._ref = decode(m.VersionRef).decode
        self._upload = decode(m.UploadRef).decode
        self._uploads = decode(m.ListUploads).decode
        self._data = decode(m.DataId).decode
        self._usage = decode(m.UsageAsk).decode
        server.handlers.update(
            {
                m.PUT: self._on_put, m.PROPOSE: self._on_propose, m.FIND: self._on_find, m.LIST: self._on_list,
                m.PARTS_OF: self._on_parts_of, m.UPLOAD: self._on_upload, m.PARTS: self._on_parts,
                m.COMPLETED: self._on_completed, m.UPLOADS: self._on_uploads, m.LOCATE: self._on_locate,
                m.BODY: self._on_body, m.FREE: self._on_free, m.USAGE: self._on_usage,
            }
        )

    def set_of(self, gid: int) -> GroupSet:
        """The group set of a group. Raises ClientError(SLOW_DOWN) when its volume is not here (yet)."""
        return self.set_of_volume(self.ownership.volume_of(gid))

    def set_of_volume(self, volume: int) -> GroupSet:
        """The group set of a volume."""
        found = self.sets.get(volume)
        if found is None:
            raise ClientError(Reason.SLOW_DOWN, f"volume {volume} is not open here", moving=1)
        return found

    # writes --------------------------------------------------------------------------------------------------------

    def put(self, gid: int, command: PutObject | PutPart, body: bytes | memoryview) -> Coroutine[Any, Any, Outcome]:
        """Commit a version or part, its small body in the entry."""
        return self.put_in(self.set_of(gid), gid, command, body)

    def put_in(self, groups: GroupSet, gid: int, command: PutObject | PutPart, body: bytes | memoryview) -> Coroutine[Any, Any, Outcome]:
        """``put`` for who has the group's set."""
        if not len(body):
            return self.propose_in(groups, gid, command)
        data_id, named = self._named(groups, command, body)
        return self.propose_in(groups, gid, named, body, data_id)

    @staticmethod
    def _named(groups: GroupSet, command: PutObject | PutPart, body: bytes | memoryview) -> tuple[bytes, PutObject | PutPart]:
        """A data id for a small body, and the command with it."""
        data_id = groups.volume.next_data_id()
        extents = (Extent(data_id, len(body), INLINE, 0, xxh3_64_intdigest(body)),)
        if isinstance(command, PutObject):
            version = msgspec.structs.replace(command.version, extents=extents)
            return data_id, msgspec.structs.replace(command, version=version)
        return data_id, msgspec.structs.replace(command, part=msgspec.structs.replace(command.part, extents=extents))

    def propose(self, gid: int, command: Command, body: bytes | memoryview = b"", data_id: bytes = NO_DATA) -> Coroutine[Any, Any, Outcome]:
        """Outcome of a command. Raises ClientError for what the owner itself refuses."""
        return self.propose_in(self.set_of(gid), gid, command, body, data_id)

    async def propose_in(
        self, groups: GroupSet, gid: int, command: Command, body: bytes | memoryview = b"", data_id: bytes = NO_DATA
    ) -> Outcome:
        """``propose`` for who has the group's set."""
        self._need_room(groups, command, body)
        delay = groups.checkpointer.delay_seconds
        if delay:
            await asyncio.sleep(delay)
        try:
            outcome = await groups.propose(gid, command, body, data_id)
        except DiskError as error:
            raise ClientError(Reason.UNKNOWN_OUTCOME, str(error)) from error
        return await self._mend(groups, gid, command, body, outcome) if outcome.reason in _SHARD_REASONS else outcome

    @staticmethod
    def _need_room(groups: GroupSet, command: Command, body: bytes | memoryview) -> None:
        if isinstance(command, _GROWING):
            try:
                groups.volume.check_room(len(body))
            except VolumeFull as full:
                raise ClientError(Reason.VOLUME_FULL, str(full)) from full

    async def _mend(self, groups: GroupSet, gid: int, command: Command, body: bytes | memoryview, outcome: Outcome) -> Outcome:
        """What became of a command that a shard refused, after the shard was made, given more or unsealed."""
        if isinstance(command, _OF_BUCKETS):
            return outcome
        for _ in range(_ENSURE_TRIES):
            if outcome.reason == Reason.SHARD_ABSENT:
                await self._ensure(gid, command)
            elif outcome.reason == Reason.QUOTA:
                await self.grow(command.bucket, gid, int(outcome.message))  # type: ignore[attr-defined]
            elif await self._unsealed(gid, command):  # under its request id the refusal is remembered
                raise ClientError(Reason.SLOW_DOWN, "the shard was still sealed by a deletion that was undone")
            else:
                return outcome
            data_id = NO_DATA
            if len(body):
                data_id, command = self._renew(groups, command)
            outcome = await self._propose_plain(groups, gid, command, body, data_id)
            if outcome.reason not in _SHARD_REASONS:
                return outcome
        raise ClientError(Reason.SLOW_DOWN, "the bucket's shard could not be made, or others took what was granted to it")

    def _renew(self, groups: GroupSet, command: Command) -> tuple[bytes, Command]:
        """A data id names one body for ever: a repeated entry carries a new one."""
        data_id = groups.volume.next_data_id()
        old = command.version.extents if isinstance(command, PutObject) else command.part.extents  # type: ignore[attr-defined]
        extents = (msgspec.structs.replace(old[0], data_id=data_id),)
        if isinstance(command, PutObject):
            return data_id, msgspec.structs.replace(command, version=msgspec.structs.replace(command.version, extents=extents))
        assert isinstance(command, PutPart)
        return data_id, msgspec.structs.replace(command, part=msgspec.structs.replace(command.part, extents=extents))

    async def _ensure(self, gid: int, command: Command) -> None:
        bucket: int = command.bucket  # type: ignore[attr-defined]
        found = await self.bucket_by_id(bucket)
        if found is None:
            raise ClientError(Reason.BUCKET_ABSENT)
        record, revision = found
        await self._propose_plain(self.set_of(gid), gid, EnsureShard(bucket, revision, record.versioning, record.quota))

    @staticmethod
    async def _propose_plain(
        groups: GroupSet, gid: int, command: Command, body: bytes | memoryview = b"", data_id: bytes = NO_DATA
    ) -> Outcome:
        """Without pace and mending."""
        try:
            return await groups.propose(gid, command, body, data_id)
        except DiskError as error:
            raise ClientError(Reason.UNKNOWN_OUTCOME, str(error)) from error

    async def _unsealed(self, gid: int, command: Command) -> bool:
        """Whether a sealed shard takes writes again: its bucket is there and no deletion is under way. Raises BUCKET_ABSENT.

        The seal of a deletion that was undone stays only if it came to the log after its undoing. Its op id is read before the
        bucket: a bucket that is active then has outlived that deletion, which can no longer succeed.
        """
        bucket: int = command.bucket  # type: ignore[attr-defined]
        shard = self.set_of(gid).machine.shards.find(gid, bucket)
        op_id = b"" if shard is None else shard.seal
        found = await self.bucket_by_id(bucket)
        if found is None:
            raise ClientError(Reason.BUCKET_ABSENT)
        if found[0].state != ACTIVE:
            return False
        if op_id:
            await self._propose_plain(self.set_of(gid), gid, Unseal(bucket, op_id))
        return True

    def _on_put(self, meta: bytes, body: bytes) -> Later | Awaitable[Answer]:
        ask = self._propose(meta)
        command = self._asked(ask)
        if not isinstance(command, (PutObject, PutPart)):
            raise ClientError(Reason.UNAVAILABLE, f"{type(command).__name__} has no body")
        if not len(body):
            return self._serve(ask.gid, command, b"", NO_DATA)
        data_id, named = self._named(self.set_of(ask.gid), command, body)
        return self._serve(ask.gid, named, body, data_id)

    def _serve(self, gid: int, command: Command, body: bytes, data_id: bytes) -> Later | Awaitable[Answer]:
        """``propose`` for a sibling: a future instead of a task for what goes as it mostly does."""
        groups = self.set_of(gid)
        if groups.checkpointer.delay_seconds:
            return self._serve_slowly(gid, self.propose(gid, command, body, data_id))
        self._need_room(groups, command, body)

        def then(future: asyncio.Future[Outcome]) -> Answer | Awaitable[Answer]:
            try:
                outcome = future.result()
            except DiskError as error:
                raise ClientError(Reason.UNKNOWN_OUTCOME, str(error)) from error
            if outcome.reason in _SHARD_REASONS:
                return self._serve_slowly(gid, self._mend(groups, gid, command, body, outcome))
            return self._proposed(gid, outcome)

        return Later(groups.propose(gid, command, body, data_id), then)

    async def _serve_slowly(self, gid: int, outcome: Awaitable[Outcome]) -> Answer:
        return self._proposed(gid, await outcome)

    def _asked(self, ask: m.Propose) -> Command:
        """A sibling's command. The window of its request id begins now if this is the first try, else where the sender says (I11).

        Raises ClientError(UNAVAILABLE) for a command that this build does not know: it never reaches the log.
        """
        try:
            command = decode_command(ask.command)
        except LookupError as error:
            raise ClientError(Reason.UNAVAILABLE, str(error)) from error
        return self.windowed(ask.gid, command, ask.known, repeat=ask.repeat)

    def windowed(self, gid: int, command: C, known: int, *, repeat: bool) -> C:
        """The command with the index at which the window of its request id begins: ``known`` if an earlier try may have been applied."""
        if not hasattr(command, "known_index"):
            return command
        return msgspec.structs.replace(command, known_index=known if repeat else self.set_of(gid).applied(gid))

    def _proposed(self, gid: int, outcome: Outcome) -> Answer:
        groups = self.sets.get(self.ownership.volume_of(gid))
        return _encode(m.Proposed(outcome, 0 if groups is None else groups.applied(gid))), b""

    def _on_propose(self, meta: bytes, body: bytes) -> Later | Awaitable[Answer]:
        ask = self._propose(meta)
        return self._serve(ask.gid, self._asked(ask), b"", NO_DATA)

    # reads ---------------------------------------------------------------------------------------------------------

    def find_row(self, gid: int, bucket: int, key: bytes, version_id: str) -> tuple[bytes, Version] | None:
        """Newest row, or the one with a version id."""
        return self._row(self.set_of(gid), gid, bucket, key, version_id)

    @staticmethod
    def _row(groups: GroupSet, gid: int, bucket: int, key: bytes, version_id: str) -> tuple[bytes, Version] | None:
        objects = groups.machine.objects
        if not version_id:
            row = groups.view.get(object_key(gid, bucket, key))
            if row is not None:
                return row, objects.decode(row)
        else:
            version = objects.find(gid, bucket, key, version_id)
            if version is not None:
                return objects.encode(version), version
        if cause := groups.damage_of(gid):  # what a damaged group does not know is not known to be absent
            raise ClientError(Reason.UNAVAILABLE, cause)
        return None

    def find_nowait(self, gid: int, bucket: int, key: bytes, version_id: str, want_body: bool) -> tuple[FoundRow | None, bool]:
        """(what was found, whether the body must still be read with ``read_small``)."""
        groups = self.set_of(gid)
        hot = self.hot
        if not version_id and (newest := groups.view.get(object_key(gid, bucket, key))) is not None:
            kept = hot.find(newest)
            if kept is not None and (not want_body or kept.body is not None or not kept.version.is_small):
                return FoundRow(kept.version, kept.body if want_body else None, kept, newest), False
            row, version = newest, groups.machine.objects.decode(newest)
        else:
            found = self._row(groups, gid, bucket, key, version_id)
            if found is None:
                return None, False
            row, version = found
        if not want_body or not version.is_small:
            return FoundRow(version, None, hot.keep(row, version, None), row), False
        try:
            body = groups.volume.read_body_nowait(version.extents[0].data_id)
        except (DiskError, KeyError, FileNotFoundError) as error:  # no row without its body, unless a segment is lost
            raise damaged(error) from error
        return FoundRow(version, body, None if body is None else hot.keep(row, version, body), row), body is None

    async def find(self, gid: int, bucket: int, key: bytes, version_id: str, want_body: bool) -> FoundRow | None:
        """The same, from the disk if need be; a body that went away meanwhile is looked up again."""
        for _ in range(3):
            found, unread = self.find_nowait(gid, bucket, key, version_id, want_body)
            if found is None or not unread:
                return found
            try:
                body = await self.set_of(gid).volume.read_body(found.version.extents[0].data_id)
            except (KeyError, FileNotFoundError):
                continue
            except DiskError as error:
                raise damaged(error) from error
            return FoundRow(found.version, body, self.hot.keep(found.row, found.version, body), found.row)
        raise ClientError(Reason.SLOW_DOWN, "the object changed while it was read")

    def _on_find(self, meta: bytes, body: bytes) -> Answer | Awaitable[Answer]:
        ask = self._find(meta)
        found, unread = self.find_nowait(ask.gid, ask.bucket, ask.key, ask.version_id, ask.body)
        if unread:
            return self._find_later(ask)
        return (b"", b"") if found is None else _found_answer(found)

    async def _find_later(self, ask: m.Find) -> Answer:
        found = await self.find(ask.gid, ask.bucket, ask.key, ask.version_id, ask.body)
        return (b"", b"") if found is None else _found_answer(found)

    def list_shards(
        self, gids: Sequence[int], bucket: int, prefix: bytes, delimiter: bytes, after: bytes, want: int, *, versions: bool = False,
        lent: Mapping[int, listing.Scanned] = _NOTHING_LENT,
    ) -> listing.ShardPage:
        """One page over shards that are all on volumes of this worker, or on ``lent`` ones."""
        sources: dict[int, listing.Scanned] = {}
        for gid in gids:
            volume = self.ownership.volume_of(gid)
            sources[gid] = lent[volume] if volume in lent else self.set_of_volume(volume).view
        page_of = page_versions if versions else listing.page_shards
        return page_of(listing.RowsByGroup(sources), gids, bucket, prefix=prefix, delimiter=delimiter, after=after, want=want)

    async def _on_list(self, meta: bytes, body: bytes) -> Answer:
        await self.turns.wait()
        ask = self._list(meta)
        page = self.list_shards(ask.gids, ask.bucket, ask.prefix, ask.delimiter, ask.after, ask.want, versions=ask.versions)
        return _encode(page), b""

    def usage(self, gids: Sequence[int], bucket: int) -> BucketUsage:
        """What shards of this worker hold, as of now."""
        found = BucketUsage()
        for gid in gids:
            shard = self.set_of(gid).machine.shards.find(gid, bucket)
            if shard is not None:
                found += shard.usage()
        return found

    def _on_usage(self, meta: bytes, body: bytes) -> Answer:
        ask = self._usage(meta)
        return _encode(self.usage(ask.gids, ask.bucket)), b""

    def parts_of(self, gid: int, object_id: int, seq: int) -> list[Part]:
        """Parts from manifest rows."""
        return self.set_of(gid).machine.objects.parts_at(gid, object_id, seq)

    def _on_parts_of(self, meta: bytes, body: bytes) -> Answer:
        ask = self._ref(meta)
        return _encode(self.parts_of(ask.gid, ask.object_id, ask.seq)), b""

    def upload(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Upload | None:
        """An open upload."""
        return self.set_of(gid).machine.uploads.find(gid, bucket, key, upload_id)

    def _on_upload(self, meta: bytes, body: bytes) -> Answer:
        ask = self._upload(meta)
        return _encode(self.upload(ask.gid, ask.bucket, ask.key, ask.upload_id)), b""

    def completed(self, gid: int, bucket: int, key: bytes, upload_id: bytes) -> Completed | None:
        """What an earlier completion made."""
        return self.set_of(gid).machine.uploads.completed(gid, bucket, key, upload_id)

    def _on_completed(self, meta: bytes, body: bytes) -> Answer:
        ask = self._upload(meta)
        return _encode(self.completed(ask.gid, ask.bucket, ask.key, ask.upload_id)), b""

    def parts(self, gid: int, upload_id: bytes, after: int, limit: int) -> list[Part]:
        """Parts of an open upload above a number."""
        return self.set_of(gid).machine.uploads.parts(gid, upload_id, after, limit)

    def _on_parts(self, meta: bytes, body: bytes) -> Answer:
        ask = self._upload(meta)
        return _encode(self.parts(ask.gid, ask.upload_id, ask.after, ask.limit)), b""

    def list_uploads(
        self, gids: Sequence[int], bucket: int, prefix: bytes, after_key: bytes, after_upload: bytes, want: int
    ) -> tuple[list[tuple[bytes, bytes, Upload]], bool]:
        """Up to ``want`` uploads over shards of this worker, ordered; whether there are more."""
        found: list[tuple[bytes, bytes, Upload]] = []
        more = False
        for gid in gids:
            groups = self.set_of(gid)
            page, further = listing.page_uploads(
                groups.view, gid, bucket, prefix=prefix, after_key=after_key, after_upload=after_upload, want=want
            )
            more = more or further
            for key, upload_id in page:
                upload = groups.machine.uploads.find(gid, bucket, key, upload_id)
                if upload is not None:
                    found.append((key, upload_id, upload))
        found.sort(key=lambda item: (item[0], item[1]))
        return found[:want], more or len(found) > want

    def _on_uploads(self, meta: bytes, body: bytes) -> Answer:
        ask = self._uploads(meta)
        found = self.list_uploads(ask.gids, ask.bucket, ask.prefix, ask.after_key, ask.after_upload, ask.want)
        return _encode(found), b""

    # data ----------------------------------------------------------------------------------------------------------

    def applied_all(self) -> dict[int, int]:
        """Applied index of every group here: where the window of a request id of a sibling that greets begins at the latest."""
        return {gid: index for groups in self.sets.values() for gid, index in groups.applied_all().items()}

    def _on_locate(self, meta: bytes, body: bytes) -> Answer:
        ask = self._data(meta)
        return _encode(self.set_of_volume(ask.volume).volume.locate(ask.data_ids[0])), b""

    async def read_small(self, gid: int, data_id: bytes) -> bytes:
        """The body of an INLINE extent of a group. Raises ClientError(BODY_DAMAGED, VERSION_ABSENT)."""
        try:
            return await self.set_of(gid).volume.read_body(data_id)
        except KeyError as error:
            raise ClientError(Reason.VERSION_ABSENT) from error
        except DiskError as error:
            raise damaged(error) from error

    async def _on_body(self, meta: bytes, body: bytes) -> Answer:
        ask = self._ref_body(meta)
        return b"", await self.read_small(*ask)

    @staticmethod
    def _ref_body(meta: bytes) -> tuple[int, bytes]:
        return msgspec.msgpack.decode(meta, type=tuple[int, bytes])

    async def free(self, volume: int, data_ids: Sequence[bytes]) -> None:
        """Free data ids of a volume; returns when that is durable."""
        groups = self.set_of_volume(volume)
        for number, data_id in enumerate(data_ids, 1):
            groups.volume.free(data_id)
            if number % _FREES_PER_TURN == 0:
                await asyncio.sleep(0)
        groups.checkpointer.want()
        try:
            await groups.volume.wait_checkpoint()
        except DiskError as error:
            raise ClientError(Reason.UNAVAILABLE, str(error)) from error

    async def _on_free(self, meta: bytes, body: bytes) -> Answer:
        """Does not hold up a worker that is closing: what is not durable by then is freed again by its successor."""
        ask = self._data(meta)
        freeing = asyncio.ensure_future(self.free(ask.volume, ask.data_ids))
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        try:
            await freeing
        except asyncio.CancelledError:
            if not freeing.cancelled():
                raise
            raise ClientError(Reason.SLOW_DOWN, "closing", moving=1) from None
        return b"", b""

    def _closing(self) -> None:
        for freeing in self._freeing:
            freeing.cancel()

    def roomiest(self) -> GroupSet | None:
        """The open volume of this worker with the most room for a large body."""
        best: GroupSet | None = None
        room = -1
        for index, groups in self.sets.items():
            if groups.failure is None and groups.volume.room > room and index != self.leaving:
                best, room = groups, groups.volume.room
        return best or self.sets.get(self.leaving)

    def has_sinks_on(self, volume: int) -> bool:
        """Whether a large body is being written to a volume of this worker, or may still be committed."""
        writer = self.set_of_volume(volume).volume.writer
        return any(sink.ident.data_id[8:16] == writer for sink in self._sinks_here)

    def open_sink(self, ask: m.SinkOpen) -> BodySink:
        """A sink on this worker's roomiest volume. Raises ClientError(VOLUME_FULL, SLOW_DOWN)."""
        groups = self.roomiest()
        if groups is None:
            raise ClientError(Reason.SLOW_DOWN, "no volume is open here")
        volume = groups.volume
        data_id = volume.next_data_id()
        blob = _encode({"headers": ask.headers, "metadata": ask.metadata})
        ident = ExtentIdent(
            data_id, ask.gid, ask.bucket, ask.key, data_id, part=ask.part, upload_id=ask.upload_id,
            created_ms=self.now_ms(), blob=blob,
        )
        try:
            sink = volume.sink(ident, ask.length)
        except VolumeFull as full:
            raise ClientError(Reason.VOLUME_FULL, str(full)) from full
        self._sinks_here.add(sink)
        return sink

    def open_since(self, volume: int) -> dict[int, int]:
        """By group, the sequence of the oldest large body on a volume of this worker that may still be committed."""
        writer = self.set_of_volume(volume).volume.writer
        oldest: dict[int, int] = {}
        for sink in self._sinks_here:
            ident = sink.ident
            if ident.data_id[8:16] == writer:
                sequence = int.from_bytes(ident.data_id[:8], "big")
                oldest[ident.gid] = min(sequence, oldest.get(ident.gid, sequence))
        return oldest

    def _open_served(self, ask: m.SinkOpen) -> BodySink:
        if self.draining:
            raise ClientError(Reason.SLOW_DOWN, "this worker is about to be replaced", moving=1)
        return self.open_sink(ask)

    @property
    def has_sinks(self) -> bool:
        """Whether siblings are streaming large bodies to volumes of this worker."""
        return len(self.sinks) > 0

    @property
    def sink_at(self) -> float:
        """When a sibling last sent a piece of a large body, in time of the loop."""
        return self.sinks.last


def _found_answer(found: FoundRow) -> Answer:
    return found.row, found.body or b""


def damaged(error: Exception) -> ClientError:
    """What a client is told of a damaged or lost body or a failing disk."""
    return ClientError(Reason.BODY_DAMAGED, "the body is lost" if isinstance(error, (KeyError, OSError)) else str(error))
