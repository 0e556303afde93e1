"""Records: one entry, hard state, truncation, mark or segment start in a batch. Layout: docs/formats/segments.md.

Hot: ``pack_record`` runs once per write, ``unpack_body`` once per read of a small object.

Invariants
* The record checksum is salted with the segment's salt and covers the record's own offset: bytes of a client's body, even a
  copy of this very segment, never pass for a record.
* The body has its own, unsalted checksum, which the record checksum covers: a bad body is one bad object, not a broken log.
"""

from __future__ import annotations

import struct

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.engine.segment import CHECKSUM_XXH3
from titans3.limits import BATCH_BYTES_MAX

ENTRY = 1
HARD_STATE = 2
TRUNCATE = 3
SNAPSHOT = 4
SEGMENT_START = 5

COPIED = 1  # flags

HEADER_BYTES = 80
NO_DATA = bytes(16)

_AFTER_CHECKSUM = struct.Struct(">BBHIQQQIIQ16sQ")
_HEADER = struct.Struct(">QBBHIQQQIIQ16sQ")
LAYOUT = _HEADER  # for who shows a header that does not hold
_START = struct.Struct(">QQQ")
_STATE = struct.Struct(">QQ")


class Record(msgspec.Struct, gc=False):
    """What goes into the log. ``data_id`` is 16 bytes, zero without a body. ``checksum`` is the body's xxh3-64, -1: not yet computed."""

    gid: int
    index: int
    term: int
    prev_term: int
    command: bytes
    body: bytes | bytearray | memoryview = b""
    data_id: bytes = NO_DATA
    kind: int = ENTRY
    flags: int = 0
    checksum: int = -1

    @property
    def stored_bytes(self) -> int:
        """Bytes of the record without padding: what ``loc`` keeps as its length."""
        return HEADER_BYTES + len(self.command) + len(self.body)


def padded(length: int) -> int:
    """A record's length rounded up to 8."""
    return (length + 7) & ~7


def segment_start(segment: int, end: int, batch: int) -> Record:
    """The first record of a log segment: predecessor, where it ended, its last batch; zeros for the very first."""
    return Record(0, 0, 0, 0, _START.pack(segment, end, batch), kind=SEGMENT_START)


def parse_start(record: Record) -> tuple[int, int, int]:
    """(predecessor segment, its end offset, its last batch)."""
    segment, end, batch = _START.unpack(record.command)
    return segment, end, batch


def hard_state(gid: int, term: int, vote: int) -> Record:
    """A group's term and vote."""
    return Record(gid, 0, term, 0, _STATE.pack(term, vote), kind=HARD_STATE)


def parse_hard_state(record: Record) -> tuple[int, int]:
    """(term, vote)."""
    term, vote = _STATE.unpack(record.command)
    return term, vote


def pack_record(record: Record, salt: int, offset: int) -> tuple[bytes, bytes]:
    """(header and command, the 8 checksum bytes) of a record that will lie at ``offset`` of its segment; the body follows as it is."""
    body = record.body
    checksum = record.checksum
    if checksum < 0:
        checksum = xxh3_64_intdigest(body)
    command = record.command
    rest = _AFTER_CHECKSUM.pack(
        record.kind, CHECKSUM_XXH3, record.flags, record.gid, record.index, record.term, record.prev_term,
        len(command), len(body), checksum, record.data_id, offset,
    ) + command
    mark = xxh3_64_intdigest(rest, salt).to_bytes(8, "big")
    return mark + rest, mark


def parse_record(view: memoryview, salt: int, offset: int) -> tuple[Record, int] | None:
    """(record, its padded length) at the start of ``view``, whose first byte lies at ``offset`` of the segment.

    ``None`` when the framing does not hold. The body is a slice of ``view`` and is **not** verified: see ``body_matches``.
    """
    if len(view) < HEADER_BYTES:
        return None
    (mark, kind, checksum_type, flags, gid, index, term, prev_term, command_length, body_length, checksum, data_id, own) = (
        _HEADER.unpack_from(view)
    )
    body_start = HEADER_BYTES + command_length
    end = body_start + body_length
    if own != offset or not ENTRY <= kind <= SEGMENT_START or checksum_type != CHECKSUM_XXH3:
        return None
    if end > BATCH_BYTES_MAX * 2 or padded(end) > len(view) or xxh3_64_intdigest(view[8:body_start], salt) != mark:
        return None
    command = bytes(view[HEADER_BYTES:body_start])
    record = Record(gid, index, term, prev_term, command, view[body_start:end], data_id, kind, flags, checksum)
    return record, padded(end)


def body_matches(record: Record) -> bool:
    """Whether the body is the one that was written."""
    return xxh3_64_intdigest(record.body) == record.checksum


def unpack_body(buffer: bytearray | memoryview, data_id: bytes) -> memoryview | None:
    """Verified body in the bytes of a whole record (what ``loc`` points at); ``None`` if any of it is not as written.

    The salted record checksum is not needed here: data id and the body's own checksum decide.
    """
    if len(buffer) < HEADER_BYTES:
        return None
    head = _HEADER.unpack_from(buffer)
    start = HEADER_BYTES + head[8]
    body = memoryview(buffer)[start : start + head[9]]
    if head[11] != data_id or len(body) != head[9] or xxh3_64_intdigest(body) != head[10]:
        return None
    return body


def command_of(buffer: bytearray | memoryview) -> bytes:
    """Command bytes of a whole record, unverified: only to name what is damaged."""
    if len(buffer) < HEADER_BYTES:
        return b""
    return bytes(memoryview(buffer)[HEADER_BYTES : HEADER_BYTES + _HEADER.unpack_from(buffer)[8]])
