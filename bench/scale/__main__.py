"""``python tools/dev.py bench scale``: the command line.

Five curves: workers; objects in one bucket; idle connections; requests in flight; size of objects. --curves and the options by their names
choose points. All of it takes hours, most of them for filling a bucket of ten million objects, which --keep FOLDER keeps and goes on with
after an interruption. --quick is a first look of some five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from bench.peers import machine, recipe, types
from bench.peers.matrix import Cell, size_bytes
from bench.peers.rounds import Rounds, Setting
from bench.peers.store import Store
from bench.scale import chart, idle, table
from bench.scale.cells import Cells
from bench.scale.curve import Curve
from bench.scale.idle import Idle
from bench.scale.objects import Objects
from bench.scale.visit import Visits

RESULTS = recipe.ROOT / "bench/results/scale"
CURVES = ("workers", "concurrency", "sizes", "idle", "objects")
SIZES = "1k,4k,16k,64k,256k,1m,4m,16m,64m,256m,1g,5g"
QUICK: dict[str, Any] = {
    "objects": [10_000, 100_000], "idle": [1, 100, 1_000], "lanes": [1, 4, 16, 64], "sizes": ["1k", "64k", "1m", "64m"], "rounds": 1,
    "duration": 3.0,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--curves", type=types.names(CURVES), default=list(CURVES), help=f"of {','.join(CURVES)}")
    made.add_argument("--processes", type=types.numbers, default=[1, 2], help="numbers of workers on their curve: 1,2")
    made.add_argument("--objects", type=types.counts, default=[10_000, 1_000_000, 10_000_000], help="in the bucket: 10k,1m,10m")
    made.add_argument("--idle", type=types.numbers, default=[1, 10, 100, 1_000, 10_000], help="connections: 1,10,100")
    made.add_argument("--lanes", type=types.numbers, default=[2**power for power in range(10)], help="requests in flight: 1,2,4")
    made.add_argument("--sizes", type=types.sizes, default=SIZES.split(","), help="1k,64k,1m,5g")
    made.add_argument("--concurrency", type=int, default=16, help="requests in flight, but on the curves of these and of sizes")
    made.add_argument("--size-concurrency", type=int, default=2, help="the same, on the curve of sizes")
    made.add_argument("--workers", type=int, default=0, help="of all other curves; 0: one for each processor")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--duration", type=types.seconds, default=20.0, metavar="SECONDS", help="of a timed phase: 5s, 1m")
    made.add_argument("--quick", action="store_true", help="fewer and smaller points, one round of 3 s, but for what is named")
    made.add_argument("--python", default=sys.executable, help="the interpreter that runs TitanS3, with its dependencies installed")
    made.add_argument("--cpus", type=types.cpus, default=frozenset(), help="processors for the server: 0,1; all by default")
    made.add_argument("--client-cpus", type=types.cpus, default=frozenset(), help="processors for the client; all by default")
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the server's data: the disk that is measured")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="keep filled buckets here, and go on with those that are there")
    made.add_argument("--fill-rate", type=float, default=0.0, metavar="N", help="objects a second to fill with, at most")
    made.add_argument("--out", type=Path, default=RESULTS, help="results, tables and charts")
    made.add_argument("--report", action="store_true", help="measure nothing; tables and charts of what is there")
    made.add_argument("--no-charts", action="store_true")
    return made


def measurings(
    options: argparse.Namespace, setting: Setting, store: Store, own: recipe.Recipe
) -> dict[str, tuple[list[int], Cells | Visits]]:
    """Points and what measures them, by curve."""
    lanes, seconds = options.concurrency, options.duration
    every = {*options.processes, setting.workers}
    rounds = {workers: Rounds(msgspec.structs.replace(setting, workers=workers), store) for workers in every}
    sizes = {size_bytes(text): text for text in options.sizes}

    def fixed(_: int) -> Rounds:
        return rounds[setting.workers]

    return {
        "workers": (
            options.processes,
            Cells("workers", "workers", own, rounds.__getitem__, lambda _, operation: Cell(operation, "4k", lanes, seconds)),
        ),
        "concurrency": (
            options.lanes, Cells("concurrency", "in flight", own, fixed, lambda at, operation: Cell(operation, "4k", at, seconds)),
        ),
        "sizes": (
            [*sizes],
            Cells("sizes", "bytes", own, fixed, lambda at, operation: Cell(operation, sizes[at], options.size_concurrency, seconds)),
        ),
        "idle": (options.idle, Idle(setting, store, own, lanes=lanes, seconds=min(seconds, idle.SECONDS_MAX))),
        "objects": (
            options.objects, Objects(setting, store, own, lanes=lanes, seconds=seconds, keep=options.keep, rate=options.fill_rate),
        ),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Exit code 1 if a point has no sound result."""
    made = parser()
    options = made.parse_args(arguments)
    if options.quick:
        for name, value in QUICK.items():
            if not any(argument.split("=")[0] == f"--{name}" for argument in arguments):
                setattr(options, name, value)
    if options.rounds < 1:
        made.error("--rounds: at least one")
    if any(size_bytes(text) > 5 << 30 for text in options.sizes):
        made.error("--sizes: at most 5g, which is what one PUT may bring")
    workers = options.workers or len(options.cpus) or len(os.sched_getaffinity(0))
    setting = Setting(folder=options.folder, rounds=options.rounds, workers=workers, cpus=options.cpus, client_cpus=options.client_cpus)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: servers stopped, the point left for later
    own, store = recipe.titans3(options.python), Store(options.out)
    known = measurings(options, setting, store, own)
    if "idle" in options.curves:
        idle.allow_files(max(options.idle))
    if not options.report:
        for name in options.curves:
            points, measuring = known[name]
            measuring.play(points)
    curves = [Curve(name, *known[name]) for name in options.curves]
    lanes = {"sizes": options.size_concurrency, "workers": options.concurrency, "idle": options.concurrency, "objects": options.concurrency}
    text = table.page(
        curves, lanes, f"{workers} worker{'s' * (workers != 1)}", machine.describe(options.folder, options.cpus, options.client_cpus),
        own.shown, "python tools/dev.py bench scale " + shlex.join(arguments), options.rounds,
    )  # fmt: skip
    (options.out / "scale.md").write_text(text, encoding="utf-8")
    record = [
        {"curve": curve.name, "at": at, "operation": operation, "round": number, "outcome": msgspec.to_builtins(outcome)}
        for curve in curves for at, operation, number, outcome in curve.all()
    ]  # fmt: skip
    (options.out / "scale.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)
    if not options.no_charts:
        print(f"{len(chart.draw(options.out, curves))} charts and scale.md in {options.out}")
    whole = all(curve.outcomes(at, each) for curve in curves for at in curve.points for each in curve.operations)
    return 0 if whole and all(outcome.is_sound for curve in curves for *_, outcome in curve.all()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
