"""Walking a data segment: which of its extents are whole. Blocking reads: runs in a thread, writes nothing.

Invariant: headers were written in the order of their offsets, so the walk goes from one to the next by the granted length. At a
header that does not hold it goes on block by block, so that one damaged header hides one extent, not all behind it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from titans3.engine.extent import (
    ABANDONED,
    ExtentHeader,
    Trailer,
    header_size,
    parse_header,
    parse_trailer,
    trailer_guess,
    used_bytes,
)
from titans3.engine.files import Files, read_at
from titans3.engine.segment import CONTENT, SegmentHeader
from titans3.limits import BLOCK_BYTES, MIB


class FoundExtent(msgspec.Struct, frozen=True):
    """An extent in a segment; ``trailer`` is ``None`` when it was never finished or is damaged."""

    offset: int
    header: ExtentHeader
    trailer: Trailer | None

    @property
    def is_whole(self) -> bool:
        """Whether it was finished and not abandoned."""
        return self.trailer is not None and not self.trailer.flags & ABANDONED

    @property
    def used(self) -> int:
        """Bytes it counts as alive."""
        assert self.trailer is not None
        return used_bytes(self.header.ident, self.trailer.length, len(self.trailer.blob))


def read_extent(files: Files, fd: int, offset: int, salt: int, *, nowait: bool = False) -> FoundExtent | None:
    """The extent whose header lies at ``offset``; ``None`` if there is no valid header. ``nowait``: see ``read_at``."""
    block = read_at(files, fd, BLOCK_BYTES, offset, nowait=nowait)
    size = header_size(block)
    if size > BLOCK_BYTES:
        block = read_at(files, fd, size, offset, nowait=nowait)
    header = parse_header(block, salt=salt, offset=offset)
    if header is None:
        return None
    guess = trailer_guess(header.granted)
    trailer = parse_trailer(read_at(files, fd, guess, offset + header.granted - guess, nowait=nowait), salt=salt)
    if trailer is not None and trailer.data_id != header.ident.data_id:
        trailer = None
    return FoundExtent(offset, header, trailer)


def walk_extents(
    files: Files, path: str, segment: SegmentHeader, start: int = CONTENT, *, skips_blank: bool = False
) -> Iterator[FoundExtent]:
    """Every extent with a valid header from ``start`` to the end of the segment.

    ``skips_blank``: what the file system says was never written is not read. For who loses nothing when that is wrong: some have told so
    of what had just been written.
    """
    fd = files.open(path, os.O_RDONLY)
    try:
        offset = start
        while offset < segment.capacity:
            found = read_extent(files, fd, offset, segment.salt)
            if found is None:
                following = _next_header(files, fd, offset + BLOCK_BYTES, segment, skips_blank=skips_blank)
                if following is None:
                    return
                offset = following
                continue
            yield found
            offset += found.header.granted
    finally:
        files.close(fd)


def _next_header(files: Files, fd: int, offset: int, segment: SegmentHeader, *, skips_blank: bool) -> int | None:
    """Offset of the next valid header at or after ``offset``, block by block."""
    while offset < segment.capacity:
        if skips_blank:
            written = files.next_data(fd, offset)
            if written is None:
                return None
            offset = max(offset, written - written % BLOCK_BYTES)
        run = read_at(files, fd, min(4 * MIB, segment.capacity - offset), offset)
        if not run:
            return None
        at = run.find(b"TS3E")
        while at >= 0:
            if at % BLOCK_BYTES == 0:
                size = header_size(run[at : at + BLOCK_BYTES])
                if size and parse_header(read_at(files, fd, size, offset + at), salt=segment.salt, offset=offset + at):
                    return offset + at
            at = run.find(b"TS3E", at + 1)
        offset += len(run)
    return None
