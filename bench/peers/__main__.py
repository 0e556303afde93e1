"""``python tools/dev.py bench peers``: the command line.

Finds warp on PATH (or --warp), and the peers on PATH, in Go's folders, in --cache or where --program says. With --install those that are
missing are installed into --cache by `go install`. Without warp the replayer of pre-signed requests asks, and the tables say so.

The whole matrix takes many hours; interrupted, the same command goes on where it stopped. --quick is a first look of a minute or two,
--rows are the cells that have an aim. Results, tables (peers.md, peers.json) and charts go to --out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.peers import chart, client, physical, recipe, replayed, report, types
from bench.peers.matrix import CONCURRENCY, OPERATIONS, SIZES, TARGETS, Cell, cells
from bench.peers.recipe import KNOWN, Recipe
from bench.peers.rounds import Contest, Rounds, Setting
from bench.peers.store import Store

RESULTS = recipe.ROOT / "bench/results/peers"
OWN = "titans3"
LIMIT_SIZES = ("4k", "10m")


def parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """Options that this command shares with bench/ab.py."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--operations", type=types.names(OPERATIONS), default=list(OPERATIONS), help=f"of {','.join(OPERATIONS)}")
    made.add_argument("--sizes", type=types.names(SIZES), default=list(SIZES), help=f"of {','.join(SIZES)}")
    made.add_argument("--concurrency", type=types.numbers, default=list(CONCURRENCY), help="requests in flight: 1,16,64")
    made.add_argument("--rows", action="store_true", help="the cells that have an aim, instead of operations times sizes")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--duration", type=types.seconds, default=20.0, metavar="SECONDS", help="of a timed phase: 5s, 1m")
    made.add_argument("--quick", action="store_true", help="get and put of 4k, 16 in flight, one round of 5 s, but for what is named")
    made.add_argument("--warp", default="", metavar="PATH", help="warp, if it is not on PATH")
    made.add_argument("--replay", action="store_true", help="let the replayer ask even if there is a warp")
    made.add_argument("--python", default=sys.executable, help="the interpreter that runs TitanS3, with its dependencies installed")
    made.add_argument("--workers", type=int, default=0, help="of TitanS3 and nginx; 0: one for each processor")
    made.add_argument("--cpus", type=types.cpus, default=frozenset(), help="processors for the servers: 0,1; all by default")
    made.add_argument("--client-cpus", type=types.cpus, default=frozenset(), help="processors for the client; all by default")
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the servers' data: the disk that is measured")
    made.add_argument("--out", type=Path, default=out, help="results, tables and charts")
    made.add_argument("--keep-raw", action="store_true", help="keep warp's record of every request (*.csv.zst) beside each result")
    made.add_argument("--no-charts", action="store_true")
    return made


def setting(options: argparse.Namespace) -> Setting:
    """What the options say for all cells."""
    if options.rounds < 1:
        raise SystemExit("--rounds: at least one")
    warp = "" if options.replay else client.find(options.warp) or ""
    return Setting(
        folder=options.folder, rounds=options.rounds, workers=options.workers, warp=warp, cpus=options.cpus,
        client_cpus=options.client_cpus, keeps_raw=options.keep_raw,
    )  # fmt: skip


def chosen(options: argparse.Namespace, given: list[str], warp: str) -> list[Cell]:
    """The cells that are asked for. With the replayer those that it can."""
    if options.quick:
        for name, value in (("operations", ["get", "put"]), ("sizes", ["4k"]), ("concurrency", [16]), ("rounds", 1), ("duration", 5.0)):
            if not any(argument.split("=")[0] == f"--{name}" for argument in given):
                setattr(options, name, value)
    if options.rows:
        lanes = options.concurrency if any(argument.startswith("--concurrency") for argument in given) else [16]
        return [Cell(operation, size, each, options.duration) for each in sorted(lanes) for operation, size in TARGETS]
    found = cells(options.operations, options.sizes, options.concurrency, options.duration)
    if not warp:
        left = {cell.operation for cell in found} - {*replayed.OPERATIONS}
        if left:
            print(f"left out without warp: {', '.join(sorted(left))}", flush=True)
        found = [cell for cell in found if cell.operation in replayed.OPERATIONS]
    return found


