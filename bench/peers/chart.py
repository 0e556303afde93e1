"""A chart for each operation, as PNG and SVG: rate and server CPU by size and concurrency, a bar for each server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.peers.matrix import Cell
from bench.peers.recipe import Recipe
from bench.peers.table import Results, median
from bench.peers.table import figure as digits

COLOURS = ("#c0392b", "#2c6fbb", "#7f8c8d", "#8e6bb0", "#3a9d6e", "#d28f1b")
_TITLES = {"per_second": "requests a second", "server_us": "server CPU a request (µs)"}


def draw(folder: Path, cells: Sequence[Cell], recipes: Sequence[Recipe], results: Results) -> list[Path]:
    """The files that were written."""
    prepare()
    written = []
    for operation in dict.fromkeys(cell.operation for cell in cells):
        chosen = [cell for cell in cells if cell.operation == operation]
        drawn = _figure(operation, chosen, recipes, results)
        if drawn is None:
            continue
        written += save(drawn, folder, operation)
    return written


def prepare() -> None:
    """Before a figure is made; SystemExit if there is nothing to make it with."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("charts need matplotlib: pip install -e '.[dev]', or leave them out with --no-charts") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "titans3"  # the same figures give the same file


def save(figure, folder: Path, name: str) -> list[Path]:  # type: ignore[no-untyped-def]
    """As PNG and SVG."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _figure(operation: str, cells: Sequence[Cell], recipes: Sequence[Recipe], results: Results):  # type: ignore[no-untyped-def]
    """Bars begin at zero and are shares of the first server's, so cells of all sizes fit one scale; the figure itself stands above its bar.
    A cell for which the first server has no figures is left out.
    """
    from matplotlib.figure import Figure

    medians = {(cell, recipe.name): median(results.get((cell, recipe.name), [])) for cell in cells for recipe in recipes}
    shown = [cell for cell in cells if not medians[cell, recipes[0].name].note]
    if not shown:
        return None
    figure = Figure(figsize=(max(7.0, 0.55 * len(shown) * len(recipes) + 2), 6.4), layout="constrained")
    width = 0.8 / len(recipes)
    for number, field in enumerate(_TITLES):
        axes = figure.add_subplot(2, 1, number + 1)
        for at, recipe in enumerate(recipes):
            places = [place + (at - (len(recipes) - 1) / 2) * width for place in range(len(shown))]
            found = [medians[cell, recipe.name] for cell in shown]
            firsts = [getattr(medians[cell, recipes[0].name], field) for cell in shown]
            values = [0.0 if each.note else getattr(each, field) / (first or 1.0) for each, first in zip(found, firsts, strict=True)]
            title = recipe.title if recipe.syncs else f"{recipe.title} ({recipe.durability})"
            hatch, colour = None if recipe.syncs else "///", COLOURS[at % len(COLOURS)]
            bars = axes.bar(places, values, width * 0.95, label=title, color=colour, hatch=hatch)
            axes.bar_label(bars, [each.note or digits(getattr(each, field)) for each in found], fontsize=7, padding=2)
        axes.margins(y=0.15)
        axes.set_ylabel(f"{_TITLES[field]}, {recipes[0].title} = 1")
        axes.set_xticks(range(len(shown)), [f"{cell.size}\n{cell.concurrency} in flight" for cell in shown])
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_title(operation)
    figure.axes[0].legend(fontsize="small")
    return figure
