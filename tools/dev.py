"""The one developer door: ``python tools/dev.py <verb>``.

check   ruff, mypy, import-linter
test    check, then pytest over tests/, what is timed last and one at a time (arguments after ``test`` go to one pytest; ``--quick``
        leaves slow tests out)
bench   ``bench peers``: TitanS3 beside MinIO and others; ``bench scale``: curves by workers, objects, connections and sizes;
        ``bench ab REVISION``: this tree beside a revision of it; ``bench gate``: what the hot path costs, held to budgets;
        ``bench profile``: where a worker's time goes; or one of bench/micro
sim     tests/simulation, a seed replays a run
fuzz    tests/fuzz
long    the random and exhaustive tests of engine, metadata and wire in their long form (some twenty minutes)
faults  tests/faults/storm.py: kill storms against a real server
docs    that every relative link and every configuration key in docs/ holds

A verb whose part of the project does not exist is refused, never skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
# Tests of faults that wait for nothing.
_UNTIMED_FAULTS = ("test_damage", "test_offline", "test_refusals", "test_tools")
# Tests that wait for clocks, two at a time, so that a wait is not made longer by what four others do.
WAITING = tuple(f"tests/unit/{floor}" for floor in ("cluster", "engine", "http", "jobs", "observe", "rpc", "supervisor", "worker"))
# Those that measure time or kill processes, one at a time; the rest shares the machine.
TIMED = (
    "tests/unit/bench/test_bench_gate.py",
    "tests/unit/bench/test_bench_phase.py",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/faults").glob("test_*.py") if path.stem not in _UNTIMED_FAULTS),
)
BENCHES = ("peers", "scale", "ab", "gate", "profile")
LONG_FORMS = ("tests/fuzz", "tests/property", "tests/faults/test_powerloss.py")


def run(*command: str | Path) -> None:
    """Run a command in the project's root; the door closes with its exit code if it fails."""
    print("$", *(Path(part).name if str(part).startswith(str(BIN)) else part for part in command), flush=True)
    code = subprocess.call([str(part) for part in command], cwd=ROOT)
    if code:
        sys.exit(code)


def script(*candidates: str) -> Path:
    """The first of these files that is there."""
    for candidate in candidates:
        if (ROOT / candidate).exists():
            return ROOT / candidate
    sys.exit(f"not in this tree: {' or '.join(candidates)}")


def check(arguments: list[str]) -> None:
    run(BIN / "ruff", "check", "--quiet", *(arguments or ["titans3", "tests", "tools", "bench"]))
    run(BIN / "mypy")
    run(BIN / "lint-imports", "--no-logo")


def test(arguments: list[str]) -> None:
    if "--quick" in arguments:
        arguments = ["-m", "not slow", *(argument for argument in arguments if argument != "--quick")]
    check([])
    if arguments:
        run(PYTHON, "-m", "pytest", "-q", *arguments)
        return
    # What is measured in seconds (kills, rolling restarts, timeouts) does not share the machine with other tests.
    pytest = [PYTHON, "-m", "pytest", "-q", "--durations=12"]
    by_file = ["--dist", "loadfile"]
    shared = [*pytest, "-n", "auto", "--maxprocesses", "4", *by_file, *(f"--ignore={folder}" for folder in (*WAITING, *TIMED))]
    waiting = [*pytest, "-n", "2", *by_file, *WAITING]
    alone = [*pytest, *TIMED]
    codes = []
    for command in (shared, waiting, alone):
        print("$", "python", *command[1:], flush=True)
        codes.append(subprocess.call(command, cwd=ROOT))
    if any(codes):
        sys.exit(1)


def bench(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in BENCHES:
        run(PYTHON, "-m", f"bench.{name}", *rest)
        return
    micro = sorted(path.stem for path in (ROOT / "bench/micro").glob("*.py"))
    if name not in micro:
        known = f"{', '.join(BENCHES)}, or of the small ones: {', '.join(micro)}"
        sys.exit(f"there is no bench {name}; known are {known}" if name else f"which bench? {known}")
    run(PYTHON, f"bench/micro/{name}.py", *rest)


def sim(arguments: list[str]) -> None:
    run(PYTHON, "-m", "pytest", "-q", script("tests/simulation"), *arguments)


def fuzz(arguments: list[str]) -> None:
    run(PYTHON, "-m", "pytest", "-q", script("tests/fuzz"), *arguments)


def long(arguments: list[str]) -> None:
    os.environ["TITANS3_LONG"] = "1"
    run(PYTHON, "-m", "pytest", "-q", "--timeout=7200", *LONG_FORMS, *arguments)


def faults(arguments: list[str]) -> None:
    script("tests/faults/storm.py")
    run(PYTHON, "-m", "tests.faults.storm", *arguments)


def docs(arguments: list[str]) -> None:
    run(PYTHON, "-m", "pytest", "-q", "tests/test_tidy.py", "tests/test_readme.py", *arguments)


VERBS = {"check": check, "test": test, "bench": bench, "sim": sim, "fuzz": fuzz, "long": long, "faults": faults, "docs": docs}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        sys.exit((__doc__ or "").strip())
    VERBS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
