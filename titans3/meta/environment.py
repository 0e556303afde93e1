"""The LMDB environment of a volume: opened by its one owner, written only by checkpoints.

Invariants
* Engine 0.9 (``lib_version=0``), always synced, never ``writemap``, one huge fixed map that is never resized (docs/formats/metadata.md).
* One transaction holds a log prefix's rows, the states of the groups it touched and the log position: replay is exactly once (I3).
* Write transactions begin and end on one thread. Read transactions belong to the loop, except those of ``reader()``.
* A process has an environment open once: as its owner (``Environment``), or as a sibling who only reads (``Tree``).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lmdb
import msgspec

from titans3.errors import DiskError, FormatError
from titans3.limits import TIB
from titans3.meta.keys import PREFIX_BYTES, completed_prefix, shard_key
from titans3.meta.layers import Layers
from titans3.meta.overlay import Overlay
from titans3.meta.rows import open_value, seal_value
from titans3.observe.failpoint import hit

META_FORMAT = 1
_CHUNK_ROWS = 256
_LMDB_MAGIC, _LMDB_VERSION = 0xBEEFC0DE, 1
_LOOSE_PAGES = 256
READERS_MAX = 512
_TREE_MAP_BYTES = 64 << 30  # of a reader; it opens again when the tree has grown beyond
_COMMITS_PER_CHECK = 64
MADE_ANEW = "`titans3 tools meta restore SNAPSHOT`, or `meta rebuild` without one, makes the metadata anew"
_META = struct.Struct("=16xII8x8xI92xQQ")  # page header, magic, version, address, map, page size, both tables, last page, transaction


class Identity(msgspec.Struct, array_like=True, frozen=True):
    """Whose rows these are."""

    format: int
    cluster: bytes
    volume: bytes
    incarnation: bytes
    slice_bytes: int


class Position(msgspec.Struct, array_like=True, frozen=True):
    """Up to where the log is in the B-tree: the next batch starts at ``offset`` of ``segment`` or in a later one."""

    segment: int
    offset: int
    batch: int
    epoch: int


class GroupState(msgspec.Struct, array_like=True):
    """A group as the checkpoint left it. ``damaged`` names why it takes no write, if it does not."""

    term: int = 0
    vote: int = 0
    applied: int = 0
    applied_term: int = 0
    time_ms: int = 0
    conf: bytes = b""
    conf_epoch: int = 0
    damaged: str = ""


def is_cut(path: str) -> bool:
    """Whether a B-tree file lacks many pages that its head names, or has no head that holds: LMDB maps it, and a missing page kills.

    A few pages at the end may never have been written: taken and given back in one transaction.

    Layout: ``MDB_meta`` of LMDB 0.9 on pages 0 and 1 (lmdb's mdb.c), native byte order.
    """
    size = os.path.getsize(path)
    last_page = newest = -1
    page_bytes = 0
    with open(path, "rb") as file:
        for number in range(2):
            file.seek(number * (page_bytes or 4096))
            raw = file.read(_META.size)
            if len(raw) < _META.size:
                continue
            magic, version, page, last, transaction = _META.unpack(raw)
            if magic == _LMDB_MAGIC and version == _LMDB_VERSION:
                page_bytes = page
                if transaction > newest:
                    newest, last_page = transaction, last
    if newest < 0:
        return True
    missing = last_page + 1 - size // page_bytes
    return missing > _LOOSE_PAGES or missing * 2 > last_page + 1


def _unreadable(path: str, error: lmdb.Error) -> FormatError:
    return FormatError(f"{path} cannot be opened: {str(error).removeprefix(f'{path}: ')}; {MADE_ANEW}")


class Checkpoint(msgspec.Struct):
    """What goes into one checkpoint beside the frozen overlay."""

    position: Position
    groups: dict[int, GroupState]


class TreeStatistics(msgspec.Struct, frozen=True):
    """The B-tree file. ``entries`` by table; pages and depth are of table kv."""

    map_bytes: int
    used_bytes: int
    readers: int
    readers_max: int
    commits: int
    entries: dict[str, int]
    depth: int
    branch: int
    leaf: int
    overflow: int


class Tree:
    """The environment of a volume that another process owns, to read from. Loop thread.

    Raises OSError, lmdb.Error, FormatError when it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        size = os.path.getsize(f"{path}/data.mdb")
        self._env = lmdb.open(
            path, map_size=max(_TREE_MAP_BYTES, 4 * size), max_dbs=8, max_readers=READERS_MAX, lib_version=0, readonly=True, create=False,
            subdir=True, lock=True,
        )  # fmt: skip
        try:
            self.kv = self._env.open_db(b"kv", create=False)
            self.loc = self._env.open_db(b"loc", create=False)
            self.seg = self._env.open_db(b"seg", create=False)
            with self._env.begin() as txn:
                stored = txn.get(b"identity", db=self._env.open_db(b"meta", txn, create=False))
            identity = None if stored is None else msgspec.msgpack.decode(open_value(b"identity", stored))
            if identity is None or identity[0] > META_FORMAT:
                raise FormatError(f"{path} is of a newer format than this build reads")
            self.layers = Layers(self.kv, identity[4])
        except BaseException:
            self._env.close()
            raise

    def begin(self) -> Any:
        """A read transaction, to be ended soon. (py-lmdb keeps one that ended for the next: less than a microsecond.)"""
        return self._env.begin(buffers=False)

    def close(self) -> None:
        """No more."""
        self._env.close()


class Environment:
    """An open environment. ``commit`` runs on the checkpoint thread, everything else on the loop."""

    def __init__(self, path: str, *, cluster: bytes, volume: bytes, incarnation: bytes = b"", map_bytes: int = 4 * TIB) -> None:
        """Raises FormatError (LMDB cannot read it, or it is not this volume's), OSError."""
        os.makedirs(path, mode=0o700, exist_ok=True)
        try:
            self._env = lmdb.open(
                path, map_size=map_bytes, max_dbs=8, max_readers=READERS_MAX, lib_version=0, sync=True, metasync=True,
                writemap=False, meminit=True, subdir=True, lock=True, mode=0o600,
            )
        except lmdb.Error as error:
            raise _unreadable(path, error) from error
        try:
            self._env.reader_check()
            self.meta = self._env.open_db(b"meta")
            self.kv = self._env.open_db(b"kv")
            self.loc = self._env.open_db(b"loc")
            self.seg = self._env.open_db(b"seg")
            self.identity = self._identify(cluster, volume, incarnation)
        except lmdb.Error as error:
            self._env.close()
            raise _unreadable(path, error) from error
        except BaseException:
            self._env.close()
            raise
        self.layers = Layers(self.kv, self.identity.slice_bytes)
        self.commits = 0

    def _identify(self, cluster: bytes, volume: bytes, incarnation: bytes) -> Identity:
        with self._env.begin(write=True) as txn:
            stored = txn.get(b"identity", db=self.meta)
            if stored is None:
                slice_bytes = self._env.max_key_size() - PREFIX_BYTES - 1
                identity = Identity(META_FORMAT, cluster, volume, incarnation, slice_bytes)
                txn.put(b"identity", seal_value(b"identity", msgspec.msgpack.encode(identity)), db=self.meta)
                return identity
        raw = open_value(b"identity", stored)
        if msgspec.msgpack.decode(raw)[0] > META_FORMAT:
            raise FormatError("the metadata is of a newer format than this build reads")
        identity = msgspec.msgpack.decode(raw, type=Identity)
        if (identity.cluster, identity.volume) != (cluster, volume):
            raise FormatError(f"the metadata belongs to volume {identity.volume.hex()}, not {volume.hex()}")
        return identity

    def begin(self) -> Any:
        """A read transaction of the calling thread."""
        return self._env.begin(buffers=False)

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """A read transaction for a job's thread; keep it short."""
        with self._env.begin(buffers=False) as txn:
            yield txn

    def _meta_row(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            stored = txn.get(key, db=self.meta)
            return None if stored is None else open_value(key, stored)

    def position(self) -> Position | None:
        """The last checkpoint's log position."""
        raw = self._meta_row(b"position")
        return None if raw is None else msgspec.msgpack.decode(raw, type=Position)

    def groups(self) -> dict[int, GroupState]:
        """All group states."""
        states: dict[int, GroupState] = {}
        with self._env.begin() as txn, txn.cursor(self.meta) as cursor:
            if cursor.set_range(b"g"):
                for key, stored in cursor.iternext(True, True):
                    if len(key) != 5 or key[:1] != b"g":
                        break
                    states[int.from_bytes(key[1:], "big")] = msgspec.msgpack.decode(
                        open_value(key, stored), type=GroupState
                    )
        return states

    def rows_of(self, db: Any) -> Iterable[tuple[bytes, bytes]]:
        """All rows of ``loc`` or ``seg``; only before serving, or from a job's thread."""
        with self._env.begin() as txn, txn.cursor(db) as cursor:
            for key, stored in cursor.iternext(True, True):
                yield key, open_value(key, stored)

    def commit(self, frozen: Overlay, checkpoint: Checkpoint) -> None:
        """One synced transaction with everything. Raises DiskError; the volume must then stop writing."""
        try:
            txn = self._env.begin(write=True)
            try:
                self._write(txn, frozen, checkpoint)
                hit("checkpoint commit")
                txn.commit()
            except BaseException:
                txn.abort()
                raise
        except (lmdb.Error, OSError) as error:
            raise DiskError(f"checkpoint failed: {error}") from error
        self.commits += 1
        if self.commits % _COMMITS_PER_CHECK == 0:
            self._env.reader_check()  # a sibling that was killed while it read would keep old pages for ever

    def _write(self, txn: Any, frozen: Overlay, checkpoint: Checkpoint) -> None:
        self._write_kv(txn, frozen)
        hit("checkpoint put")
        for db, rows in ((self.loc, frozen.loc), (self.seg, frozen.seg)):
            with txn.cursor(db) as cursor:
                pending: list[tuple[bytes, bytes]] = []
                for key in sorted(rows):
                    value = rows[key]
                    if value is None:
                        if cursor.set_key(key):
                            cursor.delete()
                    else:
                        pending.append((key, seal_value(key, value)))
                        if len(pending) == _CHUNK_ROWS:
                            cursor.putmulti(pending)
                            pending.clear()
                if pending:
                    cursor.putmulti(pending)
        for gid, state in sorted(checkpoint.groups.items()):
            key = b"g" + gid.to_bytes(4, "big")
            txn.put(key, seal_value(key, msgspec.msgpack.encode(state)), db=self.meta)
        txn.put(b"position", seal_value(b"position", msgspec.msgpack.encode(checkpoint.position)), db=self.meta)

    def _write_kv(self, txn: Any, frozen: Overlay) -> None:
        layers, whole = self.layers, self.layers.whole
        with txn.cursor(self.kv) as cursor:
            pending: list[tuple[bytes, bytes]] = []
            for key, value in frozen.ordered_items():
                if value is None or len(key) > whole:
                    if pending:
                        cursor.putmulti(pending)
                        pending.clear()
                    if value is None:
                        layers.delete(txn, key)
                    else:
                        layers.put(txn, key, value)
                else:
                    pending.append((key, seal_value(key, value)))
                    if len(pending) == _CHUNK_ROWS:
                        cursor.putmulti(pending)
                        pending.clear()
            if pending:
                cursor.putmulti(pending)

    def shard_rows(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """(bucket id, row) of the shards of groups ``first`` to ``last`` as the last checkpoint left them. For a job's thread."""
        found = []
        with self.reader() as txn, txn.cursor(self.kv) as cursor:
            for gid in range(first, last):
                prefix = shard_key(gid, 0)[:5]
                if cursor.set_range(prefix):
                    for key, stored in cursor.iternext(True, True):
                        if key[:5] != prefix:
                            break
                        found.append((int.from_bytes(key[5:], "big"), open_value(key, stored)))
        return found

    def completed_rows(self, gid: int, after: bytes, limit: int) -> list[tuple[int, bytes, bytes]]:
        """(bucket id, upload id, row) of a group's completed uploads as the last checkpoint left them. ``after``: bucket and upload id, 24
        bytes, of the last one seen, or nothing. For a job's thread. Raises DiskError."""
        prefix = completed_prefix(gid, 0)[:5]
        found: list[tuple[int, bytes, bytes]] = []
        with self.reader() as txn, txn.cursor(self.kv) as cursor:
            if cursor.set_range(prefix + after + b"\0" if after else prefix):
                for key, stored in cursor.iternext(True, True):
                    if key[:5] != prefix or len(found) == limit:
                        break
                    found.append((int.from_bytes(key[5:13], "big"), key[13:], open_value(key, stored)))
        return found

    def size_bytes(self) -> int:
        """Bytes of the B-tree file in use."""
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def statistics(self) -> TreeStatistics:
        """As the last commit left it; only pages that are always in memory are looked at."""
        info = self._env.info()
        with self._env.begin() as txn:
            stats = {name: txn.stat(getattr(self, name)) for name in ("kv", "loc", "seg", "meta")}
        kv = stats["kv"]
        return TreeStatistics(
            info["map_size"], self.size_bytes(), info["num_readers"], info["max_readers"], self.commits,
            {name: stat["entries"] for name, stat in stats.items()}, kv["depth"], kv["branch_pages"], kv["leaf_pages"],
            kv["overflow_pages"],
        )  # fmt: skip

    def close(self) -> None:
        """Close; no transaction may be open."""
        self._env.close()
