"""The rows of a volume as its last checkpoint left them, for who does not own it: a tool beside a running server, or beside none.

Invariants
* Nothing is written, no lock of the volume is asked for: LMDB's readers disturb no writer.
* Every value was checked; what the owner holds in memory since its last checkpoint is not seen.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import lmdb
import msgspec

from titans3.errors import DiskError, FormatError
from titans3.limits import TIB
from titans3.meta.environment import META_FORMAT, Identity, Position
from titans3.meta.layers import Layers
from titans3.meta.rows import open_value


class Tree:
    """One open environment and one read transaction; a context."""

    def __init__(self, path: str) -> None:
        """``path``: the volume's folder ``meta``. Raises DiskError (also if there is no metadata), FormatError."""
        self._path = path
        if not os.path.exists(os.path.join(path, "data.mdb")):
            raise DiskError(f"{path} holds no metadata")
        try:
            self._env = lmdb.open(path, readonly=True, create=False, max_dbs=8, map_size=4 * TIB, lib_version=0)
        except lmdb.Error as error:
            raise DiskError(f"{path}: {error}") from error
        try:
            self.meta, self.kv, self.loc, self.seg = (self._env.open_db(name, create=False) for name in (b"meta", b"kv", b"loc", b"seg"))
            self.transaction: Any = self._env.begin()
            self.layers = Layers(self.kv, self._identity().slice_bytes)
        except lmdb.Error as error:
            self._env.close()
            raise DiskError(f"{path}: {error}") from error
        except BaseException:
            self._env.close()
            raise

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.transaction.abort()
        self._env.close()

    def _identity(self) -> Identity:
        raw = self._meta_row(b"identity")
        if raw is None:
            raise DiskError(f"{self._path} holds no metadata of a volume")
        if msgspec.msgpack.decode(raw)[0] > META_FORMAT:
            raise FormatError(f"{self._path} is of a newer format than this build reads")
        return msgspec.msgpack.decode(raw, type=Identity)

    def _meta_row(self, key: bytes) -> bytes | None:
        return self._row(key, self.meta)

    def _row(self, key: bytes, database: Any) -> bytes | None:
        stored = self.transaction.get(key, None, database)
        return None if stored is None else open_value(key, stored)

    def get(self, key: bytes) -> bytes | None:
        """Value of a logical kv key. Raises DiskError."""
        try:
            return self.layers.get(self.transaction, key)
        except lmdb.Error as error:
            raise DiskError(f"{self._path}: {error}") from error

    def get_loc(self, key: bytes) -> bytes | None:
        """Value of a ``loc`` row. Raises DiskError."""
        try:
            return self._row(key, self.loc)
        except lmdb.Error as error:
            raise DiskError(f"{self._path}: {error}") from error

    def position(self) -> Position | None:
        """Up to where the log is in the tree."""
        raw = self._meta_row(b"position")
        return None if raw is None else msgspec.msgpack.decode(raw, type=Position)
