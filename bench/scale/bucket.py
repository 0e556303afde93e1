"""A bucket of many small objects: their names, filling it through the S3 API, and what a folder holds so far.

Invariants
* Names are in random order: one that is put next to another is not listed next to it, so writes go to all of the index (as the names of
  most applications do, and unlike those that begin with a counter or a date).
* What ``bucket.json`` beside the data says was put is there: an interrupted filling goes on behind it. Objects that a measurement may have
  deleted are named in it before the first is, and put again by the next filling.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.peers.served import Served
from bench.replay import BUCKET, Signer, play

BODY_BYTES = 256
FILL_LANES = 64
STRIDE = 2_654_435_761  # odd and prime: number * STRIDE mod 2**32 meets every value once, number * STRIDE mod objects every number
_SLICE = 20_000  # objects between two looks at the record
_SLICE_SECONDS = 600.0


def key(number: int) -> str:
    """Name of an object."""
    mixed = number * STRIDE % 2**32
    return f"{mixed >> 24:02x}/{mixed:08x}-{number}"


def path(number: int) -> str:
    """As it is asked for."""
    return f"/{BUCKET}/{key(number)}"


class Record(msgspec.Struct):
    """``filled``: so many were put, from number 0 on; the first ``doubtful`` in the order of ``spread`` may be missing."""

    objects: int
    filled: int = 0
    doubtful: int = 0


class Bucket:
    """Of ``objects`` objects in ``folder``, which holds the data folder, too."""

    def __init__(self, folder: Path, objects: int) -> None:
        self.folder, self.objects = folder, objects
        self._file = folder / "bucket.json"
        self.body = random.Random(1).randbytes(BODY_BYTES)
        self.record = Record(objects)
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self.record = msgspec.json.decode(self._file.read_bytes(), type=Record)
            if self.record.objects != objects:
                raise SystemExit(f"{folder} is a bucket of {self.record.objects:,} objects, not of {objects:,}")

    @property
    def is_whole(self) -> bool:
        """Whether all are there."""
        return self.record.filled == self.objects and not self.record.doubtful

    def spread(self, at: int) -> int:
        """Number of an object: the first of this order lie all over the log and the index."""
        return at * STRIDE % self.objects

    def doubt(self, count: int) -> None:
        """Say that so many of ``spread`` may be missing from now on."""
        self._keep(doubtful=max(count, self.record.doubtful))

    def sure(self) -> None:
        """Say that none is missing."""
        self._keep(doubtful=0)

    def _keep(self, **changes: int) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self.record))
        os.replace(fresh, self._file)

    def put(self, sign: Signer, number: int) -> list[bytes]:
        """A signed PUT."""
        return [sign.head("PUT", path(number), length=len(self.body)) + self.body]

    async def fill(self, server: Served, *, rate: float = 0.0, say: Callable[[str], None] = print) -> None:
        """Put what is missing, at most ``rate`` a second unless that is 0; RuntimeError if one is refused."""
        sign = Signer(f"127.0.0.1:{server.port}", *server.credentials())
        if not self.record.filled:
            made = await play(server, [[sign.head("PUT", f"/{BUCKET}")]], lanes=1, seconds=30, once=True)
            if not made.statuses.keys() <= {200, 409}:
                raise RuntimeError(f"the bucket was refused: {made.statuses}")
        size = _SLICE if not rate else max(FILL_LANES, min(_SLICE, int(rate * 2)))
        begin, put, told = time.monotonic(), 0, time.monotonic()
        for numbers in self._missing(size):
            sign.renew()
            run = await play(server, [self.put(sign, number) for number in numbers], lanes=FILL_LANES, seconds=_SLICE_SECONDS, once=True)
            if run.statuses != {200: len(numbers)}:
                raise RuntimeError(f"filling: {len(numbers)} were put, answers were {run.statuses}")
            put += len(numbers)
            if self.record.filled < self.objects:
                self._keep(filled=numbers[-1] + 1)
            now = time.monotonic()
            if now - told > 60:
                say(f"{self.record.filled:,} of {self.objects:,} objects are there, {put / (now - begin):,.0f}/s")
                told = now
            if rate:
                await asyncio.sleep(max(0.0, begin + put / rate - now))
        self._keep(filled=self.objects, doubtful=0)

    def _missing(self, size: int) -> Iterator[list[int]]:
        for first in range(self.record.filled, self.objects, size):
            yield [*range(first, min(first + size, self.objects))]
        for first in range(0, self.record.doubtful, size):
            yield [self.spread(at) for at in range(first, min(first + size, self.record.doubtful))]
