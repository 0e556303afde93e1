"""Extents: header, granule table and trailer of a run of object bytes. Layout: docs/formats/segments.md. Pure.

Invariants
* The header says everything needed to find the object again from segments alone: group, bucket id, key, upload, part, offset.
* An extent is whole when its trailer holds. The trailer's root checksum covers the granule table, which covers the data.
* The header holds its own offset and a salted checksum: a copy of it inside a body never passes for an extent.
"""

from __future__ import annotations

import struct
import sys
from array import array

import msgspec
from xxhash import xxh3_64, xxh3_64_intdigest

from titans3.engine.segment import CHECKSUM_XXH3
from titans3.errors import FormatError
from titans3.limits import BLOCK_BYTES, GRANULE_BYTES

MAGIC = b"TS3E"
TRAILER_MAGIC = b"TS3T"
FORMAT = 1
WHOLE = 1
FRAGMENT = 2
LAST = 1  # trailer flags
ABANDONED = 2
TRAILER_BYTES = 64
TRAILER_BLOB_BYTES_MAX = 64

_HEADER = struct.Struct(">4sHBBQ16sIHHQ16sIHHQ16sQIIQ")
LAYOUT = _HEADER  # for who shows a header that does not hold
_TRAILER = struct.Struct(">4sIQIIIIQ16s")
TRAILER_LAYOUT = _TRAILER
_MARK = struct.Struct(">Q")
_GRANULES_AT_ONCE = 8  # between two of these another thread may have the GIL
_GRANULES = tuple(slice(at, at + GRANULE_BYTES) for at in range(0, _GRANULES_AT_ONCE * GRANULE_BYTES, GRANULE_BYTES))
_MARKS = tuple(struct.Struct(f">{count}Q") for count in range(_GRANULES_AT_ONCE + 1))
_FIXED = _HEADER.size
assert _FIXED == 120
assert _TRAILER.size == 56


class ExtentIdent(msgspec.Struct, frozen=True):
    """What an extent says of itself. ``offset`` is of its first byte in the object or part; ``write_id`` the data id of the first extent.

    ``blob`` is a msgpack map of headers and metadata for ordinal 0, empty else.
    """

    data_id: bytes
    gid: int
    bucket: int
    key: bytes
    write_id: bytes
    ordinal: int = 0
    offset: int = 0
    part: int = 0
    upload_id: bytes = b""
    created_ms: int = 0
    blob: bytes = b""
    piece: int = 0
    policy: int = 1


class ExtentHeader(msgspec.Struct, frozen=True):
    """A header as read."""

    ident: ExtentIdent
    granted: int
    header_bytes: int


class Trailer(msgspec.Struct, frozen=True):
    """A trailer as read. ``table`` holds one xxh3-64 per granule, in native order."""

    data_id: bytes
    length: int
    flags: int
    root: int
    table: array[int]
    blob: bytes


