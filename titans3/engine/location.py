"""Where a data id lies: the rows of ``loc``. Replica-local, rebuilt by replay and walk (I4).

A key is data id and piece; a value is segment, offset, length and kind, big-endian.
"""

from __future__ import annotations

import struct

import msgspec

BODY = 1  # the body of a log record: offset and length are of the whole record, without padding
EXTENT = 2  # an extent of a data segment: offset of its header; length is what it uses: header, data, trailer

_ROW = struct.Struct(">QQQB")


class Location(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes ``offset`` … ``offset + length`` of a segment."""

    segment: int
    offset: int
    length: int
    kind: int


def loc_key(data_id: bytes, piece: int = 0) -> bytes:
    """Key of a loc row."""
    assert len(data_id) == 16
    return data_id + piece.to_bytes(2, "big")


def pack_location(segment: int, offset: int, length: int, kind: int) -> bytes:
    """Value of a loc row."""
    return _ROW.pack(segment, offset, length, kind)


def parse_location(row: bytes) -> Location:
    """Location of a loc row's value."""
    return Location(*_ROW.unpack(row))
