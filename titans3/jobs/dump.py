"""Rows of the metadata as plain values, one by one: by bucket, prefix, group, table.

Invariant: what is shown went through ``titans3.jobs.shown``: no secret in the clear, sealed texts as length and digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from titans3.jobs.replay import Replayed
from titans3.jobs.shown import named, shown_record
from titans3.meta.dedupe import Result
from titans3.meta.keys import (
    COMPLETED,
    CONTROL,
    DEDUPE,
    FENCES,
    GC,
    MANIFEST,
    MIN_REVISION,
    OBJECTS,
    PARTS,
    PREFIX_BYTES,
    SHARDS,
    STORE_REVISION,
    TABLE_AT,
    UPLOAD_INDEX,
    UPLOADS,
    VERSIONS,
    split_upload_index,
    version_seq,
)
from titans3.model.control import Rec
from titans3.model.version import Completed, Extent, Part, Shard, Upload, Version

TABLES = {
    "objects": OBJECTS, "versions": VERSIONS, "manifest": MANIFEST, "uploads": UPLOADS, "upload-index": UPLOAD_INDEX, "parts": PARTS,
    "completed": COMPLETED, "shards": SHARDS, "fences": FENCES, "min-revision": MIN_REVISION, "gc": GC, "dedupe": DEDUPE,
    "control": CONTROL, "store-revision": STORE_REVISION,
}  # fmt: skip
_NAMES = {number: name for name, number in TABLES.items()}
_TYPES: dict[int, Any] = {
    OBJECTS: Version, VERSIONS: Version, MANIFEST: tuple[Part, ...], UPLOADS: Upload, PARTS: Part, COMPLETED: Completed, SHARDS: Shard,
    GC: Extent, DEDUPE: tuple[Result, ...],
}  # fmt: skip
_DECODERS: dict[int, Callable[[bytes], Any]] = {table: msgspec.msgpack.Decoder(kind).decode for table, kind in _TYPES.items()}
_OF_BUCKETS = frozenset((OBJECTS, UPLOAD_INDEX, UPLOADS, COMPLETED, SHARDS))


class Wanted(msgspec.Struct, frozen=True):
    """Which rows; ``None`` or empty is any. With ``bucket`` only rows that name it; with ``prefix`` only those of keys that begin so."""

    bucket: int | None = None
    prefix: bytes = b""
    group: int | None = None
    table: str = ""


def dump(replayed: Replayed, volume: int, wanted: Wanted, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Rows of a volume as dictionaries. ``names``: buckets by id. Raises DiskError for a damaged row."""
    owners: dict[tuple[int, int], tuple[int, bytes]] = {}  # object id to bucket and key: versions and manifests hang on it
    if wanted.bucket is not None or wanted.prefix:
        for key, value in replayed.rows():
            if key[TABLE_AT] == OBJECTS:
                version = _DECODERS[OBJECTS](value)
                owners[_gid(key), version.object_id] = (int.from_bytes(key[5:PREFIX_BYTES], "big"), key[PREFIX_BYTES:])
    for key, value in replayed.rows():
        table, gid = key[TABLE_AT], _gid(key)
        if (wanted.group is not None and gid != wanted.group) or (wanted.table and TABLES[wanted.table] != table):
            continue
        bucket, name = _place(key, value, owners)
        if (wanted.bucket is not None and bucket != wanted.bucket) or (wanted.prefix and not (name or b"").startswith(wanted.prefix)):
            continue
        yield _row(key, value, volume, bucket, name, names)


def _gid(key: bytes) -> int:
    return int.from_bytes(key[:TABLE_AT], "big")


def _place(key: bytes, value: bytes, owners: dict[tuple[int, int], tuple[int, bytes]]) -> tuple[int | None, bytes | None]:
    """(bucket id, object key) of a row, as far as it has them."""
    table = key[TABLE_AT]
    if table in _OF_BUCKETS:
        bucket = int.from_bytes(key[5:PREFIX_BYTES], "big")
        if table == OBJECTS:
            return bucket, key[PREFIX_BYTES:]
        if table == UPLOAD_INDEX:
            return bucket, split_upload_index(key)[0]
        return bucket, _DECODERS[table](value).key if table in (UPLOADS, COMPLETED) else None
    if table in (VERSIONS, MANIFEST):
        return owners.get((_gid(key), int.from_bytes(key[5:PREFIX_BYTES], "big")), (None, None))
    return None, None


def _row(key: bytes, value: bytes, volume: int, bucket: int | None, name: bytes | None, names: dict[int, str]) -> dict[str, Any]:
    table = key[TABLE_AT]
    told: dict[str, Any] = {"volume": volume, "group": _gid(key), "table": _NAMES.get(table, f"0x{table:02x}")}
    if bucket is not None:
        told["bucket_id"], told["bucket"] = bucket, names.get(bucket)
    if name is not None:
        told["key"] = name.decode("utf-8", "backslashreplace")
    if table == CONTROL:
        record = msgspec.msgpack.decode(value, type=Rec)
        return told | {"record": record.key, "revision": record.rev, "value": shown_record(record.key, record.value)}
    if table in (VERSIONS, MANIFEST):
        told["object_id"] = int.from_bytes(key[5:PREFIX_BYTES], "big")
        told["seq"] = version_seq(key) if table == VERSIONS else int.from_bytes(key[PREFIX_BYTES:-4], "big")
    elif table in (UPLOADS, COMPLETED, UPLOAD_INDEX):
        told["upload_id"] = key[-16:].hex()
    elif table == PARTS:
        told["upload_id"] = key[5:21].hex()
    elif table == GC:
        told["seq"] = int.from_bytes(key[5:13], "big")
    elif table == FENCES:
        told["writer"] = key[5:].hex()
    decode = _DECODERS.get(table)
    if decode is None:
        told["value"] = int.from_bytes(value, "big") if table in (FENCES, MIN_REVISION, STORE_REVISION) else named(value)
        return told
    decoded = decode(value)
    told["value"] = named(decoded)
    if isinstance(decoded, Version):
        told["version_id"] = decoded.version_id
    return told
