"""The measuring: each cell on each server in turn, forwards in one round and backwards in the next. What is there already is left alone."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.peers import client, lag, machine, physical, replayed
from bench.peers.matrix import Cell
from bench.peers.outcome import Outcome
from bench.peers.recipe import Recipe
from bench.peers.served import Served, on
from bench.peers.store import Store
from bench.peers.usage import disk_bytes

REPLAYER = "replay"
LOOP = "loop"


class Setting(msgspec.Struct, frozen=True):
    """What all cells share. ``warp``: its path, empty for the replayer; ``folder``: on the disk that is measured."""

    folder: Path
    rounds: int
    workers: int
    warp: str = ""
    cpus: frozenset[int] = frozenset()
    client_cpus: frozenset[int] = frozenset()
    keeps_raw: bool = False


class Contest(msgspec.Struct, frozen=True):
    """Servers that are asked the same by the same client."""

    cells: list[Cell]
    recipes: list[Recipe]
    warp: str = ""


class Rounds:
    """Plays contests and keeps their results."""

    def __init__(self, setting: Setting, store: Store) -> None:
        self.setting, self.store = setting, store
        self.machine = machine.describe(setting.folder, setting.cpus, setting.client_cpus)
        self.warp_version = client.version(setting.warp) if setting.warp else ""

    def definition(self, cell: Cell, recipe: Recipe, number: int, warp: str) -> dict[str, Any]:
        """Everything that defines a result."""
        by = LOOP if recipe.name == physical.DISK.name else self.warp_version if warp else REPLAYER
        return {
            "cell": {**msgspec.to_builtins(cell), "objects": cell.objects, "warp": cell.warp() if warp else []},
            "server": recipe.describe(), "client": by, "round": number, "workers": self.setting.workers, "machine": self.machine,
        }  # fmt: skip

    def results(self, cell: Cell, recipe: Recipe, warp: str) -> list[Outcome]:
        """What is known of a cell, by round."""
        kept = (self.store.get(self.definition(cell, recipe, number, warp)) for number in range(self.setting.rounds))
        return [outcome for outcome in kept if outcome is not None]

    def play(self, contests: Sequence[Contest]) -> None:
        """Measure what is not there yet. SIGTERM ends it as Ctrl-C does: servers stopped, folders removed, the cell left for later."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        wanted = [
            (cell, recipe, number, contest.warp)
            for contest in contests for cell in contest.cells for number in range(self.setting.rounds)
            for recipe in (contest.recipes if number % 2 == 0 else contest.recipes[::-1])
        ]  # fmt: skip
        for at, (cell, recipe, number, warp) in enumerate(wanted, 1):
            definition = self.definition(cell, recipe, number, warp)
            kept = self.store.get(definition)
            if kept is not None and not kept.trouble:
                continue
            outcome = self._measure(cell, recipe, warp, definition)
            self.store.put(definition, outcome)
            place = f"{at:4}/{len(wanted)}  {cell.title:18} c={cell.concurrency:<3} round {number + 1}  {recipe.title:12}"
            print(f"{place} {told(outcome)}", flush=True)

    def _measure(self, cell: Cell, recipe: Recipe, warp: str, definition: dict[str, Any]) -> Outcome:
        before = machine.moment()
        folder = Path(tempfile.mkdtemp(prefix="titans3-peers-", dir=self.setting.folder))
        try:
            if recipe.name == physical.DISK.name:
                outcome = physical.write_and_sync(cell, folder)
            else:
                outcome = self._ask(cell, recipe, warp, folder, definition)
        finally:
            shutil.rmtree(folder)
        outcome.context = before
        return outcome

    def _ask(self, cell: Cell, recipe: Recipe, warp: str, folder: Path, definition: dict[str, Any]) -> Outcome:
        """One server from its start to its end; what goes wrong with it or the client is the outcome."""
        kind = physical.Nginx if recipe.name == physical.NGINX.name else Served
        server = kind(recipe, folder, workers=self.setting.workers, cpus=self.setting.cpus)
        try:
            ready = server.start()
            assert server.tree is not None
            idle = server.tree.memory()[0]
            before = server.counters()
            with on(self.setting.client_cpus):
                if warp:
                    outcome, raw = client.run(warp, cell, server, folder)
                else:
                    outcome, raw = replayed.run(cell, server), None
            server.tree.refresh()
            outcome.rss_idle, outcome.rss_peak, outcome.ready_seconds = idle, server.tree.memory()[1], ready
            count(outcome, server, before)
        except (RuntimeError, OSError) as error:
            return Outcome(trouble=f"{error}"[-2000:], server_command=server.command())
        finally:
            server.stop()
        outcome.disk_bytes, outcome.server_command = disk_bytes(str(server.data)), server.command()
        outcome.stored_bytes = cell.bytes * (cell.objects + (outcome.requests if cell.operation in ("put", "multipart-put") else 0))
        if raw is not None and self.setting.keeps_raw:
            shutil.copyfile(raw, self.store.path(definition).with_suffix(".csv.zst"))
        return outcome


def count(outcome: Outcome, server: Served, before: dict[str, float]) -> None:
    """What the server itself counted since ``before``."""
    take(outcome, server, before, server.counters_settled())


def take(outcome: Outcome, server: Served, before: dict[str, float], after: dict[str, float]) -> None:
    """What it counted between two looks at it."""
    outcome.server_errors = _grown(server.server_errors(before), server.server_errors(after))
    outcome.watched = {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}
    outcome.lag_ms = lag.milliseconds(lag.counts(outcome.timed or outcome.watched))


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def told(outcome: Outcome) -> str:
    """A result in a line."""
    if outcome.trouble:
        return "FAILED: " + outcome.trouble.strip().splitlines()[-1][:200]
    line = (
        f"{outcome.per_second:9,.1f}/s  p50 {outcome.p50_ms:8.2f}  p99 {outcome.p99_ms:8.2f} ms  server {outcome.server_us:9,.0f} µs  "
        f"client {outcome.client_us:8,.0f} µs"
    )
    if outcome.errors:
        line += f"  {outcome.errors} ERRORS: {outcome.first_errors[0][:150]}"
    if outcome.server_errors:
        line += f"  {outcome.server_errors} ANSWERS OF 5xx"
    return line
