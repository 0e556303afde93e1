"""One process that measures cases, and prints what it found as JSON: ``python -m bench.gate.measure bytecodes|time|functions NAME...``.

``bench.gate`` starts it with an environment in which nothing changes what Python executes; by itself it measures whatever it finds.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.gate.bytecodes import Bytecodes
from bench.gate.cases import Case, cases
from bench.gate.turns import compared

_COUNTED = 4  # turns; what a timer adds to some of them is not in the least
_TURNS = 30
_SHOWN = 40


def _played(counter: Bytecodes, case: Case) -> float:
    """Bytecodes of one operation."""
    if case.prepare is not None:
        case.prepare()
    gc.collect()
    gc.disable()
    with counter.counted():
        case.play()
    gc.enable()
    return counter.total / case.operations


def bytecodes(names: Sequence[str], folder: Path) -> dict[str, float]:
    """Of one operation, the least of some turns after the first."""
    counter = Bytecodes()
    counter.install()
    found = {}
    for case in cases(names, folder):
        _played(counter, case)
        found[case.name] = min(_played(counter, case) for _ in range(_COUNTED))
        assert found[case.name] > 0, "this Python gives no bytecodes to a trace function"
    return found


def time(names: Sequence[str], folder: Path) -> dict[str, float]:
    """Processor time of one operation, in thousandths of the reference's."""
    found = {}
    for case in cases(names, folder):
        if case.reference is not None:
            found[case.name] = 1000 * compared(case.play, case.reference, _TURNS, case.prepare) / case.operations
    return found


def functions(names: Sequence[str], folder: Path) -> dict[str, list[tuple[float, str]]]:
    """Bytecodes of one operation by function."""
    counter = Bytecodes()
    counter.install()
    found = {}
    for case in cases(names, folder):
        _played(counter, case)
        _played(counter, case)
        found[case.name] = [
            (count / case.operations, f"{code.co_qualname} {code.co_filename}:{code.co_firstlineno}")
            for count, code in counter.by_function()[:_SHOWN]
        ]
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="titans3-gate-") as made:
        print(json.dumps({"bytecodes": bytecodes, "time": time, "functions": functions}[sys.argv[1]](sys.argv[2:], Path(made))))
