"""Pages of a shard, and the merge of shards into one page. Hot: LIST.

Invariants
* Order is the byte order of the unencoded keys; a common prefix takes the place of its first key and counts once.
* ``after`` is exclusive; if it ends with the delimiter and is a common prefix of what follows, its whole group is skipped.
* The rows looked at per page are bounded; ``more`` with a position says that there is work left.

Skip-scan: behind a common prefix the scan seeks to its byte successor instead of reading the group.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from typing import Protocol

import msgspec

from titans3.meta.keys import (
    PREFIX_BYTES,
    TABLE_AT,
    escape,
    object_prefix,
    split_upload_index,
    successor,
    upload_index_prefix,
)
from titans3.model.version import MARKER, Listed

ROWS_MAX = 20_000  # some 20 ms of the loop, over all shards of one call
_SEEK_ROWS = 6  # what a seek costs beside its rows, with overlays above the stored rows
_REFILL = 64
_OVER = 1.25  # deviations: a shard in ten is asked again, which costs less than more rows of all
_ARRAY16 = 0xDC
_NAME, _ROW = itemgetter(0), itemgetter(1)
decode_listed = msgspec.msgpack.Decoder(Listed).decode


class Scanned(Protocol):
    """Rows in order."""

    def scan(self, start: bytes, stop: bytes, limit: int, cut: int = 0) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` rows with start <= key < stop, ascending, their keys without the first ``cut`` bytes."""


