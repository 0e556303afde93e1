"""Pages of all versions of a bucket's keys, for ListObjectVersions.

Invariants
* Order is by key, then newest first. An item's name is ``escape(key)`` and the inverted seq, so names sort as the listing goes; a common
  prefix is named by its escaped bytes without an end, which sorts right before its keys. So pages merge as those of ``listing`` do.
* A key's row is its newest version; what the row's ``older`` promises is in the versions table, newest first.
* The rows looked at per call are bounded; ``more`` with a position says that there is work left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from titans3.meta.keys import PREFIX_BYTES, SEQ_MASK, escape, object_prefix, successor, version_prefix
from titans3.meta.listing import Scanned, ShardPage, page_over
from titans3.model.version import Version

_SEQ_BYTES = 8
_END = b"\0\x01"
_STEP = 64
_STEP_MOST = 256
_decode = msgspec.msgpack.Decoder(Version).decode


def position(key: bytes, seq: int) -> bytes:
    """Name of a version; as ``after`` it means what follows this version."""
    return escape(key) + (seq ^ SEQ_MASK).to_bytes(_SEQ_BYTES, "big")


def behind_key(key: bytes) -> bytes:
    """The position behind all versions of a key."""
    return escape(key) + b"\xff" * _SEQ_BYTES


def before_key(key: bytes) -> bytes:
    """The position before the newest version of a key and behind what comes before it."""
    return escape(key)


def group(prefix: bytes) -> bytes:
    """Name of a common prefix; as ``after`` it means what follows its group."""
    return _escaped(prefix)


def split(name: bytes) -> tuple[bytes, int]:
    """(key, seq) of a version's name; (common prefix, 0) of a group's. An escaped text never holds the end mark."""
    at = name.find(_END)
    if at < 0:
        return name.replace(b"\0\xff", b"\0"), 0
    return name[:at].replace(b"\0\xff", b"\0"), int.from_bytes(name[at + len(_END) :], "big") ^ SEQ_MASK


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\0", b"\0\xff")


def page_versions(
    rows: Scanned, gids: Sequence[int], bucket: int, *, prefix: bytes, delimiter: bytes, after: bytes, want: int
) -> ShardPage:
    """One page over several shards of one owner: (name, row) or (name of a common prefix, ``b""``)."""

    def shard_page(gid: int, after: bytes, want: int, rows_max: int) -> tuple[ShardPage, int]:
        return _page(rows, gid, bucket, prefix, delimiter, after, want, rows_max)

    return page_over(shard_page, gids, after=after, want=want, has_groups=delimiter != b"")


def _page(
    rows: Scanned, gid: int, bucket: int, prefix: bytes, delimiter: bytes, after: bytes, want: int, rows_max: int
) -> tuple[ShardPage, int]:
    """A page of one shard, and what it cost in rows."""
    items: list[tuple[bytes, bytes]] = []
    base = object_prefix(gid, bucket)
    end = successor(prefix) if prefix else b""
    stop = base + end if end else successor(base)
    first = split(after)[0]
    start = max(base + prefix, base + first)
    looked, step = 0, _STEP if delimiter else min(want + 1, _STEP_MOST)
    while start < stop:
        found = rows.scan(start, stop, step)
        for physical, row in found:
            looked += 1
            key = physical[PREFIX_BYTES:]
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            if at >= 0:
                common = key[: at + len(delimiter)]
                name = _escaped(common)
                if after.startswith(name) and after != name:  # a position inside the group: is there something behind it?
                    if key == first and next(_versions(rows, gid, key, row, after), None) is None:
                        continue
                    items.append((name, b""))
                elif name > after:
                    items.append((name, b""))
                following = successor(common)
                start = base + following if following else stop
                break
            for name, version in _versions(rows, gid, key, row, after):
                looked += 1
                items.append((name, version))
                if len(items) > want:
                    break
            if len(items) > want:
                break
        else:
            if len(found) < step:
                return ShardPage(items, False, items[-1][0] if items else after), looked
            start = found[-1][0] + b"\0"
        if len(items) > want:
            return ShardPage(items[:want], True, items[want - 1][0]), looked
        if looked >= rows_max and items:
            return ShardPage(items, True, items[-1][0]), looked
    return ShardPage(items, False, items[-1][0] if items else after), looked


def _versions(rows: Scanned, gid: int, key: bytes, row: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, row) of a key's versions behind ``after``, newest first."""
    newest = _decode(row)
    name = position(key, newest.seq)
    if name > after:
        yield name, row
    if not newest.older:
        return
    start = version_prefix(gid, newest.object_id)
    stop = successor(start)
    stem = name[:-_SEQ_BYTES]
    if after.startswith(stem) and len(after) == len(name):
        start += after[-_SEQ_BYTES:] + b"\0"
    while start < stop:
        found = rows.scan(start, stop, _STEP)
        for physical, older in found:
            yield stem + physical[-_SEQ_BYTES:], older
        if len(found) < _STEP:
            return
        start = found[-1][0] + b"\0"
