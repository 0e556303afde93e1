"""Pages of versions equal a sorted model: any prefix, delimiter, place to begin and page size, over shards and owners."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from tests.property.sorted_rows import SortedRows
from tests.scale import scaled
from titans3.meta import listing, version_pages
from titans3.meta.keys import object_key, version_key
from titans3.meta.listing import collect
from titans3.model.version import MARKER, Version
from titans3.ring.placement import shard_of

BUCKET, SHARDS = 9, 5
OWNERS = ((0, 1), (2, 3, 4))
PIECES = ["a", "b", "/", "//", "-", "\x00", "\x01", "\x7f", "é", "\U0010ffff", "\uffff", "a/"]
DELIMITERS = [b"", b"/", b"//", b"a", b"\x00", "\U0010ffff".encode(), b"\xbf"]
_encode = msgspec.msgpack.Encoder().encode


def version(rng, seq, object_id, older):
    return Version(1, MARKER if rng.random() < 0.3 else 0, seq, 6, 7, b"e" * 16, 0, object_id, "owner", nonce=bytes(8), older=older)


def fill(rng, count):
    """Rows of five shards, and {key: seqs, newest first}."""
    rows, model = SortedRows(), {}
    for number in range(count):
        key = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 6))).encode()
        if key in model:
            continue
        gid, object_id = shard_of(key, SHARDS), number + 1
        seqs = sorted(rng.sample(range(1, 1 << rng.choice((8, 16, 40))), rng.choice((1, 1, 2, 3, 90))), reverse=True)
        model[key] = seqs
        rows.put(object_key(gid, BUCKET, key), _encode(version(rng, seqs[0], object_id, older=len(seqs) > 1)))
        for seq in seqs[1:]:
            rows.put(version_key(gid, object_id, seq), _encode(version(rng, seq, object_id, older=False)))
    rows.put(object_key(0, BUCKET + 1, b"a"), _encode(version(rng, 5, 1, older=False)))
    return rows, model


def expected(model, prefix, delimiter, after_key, after_seq):
    """(key, seq) of versions and (common prefix, 0), behind a place: a version, or all of a key if ``after_seq`` is 0."""
    found = []
    for key in sorted(model):
        seqs = [seq for seq in model[key] if key > after_key or (key == after_key and after_seq and seq < after_seq)]
        if not key.startswith(prefix) or not seqs:
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            found += [(key, seq) for seq in seqs]
        elif not found or found[-1] != (key[: at + len(delimiter)], 0):
            found.append((key[: at + len(delimiter)], 0))
    return found


async def collected(rows, prefix, delimiter, after, limit):
    async def ask(position, want):
        return [
            version_pages.page_versions(rows, gids, BUCKET, prefix=prefix, delimiter=delimiter, after=position, want=want)
            for gids in OWNERS
        ]

    return await collect(ask, after=after, want=limit)


@pytest.mark.parametrize("seed", range(scaled(8, 1000)))
@pytest.mark.parametrize("rows_max", [1, 7, 50_000])
def test_pages_equal_model(seed, rows_max, monkeypatch):
    monkeypatch.setattr(listing, "ROWS_MAX", rows_max)
    rng = random.Random(seed)
    rows, model = fill(rng, rng.choice((5, 60, 200)))
    keys = sorted(model)
    for _ in range(8):
        delimiter = rng.choice(DELIMITERS)
        prefix = rng.choice([b"", b"", rng.choice(PIECES).encode(), rng.choice(keys)[: rng.randrange(4)]])
        key = rng.choice([b"", rng.choice(PIECES).encode(), rng.choice(keys)])
        seq = rng.choice([0, rng.choice(model[key])]) if key in model else 0
        position = b"" if not key else version_pages.position(key, seq) if seq else version_pages.behind_key(key)
        limit = rng.choice((1, 2, 3, 10, 1000))
        got = []
        while True:
            items, truncated = asyncio.run(collected(rows, prefix, delimiter, position, limit))
            got += [version_pages.split(name) for name, _ in items]
            for name, raw in items:
                assert raw == b"" or msgspec.msgpack.decode(raw, type=Version).seq == version_pages.split(name)[1]
            if not truncated:
                break
            assert len(items) == limit, "a truncated page is full"
            position = items[-1][0]
        assert got == expected(model, prefix, delimiter, key, seq), (prefix, delimiter, key, seq)


@pytest.mark.parametrize("key", [b"a", b"a\0", b"\0", b"\0\x01", b"\xff\xff", b"a\0\xff", "\U0010ffff".encode()])
def test_names_sort_and_split(key):
    for seq in (1, 0x01, 0x0001_0000_0000_0000, 0xFF00_0000_0000_0001):
        assert version_pages.split(version_pages.position(key, seq)) == (key, seq)
        assert version_pages.before_key(key) < version_pages.position(key, seq) < version_pages.behind_key(key)
        assert version_pages.position(key, seq + 1) < version_pages.position(key, seq)
    assert version_pages.split(version_pages.group(key)) == (key, 0)
    assert version_pages.group(key) < version_pages.before_key(key) < version_pages.before_key(key + b"\0")
