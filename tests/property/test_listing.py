"""Listings equal a sorted model: any prefix, delimiter, start and page size, over shards and owners, page by page or in one go."""

import asyncio
import random

import msgspec
import pytest

from tests.property.sorted_rows import SortedRows
from tests.scale import scaled
from titans3.meta import listing
from titans3.meta.keys import object_key, upload_index_key
from titans3.model.version import MARKER, Version
from titans3.ring.placement import shard_of

BUCKET, SHARDS = 9, 5
OWNERS = ((0, 1), (2, 3, 4))
PIECES = ["a", "b", "/", "//", "-", "\x00", "\x01", "\x7f", "é", "\U0010ffff", "\uffff", "zz", "a/"]
DELIMITERS = [b"", b"/", b"//", b"a", b"\x00", "\U0010ffff".encode(), b"\xbf", b"-a"]


def row(flags=0):
    return msgspec.msgpack.encode(Version(1, flags, 5, 6, 7, b"e" * 16, 0, 8, "owner"))


def fill(rng, count):
    """Rows of five shards and the live keys."""
    rows, live = SortedRows(), set()
    for _ in range(count):
        key = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 6))).encode()
        flags = MARKER if rng.random() < 0.3 else 0
        rows.put(object_key(shard_of(key, SHARDS), BUCKET, key), row(flags))
        (live.discard if flags else live.add)(key)
    rows.put(object_key(0, BUCKET + 1, b"a"), row())
    return rows, sorted(live)


def expected(live, prefix, delimiter, after):
    """Names of items: keys, and common prefixes once."""
    names = []
    for key in live:
        if not key.startswith(prefix) or key <= after:
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if at < 0 else key[: at + len(delimiter)]
        if at >= 0 and (name == after or (names and names[-1] == name)):
            continue
        names.append(name)
    return names


def ask_owners(rows, prefix, delimiter):
    async def ask(after, want):
        return [
            listing.page_shards(rows, gids, BUCKET, prefix=prefix, delimiter=delimiter, after=after, want=want)
            for gids in OWNERS
        ]

    return ask


