"""Keys longer than LMDB allows, as layers that keep byte order. Format: docs/formats/metadata.md, "Layered keys".

Invariants
* Only tables in ``keys.LONG_TABLES`` are layered; every other row is stored under its logical key.
* A link row is the only row of ``S + 1`` key bytes in its layer, so LMDB's order is the order of the logical keys.
* A layer that became empty goes with its link; layer ids come from the group's counter row and are local to the environment.

Transactions are py-lmdb's, already bound to the ``kv`` database where a database is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from titans3.meta.keys import LAYER_COUNTER, LAYERS, LONG_TABLES, PREFIX_BYTES, TABLE_AT, successor
from titans3.meta.rows import open_value, seal_value


class Layers:
    """Layered access to one ``kv`` database; ``slice_bytes`` is S."""

    __slots__ = ("db", "slice_bytes", "whole")

    def __init__(self, db: Any, slice_bytes: int) -> None:
        self.db = db
        self.slice_bytes = slice_bytes
        self.whole = PREFIX_BYTES + slice_bytes

    def get(self, txn: Any, key: bytes) -> bytes | None:
        """Logical value, or ``None``."""
        if len(key) > self.whole and key[TABLE_AT] in LONG_TABLES:
            found = self._descend(txn, key)
            if found is None:
                return None
            key = found
        stored = txn.get(key, None, self.db)
        return None if stored is None else open_value(key, stored)

    def _descend(self, txn: Any, key: bytes) -> bytes | None:
        """Physical key of a long key's terminal row, if its links are there."""
        group = key[:TABLE_AT]
        while len(key) > self.whole:
            link = key[: self.whole] + b"\0"
            stored = txn.get(link, None, self.db)
            if stored is None:
                return None
            key = group + bytes((LAYERS,)) + open_value(link, stored) + key[self.whole :]
        return key

    def put(self, txn: Any, key: bytes, value: bytes) -> None:
        """Write a row, making layers as needed."""
        if len(key) > self.whole and key[TABLE_AT] in LONG_TABLES:
            key = self._make(txn, key)
        txn.put(key, seal_value(key, value), db=self.db)

    def _make(self, txn: Any, key: bytes) -> bytes:
        group = key[:TABLE_AT]
        while len(key) > self.whole:
            link = key[: self.whole] + b"\0"
            stored = txn.get(link, None, self.db)
            if stored is None:
                counter = group + bytes((LAYER_COUNTER,))
                last = txn.get(counter, None, self.db)
                number = 1 + (0 if last is None else int.from_bytes(open_value(counter, last), "big"))
                layer = number.to_bytes(8, "big")
                txn.put(counter, seal_value(counter, layer), db=self.db)
                txn.put(link, seal_value(link, layer), db=self.db)
            else:
                layer = open_value(link, stored)
            key = group + bytes((LAYERS,)) + layer + key[self.whole :]
        return key

    def delete(self, txn: Any, key: bytes) -> bool:
        """Remove a row and layers that became empty; whether it was there."""
        if len(key) <= self.whole or key[TABLE_AT] not in LONG_TABLES:
            return bool(txn.delete(key, db=self.db))
        group, path = key[:TABLE_AT], []
        while len(key) > self.whole:
            link = key[: self.whole] + b"\0"
            stored = txn.get(link, None, self.db)
            if stored is None:
                return False
            layer = group + bytes((LAYERS,)) + open_value(link, stored)
            path.append((link, layer))
            key = layer + key[self.whole :]
        if not txn.delete(key, db=self.db):
            return False
        with txn.cursor(self.db) as cursor:
            for link, layer in reversed(path):
                if cursor.set_range(layer) and cursor.key().startswith(layer):
                    break
                txn.delete(link, db=self.db)
        return True

    def scan(self, txn: Any, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Logical (key, value) with start <= key < stop, in order. Both lie in one table of one group."""
        with txn.cursor(self.db) as cursor:
            if start[TABLE_AT] not in LONG_TABLES:
                if cursor.set_range(start):
                    for key, stored in cursor.iternext(True, True):
                        if key >= stop:
                            return
                        yield key, open_value(key, stored)
                return
        for key, value in self._scan(txn, start[:PREFIX_BYTES], start[:PREFIX_BYTES], start[PREFIX_BYTES:]):
            if key >= stop:
                return
            yield key, value

    def rows(self, txn: Any) -> Iterator[tuple[bytes, bytes]]:
        """Every logical row of the database, keys of any length, in the order of tables; what keeps the layers is left out."""
        with txn.cursor(self.db) as cursor:
            is_there = cursor.first()
            while is_there:
                key, stored = cursor.item()
                table = key[TABLE_AT]
                if table in LONG_TABLES:
                    prefix = key[:PREFIX_BYTES]
                    yield from self._scan(txn, prefix, prefix, b"")
                    is_there = cursor.set_range(successor(prefix))
                    continue
                if table not in (LAYERS, LAYER_COUNTER):
                    yield key, open_value(key, stored)
                is_there = cursor.next()

    def _scan(self, txn: Any, prefix: bytes, base: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        size = self.slice_bytes
        with txn.cursor(self.db) as cursor:
            if not cursor.set_range(prefix + (start if len(start) <= size else start[:size] + b"\0")):
                return
            first = True
            for key, stored in cursor.iternext(True, True):
                if not key.startswith(prefix):
                    return
                if len(key) == PREFIX_BYTES + size + 1:
                    part = key[PREFIX_BYTES:-1]
                    inner = start[size:] if first and len(start) > size and part == start[:size] else b""
                    layer = prefix[:TABLE_AT] + bytes((LAYERS,)) + open_value(key, stored)
                    yield from self._scan(txn, layer, base + part, inner)
                else:
                    yield base + key[PREFIX_BYTES:], open_value(key, stored)
                first = False
