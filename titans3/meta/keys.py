"""Logical keys of every table; the byte layouts are in docs/formats/metadata.md.

Hot: ``object_key`` and ``loc_key`` are built once per request.
"""

from __future__ import annotations

LAYER_COUNTER = 0x01
OBJECTS = 0x10
LAYERS = 0x11
UPLOAD_INDEX = 0x12
VERSIONS = 0x20
MANIFEST = 0x29
UPLOADS = 0x30
PARTS = 0x31
COMPLETED = 0x32
SHARDS = 0x40
FENCES = 0x41
MIN_REVISION = 0x42
GC = 0x50
DEDUPE = 0x60
CONTROL = 0x80
STORE_REVISION = 0x81

TABLE_AT = 4  # the table byte's place in a logical key
PREFIX_BYTES = 13  # gid, table, id
LONG_TABLES = frozenset((OBJECTS, UPLOAD_INDEX))
ORDERED_TABLES = frozenset((OBJECTS, UPLOAD_INDEX, VERSIONS, MANIFEST, UPLOADS, COMPLETED, PARTS, GC, CONTROL))
SEQ_MASK = 0xFFFF_FFFF_FFFF_FFFF


def object_prefix(gid: int, bucket: int) -> bytes:
    """Prefix of a bucket's object rows in a group."""
    return (gid << 72 | OBJECTS << 64 | bucket).to_bytes(13, "big")


def object_key(gid: int, bucket: int, key: bytes) -> bytes:
    """Object row."""
    return (gid << 72 | OBJECTS << 64 | bucket).to_bytes(13, "big") + key


def version_prefix(gid: int, object_id: int) -> bytes:
    """Prefix of an object's older versions, newest first."""
    return (gid << 72 | VERSIONS << 64 | object_id).to_bytes(13, "big")


def version_key(gid: int, object_id: int, seq: int) -> bytes:
    """Row of one older version."""
    return version_prefix(gid, object_id) + (seq ^ SEQ_MASK).to_bytes(8, "big")


def version_seq(key: bytes) -> int:
    """seq of a version row's key."""
    return int.from_bytes(key[-8:], "big") ^ SEQ_MASK


def manifest_prefix(gid: int, object_id: int, seq: int) -> bytes:
    """Prefix of a version's manifest rows."""
    return (gid << 72 | MANIFEST << 64 | object_id).to_bytes(13, "big") + seq.to_bytes(8, "big")


def manifest_key(gid: int, object_id: int, seq: int, part: int) -> bytes:
    """Manifest row that starts with ``part``."""
    return manifest_prefix(gid, object_id, seq) + part.to_bytes(4, "big")


def escape(key: bytes) -> bytes:
    """Order-keeping, self-delimiting form of a key: 0x00 -> 0x00 0xFF, end = 0x00 0x01."""
    return (key.replace(b"\0", b"\0\xff") if b"\0" in key else key) + b"\0\x01"


def upload_index_prefix(gid: int, bucket: int) -> bytes:
    """Prefix of a bucket's upload index."""
    return (gid << 72 | UPLOAD_INDEX << 64 | bucket).to_bytes(13, "big")


def upload_index_key(gid: int, bucket: int, key: bytes, upload_id: bytes) -> bytes:
    """Index row of an open upload."""
    return upload_index_prefix(gid, bucket) + escape(key) + upload_id


def split_upload_index(key: bytes) -> tuple[bytes, bytes]:
    """(object key, upload id) of an index row's key."""
    return key[PREFIX_BYTES:-18].replace(b"\0\xff", b"\0"), key[-16:]


def upload_prefix(gid: int, bucket: int) -> bytes:
    """Prefix of a bucket's upload rows."""
    return (gid << 72 | UPLOADS << 64 | bucket).to_bytes(13, "big")


def upload_key(gid: int, bucket: int, upload_id: bytes) -> bytes:
    """Upload row."""
    return upload_prefix(gid, bucket) + upload_id


def part_prefix(gid: int, upload_id: bytes) -> bytes:
    """Prefix of an upload's parts."""
    return (gid << 8 | PARTS).to_bytes(5, "big") + upload_id


def part_key(gid: int, upload_id: bytes, number: int) -> bytes:
    """Part row."""
    return part_prefix(gid, upload_id) + number.to_bytes(2, "big")


def completed_prefix(gid: int, bucket: int) -> bytes:
    """Prefix of a bucket's completed uploads."""
    return (gid << 72 | COMPLETED << 64 | bucket).to_bytes(13, "big")


def completed_key(gid: int, bucket: int, upload_id: bytes) -> bytes:
    """Result row of a completed upload."""
    return completed_prefix(gid, bucket) + upload_id


def shard_key(gid: int, bucket: int) -> bytes:
    """Shard row."""
    return (gid << 72 | SHARDS << 64 | bucket).to_bytes(13, "big")


def fence_key(gid: int, writer: int) -> bytes:
    """Sweep fence of a writer."""
    return (gid << 72 | FENCES << 64 | writer).to_bytes(13, "big")


def min_revision_key(gid: int) -> bytes:
    """Minimum revision row."""
    return (gid << 8 | MIN_REVISION).to_bytes(5, "big")


def gc_prefix(gid: int) -> bytes:
    """Prefix of the GC queue."""
    return (gid << 8 | GC).to_bytes(5, "big")


def gc_key(gid: int, seq: int, data_id: bytes) -> bytes:
    """GC row."""
    return gc_prefix(gid) + seq.to_bytes(8, "big") + data_id


def dedupe_key(gid: int, chunk: int) -> bytes:
    """Dedupe chunk row."""
    return (gid << 16 | DEDUPE << 8 | chunk).to_bytes(6, "big")


def control_prefix(gid: int) -> bytes:
    """Prefix of control-plane records."""
    return (gid << 8 | CONTROL).to_bytes(5, "big")


def control_key(gid: int, key: str) -> bytes:
    """Control-plane record."""
    return control_prefix(gid) + key.encode()


def store_revision_key(gid: int) -> bytes:
    """Store revision row."""
    return (gid << 8 | STORE_REVISION).to_bytes(5, "big")


def loc_key(data_id: bytes, piece: int = 0) -> bytes:
    """Row of the loc database."""
    return data_id + piece.to_bytes(2, "big")


def seg_key(segment: int) -> bytes:
    """Row of the seg database."""
    return segment.to_bytes(8, "big")


def successor(prefix: bytes) -> bytes:
    """Smallest byte string greater than every string that starts with ``prefix``; empty if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""


def ordered_prefix(key: bytes) -> bytes | None:
    """The part of a key by which the overlay keeps sorted lists; ``None`` for tables that are never scanned."""
    table = key[TABLE_AT]
    if table not in ORDERED_TABLES:
        return None
    return key[:5] if table in (GC, CONTROL) else key[:PREFIX_BYTES]
