"""What requests cost: counted once each, when the answer is with the transport. Hot: guarded by ``bench/micro/s3.py``.

Invariants
* A request pays for a note: one look-up and one append. Notes are counted many at a time (``fold``), by sums and sorts that run in C;
  whoever reads counts them first.
* Operations come from the operation table and statuses from the error table; a bucket is counted only if it was found. So nothing
  a client can say makes a new row, and ``forget`` drops buckets that are gone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container
from typing import Protocol

import msgspec

from titans3.observe.histogram import SECONDS, Counts, Histogram

STREAMED = "GetObject"
UNROUTED = "Unrouted"  # refused before anybody knew the operation
_SUM, _RECEIVED, _SENT, _COUNTS = range(4)  # places of a row: seconds, body bytes, body bytes, counts of SECONDS
_PLACES = _COUNTS + len(SECONDS) + 1


class Asked(Protocol):
    """What of a request is counted by: names, empty if there is none."""

    operation: str
    bucket: str


class Answers(msgspec.Struct, frozen=True):
    """An operation and a status; 0: the client was gone before an answer began."""

    operation: str
    status: int
    seconds: Counts
    received: int
    sent: int

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.seconds.counts)


class BucketTraffic(msgspec.Struct, array_like=True, frozen=True):
    """Requests of a bucket, those answered 4xx and 5xx, and body bytes."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    received: int = 0
    sent: int = 0


class RequestCounters:
    """Counters of one worker; ``answered`` is called by its connections."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, str, int], list[tuple[float, int, int]]] = {}
        self._rows: dict[tuple[str, int], list[float]] = {}
        self._buckets: dict[str, list[int]] = {}
        self._first: dict[str, Histogram] = {}
        self._streamed: dict[str, Histogram] = {}
        self._answers = 0

    def answered(self, asked: Asked, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        """An answer is given. ``first``: seconds to its first byte if it went piece by piece, else 0."""
        try:
            self._noted[asked.operation, asked.bucket, status].append((seconds, received, sent))
        except KeyError:
            self._noted[asked.operation, asked.bucket, status] = [(seconds, received, sent)]
        if first:
            self._pieces(asked.operation, seconds, first)

    def fold(self) -> None:
        """Count what was noted. To be called often enough that notes stay few: with every beat."""
        idle = []
        for key, notes in self._noted.items():
            if not notes:
                idle.append(key)
                continue
            seconds, received, sent = zip(*notes, strict=True)
            count = len(notes)
            notes.clear()
            self._answers += count
            operation, bucket, status = key
            self._fold(operation, status, seconds, sum(received), sum(sent))
            if bucket:
                self._fold_bucket(bucket, status, count, sum(received), sum(sent))
        for key in idle:
            del self._noted[key]

    def _fold(self, operation: str, status: int, seconds: tuple[float, ...], received: int, sent: int) -> None:
        row = self._rows.get((operation, status))
        if row is None:
            row = self._rows[operation, status] = [0] * _PLACES
        row[_SUM] += sum(seconds)
        row[_RECEIVED] += received
        row[_SENT] += sent
        if len(seconds) < len(SECONDS):
            for value in seconds:
                row[bisect_left(SECONDS, value) + _COUNTS] += 1
            return
        ordered, below = sorted(seconds), 0
        for place, bound in enumerate(SECONDS, _COUNTS):
            upto = bisect_right(ordered, bound, below)
            row[place] += upto - below
            below = upto
        row[-1] += len(ordered) - below

    def _fold_bucket(self, name: str, status: int, count: int, received: int, sent: int) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = [0] * 5
        bucket[0] += count
        if status >= 400:
            bucket[1 if status < 500 else 2] += count
        bucket[3] += received
        bucket[4] += sent

    def _pieces(self, operation: str, seconds: float, first: float) -> None:
        histogram = self._first.get(operation)
        if histogram is None:
            histogram = self._first[operation] = Histogram()
            self._streamed[operation] = Histogram()
        histogram.add(first)
        self._streamed[operation].add(seconds)

    @property
    def answers(self) -> int:
        """How many there were."""
        self.fold()
        return self._answers

    def statistics(self) -> list[Answers]:
        """By operation and status."""
        self.fold()
        return [
            Answers(operation or UNROUTED, status, _counts(row), int(row[_RECEIVED]), int(row[_SENT]))
            for (operation, status), row in self._rows.items()
        ]

    def latency(self) -> dict[str, Counts]:
        """Seconds to the end of the answer, by operation."""
        found: dict[str, Counts] = {}
        for answers in self.statistics():
            before = found.get(answers.operation)
            found[answers.operation] = answers.seconds if before is None else _added(before, answers.seconds, 1)
        return found

    def first_byte(self) -> dict[str, Counts]:
        """Seconds to the first byte, of GetObject and of what else ever answered piece by piece.

        What went in one piece has one time for both.
        """
        found = {operation: counts for operation, counts in self.latency().items() if operation in self._first or operation == STREAMED}
        for operation, first in self._first.items():
            found[operation] = _added(_added(found[operation], self._streamed[operation].read(), -1), first.read(), 1)
        return found

    def buckets(self) -> dict[str, BucketTraffic]:
        """By bucket."""
        self.fold()
        return {name: BucketTraffic(*row) for name, row in self._buckets.items()}

    def forget(self, known: Container[str]) -> None:
        """Drop buckets that are not there any more."""
        self.fold()
        for name in [name for name in self._buckets if name not in known]:
            del self._buckets[name]


def _counts(row: list[float]) -> Counts:
    return Counts(tuple(map(int, row[_COUNTS:])), row[_SUM])


def _added(left: Counts, right: Counts, sign: int) -> Counts:
    counts = tuple(a + sign * b for a, b in zip(left.counts, right.counts, strict=True))
    return Counts(counts, left.total + sign * right.total)
