"""A Store in memory: simple, behaving, and the model other stores are compared with.

Invariants
* Everything the protocol promises holds, but durability. Conditions are decided when a change is made, in one step of the loop.
* A bucket's objects are a dict of key to versions, newest first; listings sort on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from tests.unit.s3.memory_control import MemoryControl
from titans3.clock import Clock, SystemClock
from titans3.cluster.configurations import Configurations
from titans3.cluster.identities import Identities
from titans3.cluster.rules import WRITER, Rules
from titans3.cluster.store import Digest, Found, Page, UploadItem, UploadPage, VersionPage
from titans3.crypto.root_key import RootKey
from titans3.errors import ClientError, Reason
from titans3.http.message import BodySource
from titans3.limits import PART_BYTES_MIN
from titans3.model.command import CompletePart, Condition, DeleteEntry
from titans3.model.configuration import Configuration, configuration_key
from titans3.model.control import BucketRecord
from titans3.model.identity import ROOT_ACCOUNT, Account, Credential, account_key, credential_key
from titans3.model.version import (
    INLINE,
    MARKER,
    MULTIPART,
    NULL,
    ROW_FORMAT,
    SINGLE,
    STANDARD,
    UNASKED_KIND,
    Checksum,
    Extent,
    Listed,
    Part,
    Upload,
    Version,
    checksum_kind,
)


def canonical_of(account: str) -> str:
    return sha256(account.encode()).hexdigest()


encode = msgspec.msgpack.Encoder().encode


class Stored(msgspec.Struct):
    version: Version
    body: bytes
    parts: tuple[Part, ...] = ()


class OpenUpload(msgspec.Struct):
    upload: Upload
    parts: dict[int, tuple[Part, bytes]]


class BucketState(msgspec.Struct):
    record: BucketRecord
    objects: dict[bytes, list[Stored]]
    uploads: dict[bytes, OpenUpload]
    completed: dict[bytes, Version]


class MemorySource:
    """Pieces of a body."""

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self.length = len(data)
        self._data = data
        self._piece = piece
        self._at = 0
        self.closed = 0

    async def next(self) -> bytes | memoryview | None:
        await asyncio.sleep(0)
        if self._at >= len(self._data):
            return None
        piece = self._data[self._at : self._at + self._piece]
        self._at += len(piece)
        return piece

    def next_nowait(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class MemorySink:
    """Collects a large body; ``abandoned`` tells tests that nothing was kept."""

    def __init__(self, store: MemoryStore, data_id: bytes) -> None:
        self._store = store
        self._data_id = data_id
        self._pieces = bytearray()
        self._writing = False
        self.abandoned = False

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        assert not self._writing, "one write at a time"
        self._writing = True
        await asyncio.sleep(0)
        for digest in digests:
            digest.update(piece)
        self._pieces += piece
        self._writing = False

    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        assert not self.abandoned
        assert len(md5) == 16
        self._store.data[self._data_id] = bytes(self._pieces)
        return (Extent(self._data_id, len(self._pieces), SINGLE, 1, 0),)

    def abandon(self) -> None:
        assert not self._writing
        self.abandoned = True
        self._store.data.pop(self._data_id, None)


class MemoryStore:
    """One process, one dict."""

    def __init__(
        self, *, small_body_bytes: int = 64 * 1024, region: str = "us-east-1", clock: Clock | None = None, ownership: str = WRITER
    ) -> None:
        self.small_body_bytes = small_body_bytes
        self.region = region
        self.control = MemoryControl()
        self.configurations = Configurations(self.control)
        self._clock = clock or SystemClock()
        self.identities = Identities(self.control.cache, RootKey(bytes(32)), self._clock)
        self.rules = Rules(self.configurations, self.identities, default_ownership=ownership)
        self.by_name: dict[str, BucketState] = {}
        self.data: dict[bytes, bytes] = {}
        self.sinks: list[MemorySink] = []
        self.sources: list[MemorySource] = []
        self.fail_next: Exception | None = None
        self._seq = 0
        self._next_bucket = 1
        self.now_ms = 0

    def _tick(self) -> int:
        self._seq += 1
        return self._seq

    def _maybe_fail(self) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

    # control plane

    def add_credential(self, access_key: str, secret: str, account: str = ROOT_ACCOUNT) -> None:
        """The keys of an account's root, and the account if it is not there."""
        sealed = self.identities.seal_secret(access_key, secret)
        ops = [(credential_key(access_key), encode(Credential(2, access_key, sealed, account)))]
        if account_key(account) not in self.control.cache.records:
            canonical = canonical_of(account)
            ops.append((account_key(account), encode(Account(1, account, canonical, f"name-{account}", f"{account}@example.com", 0))))
            ops.append((f"/account_emails/{account}@example.com", account.encode()))
        self.control.cas_nowait(ops, {})

    def bucket_nowait(self, name: str) -> BucketRecord | None:
        state = self.by_name.get(name)
        return None if state is None else state.record

    async def bucket(self, name: str) -> BucketRecord:
        record = self.bucket_nowait(name)
        if record is None:
            raise ClientError(Reason.BUCKET_ABSENT)
        return record

    async def buckets(self) -> list[BucketRecord]:
        return [state.record for state in self.by_name.values()]

    async def create_bucket(
        self, name: str, owner: str, region: str, configurations: Sequence[Configuration] = ()
    ) -> tuple[BucketRecord, bool]:
        state = self.by_name.get(name)
        if state is not None:
            if state.record.owner != owner:
                raise ClientError(Reason.BUCKET_EXISTS)
            return state.record, False
        record = BucketRecord(1, self._next_bucket, name, owner, region, self.now_ms, 16)
        self._next_bucket += 1
        self.by_name[name] = BucketState(record, {}, {}, {})
        self.control.cas_nowait([(f"/buckets/{name}", encode(record))], {})
        for value in configurations:
            await self.configurations.set(record, value)
        return record, True

    async def delete_bucket(self, name: str) -> None:
        await self.bucket(name)
        if self.by_name[name].objects:
            raise ClientError(Reason.BUCKET_NOT_EMPTY)
        bucket = self.by_name.pop(name).record.bucket
        records, _ = await self.control.list(configuration_key(bucket, ""))
        self.control.cas_nowait([(f"/buckets/{name}", None), *((rec.key, None) for rec in records)], {})

    async def set_versioning(self, name: str, versioning: int) -> None:
        await self.bucket(name)
        self.switch(name, versioning)

    def switch(self, name: str, versioning: int) -> None:
        state = self.by_name[name]
        state.record = msgspec.structs.replace(state.record, versioning=versioning, revision=state.record.revision + 1)

    def _state(self, bucket: BucketRecord) -> BucketState:
        state = self.by_name.get(bucket.name)
        if state is None or state.record.bucket != bucket.bucket:
            raise ClientError(Reason.BUCKET_ABSENT)
        return state

    # objects

    async def find(self, bucket: BucketRecord, key: bytes, *, version_id: str = "", body: bool = False) -> Found:
        self._maybe_fail()
        rows = self._state(bucket).objects.get(key, [])
        if version_id:
            for row in rows:
                if row.version.version_id == version_id:
                    return self._found(row, body)
            raise ClientError(Reason.VERSION_ABSENT)
        if not rows:
            raise ClientError(Reason.KEY_ABSENT)
        if rows[0].version.flags & MARKER:
            raise ClientError(Reason.KEY_ABSENT, marker=rows[0].version)
        return self._found(rows[0], body)

    def _found(self, row: Stored, body: bool) -> Found:
        small = body and row.version.size <= self.small_body_bytes and not row.version.flags & MARKER
        return Found(row.version, row.body if small else None)

    def open(self, bucket: BucketRecord, key: bytes, version: Version, start: int, length: int) -> BodySource:
        for row in self._state(bucket).objects[key]:
            if row.version.seq == version.seq:
                assert 0 <= start <= start + length <= len(row.body)
                source = MemorySource(row.body[start : start + length])
                self.sources.append(source)
                return source
        raise ClientError(Reason.KEY_ABSENT)

    def read_nowait(self, version: Version, start: int, length: int) -> memoryview | None:
        return None

    async def parts_of(self, bucket: BucketRecord, key: bytes, version: Version) -> tuple[Part, ...]:
        for row in self._state(bucket).objects[key]:
            if row.version.seq == version.seq:
                return row.parts or (Part(1, version.size, version.etag, version.modified_ms, version.extents),)
        raise ClientError(Reason.KEY_ABSENT)

    async def put(
        self, bucket: BucketRecord, key: bytes, version: Version, body: bytes | memoryview, condition: Condition | None
    ) -> Version:
        self._maybe_fail()
        data = b"".join(self.data.pop(extent.data_id) for extent in version.extents) if version.extents else bytes(body)
        assert len(data) == version.size
        extents = version.extents or ((Extent(b"", len(data), INLINE, 0, 0),) if data else ())
        version = msgspec.structs.replace(version, extents=extents, modified_ms=self._clock.wall_ms())
        return self._commit(bucket, key, version, data, condition, ())

    def _commit(
        self, bucket: BucketRecord, key: bytes, version: Version, data: bytes, condition: Condition | None, parts: tuple[Part, ...]
    ) -> Version:
        state = self._state(bucket)
        rows = state.objects.get(key, [])
        _decide(condition, rows[0].version if rows else None)
        null = state.record.versioning != 1
        if null:
            rows = [row for row in rows if not row.version.flags & NULL]
        done = msgspec.structs.replace(version, flags=version.flags | (NULL if null else 0), seq=(seq := self._tick()),
            checksum_kind=0 if version.checksum_kind == UNASKED_KIND else checksum_kind(version.checksum),
        )
        if not null:
            done = msgspec.structs.replace(done, nonce=seq.to_bytes(8, "big"))
        state.objects[key] = [Stored(done, data, parts), *rows]
        return done

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
    ) -> MemorySink:
        sink = MemorySink(self, self._tick().to_bytes(16, "big"))
        self.sinks.append(sink)
        return sink

    async def delete(self, bucket: BucketRecord, entries: Sequence[DeleteEntry], owner: str) -> list[tuple[str, str, bool]]:
        self._maybe_fail()
        return [self._delete_one(self._state(bucket), entry, owner) for entry in entries]

    def _delete_one(self, state: BucketState, entry: DeleteEntry, owner: str) -> tuple[str, str, bool]:
        rows = state.objects.get(entry.key, [])
        found = [row for row in rows if row.version.version_id == entry.version_id] if entry.version_id else rows
        try:
            if entry.condition is not None:
                _decide(entry.condition, found[0].version if found else None)
        except ClientError as error:
            return str(error.reason), "", False
        if entry.version_id:
            for row in rows:
                if row.version.version_id == entry.version_id:
                    rows.remove(row)
                    if not rows:
                        del state.objects[entry.key]
                    return "", entry.version_id, bool(row.version.flags & MARKER)
            return "", entry.version_id, False
        if state.record.versioning == 0:
            state.objects.pop(entry.key, None)
            return "", "", False
        null = state.record.versioning == 2
        seq = self._tick()
        marker = Version(ROW_FORMAT, MARKER | (NULL if null else 0), seq, self.now_ms, 0, b"", 0, 0, owner, nonce=seq.to_bytes(8, "big"))
        if null:
            rows = [row for row in rows if not row.version.flags & NULL]
        state.objects[entry.key] = [Stored(marker, b""), *rows]
        return "", marker.version_id, True

    async def list_objects(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after: bytes, limit: int
    ) -> Page:
        objects = self._state(bucket).objects
        keys: list[tuple[bytes, bytes]] = []
        prefixes: list[bytes] = []
        last = b""
        for key in sorted(objects):
            version = objects[key][0].version
            if not key.startswith(prefix) or key <= after or version.flags & MARKER:
                continue
            group = _group(key, prefix, delimiter)
            if group is not None and (group == after or (prefixes and group == prefixes[-1])):
                continue
            if len(keys) + len(prefixes) == limit:
                return Page(keys, prefixes, True, last)
            if group is not None:
                prefixes.append(group)
                last = group
            else:
                keys.append((key, msgspec.msgpack.encode(_listed(version))))
                last = key
        return Page(keys, prefixes, False, b"")

    async def list_versions(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_version: str, limit: int
    ) -> VersionPage:
        items: list[tuple[bytes, Version, bool]] = []
        prefixes: list[bytes] = []
        last = (after_key, after_version)
        behind = not after_version
        for key, rows in sorted(self._state(bucket).objects.items()):
            if not key.startswith(prefix) or key < after_key or (key == after_key and not after_version):
                continue
            group = _group(key, prefix, delimiter)
            if group is not None and (group == after_key or (prefixes and group == prefixes[-1])):
                continue
            for place, row in enumerate(rows if group is None else rows[:1]):
                if key == after_key and not behind:
                    behind = row.version.version_id == after_version
                    continue
                if len(items) + len(prefixes) == limit:
                    return VersionPage(items, prefixes, True, last)
                if group is not None:
                    prefixes.append(group)
                    last = (group, "")
                else:
                    items.append((key, row.version, place == 0))
                    last = (key, row.version.version_id)
        return VersionPage(items, prefixes, False, last)

    async def set_tags(self, bucket: BucketRecord, key: bytes, version_id: str, tags: dict[str, str]) -> Version:
        return self._update(bucket, key, version_id, tags=tags)

    async def set_acl(self, bucket: BucketRecord, key: bytes, version_id: str, acl: bytes) -> Version:
        return self._update(bucket, key, version_id, acl=acl)

    def _update(self, bucket: BucketRecord, key: bytes, version_id: str, **changes: object) -> Version:
        rows = self._state(bucket).objects.get(key, [])
        for row in rows:
            if row.version.version_id == version_id or not version_id:
                if row.version.flags & MARKER:
                    raise ClientError(Reason.METHOD_ON_MARKER if version_id else Reason.KEY_ABSENT)
                row.version = msgspec.structs.replace(row.version, **changes)
                return row.version
        raise ClientError(Reason.VERSION_ABSENT if version_id else Reason.KEY_ABSENT)

    # multipart

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
        seq = self._tick()
        upload_id = seq.to_bytes(8, "big") + b"\x07" * 8
        upload = Upload(
            ROW_FORMAT, key, seq, self.now_ms, owner, headers, metadata, checksum_algorithm, checksum_composite, storage_class,
            tags or {}, acl, initiator,
        )  # fmt: skip
        self._state(bucket).uploads[upload_id] = OpenUpload(upload, {})
        return upload_id

    def _open_upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> OpenUpload:
        found = self._state(bucket).uploads.get(upload_id)
        if found is None or found.upload.key != key:
            raise ClientError(Reason.UPLOAD_ABSENT)
        return found

    async def upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Upload:
        return self._open_upload(bucket, key, upload_id).upload

    async def put_part(self, bucket: BucketRecord, key: bytes, upload_id: bytes, part: Part, body: bytes | memoryview) -> Part:
        found = self._open_upload(bucket, key, upload_id)
        data = b"".join(self.data.pop(extent.data_id) for extent in part.extents) if part.extents else bytes(body)
        assert len(data) == part.size
        done = msgspec.structs.replace(part, seq=self._tick())
        found.parts[part.number] = (done, data)
        return done

    async def parts(self, bucket: BucketRecord, key: bytes, upload_id: bytes, *, after: int, limit: int) -> tuple[list[Part], bool]:
        stored = self._open_upload(bucket, key, upload_id).parts
        numbers = sorted(number for number in stored if number > after)
        return [stored[number][0] for number in numbers[:limit]], len(numbers) > limit

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
        found = self._open_upload(bucket, key, upload_id)
        chosen = []
        for line in parts:
            part, data = found.parts.get(line.number, (None, b""))
            if part is None or part.etag != line.etag:
                raise ClientError(Reason.PART_INVALID)
            chosen.append((part, data))
        if any(part.size < PART_BYTES_MIN for part, _ in chosen[:-1]):
            small = next(part for part, _ in chosen[:-1] if part.size < PART_BYTES_MIN)
            raise ClientError(Reason.PART_TOO_SMALL, f"{small.number} {small.size} {PART_BYTES_MIN} {small.etag.hex()}")
        body = b"".join(data for _, data in chosen)
        assert size in (-1, len(body))
        upload = found.upload
        version = Version(
            ROW_FORMAT, MULTIPART, 0, self.now_ms, len(body), etag, len(chosen), 0, upload.owner,
            headers=upload.headers, metadata=upload.metadata, checksum=checksum, nonce=upload_id[:8],
            storage_class=upload.storage_class, tags=upload.tags, acl=upload.acl,
        )  # fmt: skip
        done = self._commit(bucket, key, version, body, condition, tuple(part for part, _ in chosen))
        state = self._state(bucket)
        del state.uploads[upload_id]
        state.completed[upload_id] = done
        return done

    async def completed(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Version | None:
        return self._state(bucket).completed.get(upload_id)

    async def abort_upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> None:
        self._open_upload(bucket, key, upload_id)
        del self._state(bucket).uploads[upload_id]

    async def list_uploads(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_upload: bytes, limit: int
    ) -> UploadPage:
        rows = sorted((found.upload.key, upload_id, found.upload) for upload_id, found in self._state(bucket).uploads.items())
        uploads: list[UploadItem] = []
        prefixes: list[bytes] = []
        last = (b"", b"")
        for key, upload_id, upload in rows:
            past = key > after_key or (bool(after_upload) and key == after_key and upload_id > after_upload)
            if not key.startswith(prefix) or (after_key and not past):
                continue
            group = _group(key, prefix, delimiter)
            if group is not None and (group == after_key or (prefixes and group == prefixes[-1])):
                continue
            if len(uploads) + len(prefixes) == limit:
                return UploadPage(uploads, prefixes, True, *last)
            if group is not None:
                prefixes.append(group)
                last = (group, b"")
            else:
                uploads.append(UploadItem(key, upload_id, upload))
                last = (key, upload_id)
        return UploadPage(uploads, prefixes, False, b"", b"")


def _group(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter:
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def _listed(version: Version) -> Listed:
    return Listed(
        version.format, version.flags, version.seq, version.modified_ms, version.size, version.etag, version.part_count,
        version.object_id, version.owner, version.storage_class, version.checksum_kind,
    )  # fmt: skip


def _decide(condition: Condition | None, current: Version | None) -> None:
    """The write condition as apply decides it."""
    if condition is None:
        return
    missing = current is None or bool(current.flags & MARKER)
    if missing:
        if condition.if_match:
            raise ClientError(Reason.KEY_ABSENT)
        if condition.size >= 0 or condition.modified_ms >= 0:
            raise ClientError(Reason.PRECONDITION)
        return
    assert current is not None
    etag = current.etag_text
    if condition.if_match and "*" not in condition.if_match and etag not in condition.if_match:
        raise ClientError(Reason.PRECONDITION)
    if condition.if_none_match and ("*" in condition.if_none_match or etag in condition.if_none_match):
        raise ClientError(Reason.PRECONDITION)
    if condition.size >= 0 and condition.size != current.size:
        raise ClientError(Reason.PRECONDITION)
    if condition.modified_ms >= 0 and condition.modified_ms // 1000 != current.modified_ms // 1000:
        raise ClientError(Reason.PRECONDITION)
