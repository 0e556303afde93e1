"""Rows applied but not yet checkpointed. Hot: every apply puts here.

Invariants
* ``None`` as a value is a deletion that hides what lies below.
* For tables that are scanned, the keys of each ordered prefix are kept in a ``SortedList``: a whole overlay is never sorted,
  because that would hold the GIL for many milliseconds.
* The loop thread alone writes the active overlay; a frozen one is never written.
"""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

from titans3.meta.keys import CONTROL, GC, OBJECTS, ORDERED_TABLES, PREFIX_BYTES, TABLE_AT
from titans3.rpc.marks import Generation

_SHORT = frozenset((GC, CONTROL))


class Overlay:
    """One generation of rows: ``kv`` with order, ``loc`` and ``seg`` without. Object rows are marked in ``marks`` for siblings."""

    __slots__ = ("bytes", "kv", "loc", "marks", "order", "seg")

    def __init__(self, marks: Generation | None = None) -> None:
        self.marks = marks
        self.kv: dict[bytes, bytes | None] = {}
        self.loc: dict[bytes, bytes | None] = {}
        self.seg: dict[bytes, bytes | None] = {}
        self.order: dict[bytes, SortedList] = {}
        self.bytes = 0

    @property
    def rows(self) -> int:
        """Rows of all three tables."""
        return len(self.kv) + len(self.loc) + len(self.seg)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Put (or, with ``None``, delete) a kv row."""
        kv = self.kv
        if key not in kv:
            table = key[TABLE_AT]
            if table in ORDERED_TABLES:
                prefix = key[:5] if table in _SHORT else key[:PREFIX_BYTES]
                order = self.order.get(prefix)
                if order is None:
                    order = self.order[prefix] = SortedList()
                order.add(key)
                if table == OBJECTS and self.marks is not None:
                    self.marks.mark(key)
            self.bytes += len(key) + 64
        kv[key] = value
        if value is not None:
            self.bytes += len(value)

    def put_loc(self, key: bytes, value: bytes | None) -> None:
        """Put (or delete) a loc row."""
        self.loc[key] = value
        self.bytes += 96

    def keys_between(self, prefix: bytes, start: bytes, stop: bytes) -> list[bytes]:
        """kv keys with start <= key < stop of one ordered prefix."""
        order = self.order.get(prefix)
        return [] if order is None else list(order.irange(start, stop, inclusive=(True, False)))

    def ordered_items(self) -> Iterator[tuple[bytes, bytes | None]]:
        """All kv rows, ascending within each table prefix (prefixes ascending too)."""
        kv = self.kv
        loose = sorted(key for key in kv if key[TABLE_AT] not in ORDERED_TABLES)
        for key in loose:
            yield key, kv[key]
        for prefix in sorted(self.order):
            for key in self.order[prefix]:
                yield key, kv[key]
