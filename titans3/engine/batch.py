"""Batches: what one flush writes. Layout: docs/formats/segments.md.

Hot: ``encode_batch`` runs once per flush over every record in it.

Invariants
* A batch starts and ends on a block boundary and is whole or nothing: its footer covers its header, its digest and the
  checksum of every record.
* All checksums are salted and the header holds its own offset, so bytes of a body never pass for a batch.
* The digest says what the previous batch wrote: per group how many records and the last index. It is what lets recovery
  name exactly the groups that a damaged batch touched.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.engine.files import Piece
from titans3.engine.record import ENTRY, SEGMENT_START, Record, body_matches, pack_record, parse_record
from titans3.errors import FormatError
from titans3.limits import BLOCK_BYTES

MAGIC = b"TS3B"
FOOTER_MAGIC = b"TS3F"
FORMAT = 1
HEADER_BYTES = 64
FOOTER_BYTES = 32
OWN_PIECE_BYTES = 16 * 1024  # a larger body is not copied to be joined with its neighbours

_HEADER = struct.Struct(">4sHHQQIIIIQQ")  # and its checksum
LAYOUT = _HEADER  # for who shows a header that does not hold
_FOOTER = struct.Struct(">4sIQIIQ")
FOOTER_LAYOUT = _FOOTER
_DIGEST = struct.Struct(">IIQ")

Digest = dict[int, tuple[int, int]]  # gid -> (records, last index)


class Encoded(msgspec.Struct):
    """A batch ready to be written: pieces in order, whole length, offset of each record, and the digest the next batch carries."""

    pieces: list[Piece]
    length: int
    offsets: list[int]
    digest: Digest


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """A batch header whose checksum held."""

    epoch: int
    number: int
    length: int
    records: int
    digests: int
    previous_segment: int


class Batch(msgspec.Struct):
    """A batch as read. ``records`` are (record, offset), segment starts included; ``intact`` is framing alone, bodies apart."""

    header: BatchHeader
    offset: int
    digest: Digest | None
    records: list[tuple[Record, int]]
    intact: bool

    def bad_bodies(self) -> list[tuple[Record, int]]:
        """Records whose body is not what was written."""
        return [item for item in self.records if not body_matches(item[0])]


def batch_bytes(records_bytes: int, digests: int) -> int:
    """Bytes of a batch whose padded records take ``records_bytes``."""
    total = HEADER_BYTES + digests * 16 + 8 + records_bytes + FOOTER_BYTES
    return -(-total // BLOCK_BYTES) * BLOCK_BYTES


def encode_batch(
    records: Sequence[Record], *, salt: int, offset: int, epoch: int, number: int, previous_segment: int, digest: Digest
) -> Encoded:
    """The batch of ``records`` that will lie at ``offset``; ``digest`` is of the batch before it."""
    table = b"".join([_DIGEST.pack(gid, count, last) for gid, (count, last) in digest.items()])
    table_mark = xxh3_64_intdigest(table, salt).to_bytes(8, "big")
    position = offset + HEADER_BYTES + len(table) + 8
    marks = [table_mark]
    offsets: list[int] = []
    pieces: list[Piece] = []
    small: list[Piece] = [b"", table, table_mark]
    wrote: Digest = {}
    for record in records:
        head, mark = pack_record(record, salt, position)
        offsets.append(position)
        marks.append(mark)
        body = record.body
        length = len(head) + len(body)
        padding = -length & 7
        small.append(head)
        if len(body) < OWN_PIECE_BYTES:
            small.append(body)
        else:
            pieces.append(b"".join(small) if pieces else b"")
            if len(pieces) == 1:
                first, small = small, []
            pieces.append(body)
            small = []
        if padding:
            small.append(b"\0\0\0\0\0\0\0"[:padding])
        position += length + padding
        if record.kind != SEGMENT_START:
            count, last = wrote.get(record.gid, (0, 0))
            wrote[record.gid] = (count + 1, record.index if record.kind == ENTRY else last)
    used = position - offset
    length = -(-(used + FOOTER_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
    head = _HEADER.pack(MAGIC, FORMAT, 0, epoch, number, length, len(records), len(digest), 0, previous_segment, offset)
    head += xxh3_64_intdigest(head, salt).to_bytes(8, "big")
    marks.insert(0, head)
    footer = _FOOTER.pack(
        FOOTER_MAGIC, len(records), number, length, 0, xxh3_64_intdigest(b"".join(marks), salt)
    )
    small.append(bytes(length - used - FOOTER_BYTES))
    small.append(footer)
    if pieces:
        first[0] = head
        pieces[0] = b"".join(first)
        pieces.append(b"".join(small))
    else:
        small[0] = head
        pieces.append(b"".join(small))
    return Encoded(pieces, length, offsets, wrote)


def parse_header(view: memoryview, salt: int, offset: int) -> BatchHeader | None:
    """Header of the batch at ``offset``, the start of ``view``; ``None`` if there is none. Raises FormatError for a newer format."""
    if len(view) < HEADER_BYTES or bytes(view[:4]) != MAGIC:
        return None
    _, form, _, epoch, number, length, records, digests, _, previous, own = _HEADER.unpack_from(view)
    if own != offset or xxh3_64_intdigest(view[:56], salt) != int.from_bytes(view[56:64], "big"):
        return None
    if form > FORMAT:
        raise FormatError(f"batch {number} has format {form}; this build knows {FORMAT}")
    if length < BLOCK_BYTES or length % BLOCK_BYTES:
        return None
    return BatchHeader(epoch, number, length, records, digests, previous)


def parse_digest(view: memoryview, header: BatchHeader, salt: int) -> Digest | None:
    """What the batch before this one wrote; ``None`` when that part is damaged."""
    end = HEADER_BYTES + header.digests * 16
    if end + 8 > len(view):
        return None
    table = view[HEADER_BYTES:end]
    if xxh3_64_intdigest(table, salt) != int.from_bytes(view[end : end + 8], "big"):
        return None
    return {gid: (count, last) for gid, count, last in _DIGEST.iter_unpack(table)}


def parse_batch(view: memoryview, header: BatchHeader, salt: int, offset: int) -> Batch:
    """Everything readable of the batch whose ``header.length`` bytes are ``view``. Bodies are slices of it, not verified."""
    digest = parse_digest(view, header, salt)
    position = HEADER_BYTES + header.digests * 16 + 8
    marks = [bytes(view[:HEADER_BYTES]), bytes(view[position - 8 : position])]
    records: list[tuple[Record, int]] = []
    end = len(view) - FOOTER_BYTES
    if digest is not None:
        for _ in range(header.records):
            found = parse_record(view[position:end], salt, offset + position)
            if found is None:
                break
            records.append((found[0], offset + position))
            marks.append(bytes(view[position : position + 8]))
            position += found[1]
    magic, count, number, length, _, mark = _FOOTER.unpack_from(view, end)
    intact = (
        len(records) == header.records
        and (magic, count, number, length) == (FOOTER_MAGIC, header.records, header.number, header.length)
        and xxh3_64_intdigest(b"".join(marks), salt) == mark
    )
    if not intact:
        records = list(salvage(view, salt, offset))
    return Batch(header, offset, digest, records, intact)


def salvage(view: memoryview, salt: int, offset: int) -> list[tuple[Record, int]]:
    """Every record whose own checksum holds in a damaged run of bytes that starts at ``offset``; (record, offset)."""
    found: list[tuple[Record, int]] = []
    position = 0
    while position + 80 <= len(view):
        own = view[position + 72 : position + 80]
        if own == (offset + position).to_bytes(8, "big"):
            parsed = parse_record(view[position:], salt, offset + position)
            if parsed is not None:
                found.append((parsed[0], offset + position))
                position += parsed[1]
                continue
        position += 8
    return found
