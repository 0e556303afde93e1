"""A curve that was measured: medians by point and operation. Tables and charts read it and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Protocol

from bench.peers import lag
from bench.peers.outcome import Outcome
from bench.peers.table import Median, median


class Measuring(Protocol):
    """What plays a curve and knows its results."""

    operations: tuple[str, ...]

    def results(self, at: int, operation: str) -> list[Outcome]:
        """By round."""


class Curve:
    """``points`` in the order in which they were asked for."""

    def __init__(self, name: str, points: Sequence[int], measuring: Measuring) -> None:
        self.name, self.points, self.operations = name, list(points), measuring.operations
        self._outcomes = {(at, each): measuring.results(at, each) for at in points for each in measuring.operations}

    def outcomes(self, at: int, *operations: str) -> list[Outcome]:
        """Of all rounds, of these operations or all."""
        return [outcome for each in operations or self.operations for outcome in self._outcomes[at, each]]

    def all(self) -> Iterator[tuple[int, str, int, Outcome]]:
        """Point, operation, round, outcome."""
        for (at, operation), outcomes in self._outcomes.items():
            for number, outcome in enumerate(outcomes):
                yield at, operation, number, outcome

    def median(self, at: int, operation: str) -> Median:
        """Of the sound rounds."""
        return median(self._outcomes[at, operation])

    def figure(self, at: int, name: str, *operations: str) -> float | None:
        """The largest of a figure by that name over operations, the median of the rounds; None without one."""
        found = []
        for each in operations or self.operations:
            values = [outcome.figures[name] for outcome in self._outcomes[at, each] if outcome.is_sound and name in outcome.figures]
            found += [statistics.median(values)] if values else []
        return max(found, default=None)

    def lag_ms(self, at: int, *operations: str) -> float:
        """p99.9 of all samples of the point."""
        return lag.milliseconds(lag.together(outcome.watched for outcome in self.outcomes(at, *operations)))
