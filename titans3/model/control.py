"""Records of the control plane: who owns a name, what is set. Those of accounts and users are in ``model/identity``.

Keys (text): ``/buckets/<name>`` BucketRecord · ``/ids/bucket`` next bucket id (decimal text) · ``/feature_level`` decimal text ·
``/settings/<name>`` text. Values are msgpack arrays, first element the format.
"""

from __future__ import annotations

import msgspec

ACTIVE = 0
DELETING = 1
CREATING = 2

FEATURE_LEVEL_KEY = "/feature_level"


class BucketRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A bucket by name. ``versioning``: 0 never, 1 enabled, 2 suspended.

    ``revision`` is the control plane's that wrote the record, filled in by whoever reads it (``bucket_of``); in the row it means nothing.
    ``quota``: bytes of versions and open uploads that the bucket may hold, 0: any number.
    """

    format: int
    bucket: int
    name: str
    owner: str
    region: str
    created_ms: int
    shards: int
    state: int = ACTIVE
    op_id: bytes = b""
    revision: int = 0
    versioning: int = 0
    quota: int = 0


class Rec(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record as the control plane returns it; ``rev`` is the store revision that wrote it (the fencing token)."""

    key: str
    value: bytes
    rev: int


_bucket = msgspec.msgpack.Decoder(BucketRecord).decode


def bucket_of(rec: Rec) -> BucketRecord:
    """The bucket that a record tells of."""
    return msgspec.structs.replace(_bucket(rec.value), revision=rec.rev)


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A change: ``value`` ``None`` is a delete."""

    key: str
    value: bytes | None
    rev: int
