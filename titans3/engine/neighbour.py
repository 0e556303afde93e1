"""A volume that a sibling owns, read by this worker itself: object rows and small bodies that are in its B-tree. Hot.

Invariants
* A row is read only if its mark says that the B-tree has all that was acknowledged, by a transaction that begins after that look
  (``rpc/marks.py``): what is found is what the owner would have said at that moment.
* Whatever is not as expected is no answer (``None``), and the owner is asked: no row, a long key, a body that is not in the page cache,
  moved or damaged, a tree that cannot be opened. Nothing is reported here; the owner meets it, too.
* A transaction lasts for one look, so this worker never holds the owner's pages.

Loop thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import lmdb
import msgspec

from titans3.engine.bodies import read_nowait
from titans3.engine.descriptors import Descriptors
from titans3.engine.files import Files
from titans3.engine.hot import Hot, Kept
from titans3.engine.location import loc_key, parse_location
from titans3.engine.segment import folder_of, segment_name
from titans3.engine.segments import SegmentRow, seg_key
from titans3.errors import DiskError, FormatError
from titans3.meta.environment import Tree
from titans3.meta.keys import object_key
from titans3.meta.rows import open_value
from titans3.meta.view import View
from titans3.model.version import Version
from titans3.rpc.marks import VolumeMarks

_AGAIN_SECONDS = 5.0
_PATHS_MAX = 4096
_FAILURES = (DiskError, FormatError, OSError, lmdb.Error)
_logger = logging.getLogger("titans3.neighbour")
_version = msgspec.msgpack.Decoder(Version).decode
_segment = msgspec.msgpack.Decoder(SegmentRow).decode


class Elsewhere(Exception):
    """What was lent cannot be read as expected."""


class Lent:
    """Rows of a sibling's volume for one look; ``close`` it before anybody is waited for."""

    __slots__ = ("_failed", "_view")

    def __init__(self, view: View, failed: Callable[[Exception], None]) -> None:
        self._view, self._failed = view, failed

    def scan(self, start: bytes, stop: bytes, limit: int, cut: int = 0) -> list[tuple[bytes, bytes]]:
        """As a view's. Raises Elsewhere."""
        try:
            return self._view.scan(start, stop, limit, cut)
        except _FAILURES as error:
            self._view.close()  # before its tree is
            self._failed(error)
            raise Elsewhere from error

    def close(self) -> None:
        """Let go of the transaction."""
        self._view.close()


class Neighbour:
    """See the module. ``path`` is the volume's folder."""

    __slots__ = ("_again_at", "_descriptors", "_files", "_hot", "_marks", "_path", "_paths", "_tree", "_whole", "bodies", "reads")

    def __init__(self, path: str, marks: VolumeMarks, files: Files, hot: Hot, *, descriptors: int = 64) -> None:
        self._hot = hot
        self._path, self._marks, self._files = path, marks, files
        self._descriptors = Descriptors(files, descriptors)
        self._paths: dict[int, str] = {}
        self._tree: Tree | None = None
        self._whole = 0
        self._again_at = 0.0
        self.reads = 0  # rows and pages that were found here
        self.bodies = 0  # read from the sibling's segments

    def find(self, gid: int, bucket: int, key: bytes, want_body: bool) -> Kept | None:
        """Newest version of a key and, if asked and small, its body; ``None``: ask the owner."""
        row_key = object_key(gid, bucket, key)
        if not self._marks.is_stored(row_key):
            return None
        tree = self._tree or self._open()
        if tree is None or len(row_key) > self._whole:
            return None
        try:
            txn = tree.begin()
            try:
                stored = txn.get(row_key, None, tree.kv)
                if stored is None:
                    return None
                row = open_value(row_key, stored)
                kept = self._hot.find(row)
                if kept is None or (want_body and kept.body is None and kept.version.is_small):
                    version, body = _version(row), None
                    if want_body and version.is_small:
                        body = self._body(tree, txn, version.extents[0].data_id)
                        if body is None:
                            return None
                    kept = self._hot.keep(row, version, body)
            finally:
                txn.abort()
        except _FAILURES as error:
            self._close(error)
            return None
        self.reads += 1
        return kept

    def _body(self, tree: Tree, txn: Any, data_id: bytes) -> bytes | None:
        key = loc_key(data_id)
        stored = txn.get(key, None, tree.loc)
        if stored is None:
            return None
        location = parse_location(open_value(key, stored))
        path = self._paths.get(location.segment) or self._path_of(tree, txn, location.segment)
        try:
            handle = self._descriptors.acquire(path)
        except FileNotFoundError:
            return None  # compaction moved it, and the owner knows where to
        try:
            body = read_nowait(self._files, handle, location, data_id)
        finally:
            handle.release()
        self.bodies += body is not None
        return body

    def _path_of(self, tree: Tree, txn: Any, number: int) -> str:
        key = seg_key(number)
        stored = txn.get(key, None, tree.seg)
        if stored is None:
            raise FileNotFoundError(number)
        if len(self._paths) >= _PATHS_MAX:
            self._paths.clear()
        kind = _segment(open_value(key, stored)).kind
        path = self._paths[number] = f"{self._path}/{folder_of(kind)}/{segment_name(number)}"
        return path

    def lend(self, gids: Sequence[int]) -> Lent | None:
        """The rows of some groups, for one page of a listing; ``None``: ask the owner."""
        if not self._marks.are_stored(gids):
            return None
        tree = self._tree or self._open()
        if tree is None:
            return None
        try:
            view = View(tree)
        except _FAILURES as error:
            self._close(error)
            return None
        self.reads += 1
        return Lent(view, self._close)

    def _open(self) -> Tree | None:
        """The tree, if it can be opened; it is tried every few seconds."""
        now = time.monotonic()
        if now < self._again_at:
            return None
        self._again_at = now + _AGAIN_SECONDS
        try:
            tree = self._tree = Tree(f"{self._path}/meta")
        except _FAILURES as error:
            _logger.debug("%s is not read by this worker itself for now: %s", self._path, error)
            return None
        self._whole = tree.layers.whole
        return tree

    def _close(self, error: Exception) -> None:
        """Something was not as it should be: the owner answers, and a tree that has outgrown its map is opened again."""
        _logger.debug("%s: %s", self._path, error)
        if isinstance(error, lmdb.Error):
            self.close()
            self._again_at = 0.0 if isinstance(error, lmdb.MapResizedError) else self._again_at

    def sweep(self) -> None:
        """Let go of segments that were unlinked."""
        self._descriptors.sweep()

    def close(self) -> None:
        """Let go of everything; the next look opens it again."""
        if self._tree is not None:
            self._tree.close()
            self._tree = None
        self._descriptors.close()
