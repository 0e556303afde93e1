"""Whether the hot path costs more than its budgets allow: ``python tools/dev.py bench gate [NAME ...]``.

Each case is measured twice: the bytecodes of Python that it executes, which are the same on every machine and however busy that is, and its
processor time beside that of a reference in the same run, which also sees what functions of C cost, but varies. What is above its budget is
measured again, twice, and the least counts. Exit code 1 if something is above its budget then, 2 if nobody can tell: something cannot be
measured, or there are no budgets for this Python.

``--update`` writes what is found as the new budgets; ``--functions`` shows in which functions the bytecodes are executed instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.gate.budgets import BYTECODES, FILE, HERE, KINDS, TIME, Budgets, Row
from bench.gate.titles import TITLES

ROOT = Path(__file__).resolve().parents[2]
_AGAIN = 2
_FUNCTIONS = "functions"
_CHEAPER = 0.9  # of the budget: what is below could be kept
_EXCEEDED, _UNKNOWN = 1, 2  # exit codes


def measured(kind: str, names: Sequence[str]) -> dict[str, Any]:
    """By a process of its own, in which hashes are the same every time and no variable of the environment changes what Python does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {"PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "bench.gate.measure", kind, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"bench gate: {kind} of {' '.join(names)} cannot be measured (exit code {done.returncode})", file=sys.stderr)
        raise SystemExit(_UNKNOWN)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judged(kind: str, names: Sequence[str], budgets: Budgets) -> list[Row]:
    """A row for each case; one above its budget has been measured three times."""
    rows = {row.name: row for row in budgets.judge(kind, measured(kind, names))}
    for _ in range(_AGAIN):
        over = [name for name, row in rows.items() if row.share > 1 and row.budget]
        if not over:
            break
        for row in budgets.judge(kind, measured(kind, over)):
            if row.now < rows[row.name].now:
                rows[row.name] = row
    return list(rows.values())


def line(row: Row) -> str:
    """Of the table."""
    digits = 0 if row.now >= 1000 else 2
    budget = f"{row.budget:>11,.{digits}f}{row.share:>7.0%}" if row.budget else f"{'none':>11}{'':7}"
    return f"{row.name:18} {TITLES[row.name]:32} {row.kind:10}{row.now:>11,.{digits}f}{budget}{'  ABOVE' if row.share > 1 else ''}"


def show_functions(names: Sequence[str]) -> None:
    """Where the bytecodes are."""
    for name, shown in measured(_FUNCTIONS, names).items():
        print(f"{name}: {TITLES[name]}, bytecodes of one")
        for count, where in shown:
            print(f"{count:11,.1f}  {where.replace(str(ROOT) + '/', '')}")


def update(budgets: Budgets, kinds: Sequence[str], names: Sequence[str], path: Path) -> int:
    """Accept what is there."""
    for kind in kinds:
        runs = [measured(kind, names) for _ in range(3 if kind == TIME else 1)]
        budgets.update(kind, {name: statistics.median(run[name] for run in runs) for name in runs[0]})
    budgets.write(path)
    print(f"written for Python {HERE}: {path}")
    print("A figure that rose needs its reason in docs/internals/hot-path.md, in the same commit.")
    return 0


def verdict(rows: Sequence[Row], path: Path) -> int:
    """The last lines; the exit code."""
    above = list(dict.fromkeys(row.name for row in rows if row.share > 1))
    cheaper = list(dict.fromkeys(row.name for row in rows if row.share < _CHEAPER and row.kind == BYTECODES))
    if cheaper:
        print(f"\nFar below their budgets: {', '.join(cheaper)}. Keep it: python tools/dev.py bench gate --update {' '.join(cheaper)}")
    if not above:
        print("\nNothing is above its budget.")
        return 0
    names = " ".join(above)
    print(
        f"\nAbove its budget: {', '.join(above)}. What to do:\n"
        f"* see where the bytecodes are, here and in a work tree of the revision before (git worktree add ../before HEAD~1), and compare:\n"
        f"      python tools/dev.py bench gate --functions {names}\n"
        f"* time alone is above: a function of C does more, or is called with more; py-spy and bench/micro show it\n"
        f"* it is worth what it costs: python tools/dev.py bench gate --update {names}\n"
        f"  and write the reason into docs/internals/hot-path.md. The budgets are in {path}."
    )
    return _EXCEEDED


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench gate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TITLES)}; all without one")
    parser.add_argument("--update", action="store_true", help="what is found becomes the budget")
    parser.add_argument("--kind", choices=KINDS, help="only one of both")
    parser.add_argument("--functions", action="store_true", help="show which functions execute the bytecodes")
    parser.add_argument("--budgets", type=Path, default=FILE, metavar="FILE", help="another file of budgets")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - TITLES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    names = [name for name in TITLES if not options.names or name in options.names]
    kinds = [options.kind] if options.kind else KINDS
    if options.functions:
        show_functions(names)
        return 0
    try:
        budgets = Budgets.read(options.budgets)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.update:
        return update(budgets, kinds, names, options.budgets)
    if not budgets.is_known:
        print(f"There are no budgets for Python {HERE}, only for {', '.join(budgets.accepted)}; --update writes them.")
        return _UNKNOWN
    print(f"{'':51} {'':10}{'now':>11}{'budget':>11}{'share':>7}")
    rows = []
    with ThreadPoolExecutor(len(kinds)) as both:  # nothing disturbs counting, so it goes beside the other
        for found in both.map(lambda kind: judged(kind, names, budgets), kinds):
            rows += found
            print("\n".join(map(line, found)), flush=True)
    return verdict(rows, options.budgets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
