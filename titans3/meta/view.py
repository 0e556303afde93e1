"""One view over active overlay, frozen overlay and LMDB. Hot: every GET reads here.

Invariants
* Loop thread only (I9). A read sees active, frozen and the LMDB transaction of one moment: the transaction is renewed exactly
  when a committed overlay is dropped, so no row is ever seen twice or not at all.
* At most one overlay is frozen. The active and the frozen one have a generation of marks each (``rpc/marks.py``), if there are marks.

Guarded by ``python tools/dev.py bench gate view_get view_scan view_scan_overlay``.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from operator import itemgetter
from typing import Any

from sortedcontainers import SortedList

from titans3.meta.environment import Environment, Tree
from titans3.meta.keys import CONTROL, GC, LONG_TABLES, PREFIX_BYTES, TABLE_AT
from titans3.meta.overlay import Overlay
from titans3.meta.rows import open_rows, open_value
from titans3.observe.failpoint import hit
from titans3.rpc.marks import VolumeMarks

_MISSING: Any = object()
_KEY = itemgetter(0)
_PEEK = 8  # rows that are read before a scan is known to be long


class View:
    """Rows of one volume as of now."""

    __slots__ = ("_env", "_marks", "_turn", "_txn", "_whole", "active", "frozen")

    def __init__(self, env: Environment | Tree, marks: VolumeMarks | None = None) -> None:
        """``marks``: those of the volume, if this process owns it and siblings read by them."""
        self._env = env
        self._txn = env.begin()
        self._whole = env.layers.whole
        self._marks, self._turn = marks, 0
        if marks is not None:
            marks.opening()
        self.active = self._overlay()
        self.frozen: Overlay | None = None

    def _overlay(self) -> Overlay:
        """A new one, with the generation of marks that is free."""
        if self._marks is None:
            return Overlay()
        self._turn = 1 - self._turn
        return Overlay(self._marks.generations[self._turn])

    def serve(self) -> None:
        """The log is replayed: from here on the marks are whole."""
        if self._marks is not None:
            self._marks.ready()

    def get(self, key: bytes) -> bytes | None:
        """Value of a logical kv key."""
        value: bytes | None = self.active.kv.get(key, _MISSING)
        if value is not _MISSING:
            return value
        if self.frozen is not None:
            value = self.frozen.kv.get(key, _MISSING)
            if value is not _MISSING:
                return value
        if len(key) > self._whole:
            return self._env.layers.get(self._txn, key)
        stored = self._txn.get(key, None, self._env.kv)
        return None if stored is None else open_value(key, stored)

    def put(self, key: bytes, value: bytes) -> None:
        """Put a row into the active overlay."""
        self.active.put(key, value)

    def delete(self, key: bytes) -> None:
        """Hide a row."""
        self.active.put(key, None)

    def get_local(self, table: str, key: bytes) -> bytes | None:
        """Value of a ``loc`` or ``seg`` row."""
        value: bytes | None = getattr(self.active, table).get(key, _MISSING)
        if value is not _MISSING:
            return value
        if self.frozen is not None:
            value = getattr(self.frozen, table).get(key, _MISSING)
            if value is not _MISSING:
                return value
        stored = self._txn.get(key, None, getattr(self._env, table))
        return None if stored is None else open_value(key, stored)

    def get_loc(self, key: bytes) -> bytes | None:
        """Value of a ``loc`` row."""
        value: bytes | None = self.active.loc.get(key, _MISSING)
        if value is not _MISSING:
            return value
        if self.frozen is not None:
            value = self.frozen.loc.get(key, _MISSING)
            if value is not _MISSING:
                return value
        stored = self._txn.get(key, None, self._env.loc)
        return None if stored is None else open_value(key, stored)

    def put_loc(self, key: bytes, value: bytes | None) -> None:
        """Put (``None``: delete) a ``loc`` row."""
        self.active.put_loc(key, value)

    def put_seg(self, key: bytes, value: bytes | None) -> None:
        """Put (``None``: delete) a ``seg`` row."""
        self.active.seg[key] = value

    def scan(self, start: bytes, stop: bytes, limit: int, cut: int = 0) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` rows with start <= key < stop, ascending; both keys lie in one ordered prefix of one table. Keys are told
        without their first ``cut`` bytes.
        """
        prefix = start[:5] if start[TABLE_AT] in (GC, CONTROL) else start[:PREFIX_BYTES]
        active = self.active.order.get(prefix)
        frozen = None if self.frozen is None else self.frozen.order.get(prefix)
        if not (_reaches(active, start, stop) or _reaches(frozen, start, stop)):
            return self._scan_stored(start, stop, limit, cut)
        rows = self._first(start, stop, active, frozen) if limit == 1 else self._merged(start, stop, limit, active, frozen)
        return [(key[cut:], value) for key, value in rows] if cut else rows

    def _merged(
        self, start: bytes, stop: bytes, limit: int, active: SortedList | None, frozen: SortedList | None
    ) -> list[tuple[bytes, bytes]]:
        """``scan`` where an overlay has rows, too."""
        rows: list[tuple[bytes, bytes]] = []
        while True:
            want = limit - len(rows)
            stored = self._scan_stored(start, stop, want)
            bound = stored[-1][0] + b"\0" if len(stored) == want else stop
            if not (_reaches(active, start, bound) or _reaches(frozen, start, bound)):
                rows += stored
                if bound == stop or len(rows) >= limit:
                    return rows
                start = bound
                continue
            merged: dict[bytes, bytes | None] = dict(stored)
            for order, overlay in ((frozen, self.frozen), (active, self.active)):
                if order is not None and overlay is not None:
                    kv = overlay.kv
                    for key in order.irange(start, bound, inclusive=(True, False)):
                        merged[key] = kv[key]
            if len(merged) != len(stored) or None in merged.values():
                rows.extend((key, value) for key in sorted(merged) if (value := merged[key]) is not None)
            else:
                rows.extend(merged.items())  # type: ignore[arg-type]
            if len(rows) >= limit:
                return rows[:limit]
            if bound == stop:
                return rows
            start = bound

    def _first(self, start: bytes, stop: bytes, active: SortedList | None, frozen: SortedList | None) -> list[tuple[bytes, bytes]]:
        """``scan`` for one row: no dictionary, no iterator."""
        stored = self._scan_stored(start, stop, 1)
        while True:
            key = stored[0][0] if stored else stop
            for order in (active, frozen):
                if order is not None and (at := order.bisect_left(start)) < len(order) and order[at] < key:
                    key = order[at]
            if key >= stop:
                return []
            value: bytes | None = self.active.kv.get(key, _MISSING)
            if value is _MISSING and self.frozen is not None:
                value = self.frozen.kv.get(key, _MISSING)
            if value is _MISSING:
                value = stored[0][1]
            if value is not None:
                return [(key, value)]
            start = key + b"\0"  # deleted
            if stored and stored[0][0] == key:
                stored = self._scan_stored(start, stop, 1)

    def _scan_stored(self, start: bytes, stop: bytes, limit: int, cut: int = 0) -> list[tuple[bytes, bytes]]:
        """Rows of LMDB alone; the usual case without long keys takes one C-level slice."""
        env, txn = self._env, self._txn
        with txn.cursor(env.kv) as cursor:
            if not cursor.set_range(start):
                return []
            if limit == 1 and len(start) <= self._whole:  # a listing that seeks from group to group
                key, stored = cursor.item()
                if key >= stop:
                    return []
                if len(key) <= self._whole:
                    return [(key[cut:], open_value(key, stored))]
            rest = cursor.iternext(True, True)
            raw = list(islice(rest, min(limit, _PEEK)))
            if limit > _PEEK == len(raw) and raw[-1][0] < stop:
                raw += islice(rest, limit - _PEEK)
        if not raw:
            return raw
        if start[TABLE_AT] in LONG_TABLES and max(len(start), max(map(len, map(_KEY, raw)))) > self._whole:
            return [(key[cut:], value) for key, value in islice(env.layers.scan(txn, start, stop), limit)]
        if raw[-1][0] >= stop:
            del raw[bisect_left(raw, stop, key=_KEY) :]
        return open_rows(raw, cut)

    @property
    def rows(self) -> int:
        """Rows of the active overlay."""
        return self.active.rows

    def freeze(self) -> Overlay | None:
        """Make the active overlay the frozen one; ``None`` while another is."""
        if self.frozen is not None:
            return None
        hit("freeze")
        self.frozen, self.active = self.active, self._overlay()
        return self.frozen

    def thaw(self) -> None:
        """Drop the frozen overlay: its rows are committed. Renews the read transaction."""
        hit("overlay drop")
        self._txn.abort()
        self._txn = self._env.begin()
        if self._marks is not None and self.frozen is not None and self.frozen.marks is not None:
            self.frozen.marks.clear()
            self._marks.assure()
        self.frozen = None

    def close(self) -> None:
        """End the read transaction."""
        if self._marks is not None:
            self._marks.closing()
        self._txn.abort()


def _reaches(order: SortedList | None, start: bytes, stop: bytes) -> bool:
    """Whether an overlay has a key from start to before stop."""
    return order is not None and (at := order.bisect_left(start)) < len(order) and order[at] < stop
