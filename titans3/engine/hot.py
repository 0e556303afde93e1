"""Small objects that were read before, in memory: by the row that names them. Hot.

Invariants
* The key is the row of a version as it was read just now, so what is kept can never be older than the row: a change of an object is another
  row, and a data id names one body for ever (I12). Nothing has to be told that something changed.
* A body is kept only after its checksum matched; what happens to its place on the disk later is for scrubbing to find.
* All of it counts against ``bytes_max``; what was not read for the longest goes first.

Loop thread only.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from titans3.model.version import Version

_ENTRY_BYTES = 2_000  # the decoded version and its place here, some


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

    __slots__ = ("_bytes", "_kept", "bytes_max", "hits", "misses")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0
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
        """Keep a version, and its body if that is here."""
        cost = _ENTRY_BYTES + len(row) + (0 if body is None else len(body))
        kept = Kept(version, body, cost)
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
