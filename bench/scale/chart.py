"""A chart of each curve, as PNG and SVG. Both axes begin where they must: numbers of the points grow by factors, so theirs is logarithmic;
rates begin at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers.chart import COLOURS, prepare, save
from bench.scale.curve import Curve
from bench.scale.table import MIB, OPERATIONS, RATED, TITLES, short, size_of

Values = Callable[[int], float | None]
Lines = list[tuple[str, Values]]


def draw(folder: Path, curves: Sequence[Curve]) -> list[Path]:
    """The files that were written."""
    prepare()
    written = []
    for curve in curves:
        written += save(_figure(curve), folder, curve.name)
    return written


def _median(curve: Curve, operation: str, field: str, scale: Callable[[int], float] = lambda _: 1.0) -> Values:
    def value(at: int) -> float | None:
        found = curve.median(at, operation)
        return None if found.note else float(getattr(found, field)) * scale(at)

    return value


def _mebibytes(curve: Curve, name: str, *operations: str) -> Values:
    def value(at: int) -> float | None:
        found = curve.figure(at, name, *operations)
        return None if found is None else found / MIB

    return value


def _panels(curve: Curve) -> list[tuple[str, Lines]]:
    """(what the axis says, its lines) from top to bottom."""
    both = [(OPERATIONS[each], each) for each in ("get", "put")]
    rate = ("requests a second", [(title, _median(curve, each, "per_second")) for title, each in both])
    cost = ("server CPU a request (µs)", [(title, _median(curve, each, "server_us")) for title, each in both])
    late = [(f"{title} {name}", _median(curve, each, f"{name}_ms")) for title, each in both for name in ("p50", "p99")]
    if curve.name == "workers":
        return [rate, cost]
    if curve.name == "concurrency":
        return [rate, ("milliseconds", late)]
    if curve.name == "sizes":
        return [
            ("MB a second", [(title, _median(curve, each, "per_second", lambda at: at / 1e6)) for title, each in both]),
            ("most memory (MiB)", [(title, _median(curve, each, "rss_peak", lambda _: 1 / MIB)) for title, each in both]),
        ]
    if curve.name == "idle":
        return [
            ("memory of the server (MiB)", [("server", _mebibytes(curve, "with_bytes"))]),
            ("GET a second beside them", [("GET", _median(curve, "get", "per_second"))]),
        ]

    def share(operation: str) -> Values:
        first = _median(curve, operation, "per_second")(curve.points[0])

        def value(at: int) -> float | None:
            found = _median(curve, operation, "per_second")(at)
            return None if found is None or not first else found / first

        return value

    return [
        (f"rate, {short(curve.points[0])} objects = 1", [(OPERATIONS[each], share(each)) for each in RATED]),
        ("ready after kill -9 (s)", [("restart", _median(curve, "restart", "ready_seconds"))]),
        ("worker (MiB)", [("its own", _mebibytes(curve, "worker_own_bytes")), ("mapped", _mebibytes(curve, "worker_file_bytes"))]),
    ]


def _figure(curve: Curve):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    panels = _panels(curve)
    figure = Figure(figsize=(7.5, 2.9 * len(panels) + 0.6), layout="constrained")
    for number, (said, lines) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        for colour, (title, value) in zip(COLOURS * 2, lines, strict=False):
            shown = [(at, found) for at in sorted(curve.points) if (found := value(at)) is not None]
            axes.plot([at for at, _ in shown], [found for _, found in shown], marker="o", markersize=4, color=colour, label=title)
        if curve.name != "workers":
            axes.set_xscale("log")
        named = size_of if curve.name == "sizes" else short
        ticks = sorted(curve.points)
        axes.set_xticks(ticks, [named(at) for at in ticks], fontsize="small", rotation=30 if len(ticks) > 8 else 0)
        axes.minorticks_off()
        axes.margins(y=0.08)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(said)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize="small")
    figure.axes[0].set_title(TITLES[curve.name])
    return figure
