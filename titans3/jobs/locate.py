"""Where the bytes of one version lie: read from the trees of the volumes, which nobody needs to own.

Invariant: as of the last checkpoints. A data id without a ``loc`` row is told as not there, not left out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from titans3.engine.location import PlacedExtent, home_of, loc_key, parse_location, placed
from titans3.meta.keys import manifest_prefix, object_key, successor, version_prefix
from titans3.meta.tree import Tree
from titans3.model.version import MANIFEST_ROWS, MARKER, Extent, Part, Version

_version = msgspec.msgpack.Decoder(Version).decode
_parts = msgspec.msgpack.Decoder(tuple[Part, ...]).decode


class PlacedVersion(msgspec.Struct, frozen=True):
    """A version and its bytes."""

    version_id: str
    size: int
    etag: str
    is_marker: bool
    extents: tuple[PlacedExtent, ...]


def locate_version(volumes: list[str], volume: int, gid: int, bucket: int, key: bytes, version_id: str) -> PlacedVersion | None:
    """The newest version, or the one with an id; ``None`` if it is not there. ``volumes`` are folders. Raises DiskError, FormatError."""
    with ExitStack() as stack:
        trees: dict[int, Tree] = {}

        def tree_of(index: int) -> Tree:
            if index not in trees:
                trees[index] = stack.enter_context(Tree(f"{volumes[index]}/meta"))
            return trees[index]

        home = tree_of(volume)
        version = _find(home, gid, bucket, key, version_id)
        if version is None:
            return None
        extents = version.extents
        if version.flags & MANIFEST_ROWS:
            prefix = manifest_prefix(gid, version.object_id, version.seq)
            rows = home.layers.scan(home.transaction, prefix, successor(prefix))
            extents = tuple(extent for _, raw in rows for part in _parts(raw) for extent in part.extents)
        placed = tuple(_place(tree_of, volume, extent) for extent in extents)
    return PlacedVersion(version.version_id, version.size, version.etag_text, bool(version.flags & MARKER), placed)


def _find(tree: Tree, gid: int, bucket: int, key: bytes, version_id: str) -> Version | None:
    raw = tree.get(object_key(gid, bucket, key))
    if raw is None:
        return None
    newest = _version(raw)
    if not version_id or newest.version_id == version_id:
        return newest
    prefix = version_prefix(gid, newest.object_id)
    older = (_version(value) for _, value in tree.layers.scan(tree.transaction, prefix, successor(prefix)))
    return next((version for version in older if version.version_id == version_id), None)


def _place(tree_of: Callable[[int], Tree], volume: int, extent: Extent) -> PlacedExtent:
    index = home_of(extent, volume)
    raw = tree_of(index).get_loc(loc_key(extent.data_id))
    return placed(extent, index, None if raw is None else parse_location(raw))
