"""Segments: names, numbers and the header block. Layout: docs/formats/segments.md.

Invariants
* A segment number is the owner epoch (high 32 bits) and a counter (low 32 bits). The epoch rises with every open of the
  volume and is durable before it is used, so a number is never given twice, without any counter on disk.
* A segment is written only by the process that created it; a spare or torn one of an earlier epoch is never written again.
"""

from __future__ import annotations

import struct

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.errors import FormatError
from titans3.limits import BLOCK_BYTES

MAGIC = b"TS3SEGMT"
FORMAT = 1
LOG = 1
DATA = 2
PACKED = 3
KIND_NAMES = {LOG: "log", DATA: "data", PACKED: "packed"}
COPIES = 1  # flags: a compaction target; what no loc row names in it is dead, so recovery does not walk it
CHECKSUM_XXH3 = 1
CONTENT = BLOCK_BYTES  # first byte after the header block
SUFFIX = ".seg"

_HEADER = struct.Struct(">8sHBBI16sQQQQQ")
LAYOUT = _HEADER  # for who shows a header that does not hold
_CHECKED = BLOCK_BYTES - 8


class SegmentHeader(msgspec.Struct, frozen=True, gc=False):
    """The header block. ``capacity`` is the file's preallocated size in bytes, header included."""

    kind: int
    flags: int
    volume: bytes
    number: int
    salt: int
    epoch: int
    capacity: int
    created_ms: int

    def pack(self) -> bytes:
        """The block of 4,096 bytes."""
        assert len(self.volume) == 16
        block = _HEADER.pack(
            MAGIC, FORMAT, self.kind, CHECKSUM_XXH3, self.flags, self.volume, self.number, self.salt, self.epoch,
            self.capacity, self.created_ms,
        ).ljust(_CHECKED, b"\0")
        return block + xxh3_64_intdigest(block).to_bytes(8, "big")


def parse_header(block: bytes | bytearray | memoryview) -> SegmentHeader | None:
    """Header of a segment; ``None`` when the block is torn or not ours. Raises FormatError for a newer format."""
    if len(block) < BLOCK_BYTES:
        return None
    view = memoryview(block)[:BLOCK_BYTES]
    if view[:8] != MAGIC or xxh3_64_intdigest(view[:_CHECKED]) != int.from_bytes(view[_CHECKED:], "big"):
        return None
    _, form, kind, checksum, flags, volume, number, salt, epoch, capacity, created = _HEADER.unpack_from(view)
    if form > FORMAT or checksum != CHECKSUM_XXH3:
        raise FormatError(f"segment {number:016x} has format {form}, checksum type {checksum}; this build knows {FORMAT} and 1")
    return SegmentHeader(kind, flags, volume, number, salt, epoch, capacity, created)


def segment_number(epoch: int, counter: int) -> int:
    """Number of the ``counter``-th segment (from 1) made in ``epoch``."""
    assert 0 < epoch < 1 << 32
    assert 0 < counter < 1 << 32
    return epoch << 32 | counter


def folder_of(kind: int) -> str:
    """Folder inside the volume that holds segments of a kind."""
    return "log" if kind == LOG else "data"


def segment_name(number: int) -> str:
    """File name: 16 hex digits."""
    return f"{number:016x}{SUFFIX}"


def number_of(name: str) -> int | None:
    """Segment number of a file name, ``None`` for a file that is not a segment."""
    if len(name) != 16 + len(SUFFIX) or not name.endswith(SUFFIX):
        return None
    try:
        return int(name[:16], 16)
    except ValueError:
        return None
