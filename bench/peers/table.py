"""The tables: medians of the rounds, and how they stand to the first server that is not TitanS3 (MinIO = 1).

Invariants
* A round with errors, answers of 5xx or a failure is left out of the medians, and its cell says so; a cell without any sound round shows
  what was wrong instead of figures, one that was not measured a dash.
* A ratio is one of medians of the same cell, measured in turn by the same client.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.peers import lag
from bench.peers.matrix import TARGETS, Cell
from bench.peers.outcome import Outcome
from bench.peers.recipe import Recipe

Results = dict[tuple[Cell, str], list[Outcome]]  # by cell and server's name, a result for each round
TARGETS_AT = 16  # lanes
DASH = "–"


class Median(msgspec.Struct):
    """The medians of a cell's sound rounds. ``note``: why there are none; ``but``: what was wrong with those that are left out."""

    note: str = ""
    but: str = ""
    per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    server_us: float = 0.0
    client_us: float = 0.0
    rss_idle: float = 0.0
    rss_peak: float = 0.0
    disk_bytes: float = 0.0
    stored_bytes: float = 0.0
    ready_seconds: float = 0.0


def median(outcomes: Sequence[Outcome]) -> Median:
    """Of the sound rounds."""
    sound = [outcome for outcome in outcomes if outcome.is_sound]
    wrong = next((_wrong(outcome) for outcome in outcomes if not outcome.is_sound), "")
    if not sound:
        return Median(wrong or DASH)
    but = f"{len(sound)} of {len(outcomes)} rounds: {wrong}" if wrong else ""
    names = [field for field in Median.__struct_fields__ if field not in ("note", "but")]
    return Median("", but, *(float(statistics.median(getattr(outcome, name) for outcome in sound)) for name in names))


def _wrong(outcome: Outcome) -> str:
    if outcome.trouble:
        return "failed"
    return f"{outcome.errors} errors" if outcome.errors else f"{outcome.server_errors} × 5xx"


