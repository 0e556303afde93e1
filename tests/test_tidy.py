"""What keeps the tree a house to live in: names, sizes, pointers and habits that no linter knows."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from titans3.cli.titanctl import LAZY
from titans3.observe.failpoint import NAMES
from titans3.observe.metrics import METRICS
from titans3.s3.handlers import HANDLERS
from tools import dashboards, metrics, operations

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted((ROOT / "titans3").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES_MAX = 800
NO_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|misc|base|managers?|stuff)(_|$)")
FORMATS = (
    "engine/segment.py", "engine/batch.py", "engine/record.py", "engine/extent.py", "engine/identity.py", "meta/keys.py", "meta/rows.py",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    shown = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in shown.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    assert text.count("\n") <= LINES_MAX, "one noun per file"
    assert not NO_NAMES.search(path.stem), "a name that says nothing"
    floor = path.relative_to(ROOT / "titans3").parts[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {name.name for name in node.names} | {getattr(node, "module", "")}
            assert not names & {"pickle", "marshal", "shelve", "dill"}, "formats are documents"
            assert not (getattr(node, "module", "") == "time" and names & {"time", "time_ns"}) or path.name == "clock.py"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "os.popen"), called
            assert not any(keyword.arg == "shell" for keyword in node.keywords), "no shell"
            if called.removeprefix("datetime.") in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"):
                assert path.name == "clock.py", "time is handed in"
            if called == "print":
                assert floor in ("cli", "supervisor"), "a server logs"
        if isinstance(node, ast.ExceptHandler) and ast.unparse(node.type or ast.Name("")) in ("", "Exception", "BaseException"):
            assert not all(isinstance(step, ast.Pass | ast.Continue) for step in node.body), f"line {node.lineno}: swallowed"


def test_failpoints_are_the_declared_ones() -> None:
    found: set[str] = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "hit":
                assert isinstance(node.args[0], ast.Constant), name_of(path)
                found.add(node.args[0].value)
    assert found == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


def test_every_module_is_used() -> None:
    """By another module, by name from titanctl's list of commands, or from outside: entry points, ``python -m`` names, and the signer."""
    doors = {
        "titans3.cli.main", "titans3.cli.titanctl", "titans3.worker.__main__", "titans3.engine.format_cli", "titans3.__main__",
        "titans3.http.signing", *(module for _, module, *_ in LAZY),
    }  # fmt: skip
    imported: set[str] = set()
    for path in CODE:
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module != own:
                imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in CODE if path.name != "__init__.py"}
    assert modules - imported - doors == set()


def test_no_format_knows_the_machine() -> None:
    """I8: what is written to disk is made from no CPU count, worker number or host name."""
    forbidden = re.compile(r"cpu_count|sched_getaffinity|gethostname|uname|\bworker\b|nodename")
    for name in FORMATS:
        text = (ROOT / "titans3" / name).read_text(encoding="utf-8")
        code = "\n".join(line for line in ast.unparse(_without_docstrings(ast.parse(text))).splitlines())
        assert not forbidden.search(code), name


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def test_every_invariant_points_at_a_test() -> None:
    rows = re.findall(r"^\| (I\d+) \|.*\| (.*) \|$", (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 13
    for number, tests in rows:
        pointers = re.findall(r"`(tests/[^`]+?)::(\w+)`", tests)
        assert pointers, number
        for file, test in pointers:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"(def|class) {test}\b|^{test} = ", text, re.MULTILINE), f"{number}: {file}::{test}"


def test_seams_are_what_the_architecture_says() -> None:
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(titans3[\w.]+)\.(\w+)`: ((?:`\w+` ?)+)\|", page, re.MULTILINE)
    assert len(rows) >= 13
    for module, name, calls in rows:
        seam = getattr(importlib.import_module(module), name)
        missing = [call for call in re.findall(r"\w+", calls) if not hasattr(seam, call)]
        assert not missing, f"{module}.{name} has no {missing}"


def test_the_compatibility_page_is_what_was_shown() -> None:
    """Generated from the operation table, the handlers and results in which every operation that is built has a test."""
    shown = json.loads(operations.RESULTS.read_text(encoding="utf-8"))
    assert set(HANDLERS) <= set(shown), sorted(set(HANDLERS) - set(shown))
    assert operations.page() == operations.PAGE.read_text(encoding="utf-8"), "python tools/operations.py --docs"


def test_the_metrics_page_is_what_the_descriptions_say() -> None:
    assert len(METRICS) >= 120
    assert metrics.page() == metrics.PAGE.read_text(encoding="utf-8"), "python tools/metrics.py"


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_a_dashboard_is_what_its_table_says(name: str) -> None:
    assert dashboards.dashboard(name) == (dashboards.FOLDER / f"{name}.json").read_text(encoding="utf-8"), "python tools/dashboards.py"


def test_every_metric_is_filled_and_nothing_else_is() -> None:
    """Names in the code that reads them, against the descriptions."""
    used: set[str] = set()
    for path in (ROOT / "titans3/worker").glob("*.py"):
        used |= set(re.findall(r'"(titans3_\w+)"', path.read_text(encoding="utf-8")))
    assert used == set(METRICS)
    for metric in METRICS.values():
        assert metric.help.endswith(".") and metric.use.endswith((".", "?")), metric.name
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.kind == "histogram") == bool(metric.bounds), metric.name
        assert "worker" not in metric.labels[1:], metric.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:tests|titans3|docs|tools|bench|conf)/[\w./-]+\.(?:py|md|toml))", page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_skips_say_why() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", []):
                assert ast.unparse(mark) not in ("pytest.mark.skip", "pytest.mark.xfail"), f"{name_of(path)}:{mark.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"):
                    assert any(keyword.arg == "reason" for keyword in node.keywords), f"{name_of(path)}:{node.lineno}"
                if called in ("pytest.skip", "pytest.xfail"):
                    assert node.args or node.keywords, f"{name_of(path)}:{node.lineno}"


def test_the_tree_speaks_of_the_project_alone() -> None:
    """No path of a machine, no artefact of a run, nothing large."""
    own = Path(__file__)
    for path in tracked():
        assert path.stat().st_size < 2_000_000, name_of(path)
        assert path.suffix not in (".pyc", ".zst", ".log", ".so", ".seg", ".mdb"), name_of(path)
        if path != own and path.suffix in (".py", ".md", ".toml", ".yml", ".sh", ""):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"/(work|home|Users)/\w+/\w", text), f"{name_of(path)} names a machine's path"