def finish(rounds: Rounds, contest: Contest, limits: list[Contest], own: str, options: argparse.Namespace, command: str) -> int:
    """Tables and charts of what is there; the exit code: 1 if a cell has no sound result."""
    text = report.page(rounds, contest, limits, own, command)
    name = options.out.name
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    results = report.gather(rounds, contest)
    for limit in limits:
        results |= {(cell, f"{server} (limits)"): found for (cell, server), found in report.gather(rounds, limit).items()}
    record = [
        {"cell": msgspec.to_builtins(cell), "server": server, "rounds": msgspec.to_builtins(outcomes)}
        for (cell, server), outcomes in results.items()
    ]
    whole = {"command": command, "machine": rounds.machine, "results": record}
    (options.out / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)
    if not options.no_charts:
        written = chart.draw(options.out, contest.cells, contest.recipes, report.gather(rounds, contest))
        print(f"{len(written)} charts and {name}.md in {options.out}")
    return 0 if all(outcome.is_sound for outcomes in results.values() for outcome in outcomes) else 1


def main(arguments: list[str]) -> int:
    """Exit code 1 if a cell has no sound result."""
    made = parser(__doc__, RESULTS)
    made.add_argument("--peers", default="minio,versitygw", help="known peers, comma-separated; empty for none")
    made.add_argument("--recipe", type=Path, action="append", default=[], metavar="FILE.toml", help="another peer (docs/performance.md)")
    made.add_argument("--program", action="append", default=[], metavar="NAME=PATH", help="where a peer's program is")
    made.add_argument("--install", action="store_true", help="go install the peers that are missing, into --cache")
    made.add_argument("--cache", type=Path, help="a folder for installed peers, outside this tree")
    made.add_argument("--also-workers", type=types.numbers, default=[], metavar="N", help="TitanS3 with so many workers as well: 1")
    made.add_argument("--no-limits", action="store_true", help="leave nginx and the loop of pwrite and fdatasync out")
    made.add_argument("--report", action="store_true", help="measure nothing; tables and charts of what is there")
    options = made.parse_args(arguments)
    if options.install and options.cache is None:
        made.error("--install needs --cache FOLDER")
    shared = setting(options)
    asked = chosen(options, arguments, shared.warp)
    shared = msgspec.structs.replace(shared, rounds=options.rounds)
    own = recipe.titans3(options.python)
    recipes = [*peers(options), own, *(_with_workers(options.python, count) for count in options.also_workers)]
    store = Store(options.out)
    rounds = Rounds(shared, store)
    if not shared.warp:
        print("There is no warp on PATH (nor --warp PATH): the replayer of pre-signed requests asks instead.", flush=True)
    contest = Contest(asked, recipes, shared.warp)
    nginx = recipe.found(physical.NGINX, programs(options), options.cache)
    limits = [] if options.no_limits else physical_limits(asked, own, nginx)
    if not options.report:
        print(report.spoken(asked, recipes, shared.rounds), flush=True)
        rounds.play([contest, *limits])
    return finish(rounds, contest, limits, OWN, options, "python tools/dev.py bench peers " + shlex.join(arguments))


def _with_workers(python: str, count: int) -> Recipe:
    return recipe.titans3(python, name=f"{OWN}-{count}", title=f"TitanS3, {count} worker{'s' * (count != 1)}", workers=count)


def programs(options: argparse.Namespace) -> dict[str, str]:
    """Paths by name, of --program."""
    wrong = [pair for pair in options.program if "=" not in pair]
    if wrong:
        raise SystemExit(f"--program {wrong[0]}: NAME=PATH is meant")
    return dict(pair.split("=", 1) for pair in options.program)


def peers(options: argparse.Namespace) -> list[Recipe]:
    """Those that are there, the reference first; what is missing is told."""
    names = [name for name in options.peers.split(",") if name]
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise SystemExit(f"no such peer: {', '.join(unknown)}; known are {', '.join(KNOWN)}, others by --recipe FILE.toml")
    listed = []
    for wanted in [*(KNOWN[name] for name in names), *(recipe.read(path) for path in options.recipe)]:
        there = recipe.found(wanted, programs(options), options.cache)
        if there is None and options.install:
            recipe.install(wanted, options.cache)
            there = recipe.found(wanted, programs(options), options.cache)
        if there is None:
            print(f"{wanted.name} is not here: --program {wanted.name}=PATH, or --install --cache FOLDER", flush=True)
        else:
            listed.append(there)
    return listed


def physical_limits(asked: list[Cell], own: Recipe, nginx: Recipe | None) -> list[Contest]:
    """nginx beside TitanS3 for GET of the smallest and the largest size, and the disk for every size that is put."""
    gets = [cell for cell in asked if cell.operation == "get" and cell.size in LIMIT_SIZES]
    puts = dict.fromkeys(Cell("put", cell.size, 1, min(cell.seconds, 5.0)) for cell in asked if cell.operation == "put")
    contests = []
    if nginx is None and gets:
        print("nginx is not here (apt-get install nginx-light): its limit is left out", flush=True)
    elif nginx is not None and gets:
        contests.append(Contest(gets, [nginx, own]))
    return [*contests, Contest([*puts], [physical.DISK])] if puts else contests


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
