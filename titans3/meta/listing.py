"""Pages of a shard, and the merge of shards into one page. Hot: LIST.

Invariants
* Order is the byte order of the unencoded keys; a common prefix takes the place of its first key and counts once.
* ``after`` is exclusive; if it ends with the delimiter and is a common prefix of what follows, its whole group is skipped.
* The rows looked at per page are bounded; ``more`` with a position says that there is work left.

Skip-scan: behind a common prefix the scan seeks to its byte successor instead of reading the group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from titans3.meta.keys import PREFIX_BYTES, escape, object_prefix, split_upload_index, successor, upload_index_prefix
from titans3.model.version import MARKER, Listed

if TYPE_CHECKING:
    from titans3.meta.machine import Rows

ROWS_MAX = 20_000  # some 20 ms of the loop, over all shards of one call
_SKIP_ROWS = 8
_REFILL = 64
decode_listed = msgspec.msgpack.Decoder(Listed).decode


class ShardPage(msgspec.Struct, array_like=True, gc=False):
    """Part of a listing from one or several shards: ``items`` ascending, (key, row) or (common prefix, ``b""``).

    ``more``: there may be further items, all greater than ``last``.
    """

    items: list[tuple[bytes, bytes]]
    more: bool
    last: bytes


def is_marker(row: bytes) -> bool:
    """Whether a ``Version`` row is a delete marker, without decoding it: array16, format, flags (both below 128)."""
    return bool(row[4] & MARKER) if row[0] == 0xDC else bool(decode_listed(row).flags & MARKER)


def page_objects(
    rows: Rows, gid: int, bucket: int, *, prefix: bytes, delimiter: bytes, after: bytes, want: int, rows_max: int = 0
) -> ShardPage:
    """Up to ``want`` items of one shard. Markers are hidden. Fewer with ``more``: ``rows_max`` (0: ROWS_MAX) rows were looked at."""
    base = object_prefix(gid, bucket)
    stop = base + successor(prefix) if prefix and successor(prefix) else successor(base)
    start = _start(base, prefix, delimiter, after)
    items: list[tuple[bytes, bytes]] = []
    looked, cut = 0, len(prefix)
    rows_max = rows_max or ROWS_MAX
    step = want + 1 if not delimiter else min(want + 1, 64)
    last = after
    while start < stop:
        found = rows.scan(start, stop, step)
        looked += len(found)
        jumped = False
        for key, row in found:
            name = key[PREFIX_BYTES:]
            if delimiter:
                at = name.find(delimiter, cut)
                if at >= 0:
                    group = name[: at + len(delimiter)]
                    if is_marker(row):
                        last = name
                        continue
                    items.append((group, b""))
                    last = group
                    behind = successor(group)
                    start = base + behind if behind else stop
                    jumped = True
                    break
            if is_marker(row):
                last = name
                continue
            items.append((name, row))
            last = name
            if len(items) == want:
                break
        if len(items) >= want:
            return ShardPage(items, True, last)
        if jumped:
            step = _SKIP_ROWS
            continue
        if len(found) < step:
            return ShardPage(items, False, last)
        start = found[-1][0] + b"\0"
        step = min(want + 1, 4 * step)
        if looked >= rows_max and not (delimiter and last.find(delimiter, cut) == len(last) - len(delimiter) >= cut):
            return ShardPage(items, True, last)  # a hidden key with the name of a group is no place to go on from
    return ShardPage(items, False, last)


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
    rows: Rows, gid: int, bucket: int, *, prefix: bytes, after_key: bytes, after_upload: bytes, want: int
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
    bound = min((page.last for page in pages if page.more), default=None)
    pool = [item for page in pages for item in page.items]
    pool.sort()
    items: list[tuple[bytes, bytes]] = []
    before: tuple[bytes, bytes] | None = None
    for item in pool:
        if bound is not None and item[0] > bound:
            break
        if item == before:
            continue  # a common prefix that several shards have
        if len(items) == want:
            return ShardPage(items, True, items[-1][0])
        items.append(item)
        before = item
    return ShardPage(items, bound is not None, bound if bound is not None else (items[-1][0] if items else b""))


def page_shards(
    rows: Rows, gids: Sequence[int], bucket: int, *, prefix: bytes, delimiter: bytes, after: bytes, want: int
) -> ShardPage:
    """One page over several shards of one owner; a shard that runs dry before the page is full is asked for more."""
    first = want * 5 // 4 // len(gids) + 8 if len(gids) > 1 else want
    rows_max = max(1, ROWS_MAX // len(gids))
    pages = [
        page_objects(rows, gid, bucket, prefix=prefix, delimiter=delimiter, after=after, want=first, rows_max=rows_max)
        for gid in gids
    ]
    tired = any(page.more and len(page.items) < first for page in pages)
    while not tired:
        bound = min((page.last for page in pages if page.more), default=None)
        if bound is None or len({item[0] for page in pages for item in page.items if item[0] <= bound}) >= want:
            break
        for place, page in enumerate(pages):
            if page.more and page.last == bound:
                further = page_objects(
                    rows, gids[place], bucket, prefix=prefix, delimiter=delimiter, after=page.last, want=_REFILL,
                    rows_max=rows_max,
                )
                pages[place] = ShardPage(page.items + further.items, further.more, further.last)
                tired = tired or (further.more and len(further.items) < _REFILL)
    return merge_pages(pages, want)


async def collect(
    ask: Callable[[bytes, int], Awaitable[Sequence[ShardPage]]], *, after: bytes, want: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """(items, truncated) of a whole listing page; ``ask(after, want)`` answers a page per source, and is asked again until it is full."""
    items: list[tuple[bytes, bytes]] = []
    while True:
        page = merge_pages(await ask(after, want - len(items) + 1), want - len(items) + 1)
        again = bool(items and page.items) and page.items[0] == items[-1]  # a group whose first half held hidden keys only
        items.extend(page.items[1:] if again else page.items)
        if len(items) > want:
            return items[:want], True
        if not page.more:
            return items, False
        after = page.last
