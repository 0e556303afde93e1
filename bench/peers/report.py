"""The page of a run: tables for each concurrency, the physical limits, versions, commands, and what was not as it should be."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers import physical, table
from bench.peers.matrix import Cell
from bench.peers.recipe import Recipe
from bench.peers.rounds import Contest, Rounds
from bench.peers.table import Results


def gather(rounds: Rounds, contest: Contest) -> Results:
    """All results of a contest that are there."""
    return {(cell, recipe.name): rounds.results(cell, recipe, contest.warp) for cell in contest.cells for recipe in contest.recipes}


def page(rounds: Rounds, main: Contest, limits: Sequence[Contest], own: str, command: str) -> str:
    """Markdown."""
    results = gather(rounds, main)
    setting = rounds.setting
    by = f"{rounds.warp_version}, beside the server" if main.warp else f"**not warp but {_replayer()}**"
    seconds = ", ".join(f"{each:g}" for each in sorted({cell.seconds for cell in main.cells}))
    parts = [
        f"Client: {by}. {setting.rounds} round{'s' * (setting.rounds != 1)} in turn, timed phases of {seconds} s, medians. Rates per "
        f"second, CPU in µs a request in the timed phase.",
        *(part for lanes in sorted({cell.concurrency for cell in main.cells}) for part in _tables(main, results, own, lanes)),
        "Memory is the sum over a server's processes, shared pages counted in each; the disk holds what is allocated ahead as well.",
        table.footprint(main.cells, main.recipes, results),
    ]  # fmt: skip
    for each in main.recipes:
        lag = table.loop_lag(outcome for (_, name), outcomes in results.items() if name == each.name for outcome in outcomes)
        parts += [f"{each.title}: {lag}"] if lag else []
    for contest in limits:
        found = gather(rounds, contest)
        if contest.recipes == [physical.DISK]:
            parts.append(table.disk(contest.cells, physical.DISK.name, found))
        else:
            parts.append(f"nginx sends a file to {_replayer()}, TitanS3 an object:")
            parts.append(table.limits(contest.cells, own, physical.NGINX.name, found))
    parts += [_servers(main, results), _troubles(results), _machine(rounds), f"```sh\n{command}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(main: Contest, results: Results, own: str, lanes: int) -> list[str]:
    cells = [cell for cell in main.cells if cell.concurrency == lanes]
    return [
        f"### {lanes} in flight", table.comparison(cells, main.recipes, own, results), table.latency(cells, main.recipes, results),
    ]  # fmt: skip


def _servers(main: Contest, results: Results) -> str:
    lines = []
    for recipe in main.recipes:
        commands = [outcome.server_command for (_, name), found in results.items() if name == recipe.name for outcome in found]
        uncounted = "" if recipe.errors else " Answers of 5xx are not counted by it."
        lines.append(f"* **{recipe.title}**: {recipe.shown}. {recipe.durability.capitalize()}.{uncounted}")
        lines += [f"  `{commands[0]}`"] if commands and commands[0] else []
    return "\n".join(lines)


def _troubles(results: Results) -> str:
    lines = []
    for (cell, name), outcomes in results.items():
        for number, outcome in enumerate(outcomes, 1):
            said = outcome.trouble or "; ".join(outcome.first_errors) or (f"{outcome.server_errors} × 5xx" if outcome.server_errors else "")
            if said:
                text = said.strip().splitlines()[-1][:300].replace("|", "/")
                lines.append(f"* {cell.title}, {cell.concurrency} in flight, {name}, round {number}: {text}")
    return "Not as it should be:\n\n" + "\n".join(lines) if lines else ""


def _machine(rounds: Rounds) -> str:
    described: dict[str, str] = rounds.machine
    return (
        f"Machine: {described['cpu']}, servers on processors {described['server_cpus']}, client on {described['client_cpus']}, "
        f"Linux {described['kernel']}, {described['disk']}."
    )


def _replayer() -> str:
    return "the replayer of pre-signed requests (`bench/replay.py`, bodies unhashed)"


def spoken(cells: Sequence[Cell], recipes: Sequence[Recipe], rounds: int) -> str:
    """What is about to be done."""
    return f"{len(cells)} cells × {len(recipes)} servers ({', '.join(recipe.title for recipe in recipes)}) × {rounds} rounds"
