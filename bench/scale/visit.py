"""Points of a curve at which one server is asked for several operations after some preparation."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.peers import machine
from bench.peers.outcome import Outcome
from bench.peers.recipe import Recipe
from bench.peers.rounds import REPLAYER, Setting, told
from bench.peers.served import Served
from bench.peers.store import Store


class Visits(ABC):
    """A curve. Its points differ in a number that ``unit`` names."""

    curve: ClassVar[str]
    unit: ClassVar[str]
    operations: ClassVar[tuple[str, ...]]

    def __init__(self, setting: Setting, store: Store, recipe: Recipe, *, lanes: int, seconds: float) -> None:
        self.setting, self.store, self.recipe = setting, store, recipe
        self.lanes, self.seconds = lanes, seconds
        self.machine = machine.describe(setting.folder, setting.cpus, setting.client_cpus)

    def definition(self, at: int, operation: str, number: int) -> dict[str, Any]:
        """Everything that defines a result."""
        cell = {
            "operation": f"{self.curve}-{operation}", "size": f"{at}{self.unit}", "concurrency": self.lanes, "seconds": self.seconds,
            **self.details(),
        }  # fmt: skip
        return {
            "cell": cell, "server": self.recipe.describe(), "client": REPLAYER, "round": number, "workers": self.setting.workers,
            "machine": self.machine,
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """What else defines a result of this curve."""
        return {}

    def results(self, at: int, operation: str) -> list[Outcome]:
        """What is known of a point, by round."""
        kept = (self.store.get(self.definition(at, operation, number)) for number in range(self.setting.rounds))
        return [outcome for outcome in kept if outcome is not None]

    def play(self, points: Sequence[int]) -> None:
        """Measure what is not there yet."""
        for number in range(self.setting.rounds):
            for at in points:
                missing = [operation for operation in self.operations if not self._is_known(at, operation, number)]
                if missing:
                    self._measure(at, number, missing)

    def _is_known(self, at: int, operation: str, number: int) -> bool:
        kept = self.store.get(self.definition(at, operation, number))
        return kept is not None and not kept.trouble

    def _measure(self, at: int, number: int, missing: list[str]) -> None:
        left, before = list(missing), machine.moment()

        def keep(operation: str, outcome: Outcome) -> None:
            outcome.context = before
            self.store.put(self.definition(at, operation, number), outcome)
            left.remove(operation)
            print(f"{at:>12,} {self.unit:8} {operation:8} round {number + 1}  {told(outcome)}", flush=True)

        folder = self.folder(at)
        server = Served(self.recipe, folder, workers=self.setting.workers, cpus=self.setting.cpus)
        try:
            ready = server.start()
            for operation, outcome in self.visit(server, at, missing):
                outcome.ready_seconds = outcome.ready_seconds or ready
                keep(operation, outcome)
        except (RuntimeError, OSError) as error:
            for operation in list(left):
                keep(operation, Outcome(trouble=f"{error}"[-2000:], server_command=server.command()))
        finally:
            server.stop()
            self.leave(folder)

    def folder(self, at: int) -> Path:
        """Where the server's data folder is."""
        return Path(tempfile.mkdtemp(prefix="titans3-scale-", dir=self.setting.folder))

    def leave(self, folder: Path) -> None:
        """The server has ended."""
        shutil.rmtree(folder)

    @abstractmethod
    def visit(self, server: Served, at: int, missing: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """Measure these operations on a running server, one after the other."""
