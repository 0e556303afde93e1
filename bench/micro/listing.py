"""What a page of 1,000 keys costs in a bucket of a million: 16 shards in one environment, merged as one owner does it.

Run: python -m bench.micro.listing [keys]. Rows are those of a server: key by the ring rule, a whole Version as value. The bucket has a
hundred keys in every folder. "overlays": ten thousand further rows in the active and in the frozen overlay each. Milliseconds of one core,
decoding of the rows included, XML and HTTP not.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import msgspec

from titans3.meta.environment import Checkpoint, Environment, Position
from titans3.meta.keys import object_key
from titans3.meta.listing import ShardPage, collect, page_shards
from titans3.meta.view import View
from titans3.model.version import INLINE, NULL, Extent, Version, decode_rows
from titans3.ring.placement import bucket_groups, ring_hash

BUCKET, SHARDS, PAGE = 7, 16, 1000
FOLDER_KEYS = 100
OVERLAY_ROWS = 10_000
ROUNDS = 60


def name(number: int) -> bytes:
    """Key of a number, ascending."""
    return b"data/%06d/photo-%08d.jpg" % (number // FOLDER_KEYS, number)


def row(number: int) -> bytes:
    """A small object's row, some 180 bytes."""
    extent = Extent(number.to_bytes(8, "big") + bytes(8), 4096, INLINE, 0, number)
    return msgspec.msgpack.encode(
        Version(
            1, NULL, number, 1_760_000_000_000 + number, 4096, os.urandom(16), 0, number, "000000000000", extents=(extent,),
            headers={"content-type": "image/jpeg"}, metadata={"camera": "x100"}, nonce=bytes(8),
        )
    )


def fill(environment: Environment, view: View, numbers: Sequence[int]) -> None:
    """Put rows in the order given, a checkpoint every 50,000."""
    for start in range(0, len(numbers), 50_000):
        for number in numbers[start : start + 50_000]:
            put(view, number)
        frozen = view.freeze()
        assert frozen is not None
        environment.commit(frozen, Checkpoint(Position(1, 0, start + 1, 1), {}))
        view.thaw()


def put(view: View, number: int) -> None:
    key = name(number)
    view.put(object_key(ring_hash(BUCKET, key, SHARDS), BUCKET, key), row(number))


async def listed(view: View, *, prefix: bytes, delimiter: bytes, after: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """One page, as the store makes it for a bucket whose groups are all here."""
    gids = bucket_groups(BUCKET, SHARDS)

    async def ask(position: bytes, want: int) -> list[ShardPage]:
        return [page_shards(view, gids, BUCKET, prefix=prefix, delimiter=delimiter, after=position, want=want)]

    items, truncated = await collect(ask, after=after, want=PAGE)
    decode_rows([value for _, value in items if value])
    return items, truncated


def page(view: View, *, prefix: bytes, delimiter: bytes, after: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The same without a loop: the other turns take no time."""
    step = listed(view, prefix=prefix, delimiter=delimiter, after=after)
    try:
        while True:
            step.send(None)
    except StopIteration as end:
        found: tuple[list[tuple[bytes, bytes]], bool] = end.value
        return found


def pages(view: View, *, prefix: bytes, delimiter: bytes) -> Iterator[tuple[bytes, int, float]]:
    """(after, items, seconds) of every page from the first to the last."""
    after, more = b"", True
    while more:
        start = time.perf_counter()
        items, more = page(view, prefix=prefix, delimiter=delimiter, after=after)
        yield after, len(items), time.perf_counter() - start
        after = items[-1][0] if items else after


def quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"p50 {p50 * 1e3:6.2f}  p99 {p99 * 1e3:6.2f} ms"


def measure(view: View, title: str, *, prefix: bytes = b"", delimiter: bytes = b"") -> None:
    """All pages once, then the first, the middle and the last one again and again."""
    walked = list(pages(view, prefix=prefix, delimiter=delimiter))
    total = sum(count for _, count, _ in walked)
    print(f"{title:42} {total:8,} items {len(walked):5} pages  {quantiles([seconds for _, _, seconds in walked])}")
    for place, at in (("first", 0), ("middle", len(walked) // 2), ("last", -1)):
        after, count, _ = walked[at]
        taken = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            page(view, prefix=prefix, delimiter=delimiter, after=after)
            taken.append(time.perf_counter() - start)
        print(f"    {place:38} {count:8,} items {'':11}  {quantiles(taken)}")
        if len(walked) == 1:
            return


def measure_all(view: View, what: str, keys: int) -> None:
    folder = b"data/%06d/" % (keys // FOLDER_KEYS // 2)
    measure(view, f"all keys{what}")
    measure(view, f"delimiter /, folders of 100{what}", prefix=b"data/", delimiter=b"/")
    measure(view, f"delimiter /, one group of all keys{what}", delimiter=b"/")
    measure(view, f"prefix and delimiter, one folder{what}", prefix=folder, delimiter=b"/")


async def lag(view: View) -> list[float]:
    """Length of every turn of a loop that lists folders, seconds."""
    turns: list[float] = []

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            turns.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    for number in range(20):
        await listed(view, prefix=b"data/", delimiter=b"/", after=b"data/%06d/" % (number * 100))
    watching.cancel()
    return [turn for turn in turns if turn > 0.001]


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    path = tempfile.mkdtemp(prefix="titans3-listing-")
    try:
        environment = Environment(path, cluster=b"c" * 16, volume=b"v" * 16)
        view = View(environment)
        numbers = list(range(keys))
        random.Random(1).shuffle(numbers)
        late = 2 * OVERLAY_ROWS
        start = time.perf_counter()
        fill(environment, view, numbers[late:])
        print(f"{keys:,} keys, {environment.size_bytes() / 1e6:,.0f} MB, filled in {time.perf_counter() - start:.0f} s")
        measure_all(view, "", keys)
        for number in numbers[:OVERLAY_ROWS]:
            put(view, number)
        view.freeze()
        for number in numbers[OVERLAY_ROWS:late]:
            put(view, number)
        measure_all(view, ", overlays", keys)
        print(f"turns of the loop while folders are listed: {quantiles(asyncio.run(lag(view)))}")
        view.close()
        environment.close()
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