class RowsByGroup:
    """Rows of several volumes as one: each has groups of its own."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Mapping[int, Scanned]) -> None:
        """``sources``: by group."""
        self._sources = sources

    def scan(self, start: bytes, stop: bytes, limit: int, cut: int = 0) -> list[tuple[bytes, bytes]]:
        """Of the group that the keys begin with."""
        return self._sources[int.from_bytes(start[:TABLE_AT], "big")].scan(start, stop, limit, cut)


class ShardPage(msgspec.Struct, array_like=True, gc=False):
    """Part of a listing from one or several shards: ``items`` ascending, (key, row) or (common prefix, ``b""``).

    ``more``: there may be further items, all greater than ``last``.
    """

    items: list[tuple[bytes, bytes]]
    more: bool
    last: bytes


def is_marker(row: bytes) -> bool:
    """Whether a ``Version`` row is a delete marker, without decoding it: array16, format, flags (both below 128)."""
    return bool(row[4] & MARKER) if row[0] == _ARRAY16 else bool(decode_listed(row).flags & MARKER)


def page_objects(
    rows: Scanned, gid: int, bucket: int, *, prefix: bytes, delimiter: bytes, after: bytes, want: int, rows_max: int = 0
) -> ShardPage:
    """Up to ``want`` items of one shard. Markers are hidden. Fewer with ``more``: ``rows_max`` (0: ROWS_MAX) rows were looked at."""
    return _page(rows, gid, bucket, prefix, delimiter, after, want, rows_max or ROWS_MAX)[0]


def _page(
    rows: Scanned, gid: int, bucket: int, prefix: bytes, delimiter: bytes, after: bytes, want: int, rows_max: int
) -> tuple[ShardPage, int]:
    """A page of one shard, and what it cost in rows."""
    base = object_prefix(gid, bucket)
    end = successor(prefix)
    stop = base + end if end else successor(base)
    start = _start(base, prefix, delimiter, after)
    if not delimiter:
        return _keys(rows, base, start, stop, after, want, rows_max)
    return _groups(rows, base, start, stop, prefix, delimiter, after, want, rows_max)


def _keys(rows: Scanned, base: bytes, start: bytes, stop: bytes, after: bytes, want: int, rows_max: int) -> tuple[ShardPage, int]:
    """Keys alone, a scan at a time."""
    items: list[tuple[bytes, bytes]] = []
    looked, last = 0, after
    while start < stop:
        found = rows.scan(start, stop, want, PREFIX_BYTES)
        looked += len(found) + _SEEK_ROWS
        if found:
            last = found[-1][0]
        hidden = [row for _, row in found if row[4] & MARKER or row[0] != _ARRAY16]  # those that are, and those to be looked at
        items += [item for item in found if not is_marker(item[1])] if hidden else found
        if len(items) >= want:
            del items[want:]
            return ShardPage(items, True, items[-1][0]), looked
        if len(found) < want:
            break
        if looked >= rows_max:
            return ShardPage(items, True, last), looked
        start = base + last + b"\0"
    return ShardPage(items, False, last), looked


def _groups(
    rows: Scanned, base: bytes, start: bytes, stop: bytes, prefix: bytes, delimiter: bytes, after: bytes, want: int, rows_max: int
) -> tuple[ShardPage, int]:
    """Keys and common prefixes. Behind a group that is told already the scan seeks, by few rows at a time while groups are long, by
    more when there is little to skip.
    """
    items: list[tuple[bytes, bytes]] = []
    looked, cut, size = 0, len(prefix), len(delimiter)
    step = min(want + 1, 64)
    last, group = after, b""
    while start < stop:
        found = rows.scan(start, stop, step, PREFIX_BYTES)
        looked += len(found) + _SEEK_ROWS
        skipped = 0
        for name, row in found:
            if group and name.startswith(group):
                skipped += 1
                continue
            if is_marker(row):
                last = name
                continue
            at = name.find(delimiter, cut)
            if at >= 0:
                last = group = name[: at + size]
                items.append((group, b""))
            else:
                items.append((name, row))
                last = name
            if len(items) == want:
                return ShardPage(items, True, last), looked
        if len(found) < step:
            return ShardPage(items, False, last), looked
        behind = found[-1][0]
        if group and behind.startswith(group):
            following = successor(group)
            start = base + following if following else stop
            step = max(1, step // 8)
        else:
            start = base + behind + b"\0"
            step = step * 4 if not skipped else max(1, step // 2)
        step = min(step, want + 1)
        if looked >= rows_max and not (last.find(delimiter, cut) == len(last) - size >= cut and last != group):
            return ShardPage(items, True, last), looked  # a hidden key with the name of a group is no place to go on from
    return ShardPage(items, False, last), looked


def _start(base: bytes, prefix: bytes, delimiter: bytes, after: bytes) -> bytes:
    """Physical start of a scan behind ``after``."""
    if after < prefix or not after:
        return base + prefix
    if delimiter and after.startswith(prefix):
        at = after.find(delimiter, len(prefix))
        if at >= 0 and at + len(delimiter) == len(after):
            behind = successor(after)
            return base + behind if behind else successor(base)
    return base + after + b"\0"


def page_uploads(
    rows: Scanned, gid: int, bucket: int, *, prefix: bytes, after_key: bytes, after_upload: bytes, want: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Up to ``want`` (key, upload id) of one shard, by key, then id. ``after_upload`` empty: uploads of ``after_key`` are skipped."""
    start = upload_index_prefix(gid, bucket) + prefix.replace(b"\0", b"\0\xff")
    stop = successor(start)
    if after_key:
        key = upload_index_prefix(gid, bucket) + escape(after_key)
        start = max(start, key + after_upload + b"\0" if after_upload else successor(key))
    found = [split_upload_index(row) for row, _ in rows.scan(start, stop, want + 1)] if start < stop else []
    return found[:want], len(found) > want


def merge_pages(pages: Sequence[ShardPage], want: int) -> ShardPage:
    """One page from several: only items up to the least end of an unfinished page are certain."""
    if len(pages) == 1 and len(pages[0].items) <= want:
        return pages[0]
    bound = _bound(pages)
    items = [item for page in pages for item in page.items]
    items.sort(key=_NAME)  # runs that are sorted already; two of the same name are the same group
    if bound is not None and items and items[-1][0] > bound:
        del items[bisect_right(items, bound, key=_NAME) :]
    if not all(map(_ROW, items)):
        items = list(dict.fromkeys(items))  # a common prefix that several shards have
    if len(items) > want:
        del items[want:]
        return ShardPage(items, True, items[-1][0])
    return ShardPage(items, bound is not None, bound if bound is not None else (items[-1][0] if items else b""))


