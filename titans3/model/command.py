"""Commands: what a log entry says, decided when it is applied; and the outcomes they answer.

Invariants
* An entry's command is ``op u16, format u8`` (big-endian) followed by the msgpack array of the struct. Op numbers are never reused.
* A command is deterministic: time, nonces and data ids were chosen by the proposer and are in it.
* ``request_id`` (16 bytes, or empty for a proposer that dies with its client) makes a command idempotent: a repeat within the
  group's last 512 identified results answers the first result; ``known_index`` is the applied index the proposer saw first, and a
  command whose window has passed is refused with UNKNOWN_OUTCOME.
* Unknown op or format at apply stops the worker; a worker never proposes a command above the feature level.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from titans3.model.version import Checksum, Part, Version

COMMAND_FORMAT = 1


class Command(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Root of commands; ``OP`` is the number on disk, ``LEVEL`` the feature level that knows it."""

    OP: ClassVar[int] = 0
    LEVEL: ClassVar[int] = 1


class Condition(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Write condition. ETags without quotes as text; ``("*",)`` is any. ``size``/``modified_ms`` -1: not asked."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    size: int = -1
    modified_ms: int = -1


class Noop(Command, frozen=True, gc=False):
    """First entry of a term."""

    OP: ClassVar[int] = 1


class EnsureShard(Command, frozen=True, gc=False):
    """Create or update the bucket's shard row; refused below the group's minimum revision for a bucket that is gone.

    Keeps the counters and the seal; a lower ``revision`` than the row's is ignored (answers the row as it is).
    """

    OP: ClassVar[int] = 2
    bucket: int
    revision: int
    versioning: int
    quota: int = 0


class Seal(Command, frozen=True, gc=False):
    """First phase of DeleteBucket: refuses with BUCKET_NOT_EMPTY if a key, version or marker (or, with ``uploads``, an upload) exists."""

    OP: ClassVar[int] = 3
    bucket: int
    op_id: bytes
    uploads_count: bool = False


class Unseal(Command, frozen=True, gc=False):
    """Undo a seal of the same op id; another op id is ignored."""

    OP: ClassVar[int] = 4
    bucket: int
    op_id: bytes


class Purge(Command, frozen=True, gc=False):
    """Second phase: remove up to ``rows`` rows of a deleted bucket (uploads, parts, shard row last); raises the minimum revision."""

    OP: ClassVar[int] = 5
    bucket: int
    op_id: bytes
    revision: int
    rows: int


class PutObject(Command, frozen=True, gc=False):
    """Commit a version. The body is INLINE in the record (extents has one INLINE extent), or in ``extents``, or absent (size 0).

    ``version`` carries what the proposer knows; apply sets seq, object_id, null/older fields and clamps ``modified_ms``.
    ``revision`` is that of the bucket's record as the proposer knows it: a shard that is behind refuses, so that a write that begins
    after a change of versioning is never applied as before it.
    """

    OP: ClassVar[int] = 6
    bucket: int
    key: bytes
    version: Version
    condition: Condition | None = None
    request_id: bytes = b""
    known_index: int = 0
    revision: int = 0

    @property
    def body_checksum(self) -> int:
        """xxh3-64 of a body in the record."""
        return self.version.extents[0].checksum


class DeleteEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key of a delete. ``version_id``: empty none (marker or removal by versioning state), ``null``, or 32 hex digits."""

    key: bytes
    version_id: str = ""
    condition: Condition | None = None


class DeleteObjects(Command, frozen=True, gc=False):
    """Delete up to 250 keys of one group; each entry has its own outcome."""

    OP: ClassVar[int] = 7
    bucket: int
    entries: tuple[DeleteEntry, ...]
    now_ms: int
    nonce: bytes
    owner: str = ""
    request_id: bytes = b""
    known_index: int = 0
    revision: int = 0  # as in PutObject


class CreateUpload(Command, frozen=True, gc=False):
    """Start a multipart upload; the upload id is the entry's index (8 bytes) and ``nonce`` (8 bytes)."""

    OP: ClassVar[int] = 8
    bucket: int
    key: bytes
    now_ms: int
    owner: str
    nonce: bytes
    headers: dict[str, str]
    metadata: dict[str, str]
    checksum_algorithm: str = ""
    checksum_composite: bool = False
    request_id: bytes = b""
    known_index: int = 0
    storage_class: int = 0
    tags: dict[str, str] = {}
    acl: bytes = b""
    initiator: str = ""


class PutPart(Command, frozen=True, gc=False):
    """Commit a part; the last in log order wins. A small part's body is INLINE in the record."""

    OP: ClassVar[int] = 9
    bucket: int
    key: bytes
    upload_id: bytes
    part: Part
    request_id: bytes = b""
    known_index: int = 0
    revision: int = 0  # as in PutObject

    @property
    def body_checksum(self) -> int:
        """xxh3-64 of a body in the record."""
        return self.part.extents[0].checksum


class AbortUpload(Command, frozen=True, gc=False):
    """Drop an upload and its parts."""

    OP: ClassVar[int] = 10
    bucket: int
    key: bytes
    upload_id: bytes
    request_id: bytes = b""
    known_index: int = 0


class CompletePart(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One line of the client's list: number, raw ETag, and its checksum if it gave one."""

    number: int
    etag: bytes
    checksum: Checksum | None = None


class CompleteUpload(Command, frozen=True, gc=False):
    """Turn parts into a version. ``size`` -1: x-amz-mp-object-size was not sent. ``etag`` is md5 of the listed part MD5s.

    ``checksum`` is the object's, combined by the proposer from the parts it read; apply checks that the parts are still those.
    """

    OP: ClassVar[int] = 11
    bucket: int
    key: bytes
    upload_id: bytes
    parts: tuple[CompletePart, ...]
    now_ms: int
    nonce: bytes
    etag: bytes
    part_bytes_min: int
    size: int = -1
    checksum: Checksum | None = None
    condition: Condition | None = None
    request_id: bytes = b""
    known_index: int = 0
    revision: int = 0  # as in PutObject


class DataRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a data id claims to be used: what its extent's header says."""

    data_id: bytes
    bucket: int
    key: bytes
    upload_id: bytes = b""
    part: int = 0


class SweepFence(Command, frozen=True, gc=False):
    """Ask which of ``candidates`` are referenced, and refuse later commits of ids of ``writer`` at or below ``watermark``.

    ``writer`` is bytes 8..16 of a data id, ``watermark`` bytes 0..8: both as integers.
    """

    OP: ClassVar[int] = 12
    writer: int
    watermark: int
    candidates: tuple[DataRef, ...]


class GcDone(Command, frozen=True, gc=False):
    """Rows of the GC queue whose data is gone from its volume."""

    OP: ClassVar[int] = 13
    rows: tuple[tuple[int, bytes], ...]


class UpdateVersion(Command, frozen=True, gc=False):
    """Change what hangs on a version and is no part of it; ``version_id`` empty: the newest. ``None`` leaves as it is.

    Refuses with KEY_ABSENT, VERSION_ABSENT, METHOD_ON_MARKER. Neither ``modified_ms`` nor the ETag changes.
    """

    OP: ClassVar[int] = 14
    bucket: int
    key: bytes
    version_id: str = ""
    tags: dict[str, str] | None = None
    request_id: bytes = b""
    known_index: int = 0
    acl: bytes | None = None


class QuotaFence(Command, frozen=True, gc=False):
    """First half of a round of granting: grants of lower ballots are refused from now on, and what is granted and not used is taken back.

    ``revision`` as in PutObject. ``data`` of the outcome: the ballot in force, then the bytes the shard holds, 8 bytes each. A
    ballot below the one in force changes nothing.
    """

    OP: ClassVar[int] = 15
    LEVEL: ClassVar[int] = 3
    bucket: int
    ballot: int
    revision: int


class QuotaGrant(Command, frozen=True, gc=False):
    """Second half: the shard may grow to ``grant`` bytes. ``revision``: at which the proposer knew the bucket's quota.

    Refused with CONFLICT if the ballot is not the one in force, or if the shard was told of the bucket at a later revision.
    """

    OP: ClassVar[int] = 16
    LEVEL: ClassVar[int] = 3
    bucket: int
    ballot: int
    revision: int
    grant: int


class ExpireUploads(Command, frozen=True, gc=False):
    """Forget what completed uploads answered: those of ``upload_ids`` that were completed before ``before_ms``."""

    OP: ClassVar[int] = 17
    LEVEL: ClassVar[int] = 4
    bucket: int
    before_ms: int
    upload_ids: tuple[bytes, ...]


class Cas(Command, frozen=True, gc=False):
    """System group: compare every revision in ``expect`` (0: must not exist; -1: any), then put (value ``None``: delete) all of ``ops``."""

    OP: ClassVar[int] = 64
    ops: tuple[tuple[str, bytes | None], ...]
    expect: dict[str, int]
    request_id: bytes = b""
    known_index: int = 0


COMMANDS: dict[int, type[Command]] = {
    kind.OP: kind
    for kind in (
        Noop, EnsureShard, Seal, Unseal, Purge, PutObject, DeleteObjects, CreateUpload, PutPart, AbortUpload,
        CompleteUpload, SweepFence, GcDone, UpdateVersion, QuotaFence, QuotaGrant, ExpireUploads, Cas,
    )
}


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What apply answers. ``reason`` empty: done. ``version`` is the row as committed (Put, Complete);
    ``entries`` per key of a delete: (reason, version_id, is_marker); ``data`` is op-specific:
    CreateUpload the upload id, SweepFence the concatenated referenced data ids, Cas the 8-byte revision, Purge b"more" or b"",
    QuotaFence ballot and bytes.
    """

    reason: str = ""
    index: int = 0
    version: Version | None = None
    entries: tuple[tuple[str, str, bool], ...] = ()
    data: bytes = b""
    message: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoders = {op: msgspec.msgpack.Decoder(kind) for op, kind in COMMANDS.items()}


def encode_command(command: Command) -> bytes:
    """``op u16, format u8, msgpack`` of a command."""
    return command.OP.to_bytes(2, "big") + b"\x01" + _encoder.encode(command)


def decode_command(data: bytes | memoryview) -> Command:
    """Command of an entry. Raises LookupError for an op or format this build does not know: the worker must stop."""
    op = int.from_bytes(data[:2], "big")
    decoder = _decoders.get(op)
    if decoder is None or data[2] != COMMAND_FORMAT:
        raise LookupError(f"entry with op {op} format {data[2]} is not known to this build")
    return decoder.decode(memoryview(data)[3:])


