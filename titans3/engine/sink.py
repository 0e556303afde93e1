"""A large body on its way to data segments: cut into extents of bounded length.

Invariants
* A body of known length gets exact extents of at most 1 GiB; of unknown length extents that double from 1 to 16 MiB, so that at most
  half of what was granted is left unused.
* ``finish`` returns after every extent is synced; until a commit refers to them they can be abandoned at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from titans3.engine.data import Digest, ExtentWriter
from titans3.engine.extent import ExtentIdent
from titans3.limits import EXTENT_BYTES_MAX, EXTENT_UNKNOWN_BYTES, MIB
from titans3.model.version import Extent


class BodySink:
    """Takes the body of one object or part piece by piece. ``make`` gives the writer of the next extent: (ident, length).

    ``ident`` is of the first extent; its data id is the write id of all.
    """

    def __init__(
        self,
        make: Callable[[ExtentIdent, int], ExtentWriter],
        next_data_id: Callable[[], bytes],
        ident: ExtentIdent,
        length: int | None,
    ) -> None:
        assert ident.write_id == ident.data_id
        assert ident.ordinal == 0
        self._make = make
        self._next_data_id = next_data_id
        self.ident = ident
        self._length = length
        self._writers: list[ExtentWriter] = []
        self._extents: list[Extent] = []
        self._finished = 0
        self.written = 0

    def _writer(self) -> ExtentWriter:
        """The writer with room for the next byte."""
        ordinal = len(self._writers)
        ident = self.ident
        if ordinal:
            ident = ExtentIdent(
                self._next_data_id(), ident.gid, ident.bucket, ident.key, ident.write_id, ordinal, self.written, ident.part,
                ident.upload_id, ident.created_ms, b"", ident.piece, ident.policy,
            )
        if self._length is None:
            size = min(EXTENT_UNKNOWN_BYTES, max(MIB, self.written))
        else:
            size = min(EXTENT_BYTES_MAX, self._length - self.written)
        writer = self._make(ident, size)
        self._writers.append(writer)
        return writer

    async def write(self, piece: memoryview, digests: Sequence[Digest]) -> None:
        """Write a piece of any size; ``digests`` see every byte once, in order. Raises VolumeFull, DiskError."""
        assert self._length is None or self.written + len(piece) <= self._length, "more than the length that was told"
        position = 0
        while position < len(piece):
            writer = self._writers[-1] if self._writers and self._writers[-1].room else None
            if writer is None:
                await self._close_extent(last=False, md5=b"")
                writer = self._writer()
            part = piece[position : position + writer.room]
            await writer.write(part, digests)
            position += len(part)
            self.written += len(part)

    async def _close_extent(self, *, last: bool, md5: bytes) -> None:
        if self._finished < len(self._writers):
            extent = await self._writers[self._finished].finish(last, self.written, md5)
            self._finished += 1
            self._extents.append(extent)

    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        """Everything synced. An empty body has no extent. Raises DiskError."""
        assert self._length is None or self.written == self._length, "fewer bytes than the length that was told"
        await self._close_extent(last=True, md5=md5)
        return tuple(self._extents)

    def abandon(self) -> None:
        """The bytes are dead; safe at any time before a successful commit, and twice."""
        for writer in self._writers:
            writer.abandon()
