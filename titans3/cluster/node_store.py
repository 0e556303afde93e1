"""The store as one worker reaches it: implements the protocol in ``store.py`` over dispatcher, buckets and extent reader. Hot.

Invariants
* What a caller gets back from a write is durable (I1); what it reads was verified (I6).
* A large body goes to a volume of this worker; a worker that owns none streams it to a sibling that does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

import msgspec

from titans3.cluster import messages as m
from titans3.cluster.buckets import Buckets
from titans3.cluster.configurations import Configurations
from titans3.cluster.control.system import SystemControl
from titans3.cluster.dispatch import Dispatcher
from titans3.cluster.identities import Identities
from titans3.cluster.rules import WRITER, Rules
from titans3.cluster.sinks import told
from titans3.cluster.store import BodySink, Digest, Found, Page, UploadItem, UploadPage, VersionPage
from titans3.engine.location import PlacedExtent, home_of, placed
from titans3.engine.reader import ExtentReader, Run
from titans3.errors import ClientError, DiskError, Reason
from titans3.http.message import BodySource
from titans3.limits import DELETE_KEYS_PER_ENTRY, MIB, PART_BYTES_MIN, SMALL_BODY_BYTES_MAX
from titans3.meta import version_pages
from titans3.meta.listing import collect
from titans3.meta.objects import ENABLED
from titans3.model.command import (
    AbortUpload,
    Command,
    CompletePart,
    CompleteUpload,
    Condition,
    CreateUpload,
    DeleteEntry,
    DeleteObjects,
    Outcome,
    PutObject,
    PutPart,
    UpdateVersion,
)
from titans3.model.configuration import Configuration
from titans3.model.control import BucketRecord
from titans3.model.version import (
    INLINE,
    MANIFEST_ROWS,
    MARKER,
    SINGLE,
    STANDARD,
    BucketUsage,
    Checksum,
    Extent,
    Part,
    Upload,
    Version,
)
from titans3.ring.placement import bucket_groups, ring_hash

_logger = logging.getLogger("titans3.store")
_encode = msgspec.msgpack.Encoder().encode
_version = msgspec.msgpack.Decoder(Version).decode
_extents = msgspec.msgpack.Decoder(tuple[Extent, ...]).decode
# An owner that cannot be asked fails its own keys of a DeleteObjects, not the others.
_OF_SOME_KEYS = frozenset((Reason.SLOW_DOWN, Reason.UNAVAILABLE, Reason.UNKNOWN_OUTCOME, Reason.VOLUME_FULL, Reason.BUCKET_BUSY))
_SINK_PIECE_BYTES_MAX = 4 * MIB
_NONCES = 256  # drawn at a time: one system call for many


class NodeStore:
    """Store of one worker."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        control: SystemControl,
        buckets: Buckets,
        reader: ExtentReader,
        now_ms: Callable[[], int],
        *,
        identities: Identities,
        small_body_bytes: int = SMALL_BODY_BYTES_MAX,
        part_bytes_min: int = PART_BYTES_MIN,
        default_ownership: str = WRITER,
    ) -> None:
        self._dispatcher, self._control, self._buckets, self._reader = dispatcher, control, buckets, reader
        self._now_ms = now_ms
        self.small_body_bytes = small_body_bytes
        self.part_bytes_min = part_bytes_min
        self.configurations = Configurations(control)
        self.identities = identities
        self.rules = Rules(self.configurations, identities, default_ownership=default_ownership)
        self._nonces: list[bytes] = []

    def _nonce(self) -> bytes:
        """8 bytes that never repeat in a group and are hard to guess."""
        if not self._nonces:
            pool = os.urandom(8 * _NONCES)
            self._nonces = [pool[at : at + 8] for at in range(0, len(pool), 8)]
        return self._nonces.pop()

    # buckets ---------------------------------------------------------------------------------------------------

    def bucket_nowait(self, name: str) -> BucketRecord | None:
        """From the cache."""
        return self._buckets.find_nowait(name)

    async def bucket(self, name: str) -> BucketRecord:
        """Raises BUCKET_ABSENT."""
        return await self._buckets.find(name)

    async def buckets(self) -> list[BucketRecord]:
        """All, by name."""
        return await self._buckets.all()

    async def create_bucket(
        self, name: str, owner: str, region: str, configurations: Sequence[Configuration] = ()
    ) -> tuple[BucketRecord, bool]:
        """See ``Buckets.create``."""
        return await self._buckets.create(name, owner, region, configurations)

    async def delete_bucket(self, name: str) -> None:
        """See ``Buckets.delete``."""
        await self._buckets.delete(name)

    async def set_versioning(self, name: str, versioning: int) -> None:
        """See ``Buckets.set_versioning``."""
        await self._buckets.set_versioning(name, versioning)

    async def set_quota(self, name: str, quota: int) -> None:
        """See ``Buckets.set_quota``. Raises SLOW_DOWN while a worker would not keep to it."""
        if self._dispatcher.feature_level < m.QUOTA_LEVEL:
            raise ClientError(Reason.SLOW_DOWN, "quotas wait for every worker to be of this version")
        await self._buckets.set_quota(name, quota)

    async def usage(self, bucket: BucketRecord) -> BucketUsage:
        """What the bucket holds."""
        return await self._dispatcher.usage(bucket_groups(bucket.bucket, bucket.shards), bucket.bucket)

    async def _need_room(self, bucket: BucketRecord, key: bytes, length: int, upload_id: bytes, part: int) -> None:
        """Before a large body is read. Raises QUOTA."""
        used = (await self.usage(bucket)).bytes
        if used + length <= bucket.quota:
            return
        replaced = 0
        if upload_id:
            old, _ = await self.parts(bucket, key, upload_id, after=part - 1, limit=1)
            replaced = old[0].size if old and old[0].number == part else 0
        elif bucket.versioning != ENABLED:
            try:
                replaced = (await self.find(bucket, key, version_id="null")).version.size
            except ClientError as error:
                if error.reason is not Reason.VERSION_ABSENT:
                    raise
        if length > replaced and used + length - replaced > bucket.quota:
            raise ClientError(Reason.QUOTA, bucket=bucket.name)

    # objects -------------------------------------------------------------------------------------------------------

    async def find(self, bucket: BucketRecord, key: bytes, *, version_id: str = "", body: bool = False) -> Found:
        """Newest version or the one asked for."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        found = await self._dispatcher.find(gid, bucket.bucket, key, version_id, body)
        if found is None:
            raise ClientError(Reason.VERSION_ABSENT if version_id else Reason.KEY_ABSENT)
        if found.version.flags & MARKER and not version_id:
            raise ClientError(Reason.KEY_ABSENT, marker=found.version)
        return found

    def open(self, bucket: BucketRecord, key: bytes, version: Version, start: int, length: int) -> BodySource:
        """Verified bytes of a version, piece by piece."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        if version.flags & MANIFEST_ROWS:
            return _ManifestSource(self, gid, version, start, length)
        return self._reader.source(self._runs(gid, version.extents), start, length)

    def read_nowait(self, version: Version, start: int, length: int) -> memoryview | None:
        """What a piece of a version in one extent is, if it is here at once; otherwise it takes ``open``. Raises BodyDamaged, DiskError."""
        extents = version.extents
        if len(extents) != 1 or extents[0].policy != SINGLE:
            return None
        return self._reader.read_nowait(extents[0], start, length)

    def _runs(self, gid: int, extents: Sequence[Extent]) -> list[Run]:
        return [
            extent if extent.policy != INLINE else _SmallRun(self._dispatcher, gid, extent) for extent in extents
        ]

    async def parts_of(self, bucket: BucketRecord, key: bytes, version: Version) -> tuple[Part, ...]:
        """Parts in order, or one that stands for a body put in one go."""
        if version.flags & MANIFEST_ROWS:
            gid = ring_hash(bucket.bucket, key, bucket.shards)
            return tuple(await self._dispatcher.parts_of(gid, version))
        return (Part(1, version.size, version.etag, version.modified_ms, version.extents, version.checksum),)

    async def locate(self, bucket: BucketRecord, key: bytes, extents: Sequence[Extent]) -> list[PlacedExtent]:
        """Where the bytes of a version of a key lie right now: a question to an owner each."""
        home = self._dispatcher.ownership.volume_of(ring_hash(bucket.bucket, key, bucket.shards))
        volumes = [home_of(extent, home) for extent in extents]
        return [
            placed(extent, volume, await self._dispatcher.locate(volume, extent.data_id))
            for extent, volume in zip(extents, volumes, strict=True)
        ]  # fmt: skip

    async def put(
        self, bucket: BucketRecord, key: bytes, version: Version, body: bytes | memoryview, condition: Condition | None
    ) -> Version:
        """Commit a version."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        if version.acl:
            self._need_acls()
        version = msgspec.structs.replace(version, modified_ms=self._now_ms(), nonce=self._nonce())
        try:
            command = PutObject(bucket.bucket, key, version, condition, revision=bucket.revision)
            return _committed(await self._dispatcher.put(gid, command, body))
        except ClientError as error:
            raise await self._refusal(bucket, error) from error

    def _need_acls(self) -> None:
        """Raises SLOW_DOWN while a worker would not keep an access control list."""
        if self._dispatcher.feature_level < m.ACL_LEVEL:
            raise ClientError(Reason.SLOW_DOWN, "access control lists wait for every worker to be of this version")

    async def _propose(self, bucket: BucketRecord, gid: int, command: Command) -> Outcome:
        """The outcome of a command that was done. Raises what refused it."""
        try:
            return _done(await self._dispatcher.propose(gid, command))
        except ClientError as error:
            raise await self._refusal(bucket, error) from error

    async def _refusal(self, bucket: BucketRecord, error: ClientError) -> ClientError:
        return await self._buckets.refusal(bucket, error) if error.reason is Reason.BUCKET_ABSENT else error

    async def sink(
        self,
        bucket: BucketRecord,
        key: bytes,
        *,
        length: int | None,
        headers: dict[str, str],
        metadata: dict[str, str],
        upload_id: bytes = b"",
        part: int = 0,
    ) -> BodySink:
        """Where a large body goes. Raises QUOTA."""
        if bucket.quota and length is not None:
            await self._need_room(bucket, key, length, upload_id, part)
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        ask = m.SinkOpen(gid, bucket.bucket, key, length, upload_id, part, headers, metadata)
        worker = self._dispatcher.worker_for_body(gid)
        return _LocalSink(self._dispatcher, ask) if worker == self._dispatcher.me else _RemoteSink(self._dispatcher, ask, worker)

    async def delete(self, bucket: BucketRecord, entries: Sequence[DeleteEntry], owner: str) -> list[tuple[str, str, bool]]:
        """Delete keys, each by itself."""
        if len(entries) == 1:
            only = entries[0]
            command = DeleteObjects(bucket.bucket, (only,), self._now_ms(), self._nonce(), owner, revision=bucket.revision)
            return list((await self._propose(bucket, ring_hash(bucket.bucket, only.key, bucket.shards), command)).entries)
        by_group: dict[int, list[int]] = {}
        for place, entry in enumerate(entries):
            by_group.setdefault(ring_hash(bucket.bucket, entry.key, bucket.shards), []).append(place)
        results: list[tuple[str, str, bool]] = [("", "", False)] * len(entries)
        now = self._now_ms()

        async def group(gid: int, places: list[int]) -> None:
            for start in range(0, len(places), DELETE_KEYS_PER_ENTRY):
                some = places[start : start + DELETE_KEYS_PER_ENTRY]
                command = DeleteObjects(
                    bucket.bucket, tuple(entries[p] for p in some), now, self._nonce(), owner, revision=bucket.revision
                )
                try:
                    outcome = await self._propose(bucket, gid, command)
                except ClientError as error:
                    if error.reason not in _OF_SOME_KEYS:
                        raise
                    for place in some:
                        results[place] = (str(error.reason), "", False)
                    continue
                for place, result in zip(some, outcome.entries, strict=True):
                    results[place] = result

        if len(by_group) == 1:
            await group(*next(iter(by_group.items())))
        else:
            for failure in await asyncio.gather(*(group(*item) for item in by_group.items()), return_exceptions=True):
                if failure is not None:
                    raise failure
        return results

    async def list_objects(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after: bytes, limit: int
    ) -> Page:
        """A page in key order."""
        gids = bucket_groups(bucket.bucket, bucket.shards)

        async def ask(position: bytes, want: int) -> list:  # type: ignore[type-arg]
            return await self._dispatcher.list_shards(gids, bucket.bucket, prefix, delimiter, position, want)

        items, truncated = await collect(ask, after=after, want=limit)
        keys = [item for item in items if item[1]] if delimiter else items
        prefixes = [name for name, row in items if not row] if delimiter else []
        return Page(keys, prefixes, truncated, items[-1][0] if items else after)

    async def list_versions(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_version: str, limit: int
    ) -> VersionPage:
        """A page of versions. An id that is gone still names its place; a null version that is gone does not: its key is told again."""
        gids = bucket_groups(bucket.bucket, bucket.shards)
        after = await self._version_position(bucket, prefix, delimiter, after_key, after_version)

        async def ask(position: bytes, want: int) -> list:  # type: ignore[type-arg]
            return await self._dispatcher.list_shards(gids, bucket.bucket, prefix, delimiter, position, want, versions=True)

        rows, truncated = await collect(ask, after=after, want=limit)
        items: list[tuple[bytes, Version, bool]] = []
        prefixes: list[bytes] = []
        last = (after_key, after_version)
        told = after_key if after_version and after != version_pages.before_key(after_key) else b""  # its newest version was told before
        for name, row in rows:
            key, seq = version_pages.split(name)
            if not row:
                prefixes.append(key)
                last = (key, "")
                continue
            version = _version(row)
            assert version.seq == seq
            items.append((key, version, key != told and not (items and items[-1][0] == key)))
            last = (key, version.version_id)
        return VersionPage(items, prefixes, truncated, last)

    async def _version_position(
        self, bucket: BucketRecord, prefix: bytes, delimiter: bytes, key: bytes, version_id: str
    ) -> bytes:
        """Where a page begins, as ``meta.version_pages`` names it."""
        if not key:
            return b""
        if not version_id:
            if delimiter and key.startswith(prefix) and key.endswith(delimiter) and _group_of(key, prefix, delimiter) == key:
                return version_pages.group(key)
            return version_pages.behind_key(key)
        if version_id != "null":
            return version_pages.position(key, int(version_id[:16], 16))
        try:
            found = await self.find(bucket, key, version_id="null")
        except ClientError as error:
            if error.reason is not Reason.VERSION_ABSENT:
                raise
            return version_pages.before_key(key)
        return version_pages.position(key, found.version.seq)

    async def set_tags(self, bucket: BucketRecord, key: bytes, version_id: str, tags: dict[str, str]) -> Version:
        """Replace the tags of a version."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        return _committed(await self._propose(bucket, gid, UpdateVersion(bucket.bucket, key, version_id, tags)))

    async def set_acl(self, bucket: BucketRecord, key: bytes, version_id: str, acl: bytes) -> Version:
        """Replace the access control list of a version."""
        self._need_acls()
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        return _committed(await self._propose(bucket, gid, UpdateVersion(bucket.bucket, key, version_id, acl=acl)))

    # multipart -----------------------------------------------------------------------------------------------------

    async def create_upload(
        self,
        bucket: BucketRecord,
        key: bytes,
        *,
        owner: str,
        headers: dict[str, str],
        metadata: dict[str, str],
        checksum_algorithm: str,
        checksum_composite: bool,
        storage_class: int = STANDARD,
        tags: dict[str, str] | None = None,
        acl: bytes = b"",
        initiator: str = "",
    ) -> bytes:
        """The upload id."""
        if acl:
            self._need_acls()
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        command = CreateUpload(
            bucket.bucket, key, self._now_ms(), owner, self._nonce(), headers, metadata, checksum_algorithm, checksum_composite,
            storage_class=storage_class, tags=tags or {}, acl=acl, initiator=initiator,
        )
        return (await self._propose(bucket, gid, command)).data

    async def upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Upload:
        """Raises UPLOAD_ABSENT."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        found = await self._dispatcher.upload(gid, bucket.bucket, key, upload_id)
        if found is None:
            raise ClientError(Reason.UPLOAD_ABSENT)
        return found

    async def put_part(self, bucket: BucketRecord, key: bytes, upload_id: bytes, part: Part, body: bytes | memoryview) -> Part:
        """Commit a part."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        part = msgspec.structs.replace(part, modified_ms=self._now_ms())
        try:
            _done(await self._dispatcher.put(gid, PutPart(bucket.bucket, key, upload_id, part, revision=bucket.revision), body))
        except ClientError as error:
            raise await self._refusal(bucket, error) from error
        return part

    async def parts(
        self, bucket: BucketRecord, key: bytes, upload_id: bytes, *, after: int, limit: int
    ) -> tuple[list[Part], bool]:
        """Parts above a number, and whether there are more."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        found = await self._dispatcher.parts(gid, bucket.bucket, key, upload_id, after, limit + 1)
        return found[:limit], len(found) > limit

    async def complete_upload(
        self,
        bucket: BucketRecord,
        key: bytes,
        upload_id: bytes,
        *,
        parts: tuple[CompletePart, ...],
        etag: bytes,
        size: int,
        checksum: Checksum | None,
        condition: Condition | None,
    ) -> Version:
        """The version made of the parts."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        command = CompleteUpload(
            bucket.bucket, key, upload_id, parts, self._now_ms(), self._nonce(), etag, self.part_bytes_min, size, checksum,
            condition, revision=bucket.revision,
        )
        return _committed(await self._propose(bucket, gid, command))

    async def completed(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Version | None:
        """What an earlier completion answered."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        found = await self._dispatcher.completed(gid, bucket.bucket, key, upload_id)
        return None if found is None else found.version

    async def abort_upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> None:
        """Raises UPLOAD_ABSENT."""
        gid = ring_hash(bucket.bucket, key, bucket.shards)
        await self._propose(bucket, gid, AbortUpload(bucket.bucket, key, upload_id))

    async def list_uploads(
        self,
        bucket: BucketRecord,
        *,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_upload: bytes,
        limit: int,
    ) -> UploadPage:
        """A page of open uploads. A group is left out if the last page ended with it; a marker inside one does not hide the rest of it."""
        gids = bucket_groups(bucket.bucket, bucket.shards)
        uploads: list[UploadItem] = []
        prefixes: list[bytes] = []
        last = seen = (after_key, after_upload)
        while True:
            rows, more = await self._upload_rows(gids, bucket.bucket, prefix, *seen, limit + 1)
            for item in rows:
                group = _group_of(item.key, prefix, delimiter)
                if group and (group == after_key or (prefixes and prefixes[-1] == group)):
                    continue
                if len(uploads) + len(prefixes) == limit:
                    return UploadPage(uploads, prefixes, True, *last)
                if group:
                    prefixes.append(group)
                    last = (group, b"")
                else:
                    uploads.append(item)
                    last = (item.key, item.upload_id)
            if not more:
                return UploadPage(uploads, prefixes, False, *last)
            if rows:
                seen = (rows[-1].key, rows[-1].upload_id)

    async def _upload_rows(
        self, gids: list[int], bucket: int, prefix: bytes, key: bytes, upload_id: bytes, want: int
    ) -> tuple[list[UploadItem], bool]:
        pages = await self._dispatcher.list_uploads(gids, bucket, prefix, key, upload_id, want)
        found = sorted((row for page, _ in pages for row in page), key=lambda row: (row[0], row[1]))
        ends = [(page[-1][0], page[-1][1]) for page, more in pages if more and page]
        if ends:
            found = [row for row in found if (row[0], row[1]) <= min(ends)]
        more = any(further for _, further in pages) or len(found) > want
        return [UploadItem(*row) for row in found[:want]], more


def _group_of(key: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """The common prefix a key falls into, empty if none."""
    at = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: at + len(delimiter)] if at >= 0 else b""


def _done(outcome: Outcome) -> Outcome:
    if outcome.reason:
        raise ClientError(Reason(outcome.reason), outcome.message)
    return outcome


def _committed(outcome: Outcome) -> Version:
    version = _done(outcome).version
    assert version is not None
    return version


class _SmallRun:
    """A small body inside a larger one."""

    __slots__ = ("_dispatcher", "_extent", "_gid", "length")

    def __init__(self, dispatcher: Dispatcher, gid: int, extent: Extent) -> None:
        self._dispatcher, self._gid, self._extent = dispatcher, gid, extent
        self.length = extent.length

    async def read(self) -> bytes:
        """The body."""
        return await self._dispatcher.read_small(self._gid, self._extent.data_id)


class _ManifestSource:
    """A body whose extents are in manifest rows, fetched when the first piece is asked for."""

    def __init__(self, store: NodeStore, gid: int, version: Version, start: int, length: int) -> None:
        self.length = length
        self._store, self._gid, self._version, self._start = store, gid, version, start
        self._source: BodySource | None = None

    async def next(self) -> bytes | memoryview | None:
        """Next piece."""
        if self._source is None:
            store = self._store
            parts = await store._dispatcher.parts_of(self._gid, self._version)
            extents = [extent for part in parts for extent in part.extents]
            if sum(extent.length for extent in extents) != self._version.size:
                raise ClientError(Reason.SLOW_DOWN, "the object was replaced while it was read")
            self._source = store._reader.source(store._runs(self._gid, extents), self._start, self.length)
        return await self._source.next()

    def next_nowait(self) -> bytes | memoryview | None:
        """One that is here."""
        return None if self._source is None else self._source.next_nowait()

    def close(self) -> None:
        """No more pieces are wanted."""
        if self._source is not None:
            self._source.close()


class _LocalSink:
    """A sink on a volume of this worker; opened with the first piece, when the room is known."""

    def __init__(self, dispatcher: Dispatcher, ask: m.SinkOpen) -> None:
        self._dispatcher = dispatcher
        self._sink = dispatcher.owner.open_sink(ask)

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        """Hash, checksum and write in one step."""
        try:
            await self._sink.write(piece, digests)
        except DiskError as error:
            raise told(error) from error

    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        """Everything synced."""
        try:
            return await self._sink.finish(md5)
        except DiskError as error:
            raise told(error) from error

    def abandon(self) -> None:
        """The bytes are dead."""
        self._sink.abandon()


class _RemoteSink:
    """A sink on a sibling's volume, a call per piece."""

    def __init__(self, dispatcher: Dispatcher, ask: m.SinkOpen, worker: int) -> None:
        self._dispatcher, self._ask, self._worker = dispatcher, ask, worker
        self._number = 0
        self._extents: tuple[Extent, ...] = ()

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        """Hash in a thread here while it is written there."""
        if not self._number:
            await self._open()
        meta = _encode(m.SinkRef(self._number))
        hashing = asyncio.get_running_loop().run_in_executor(None, _update, digests, piece)
        try:
            for start in range(0, len(piece), _SINK_PIECE_BYTES_MAX):
                part = piece[start : start + _SINK_PIECE_BYTES_MAX]
                await self._dispatcher.sink_call(self._worker, m.SINK_WRITE, meta, part)
        finally:
            await asyncio.wait([hashing])  # the piece is the caller's again after this
        hashing.result()

    async def _open(self) -> None:
        """On the owner of the key, or on whoever has a volume and takes it: an owner that is being replaced does not."""
        others = sorted(set(self._dispatcher.ownership.owners) - {self._worker, self._dispatcher.me})
        for worker in (self._worker, *others):
            try:
                meta, _ = await self._dispatcher.sink_call(worker, m.SINK_OPEN, _encode(self._ask))
            except ClientError as error:
                if error.reason != Reason.SLOW_DOWN or worker == (self._worker, *others)[-1]:
                    raise
            else:
                self._worker, self._number = worker, int.from_bytes(meta, "big")
                return

    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        """Everything synced there."""
        if not self._number:
            return ()
        meta, _ = await self._dispatcher.sink_call(self._worker, m.SINK_FINISH, _encode(m.SinkRef(self._number, md5)))
        self._extents = _extents(meta)
        return self._extents

    def abandon(self) -> None:
        """The bytes are dead."""
        number, self._number = self._number, 0
        extents, self._extents = self._extents, ()
        if number:
            asyncio.ensure_future(self._abandon(number, extents))  # noqa: RUF006 - best effort, the sweep finds what it misses

    async def _abandon(self, number: int, extents: tuple[Extent, ...]) -> None:
        try:
            if extents:
                await self._dispatcher.free(extents[0].placement - 1, [extent.data_id for extent in extents])
            else:
                await self._dispatcher.sink_call(self._worker, m.SINK_ABANDON, _encode(m.SinkRef(number)))
        except ClientError as error:
            _logger.debug("a large body is left to the sweep: %s", error)


def _update(digests: Sequence[Digest], piece: memoryview) -> None:
    for digest in digests:
        digest.update(piece)
