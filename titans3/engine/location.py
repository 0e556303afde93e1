"""Where a data id lies: the rows of ``loc``. Replica-local, rebuilt by replay and walk (I4).

A key is data id and piece; a value is segment, offset, length and kind, big-endian.
"""

from __future__ import annotations

import struct

import msgspec

from titans3.engine.segment import segment_name
from titans3.model.version import INLINE, Extent

BODY = 1  # the body of a log record: offset and length are of the whole record, without padding
EXTENT = 2  # an extent of a data segment: offset of its header; length is what it uses: header, data, trailer

_FIRST = bytes(2)
_ROW = struct.Struct(">QQQB")


class Location(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes ``offset`` … ``offset + length`` of a segment."""

    segment: int
    offset: int
    length: int
    kind: int


class PlacedExtent(msgspec.Struct, frozen=True):
    """A run of a version's bytes, for people. ``segment`` is a file name, empty without a ``loc`` row.

    ``offset`` is of the record or the extent's header.
    """

    data_id: str
    volume: int
    kind: str
    length: int
    segment: str = ""
    offset: int = 0


def home_of(extent: Extent, volume: int) -> int:
    """The volume of an extent of a row that lies on ``volume``."""
    return volume if extent.policy == INLINE else extent.placement - 1


def placed(extent: Extent, volume: int, place: Location | None) -> PlacedExtent:
    """An extent of that volume with where it lies, ``None`` for nowhere."""
    if place is None:
        return PlacedExtent(extent.data_id.hex(), volume, "record" if extent.policy == INLINE else "extent", extent.length)
    kind = "extent" if place.kind == EXTENT else "record"
    return PlacedExtent(extent.data_id.hex(), volume, kind, extent.length, segment_name(place.segment), place.offset)


def loc_key(data_id: bytes, piece: int = 0) -> bytes:
    """Key of a loc row."""
    assert len(data_id) == 16
    return data_id + piece.to_bytes(2, "big") if piece else data_id + _FIRST


def pack_location(segment: int, offset: int, length: int, kind: int) -> bytes:
    """Value of a loc row."""
    return _ROW.pack(segment, offset, length, kind)


def parse_location(row: bytes) -> Location:
    """Location of a loc row's value."""
    return Location(*_ROW.unpack(row))
