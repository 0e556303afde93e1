"""Curves whose points are GET and PUT of the matrix of bench/peers, each on a server and an empty folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from bench.peers.matrix import Cell
from bench.peers.outcome import Outcome
from bench.peers.recipe import Recipe
from bench.peers.rounds import Contest, Rounds


class Cells:
    """``rounds`` and ``cell`` are those of a point; a cell also of an operation."""

    operations: ClassVar[tuple[str, ...]] = ("get", "put")

    def __init__(
        self, curve: str, unit: str, recipe: Recipe, rounds: Callable[[int], Rounds], cell: Callable[[int, str], Cell]
    ) -> None:
        self.curve, self.unit, self.recipe = curve, unit, recipe
        self._rounds, self._cell = rounds, cell

    def results(self, at: int, operation: str) -> list[Outcome]:
        """What is known of a point, by round."""
        return self._rounds(at).results(self._cell(at, operation), self.recipe, "")

    def play(self, points: Sequence[int]) -> None:
        """Measure what is not there yet."""
        for at in points:
            print(f"{at:,} {self.unit}", flush=True)
            self._rounds(at).play([Contest([self._cell(at, operation) for operation in self.operations], [self.recipe])])
