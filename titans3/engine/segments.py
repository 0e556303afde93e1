"""The segments of a volume and how much of each is alive: the rows of ``seg``.

Invariants
* ``live`` of a segment is the sum of the bytes that its loc rows name, records counted with their padding. Every change of a
  loc row goes through ``put``, ``put_fresh``, ``move`` or ``drop``, so the count cannot drift from the rows.
* In memory the count is as of now; the rows become durable with the loc rows of the same checkpoint (``write_rows`` at freeze).
* A segment may be unlinked when it is sealed, and a *committed* checkpoint says that nothing in it is alive and its entries are in
  the B-tree.

Loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from titans3.engine.location import BODY, Location, loc_key, pack_location, parse_location
from titans3.engine.record import padded
from titans3.engine.segment import LOG

ACTIVE = 1
SEALED = 2
FORMAT = 1


class SegmentRow(msgspec.Struct, array_like=True):
    """A row of ``seg``. ``walked``: extents before it need no walk; ``freed``: offsets at or after it whose extents are dead."""

    format: int
    kind: int
    flags: int
    state: int
    total: int
    live: int = 0
    walked: int = 0
    freed: list[int] = []


class LocalRows(Protocol):
    """What the table of segments needs of the metadata view."""

    def get_loc(self, key: bytes) -> bytes | None: ...
    def put_loc(self, key: bytes, value: bytes | None) -> None: ...
    def put_seg(self, key: bytes, value: bytes | None) -> None: ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SegmentRow)


def seg_key(number: int) -> bytes:
    """Key of a seg row."""
    return number.to_bytes(8, "big")


class Segments:
    """Live bytes of every segment, and the loc rows that make them."""

    def __init__(self, rows: LocalRows) -> None:
        self._rows = rows
        self._dirty: set[int] = set()
        self.table: dict[int, SegmentRow] = {}

    def load(self, stored: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the rows of the last checkpoint."""
        for key, value in stored:
            self.table[int.from_bytes(key, "big")] = _decoder.decode(value)

    def add(self, number: int, kind: int, total: int, flags: int = 0, *, walked: int = 0) -> SegmentRow:
        """A new segment, active."""
        assert number not in self.table
        row = self.table[number] = SegmentRow(FORMAT, kind, flags, ACTIVE, total, 0, walked, [])
        self._dirty.add(number)
        return row

    def seal(self, number: int) -> None:
        """Nothing is written to the segment any more."""
        row = self.table[number]
        row.state = SEALED
        row.freed = []
        self._dirty.add(number)

    def touch(self, number: int) -> None:
        """The row changed."""
        self._dirty.add(number)

    def remove(self, number: int) -> None:
        """The file is gone."""
        del self.table[number]
        self._dirty.discard(number)
        self._rows.put_seg(seg_key(number), None)

    def write_rows(self) -> None:
        """Put changed rows into the overlay that is about to be frozen."""
        for number in self._dirty:
            self._rows.put_seg(seg_key(number), _encoder.encode(self.table[number]))
        self._dirty.clear()

    def locate(self, data_id: bytes, piece: int = 0) -> Location | None:
        """Where a data id lies."""
        row = self._rows.get_loc(loc_key(data_id, piece))
        return None if row is None else parse_location(row)

    def put(self, data_id: bytes, location: Location, piece: int = 0) -> None:
        """A data id lies there. The same again changes nothing (replay); elsewhere before, that is dead now."""
        key = loc_key(data_id, piece)
        value = pack_location(location.segment, location.offset, location.length, location.kind)
        before = self._rows.get_loc(key)
        if before == value:
            return
        if before is not None:
            self._count(parse_location(before), -1)
        self._rows.put_loc(key, value)
        self._count(location, 1)

    def put_fresh(self, data_id: bytes, segment: int, offset: int, length: int) -> None:
        """``put`` of a record's body whose data id has no place yet."""
        self._rows.put_loc(loc_key(data_id), pack_location(segment, offset, length, BODY))
        self._add(segment, padded(length))

    def move(self, data_id: bytes, source: Location, target: Location, piece: int = 0) -> bool:
        """Swap a loc row if it still says ``source``; whether it did."""
        if self.locate(data_id, piece) != source:
            return False
        self._rows.put_loc(
            loc_key(data_id, piece), pack_location(target.segment, target.offset, target.length, target.kind)
        )
        self._count(source, -1)
        self._count(target, 1)
        return True

    def drop(self, data_id: bytes, piece: int = 0) -> int:
        """A data id is dead; the bytes that died, 0 if it was not here."""
        key = loc_key(data_id, piece)
        row = self._rows.get_loc(key)
        if row is None:
            return 0
        self._rows.put_loc(key, None)
        location = parse_location(row)
        size = counted(location)
        segment = self._add(location.segment, -size)
        if segment is not None and location.kind != BODY and segment.state == ACTIVE and location.offset >= segment.walked:
            segment.freed.append(location.offset)
        return size

    def _count(self, location: Location, sign: int) -> None:
        self._add(location.segment, sign * counted(location))

    def _add(self, segment: int, size: int) -> SegmentRow | None:
        row = self.table.get(segment)
        if row is not None:  # a segment that is lost, its rows not yet: reported when the volume was opened
            live = row.live = row.live + size
            assert 0 <= live <= row.total, (segment, live)
            self._dirty.add(segment)
        return row

    def droppable(self, log_segment: int) -> list[int]:
        """Sealed segments without a live byte; log segments only below ``log_segment``, the checkpoint's."""
        return [
            number
            for number, row in self.table.items()
            if row.live == 0 and row.state == SEALED and (row.kind != LOG or number < log_segment)
        ]

    def live_bytes(self) -> int:
        """Bytes that loc rows name."""
        return sum([row.live for row in self.table.values()])


def counted(location: Location) -> int:
    """Bytes a location counts in its segment."""
    return padded(location.length) if location.kind == BODY else location.length
