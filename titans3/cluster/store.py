"""What S3 handlers see of the store: buckets, versions, bodies, listings, uploads.

Invariants
* Every method that changes something returns only after the change is durable (I1).
* Methods raise ``ClientError`` with a ``Reason`` for what the client caused; ``SLOW_DOWN``/``UNAVAILABLE`` when an owner is not there.
* Bytes handed out were verified against their checksum (I6).

The class that implements this protocol is ``cluster/node_store.py``; handlers are typed against the protocol alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from titans3.cluster.identities import Identities
from titans3.cluster.rules import Rules
from titans3.engine.hot import Kept
from titans3.engine.location import PlacedExtent
from titans3.http.message import BodySource
from titans3.model.command import CompletePart, Condition, DeleteEntry
from titans3.model.configuration import Configuration
from titans3.model.control import BucketRecord
from titans3.model.version import STANDARD, BucketUsage, Checksum, Extent, Part, Upload, Version

C = TypeVar("C", bound=Configuration)


class Digest(Protocol):
    """Anything with ``update``: hashlib objects, CRC wrappers."""

    def update(self, data: memoryview, /) -> None: ...


class Found(msgspec.Struct, frozen=True, gc=False):
    """A version, and its whole body when it was asked for and is small (``None``: use ``open``). ``kept``: where both stay for the next."""

    version: Version
    body: bytes | None = None
    kept: Kept | None = None


class Page(msgspec.Struct, gc=False):
    """A page of a listing in key order. ``keys`` are with their rows as stored (``decode_rows``): a thousand that are decoded at once do
    not fit a cache. ``after`` is where the next page starts: give it as ``after`` again.
    """

    keys: list[tuple[bytes, bytes]]
    prefixes: list[bytes]
    truncated: bool
    after: bytes


class VersionPage(msgspec.Struct, gc=False):
    """A page of ListObjectVersions: by key, newest first. ``items`` are (key, version, whether it is the key's newest).

    ``last`` is where the page ends: (key, version id), or (common prefix, empty).
    """

    items: list[tuple[bytes, Version, bool]]
    prefixes: list[bytes]
    truncated: bool
    last: tuple[bytes, str]


class UploadItem(msgspec.Struct, gc=False):
    """An open upload in a listing."""

    key: bytes
    upload_id: bytes
    upload: Upload


class UploadPage(msgspec.Struct, gc=False):
    """A page of ListMultipartUploads, ordered by key, then upload id (initiation order)."""

    uploads: list[UploadItem]
    prefixes: list[bytes]
    truncated: bool
    after_key: bytes
    after_upload: bytes


class BodySink(Protocol):
    """Takes a large body piece by piece; hashing, checksums and writing happen in one thread step per piece."""

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None: ...
    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        """Everything synced; the extents are ready for a commit."""

    def abandon(self) -> None:
        """The bytes are dead; safe to call at any time before a successful commit."""


class BucketConfigurations(Protocol):
    """What is configured on buckets (control plane, cached)."""

    def find_nowait(self, bucket: BucketRecord, kind: type[C]) -> C | None:
        """As this worker knows it: what requests are judged by."""

    async def find(self, bucket: BucketRecord, kind: type[C]) -> C | None:
        """Linearizable: what a reader of the configuration is told."""

    async def set(self, bucket: BucketRecord, value: Configuration) -> None:
        """Replace it; in force on every worker when this returns. Raises BUCKET_ABSENT, BUCKET_BUSY."""

    async def remove(self, bucket: BucketRecord, kind: type[Configuration]) -> None:
        """Take it away, if it is there. Raises BUCKET_ABSENT, BUCKET_BUSY."""


class Store(Protocol):
    """The store of this cluster as one worker reaches it."""

    small_body_bytes: int

    @property
    def configurations(self) -> BucketConfigurations: ...
    @property
    def identities(self) -> Identities: ...
    @property
    def rules(self) -> Rules: ...

    # buckets (control plane, cached)
    async def bucket(self, name: str) -> BucketRecord: ...
    def bucket_nowait(self, name: str) -> BucketRecord | None: ...
    async def buckets(self) -> list[BucketRecord]: ...
    async def create_bucket(
        self, name: str, owner: str, region: str, configurations: Sequence[Configuration] = ()
    ) -> tuple[BucketRecord, bool]:
        """The record, and whether it is new: only then it has these configurations. Raises BUCKET_EXISTS (another owner's), BUCKET_BUSY."""

    async def delete_bucket(self, name: str) -> None: ...
    async def set_versioning(self, name: str, versioning: int) -> None:
        """1 enabled, 2 suspended; every write that begins after the answer follows it. Raises BUCKET_ABSENT, BUCKET_BUSY."""

    async def set_quota(self, name: str, quota: int) -> None:
        """Bytes, 0 for none; in force on every shard when this returns. Raises BUCKET_ABSENT, BUCKET_BUSY, SLOW_DOWN."""

    async def usage(self, bucket: BucketRecord) -> BucketUsage:
        """The counters of all shards, each as of a moment during this call."""

    # objects
    async def find(self, bucket: BucketRecord, key: bytes, *, version_id: str = "", body: bool = False) -> Found:
        """Newest version (a marker raises KEY_ABSENT with ``marker=Version``), or the one asked for. Raises VERSION_ABSENT too."""

    def open(self, bucket: BucketRecord, key: bytes, version: Version, start: int, length: int) -> BodySource: ...
    def read_nowait(self, version: Version, start: int, length: int) -> memoryview | None:
        """Verified bytes in one piece, if they are here at once; otherwise it takes ``open``. Raises BodyDamaged, DiskError."""

    async def parts_of(self, bucket: BucketRecord, key: bytes, version: Version) -> tuple[Part, ...]:
        """The parts of a multipart version in order (one pseudo-part otherwise)."""

    async def locate(self, bucket: BucketRecord, key: bytes, extents: Sequence[Extent]) -> list[PlacedExtent]:
        """Where the bytes of a version of a key lie right now."""

    async def put(
        self, bucket: BucketRecord, key: bytes, version: Version, body: bytes | memoryview, condition: Condition | None
    ) -> Version:
        """Commit, as of now. ``body`` is the small body (``version.extents`` empty), or empty with the sink's extents in ``version``."""

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
        """Where a large body goes. Raises QUOTA for a ``length`` that the bucket has no room for; apply decides it again."""


    async def delete(
        self, bucket: BucketRecord, entries: Sequence[DeleteEntry], owner: str
    ) -> list[tuple[str, str, bool]]:
        """Per entry: (reason or "", version id or "", is a marker)."""

    async def list_objects(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after: bytes, limit: int
    ) -> Page:
        """Newest versions that are not markers, key > ``after`` (which may be a common prefix: its group is skipped)."""

    async def list_versions(
        self, bucket: BucketRecord, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_version: str, limit: int
    ) -> VersionPage:
        """All versions and markers behind ``after_version`` of ``after_key``; if empty, behind that key or the group of that name."""

    async def set_acl(self, bucket: BucketRecord, key: bytes, version_id: str, acl: bytes) -> Version:
        """Replace the access control list, as ``set_tags`` does the tags."""

    async def set_tags(self, bucket: BucketRecord, key: bytes, version_id: str, tags: dict[str, str]) -> Version:
        """Replace the tags of the newest version or the one named. Raises KEY_ABSENT, VERSION_ABSENT, METHOD_ON_MARKER."""

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
    ) -> bytes: ...
    async def upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Upload: ...
    async def put_part(
        self, bucket: BucketRecord, key: bytes, upload_id: bytes, part: Part, body: bytes | memoryview
    ) -> Part: ...
    async def parts(
        self, bucket: BucketRecord, key: bytes, upload_id: bytes, *, after: int, limit: int
    ) -> tuple[list[Part], bool]: ...
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
    ) -> Version: ...
    async def completed(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> Version | None:
        """What an earlier CompleteMultipartUpload of this id answered."""

    async def abort_upload(self, bucket: BucketRecord, key: bytes, upload_id: bytes) -> None: ...
    async def list_uploads(
        self,
        bucket: BucketRecord,
        *,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_upload: bytes,
        limit: int,
    ) -> UploadPage: ...