@pytest.mark.parametrize("seed", range(scaled(30, 1000)))
@pytest.mark.parametrize("rows_max", [1, 7, 50_000])
def test_pages_equal_model(seed, rows_max, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_MAX", rows_max)
    rng = random.Random(seed)
    rows, live = fill(rng, rng.choice((5, 60, 400)))
    for _ in range(12):
        delimiter = rng.choice(DELIMITERS)
        prefix = rng.choice([b"", b"", rng.choice(PIECES).encode(), (rng.choice(live)[: rng.randrange(4)] if live else b"")])
        after = rng.choice([b"", b"", rng.choice(PIECES).encode(), rng.choice(live) if live else b"", b"\xff"])
        names = expected(live, prefix, delimiter, after)
        limit = rng.choice((1, 2, 3, 10, 1000))
        got, position = [], after
        while True:
            items, truncated = asyncio.run(collected(rows, prefix, delimiter, position, limit))
            assert len(items) <= limit
            got += items
            if not truncated:
                break
            assert len(items) == limit, "a truncated page is full"
            position = items[-1][0]
        assert [name for name, _ in got] == names
        for name, raw in got:
            assert (raw == b"") == (delimiter != b"" and name.find(delimiter, len(prefix)) >= 0)


async def collected(rows, prefix, delimiter, after, limit):
    return await listing.collect(ask_owners(rows, prefix, delimiter), after=after, want=limit)


def test_a_hidden_key_with_the_name_of_a_group_does_not_hide_the_group(monkeypatch):
    monkeypatch.setattr(listing, "ROWS_MAX", 1)
    rows = SortedRows()
    for key, flags in ((b"Z", MARKER), (b"a/", MARKER), (b"a/x", 0), (b"b", 0)):
        rows.put(object_key(0, BUCKET, key), row(flags))
    found, after, more = [], b"", True
    while more:
        page = listing.page_objects(rows, 0, BUCKET, prefix=b"", delimiter=b"/", after=after, want=1)
        found, after, more = found + [name for name, _ in page.items], page.last, page.more
    assert found == [b"a/", b"b"]


def test_a_group_is_listed_once_when_one_shard_stops_inside_it(monkeypatch):
    monkeypatch.setattr(listing, "ROWS_MAX", 1)
    rows = SortedRows()
    for number in range(100):
        rows.put(object_key(0, BUCKET, b"a/%03d" % number), row(MARKER))
    rows.put(object_key(0, BUCKET, b"a/y"), row())
    rows.put(object_key(2, BUCKET, b"a/x"), row())
    rows.put(object_key(2, BUCKET, b"b"), row())
    items, truncated = asyncio.run(collected(rows, b"", b"/", b"", 10))
    assert ([name for name, _ in items], truncated) == ([b"a/", b"b"], False)


def test_skip_scan_reads_few_rows():
    rows = SortedRows()
    for group in range(100):
        for number in range(200):
            rows.put(object_key(0, BUCKET, b"%03d/%03d" % (group, number)), row())
    looked = 0
    scan = rows.scan

    def counted(start, stop, limit, cut):
        nonlocal looked
        found = scan(start, stop, limit, cut)
        looked += len(found)
        return found

    rows.scan = counted
    page = listing.page_objects(rows, 0, BUCKET, prefix=b"", delimiter=b"/", after=b"", want=1000)
    assert len(page.items) == 100
    assert looked < 1000


@pytest.mark.parametrize("keys", [1, 5, 80])
def test_a_page_of_folders_costs_about_a_seek_for_each_shard_and_folder_in_turns_that_are_bounded(keys):
    rows, folders, shards = SortedRows(), 1200, 16
    for folder in range(folders):
        for number in range(keys):
            key = b"%04d/%03d" % (folder, number)
            rows.put(object_key(shard_of(key, shards), BUCKET, key), row())
    turns = []
    scan = rows.scan

    def counted(start, stop, limit, cut):
        found = scan(start, stop, limit, cut)
        turns[-1] += len(found) + listing._SEEK_ROWS
        return found

    rows.scan = counted

    async def ask(after, want):
        turns.append(0)
        return [listing.page_shards(rows, range(shards), BUCKET, prefix=b"", delimiter=b"/", after=after, want=want)]

    items, truncated = asyncio.run(listing.collect(ask, after=b"", want=1000))
    assert ([name for name, _ in items], truncated) == ([b"%04d/" % folder for folder in range(1000)], True)
    assert max(turns) < 1.3 * listing.ROWS_MAX
    assert sum(turns) < 1.4 * (1 + listing._SEEK_ROWS) * min(keys, shards) * 1000


@pytest.mark.parametrize("seed", range(scaled(20, 600)))
@pytest.mark.parametrize("rows_max", [1, 50_000])
def test_upload_pages_equal_model(seed, rows_max, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_MAX", rows_max)
    rng = random.Random(seed)
    rows, model = SortedRows(), []
    for number in range(rng.choice((3, 40, 200))):
        key = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 4))).encode()
        upload_id = number.to_bytes(8, "big") + rng.randbytes(8)
        rows.put(upload_index_key(1, BUCKET, key, upload_id), b"")
        model.append((key, upload_id))
    model.sort()
    for _ in range(10):
        prefix = rng.choice([b"", b"a", b"\x00", b"zz", "é".encode()])
        after_key, after_upload = rng.choice([(b"", b""), (rng.choice(model)[0], b""), rng.choice(model)])
        names = [
            item for item in model
            if item[0].startswith(prefix) and (item > (after_key, after_upload) if after_upload else item[0] > after_key)
        ]
        want = rng.choice((1, 2, 7, 1000))
        got = []
        while True:
            found, more = listing.page_uploads(
                rows, 1, BUCKET, prefix=prefix, after_key=after_key, after_upload=after_upload, want=want
            )
            got += found
            if not more:
                break
            assert found, "more without progress"
            after_key, after_upload = found[-1]
        assert got == names
