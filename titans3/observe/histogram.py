"""A histogram of fixed bounds: what is counted where a value is known, and read when somebody asks. Hot.

Invariants
* ``counts`` has one place more than there are bounds, for what is above them all; a value equal to a bound counts below it.
* One thread adds; a reader of another thread sees counts that may be one value ahead of the sum.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RECORDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """A histogram as of now: counts of each place (not summed up), and the sum of all values."""

    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def read(self) -> Counts:
        """As of now."""
        return Counts(tuple(self.counts), self.total)