def figure(value: float) -> str:
    """Three digits that matter."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def comparison(cells: Sequence[Cell], recipes: Sequence[Recipe], own: str, results: Results) -> str:
    """The form of the aims: a column for each cell, rows of rates and costs, ratios to the reference below. One concurrency at a time."""
    medians = {(cell, recipe.name): median(results.get((cell, recipe.name), [])) for cell in cells for recipe in recipes}
    reference = next((recipe for recipe in recipes if recipe.name != own), None)
    lines = ["| | " + " | ".join(cell.title for cell in cells) + " |", "|---" * (len(cells) + 1) + "|"]

    def row(title: str, shown: Callable[[Cell], str]) -> None:
        lines.append(f"| {title} | " + " | ".join(shown(cell) for cell in cells) + " |")

    def value(name: str, field: str) -> Callable[[Cell], str]:
        def shown(cell: Cell) -> str:
            found = medians[cell, name]
            shown = found.note or figure(getattr(found, field))
            return f"{shown} ({found.but})" if found.but and field == "per_second" else shown

        return shown

    for recipe in recipes:
        row(f"{recipe.title} rate", value(recipe.name, "per_second"))
        row("server µs", value(recipe.name, "server_us"))
        row("client µs", value(recipe.name, "client_us"))
    if reference is None:
        return "\n".join(lines)
    for recipe in recipes:
        if recipe.name == reference.name:
            continue

        def times(cell: Cell, name: str = recipe.name) -> str:
            mine, theirs = medians[cell, name], medians[cell, reference.name]
            return DASH if mine.note or theirs.note else f"{mine.per_second / theirs.per_second:.2f}×"

        def part(cell: Cell, name: str = recipe.name) -> str:
            mine, theirs = medians[cell, name], medians[cell, reference.name]
            if mine.note or theirs.note or not mine.server_us or not theirs.server_us:
                return DASH
            return _share(mine.server_us / theirs.server_us)

        row(f"**{recipe.title} rate, {reference.title} = 1**", times)
        if recipe.name == own and _has_targets(cells) and reference.name == "minio":
            row("aim: at least", lambda cell: f"{TARGETS[cell.operation, cell.size][1]:g}×" if _target(cell) else "")
        row(f"**{recipe.title} server CPU, {reference.title} = 1**", part)
        if recipe.name == own and _has_targets(cells) and reference.name == "minio":
            row("aim: at most", lambda cell: f"1/{TARGETS[cell.operation, cell.size][0]:g}" if _target(cell) else "")
    return "\n".join(lines)


def _share(ratio: float) -> str:
    return f"1/{1 / ratio:.2f}" if ratio < 1 else f"{ratio:.2f}×"


def _target(cell: Cell) -> bool:
    return cell.concurrency >= TARGETS_AT and (cell.operation, cell.size) in TARGETS


def _has_targets(cells: Iterable[Cell]) -> bool:
    return any(_target(cell) for cell in cells)


def latency(cells: Sequence[Cell], recipes: Sequence[Recipe], results: Results) -> str:
    """p50 / p99 in milliseconds."""
    lines = ["| p50 / p99 ms | " + " | ".join(cell.title for cell in cells) + " |", "|---" * (len(cells) + 1) + "|"]
    for recipe in recipes:
        shown = []
        for cell in cells:
            found = median(results.get((cell, recipe.name), []))
            shown.append(found.note or f"{figure(found.p50_ms)} / {figure(found.p99_ms)}")
        lines.append(f"| {recipe.title} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def footprint(cells: Sequence[Cell], recipes: Sequence[Recipe], results: Results) -> str:
    """Memory, start, and bytes on the disk for each byte that was put."""
    lines = ["| | start s | RSS idle MiB | RSS most MiB | " , "|---|---|---|---|"]
    puts = [cell for cell in cells if cell.operation == "put"]
    lines[0] += "".join(f"disk/{cell.size} body | " for cell in puts)
    lines[1] += "---|" * len(puts)
    for recipe in recipes:
        found = [each for each in (median(results.get((cell, recipe.name), [])) for cell in cells) if not each.note]
        if not found:
            continue
        idle, ready = (statistics.median(getattr(each, name) for each in found) for name in ("rss_idle", "ready_seconds"))
        line = f"| {recipe.title} | {ready:.2f} | {idle / 2**20:,.0f} | {max(each.rss_peak for each in found) / 2**20:,.0f} |"
        for cell in puts:
            each = median(results.get((cell, recipe.name), []))
            line += f" {each.note or f'{each.disk_bytes / each.stored_bytes:.2f}'} |"
        lines.append(line)
    return "\n".join(line.rstrip() for line in lines)


def limits(cells: Sequence[Cell], own: str, nginx: str, results: Results) -> str:
    """What nginx answers and what TitanS3 does, to the same client."""
    lines = ["| | in flight | nginx | TitanS3 | share | nginx µs | TitanS3 µs |", "|---|---|---|---|---|---|---|"]
    for cell in cells:
        best, mine = (median(results.get((cell, name), [])) for name in (nginx, own))
        share = DASH if best.note or mine.note else f"{mine.per_second / best.per_second:.0%}"
        rates, costs = ([each.note or figure(getattr(each, field)) for each in (best, mine)] for field in ("per_second", "server_us"))
        lines.append(f"| {cell.title} | {cell.concurrency} | {' | '.join(rates)} | {share} | {' | '.join(costs)} |")
    return "\n".join(lines)


def disk(cells: Sequence[Cell], name: str, results: Results) -> str:
    """What one writer gets who does nothing but pwrite and fdatasync."""
    lines = ["| pwrite + fdatasync | writes/s | p50 ms | p99 ms |", "|---|---|---|---|"]
    for cell in cells:
        found = median(results.get((cell, name), []))
        lines.append(f"| {cell.size} | {found.note or f'{figure(found.per_second)} | {figure(found.p50_ms)} | {figure(found.p99_ms)}'} |")
    return "\n".join(lines)


def loop_lag(outcomes: Iterable[Outcome]) -> str:
    """Share of the samples of a TitanS3's event loops that were late, by how much, over all cells; empty for other servers.

    Of the timed phase; of the whole measurement where that was missed, and it says how often that was.
    """
    found = list(outcomes)
    counts = lag.together(outcome.timed or outcome.watched for outcome in found)
    total = counts.get(float("inf"), 0.0)
    if not total:
        return ""
    parts = [f"{(total - count) / total:.3%} over {bound * 1e3:g} ms" for bound, count in sorted(counts.items()) if 0.005 <= bound <= 0.25]
    timed = sum(1 for outcome in found if outcome.timed)
    phases = f"{timed} timed phases" + (f" and {len(found) - timed} whole measurements" if timed < len(found) else "")
    return f"loop lag of {total:,.0f} samples in {phases}: p99.9 at most {lag.milliseconds(counts):g} ms; " + ", ".join(parts) + "."
