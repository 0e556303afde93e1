"""Small objects that were read before, in memory: by the row that names them. Hot.

Invariants
* The key is the row of a version as it was read just now, so what is kept can never be older than the row: a change of an object is another
  row, and a data id names one body for ever (I12). Nothing has to be told that something changed.
* A body is kept only after its checksum matched; what happens to its place on the disk later is for scrubbing to find.
* All that is kept counts against ``bytes_max``; what was not read for the longest goes first.
* Once it is full, only what is read a second time gets in: reads all over a bucket, each object once, put nothing out and cost nothing.
  Of rows that were read, a byte is remembered; it can be of another row, which then gets in early.

Loop thread only.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from titans3.model.version import Version

_ENTRY_BYTES = 2_000  # the decoded version and its place here, some
_SEEN_BITS_MIN, _SEEN_BITS_MAX = 12, 24  # slots of what was read: one for 512 bytes of room, so some five times as many as fit


class HotStatistics(msgspec.Struct, frozen=True):
    """Since the start, and as of now."""

    hits: int
    misses: int
    entries: int
    bytes: int


class Kept:
    """A version that was read. ``body`` is ``None`` while only its head was asked for; ``head`` is for whoever makes answers of it."""

    __slots__ = ("body", "cost", "head", "version")

    def __init__(self, version: Version, body: bytes | None, cost: int) -> None:
        self.version, self.body, self.cost = version, body, cost
        self.head: tuple[bool, bytes] | None = None


class Hot:
    """Of one worker."""

    __slots__ = ("_bytes", "_kept", "_seen", "bytes_max", "hits", "misses")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0
        self._seen = bytearray(1 << min(max(_SEEN_BITS_MIN, (bytes_max >> 10).bit_length()), _SEEN_BITS_MAX))
        self.hits = self.misses = 0

    def find(self, row: bytes) -> Kept | None:
        """What is kept of a row."""
        kept = self._kept.get(row)
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(row)
        return kept

    def keep(self, row: bytes, version: Version, body: bytes | None) -> Kept:
        """Keep a version, and its body if that is here. What is answered need not be kept, see above."""
        cost = _ENTRY_BYTES + len(row) + (0 if body is None else len(body))
        kept = Kept(version, body, cost)
        if self._bytes + cost > self.bytes_max and row not in self._kept:
            seen, mark = self._seen, hash(row)
            slot, mark = mark & len(seen) - 1, mark >> 32 & 0x7F | 0x80
            if seen[slot] != mark:
                seen[slot] = mark
                return kept
        before = self._kept.pop(row, None)
        if before is not None:
            self._bytes -= before.cost
        self._kept[row] = kept
        self._bytes += cost
        while self._bytes > self.bytes_max and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.cost
        return kept

    def statistics(self) -> HotStatistics:
        """Counters."""
        return HotStatistics(self.hits, self.misses, len(self._kept), self._bytes)