def _bound(pages: Sequence[ShardPage]) -> bytes | None:
    """Up to where what the pages tell is whole; ``None``: to the end."""
    return min((page.last for page in pages if page.more), default=None)


def share(want: int, shards: int, of: int) -> int:
    """How many of the next ``want`` keys to ask of some of a bucket's shards: keys lie on them by chance, and four deviations more are
    enough but once in ten thousand pages.
    """
    mean = want * shards / of
    return min(want, int(mean + 4 * math.sqrt(mean)) + 1)


def page_shards(
    rows: Scanned, gids: Sequence[int], bucket: int, *, prefix: bytes, delimiter: bytes, after: bytes, want: int
) -> ShardPage:
    """One page of keys over several shards."""

    def shard_page(gid: int, after: bytes, want: int, rows_max: int) -> tuple[ShardPage, int]:
        return _page(rows, gid, bucket, prefix, delimiter, after, want, rows_max)

    return page_over(shard_page, gids, after=after, want=want, has_groups=delimiter != b"")


def page_over(
    shard_page: Callable[[int, bytes, int, int], tuple[ShardPage, int]], gids: Sequence[int], *, after: bytes, want: int, has_groups: bool
) -> ShardPage:
    """One page over several shards; a shard that runs dry before the page is full is asked for more.

    ``shard_page``: of a group, after a name, so many items, of so many rows at most; with what it cost in rows. ``has_groups``: shards may
    tell the same. Fewer than ``want`` with ``more``: ROWS_MAX rows were looked at, or seeks that cost as much.
    """
    count = len(gids)
    mean = want / count
    first = int(mean + _OVER * math.sqrt(mean)) + 1 if count > 1 else want
    pages: list[ShardPage] = []
    left, tired = ROWS_MAX, False
    for gid in gids:
        page, cost = shard_page(gid, after, first, max(1, ROWS_MAX // count))
        pages.append(page)
        left -= cost
        tired = tired or (page.more and len(page.items) < first)
    refill_least = _REFILL if has_groups else int(2 * math.sqrt(mean)) + 1
    while not tired and left > 0:
        bound = _bound(pages)
        if bound is None:
            break
        certain = sum([bisect_right(page.items, bound, key=_NAME) for page in pages])
        known = _distinct(pages, bound) if has_groups else certain
        if known >= want:
            break
        refill, short = refill_least, [place for place, page in enumerate(pages) if page.more and page.last == bound]
        if 2 * certain > 3 * known:  # groups that most shards have: all shards go on, and each must find nearly all of them
            refill = max(_REFILL, (want - known) * certain // (known * count) + 8)
            short = [place for place, page in enumerate(pages) if page.more and _beyond(page, bound) < refill // 2]
        rows_max = max(1, left // len(short))
        for place in short:
            page = pages[place]
            further, cost = shard_page(gids[place], page.last, refill, rows_max)
            pages[place] = ShardPage(page.items + further.items, further.more, further.last)
            left -= cost
            tired = tired or (further.more and len(further.items) < refill)
    return merge_pages(pages, want)


def _distinct(pages: Sequence[ShardPage], bound: bytes) -> int:
    """Different names up to a bound."""
    return len({name for page in pages for name, _ in page.items if name <= bound})


def _beyond(page: ShardPage, bound: bytes) -> int:
    """Items of a page behind ``bound``."""
    return len(page.items) - bisect_right(page.items, bound, key=_NAME)


async def collect(
    ask: Callable[[bytes, int], Awaitable[Sequence[ShardPage]]], *, after: bytes, want: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """(items, truncated) of a whole listing page; ``ask(after, want)`` answers a page per source, and is asked again until it is full."""
    items: list[tuple[bytes, bytes]] = []
    while True:
        if items:
            await asyncio.sleep(0)  # others have their turn
        page = merge_pages(await ask(after, want - len(items) + 1), want - len(items) + 1)
        again = bool(items and page.items) and page.items[0] == items[-1]  # a group whose first half held hidden keys only
        items.extend(page.items[1:] if again else page.items)
        if len(items) > want:
            return items[:want], True
        if not page.more:
            return items, False
        after = page.last
