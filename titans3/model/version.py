"""Rows of the object index: what one version of an object is.

Hot: ``Version`` is decoded by every GET and HEAD, ``Listed`` a thousand times by a LIST.

Invariants
* Every row is a msgpack array whose first element is the row format. Fields are only ever appended; a reader of an older
  format sees the defaults, a reader of this format refuses a higher format number.
* Rows are replicated: they hold data ids, lengths and checksums, never a segment or an offset.
* ``seq`` is the index of the log entry that committed the version; within a key it orders versions, whatever clocks said.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

ROW_FORMAT = 1

# Version.flags
NULL = 1  # the null version: written while versioning was off or suspended
MARKER = 2  # a delete marker: no body
MULTIPART = 4  # ETag has a part count; parts can be read by number
MANIFEST_ROWS = 8  # extents are in rows of the manifest table, not in ``extents``

# Version.storage_class: a place in STORAGE_CLASSES
STANDARD = 0
REDUCED_REDUNDANCY = 1
STORAGE_CLASSES = ("STANDARD", "REDUCED_REDUNDANCY")

# Version.checksum_kind: 0 none, else the place of the algorithm here and one, plus COMPOSITE_KIND
CHECKSUM_ALGORITHMS = (
    "crc32", "crc32c", "crc64nvme", "sha1", "sha256", "sha512", "md5", "xxhash64", "xxhash3", "xxhash128",
)  # fmt: skip
COMPOSITE_KIND = 64
UNASKED_KIND = 255  # in a proposal: the server computed it, nobody asked. Stored as 0: listings do not tell it
_KINDS = {name: kind for kind, name in enumerate(CHECKSUM_ALGORITHMS, 1)}

# Extent.policy
INLINE = 0  # the body lies in the log record of the entry itself, on every replica of the group
SINGLE = 1  # one copy in a data segment of one volume


class Extent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A run of object bytes under one data id.

    ``placement`` is the placement id that says which volume(s) hold it (0 with INLINE: the group's own volume; with
    SINGLE: volume index + 1). ``checksum`` is xxh3-64 of the body (INLINE) or the root checksum of the extent's
    granule table (SINGLE). ``missing`` is the bitmap of fragments still to be written.
    """

    data_id: bytes
    length: int
    policy: int
    placement: int
    checksum: int
    missing: int = 0


class Checksum(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An S3 checksum as stored: ``algorithm`` is the lower-case S3 name (crc32, crc32c, crc64nvme, sha1, sha256 …)."""

    algorithm: str
    value: bytes
    composite: bool = False


def checksum_kind(checksum: Checksum | None) -> int:
    """What ``Version.checksum_kind`` says of a checksum."""
    if checksum is None:
        return 0
    kind = _KINDS[checksum.algorithm]
    return kind + COMPOSITE_KIND if checksum.composite else kind


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One part: a row of the parts table, and, completed, an item of a manifest."""

    number: int
    size: int
    etag: bytes
    modified_ms: int
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None
    seq: int = 0


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One version of an object: the value of an object row (newest) or of a versions row (older ones).

    ``etag`` is 16 raw bytes; ``part_count`` > 0 adds ``-N``. ``headers`` holds the standard content headers by lower-case
    name (``content-type`` …), ``metadata`` the user's by lower-case name without ``x-amz-meta-``. ``object_id`` is 256
    times the index of the entry that made the key's row plus the key's place in that entry; versions and manifests hang on it.
    ``null_seq`` of the newest row is the seq of an older null version, 0 if there is none or it is the newest itself. ``nonce`` makes
    version ids hard to guess. ``checksum_kind`` tells listings the algorithm and type of ``checksum``; apply sets it
    (UNASKED_KIND when it is proposed).
    """

    format: int
    flags: int
    seq: int
    modified_ms: int
    size: int
    etag: bytes
    part_count: int
    object_id: int
    owner: str = ""
    storage_class: int = STANDARD
    checksum_kind: int = 0
    extents: tuple[Extent, ...] = ()
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksum: Checksum | None = None
    null_seq: int = 0
    nonce: bytes = b""
    older: bool = False  # the versions table holds rows of this key
    tags: dict[str, str] = {}
    acl: bytes = b""  # grants as ``model/acl`` encodes them; empty: full control for the owner

    @property
    def etag_text(self) -> str:
        """ETag without quotes."""
        return f"{self.etag.hex()}-{self.part_count}" if self.part_count else self.etag.hex()

    @property
    def is_small(self) -> bool:
        """Whether the whole body is one small body in the group's log."""
        extents = self.extents
        return len(extents) == 1 and extents[0].policy == INLINE and not self.flags & MARKER

    @property
    def version_id(self) -> str:
        """``null``, or 32 lower-case hex digits: seq and nonce."""
        return "null" if self.flags & NULL else f"{self.seq:016x}{self.nonce.hex()}"


class Listed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The head of a ``Version`` row: what a listing needs, decoded without the rest."""

    format: int
    flags: int
    seq: int
    modified_ms: int
    size: int
    etag: bytes
    part_count: int
    object_id: int
    owner: str = ""
    storage_class: int = STANDARD
    checksum_kind: int = 0


_listed = msgspec.msgpack.Decoder(list[Listed]).decode


def decode_rows(rows: Sequence[bytes]) -> list[Listed]:
    """The heads of many ``Version`` rows, decoded as one array."""
    return _listed(b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(rows))


class Upload(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A multipart upload that was started and neither completed nor aborted."""

    format: int
    key: bytes
    seq: int
    initiated_ms: int
    owner: str
    headers: dict[str, str]
    metadata: dict[str, str]
    checksum_algorithm: str = ""
    checksum_composite: bool = False
    storage_class: int = STANDARD
    tags: dict[str, str] = {}
    acl: bytes = b""
    initiator: str = ""  # ARN of who started it; empty: the owner


class Completed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What CompleteMultipartUpload answered, kept for a client's repeat."""

    format: int
    key: bytes
    version: Version
    completed_ms: int


class Shard(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A bucket in one group: what apply needs to know, and the exact counters.

    ``versioning``: 0 never, 1 enabled, 2 suspended. ``seal`` is the op id of a DeleteBucket under way, empty otherwise.
    Counters are of this shard alone: ``keys`` rows in the object table, ``versions`` all stored versions without markers,
    ``markers`` delete markers, ``stored_bytes`` of all versions, ``uploads`` open, ``upload_bytes`` in their parts.
    ``quota`` is the bucket's, 0 for none; with one, ``grant`` is what stored and upload bytes of this shard may grow to, as the round of
    granting ``ballot`` said.
    """

    format: int
    revision: int
    versioning: int = 0
    seal: bytes = b""
    keys: int = 0
    versions: int = 0
    markers: int = 0
    stored_bytes: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    quota: int = 0
    grant: int = 0
    ballot: int = 0


class BucketUsage(msgspec.Struct, array_like=True, frozen=True):
    """What a bucket holds, or some of its shards; see ``Shard``."""

    keys: int = 0
    versions: int = 0
    markers: int = 0
    stored_bytes: int = 0
    uploads: int = 0
    upload_bytes: int = 0

    def __add__(self, other: BucketUsage) -> BucketUsage:
        return BucketUsage(*map(sum, zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))

    @property
    def bytes(self) -> int:
        """What a quota counts."""
        return self.stored_bytes + self.upload_bytes
