"""Records of the control plane: who owns a name, which keys exist, what is set.

Keys (text): ``/buckets/<name>`` BucketRecord · ``/ids/bucket`` next bucket id (decimal text) · ``/credentials/<access key>``
Credential · ``/feature_level`` decimal text · ``/settings/<name>`` text. Values are msgpack arrays, first element the format.
"""

from __future__ import annotations

import msgspec

ACTIVE = 0
DELETING = 1
CREATING = 2

ROOT_ACCOUNT = "000000000000"
FEATURE_LEVEL_KEY = "/feature_level"


class BucketRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A bucket by name. ``revision`` rises with every change that shards must know (EnsureShard)."""

    format: int
    bucket: int
    name: str
    owner: str
    region: str
    created_ms: int
    shards: int
    state: int = ACTIVE
    op_id: bytes = b""
    revision: int = 1
    versioning: int = 0


class Credential(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An access key; ``account`` owns what it makes."""

    format: int
    access_key: str
    secret: str
    account: str
    enabled: bool = True


class Rec(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record as the control plane returns it; ``rev`` is the store revision that wrote it (the fencing token)."""

    key: str
    value: bytes
    rev: int


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A change: ``value`` ``None`` is a delete."""

    key: str
    value: bytes | None
    rev: int