def header_bytes(ident: ExtentIdent) -> int:
    """Bytes of the header: a multiple of 4,096."""
    return -(-(_FIXED + len(ident.key) + len(ident.blob) + 8) // BLOCK_BYTES) * BLOCK_BYTES


def granule_count(length: int) -> int:
    """Granules of ``length`` bytes of data."""
    return -(-length // GRANULE_BYTES)


def granted_bytes(ident: ExtentIdent, length: int) -> int:
    """Bytes to grant for at most ``length`` bytes of data: header to trailer, a multiple of 4,096."""
    total = header_bytes(ident) + length + granule_count(length) * 8 + TRAILER_BLOB_BYTES_MAX + TRAILER_BYTES
    return -(-total // BLOCK_BYTES) * BLOCK_BYTES


def used_bytes(ident: ExtentIdent, length: int, blob: int) -> int:
    """Bytes an extent with ``length`` bytes of data counts as alive."""
    return header_bytes(ident) + length + granule_count(length) * 8 + blob + TRAILER_BYTES


def pack_header(ident: ExtentIdent, *, salt: int, offset: int, granted: int) -> bytes:
    """The header that will lie at ``offset`` of a segment."""
    assert len(ident.data_id) == len(ident.write_id) == 16
    assert len(ident.upload_id) in (0, 16)
    size = header_bytes(ident)
    head = _HEADER.pack(
        MAGIC, FORMAT, WHOLE, CHECKSUM_XXH3, granted, ident.data_id, ident.gid, ident.piece, ident.policy, ident.bucket,
        ident.write_id, ident.ordinal, ident.part, len(ident.key), ident.offset, ident.upload_id.ljust(16, b"\0"),
        ident.created_ms, size, len(ident.blob), offset,
    )
    head = (head + ident.key + ident.blob).ljust(size - 8, b"\0")
    return head + _MARK.pack(xxh3_64_intdigest(head, salt))


def header_size(view: bytes | bytearray | memoryview) -> int:
    """How many bytes of header the first block announces; 0 if it is no extent header at all."""
    if len(view) < _FIXED or bytes(view[:4]) != MAGIC:
        return 0
    size = int.from_bytes(view[104:108], "big")
    return size if BLOCK_BYTES <= size <= BLOCK_BYTES * 64 and size % BLOCK_BYTES == 0 else 0


def parse_header(view: bytes | bytearray | memoryview, *, salt: int, offset: int) -> ExtentHeader | None:
    """Header of the extent at ``offset``, the start of ``view``; ``None`` if there is none. Raises FormatError for a newer format."""
    size = header_size(view)
    if not size or len(view) < size or xxh3_64_intdigest(view[: size - 8], salt) != _MARK.unpack_from(view, size - 8)[0]:
        return None
    (_, form, kind, checksum, granted, data_id, gid, piece, policy, bucket, write_id, ordinal, part, key_length, at, upload,
     created, _, blob_length, own) = _HEADER.unpack_from(view)
    if form > FORMAT or checksum != CHECKSUM_XXH3 or kind not in (WHOLE, FRAGMENT):
        raise FormatError(f"extent {data_id.hex()} has format {form}, kind {kind}, checksum type {checksum}")
    if own != offset or granted < size + TRAILER_BYTES or granted % BLOCK_BYTES:
        return None
    key = bytes(view[_FIXED : _FIXED + key_length])
    blob = bytes(view[_FIXED + key_length : _FIXED + key_length + blob_length])
    upload_id = upload if any(upload) else b""
    ident = ExtentIdent(
        data_id, gid, bucket, key, write_id, ordinal, at, part, upload_id, created, blob, piece, policy
    )
    return ExtentHeader(ident, granted, size)


def pack_trailer(data_id: bytes, length: int, table: bytes, *, salt: int, flags: int, blob: bytes) -> tuple[bytes, int]:
    """(table, blob and trailer, which end with the grant; root checksum). ``table`` is big-endian."""
    assert len(blob) <= TRAILER_BLOB_BYTES_MAX
    assert len(table) == granule_count(length) * 8
    root = xxh3_64_intdigest(table)
    last = _TRAILER.pack(TRAILER_MAGIC, GRANULE_BYTES, length, len(table) // 8, len(blob), flags, 0, root, data_id)
    whole = table + blob + last
    return whole + _MARK.pack(xxh3_64_intdigest(whole, salt)), root


def trailer_guess(granted: int) -> int:
    """Bytes before the end of a grant that hold its table and trailer for certain."""
    return min(granted, granule_count(granted) * 8 + TRAILER_BLOB_BYTES_MAX + TRAILER_BYTES)


def parse_trailer(view: bytes | bytearray | memoryview, *, salt: int) -> Trailer | None:
    """Trailer at the **end** of ``view``, which must hold the whole table; ``None`` if the extent is not whole."""
    if len(view) < TRAILER_BYTES:
        return None
    start = len(view) - TRAILER_BYTES
    magic, granule, length, count, blob_length, flags, _, root, data_id = _TRAILER.unpack_from(view, start)
    if magic != TRAILER_MAGIC or granule != GRANULE_BYTES or count != granule_count(length):
        return None
    first = start - count * 8 - blob_length
    if first < 0 or blob_length > TRAILER_BLOB_BYTES_MAX:
        return None
    if xxh3_64_intdigest(view[first : len(view) - 8], salt) != _MARK.unpack_from(view, len(view) - 8)[0]:
        return None
    raw = bytes(view[first : first + count * 8])
    if xxh3_64_intdigest(raw) != root:
        return None
    table = array("Q", raw)
    if sys.byteorder == "little":
        table.byteswap()
    return Trailer(data_id, length, flags, root, table, bytes(view[first + count * 8 : start]))


class Granules:
    """Checksums of 64 KiB granules of data that comes in pieces of any size."""

    __slots__ = ("_filled", "_partial", "_table")

    def __init__(self) -> None:
        self._table = bytearray()
        self._partial = xxh3_64()
        self._filled = 0

    def update(self, piece: memoryview) -> None:
        """Take the next piece of data."""
        position, end = 0, len(piece)
        if self._filled:
            position = min(GRANULE_BYTES - self._filled, end)
            self._partial.update(piece[:position])
            self._filled += position
            if self._filled == GRANULE_BYTES:
                self._table += self._partial.digest()
                self._partial.reset()
                self._filled = 0
        while count := min((end - position) // GRANULE_BYTES, _GRANULES_AT_ONCE):
            granules = map(piece[position:].__getitem__, _GRANULES[:count])
            self._table += _MARKS[count].pack(*map(xxh3_64_intdigest, granules))
            position += count * GRANULE_BYTES
        if position < end:
            self._partial.update(piece[position:])
            self._filled = end - position

    def finish(self) -> bytes:
        """The table, big-endian; the last granule may be short."""
        if self._filled:
            self._table += self._partial.digest()
            self._partial.reset()
            self._filled = 0
        return bytes(self._table)
