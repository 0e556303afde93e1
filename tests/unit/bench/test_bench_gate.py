"""The gate of the hot path: what it holds this tree to, that it sees what is made dearer, in Python and in C, and that its figures are
the same whatever the machine does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.gate.budgets import FILE, HERE, KINDS, Budgets
from bench.gate.bytecodes import Bytecodes
from bench.gate.titles import TITLES

ROOT = Path(__file__).resolve().parents[3]
WASTE = """

_without_waste = string_to_sign


def wasted(request: bytes) -> int:
    total = 0
    for value in request[:20]:
        total += value
    return total


def string_to_sign(date: str, scope: str, request: bytes) -> bytes:
    wasted(request)
    return _without_waste(date, scope, request)
"""
WORK_IN_C = """

_decode_once = AwsChunkedDecoder.decode


def _decode(self, piece):
    for _ in range(3):
        sha256(piece).digest()
    return _decode_once(self, piece)


AwsChunkedDecoder.decode = _decode
"""


def gate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gate", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False, env=dict(os.environ))


@pytest.fixture(name="copy")
def make_copy(tmp_path: Path) -> Path:
    """A tree to make dearer."""
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for folder in ("titans3", "bench/gate", "bench/micro", "tests/unit/cluster"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for package in ("bench", "tests"):
        shutil.copy2(ROOT / package / "__init__.py", tmp_path / package)
    return tmp_path


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_nothing_costs_more_than_its_budget() -> None:
    if not Budgets.read(FILE).is_known:
        pytest.skip(f"bench/gate/budgets.toml has none for Python {HERE}")
    done = gate(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("%")]
    assert lines == [*TITLES, *(name for name in TITLES if name != "commit")]


def test_a_wasteful_function_is_seen_and_named(copy: Path) -> None:
    only = ("head_shape", "--kind", "bytecodes")
    updated = gate(copy, *only, "--update")
    assert updated.returncode == 0 and "hot-path.md" in updated.stdout, updated.stdout + updated.stderr
    before = gate(copy, *only)
    assert before.returncode == 0 and "Nothing is above its budget" in before.stdout, before.stdout + before.stderr
    append(copy / "titans3/http/canonical.py", WASTE)
    after = gate(copy, *only)
    assert after.returncode == 1, after.stdout + after.stderr
    assert "ABOVE" in after.stdout and "bench gate --update head_shape" in after.stdout and "hot-path.md" in after.stdout
    shown = gate(copy, "head_shape", "--functions")
    assert any("wasted titans3/http/canonical.py" in line for line in shown.stdout.splitlines()), shown.stdout + shown.stderr


def test_work_in_c_is_seen_by_its_time(copy: Path) -> None:
    assert gate(copy, "chunks_signed", "--update").returncode == 0
    append(copy / "titans3/http/awschunked.py", WORK_IN_C)
    done = gate(copy, "chunks_signed")
    rows = {line.split()[-5 if "ABOVE" in line else -4]: line for line in done.stdout.splitlines() if line.startswith("chunks_signed")}
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ABOVE" not in rows["bytecodes"] and rows["time"].endswith("ABOVE"), done.stdout


def test_what_cannot_be_measured_is_no_verdict(copy: Path) -> None:
    append(copy / "titans3/http/head.py", "\nraise RuntimeError('broken')\n")
    done = gate(copy, "head_full")
    assert done.returncode == 2 and "broken" in done.stderr and "cannot be measured" in done.stderr
    for arguments, said in ((("no_such_case",), "no such case: no_such_case"), (("--budgets", "/nonexistent"), "/nonexistent")):
        refused = gate(ROOT, *arguments)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr


def test_without_budgets_for_this_python_there_is_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    Budgets(dict.fromkeys(KINDS, 0.1), {"3.9": {kind: {"policy": 100.0} for kind in KINDS}}).write(path)
    done = gate(ROOT, "policy", "--budgets", str(path))
    assert done.returncode == 2 and f"no budgets for Python {HERE}, only for 3.9" in done.stdout


def test_budgets_are_kept_by_version_and_the_others_follow(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    budgets = Budgets({"bytecodes": 0.03, "time": 0.4}, {"3.9": {"bytecodes": {"get": 2000.0, "put": 90.0}, "time": {"get": 0.5}}})
    budgets.update("bytecodes", {"get": 1000.0, "new": 68.2512})
    assert budgets.accepted["3.9"]["bytecodes"] == {"get": 2000.0, "put": 90.0}, "nothing was accepted here before"
    budgets.update("bytecodes", {"get": 1100.0})
    budgets.write(path)
    again = Budgets.read(path)
    assert again.accepted == {
        "3.9": {"bytecodes": {"get": 2200, "put": 90.0}, "time": {"get": 0.5}},
        HERE: {"bytecodes": {"get": 1100, "new": 68.25}, "time": {}},
    }  # fmt: skip
    text = path.read_text()
    again.write(path)
    assert path.read_text() == text
    rows = {row.name: row for row in again.judge("bytecodes", {"get": 1133.0, "new": 71.0, "unheard": 1.0})}
    assert rows["get"].share == pytest.approx(1.0) and rows["new"].share > 1 and rows["unheard"].share == float("inf")
    path.write_text(text.replace("time = 0.4", ""))
    with pytest.raises(ValueError, match="no file of budgets"):
        Budgets.read(path)


def test_bytecodes_are_counted_in_every_thread_and_the_same_each_time() -> None:
    before = sys.gettrace()
    counter = Bytecodes()

    def work(times: int) -> int:
        return sum(number * number for number in range(times))

    def counted(times: int, thread: bool = False) -> int:
        with counter.counted():
            if thread:
                other = threading.Thread(target=work, args=(times,))
                other.start()
                other.join()
            else:
                work(times)
        return counter.total

    counter.install()
    try:
        counted(10), counted(10, thread=True)
        here = [counted(10) for _ in range(5)]
        there = [counted(1000, thread=True) for _ in range(5)]
        more = counted(20)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
        sys.settrace(before)
    assert len(set(here)) == 1 and here[0] > 30
    assert more - here[0] >= 30, "ten more rounds of a generator of three bytecodes and more"
    assert min(there) > here[0] + 990 * 3
    names = [code.co_qualname for _, code in counter.by_function()]
    assert names[0].endswith("work.<locals>.<genexpr>")
