"""README.md and the pages for operators hold: commands, options, targets and files they name are there, and messages they explain exist.

What takes long (installing from nothing, a full run, tests/clients/test_pages.py with backup and upgrade) is tested elsewhere; here
nothing is started but ``--help``.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks
from titans3.config.keys import by_path

BIN = Path(sys.executable).parent
README = ROOT / "README.md"
START = ROOT / "docs/getting-started.md"
NIGHT = ROOT / "docs/troubleshooting.md"
OPERATING, BACKUP, UPGRADE = (ROOT / f"docs/{name}.md" for name in ("operating", "backup", "upgrade"))
PAGES = (README, START, NIGHT, OPERATING, BACKUP, UPGRADE)
CLIENTS = {"aws", "mc", "rclone", "warp", "curl", "pip", "df", "du", "ss"}  # not ours
TOOLS = {"cp", "for", "done", "install", "journalctl", "mv", "openssl", "runuser", "sed", "systemctl", "chown", "logrotate"}
_LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)?(?:#([^)]+))?\)")
_NOT_OURS = re.compile(r"-[uog] titans3(?: --)?|\$\((?:ls|date) [^)]*\)")  # the user and the service have the same name
_OURS = re.compile(r"(?:^|(?<=[\s(])|(?<=bin/))(titans3|titanctl)((?: [^\s|;&`\")]+)*)", re.MULTILINE)


def shell_lines() -> list[str]:
    return [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line]


def our_commands() -> list[str]:
    """Every use of titans3 and titanctl, in shell blocks and in running text."""
    found = []
    for page in PAGES:
        code = blocks(page, "sh") + blocks(page, "ini") + re.findall(r"`([^`\n]+)`", page.read_text())
        for text in code:
            found += [name + rest for name, rest in _OURS.findall(_NOT_OURS.sub("", text)) if rest]
    return sorted({command for command in found if not command.startswith("titans3 run …")})


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:], "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def test_there_is_something_to_check() -> None:
    assert {"make run", "make test", "pip install .", 'eval "$(titanctl env)"'} <= set(shell_lines())
    assert len(our_commands()) >= 10


@pytest.mark.parametrize("command", our_commands())
def test_our_commands_and_their_options_exist(command: str) -> None:
    words = shlex.split(command)
    path = [words[0]]
    for word in words[1:]:
        if word.startswith("-") or re.search(rf"^  {re.escape(word)} ", help_of(*path), re.MULTILINE) is None:
            break
        path.append(word)
    assert len(path) > 1, f"{words[1]} is not a command of {words[0]}"
    rest = words[len(path) :]
    text = help_of(*path)
    assert not rest or rest[0].startswith("-") or "\nCommands:" not in text, f"{rest[0]} is not a command of {' '.join(path)}"
    for word in rest:
        if word.startswith("-"):
            assert re.search(rf"{re.escape(word)}\b", text), f"{word} is not an option of {' '.join(path)}"


@pytest.mark.parametrize("line", sorted({line for line in shell_lines() if line.startswith("make")}))
def test_make_targets_and_their_arguments_exist(line: str) -> None:
    words = shlex.split(line)
    assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False).returncode == 0
    for word in words[1:]:
        if word.startswith("ARGS="):
            for option in re.findall(r"--[a-z0-9-]+", word):
                assert option in (bench_help() if words[1] == "bench" else help_of("titans3", "run"))


def bench_help() -> str:
    line = [sys.executable, "tools/dev.py", "bench", "peers", "--help"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_shell_blocks_are_shell() -> None:
    for page in PAGES:
        for block in blocks(page, "sh"):
            subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def test_every_command_is_ours_or_a_known_client() -> None:
    for line in shell_lines():
        first = shlex.split(line)[0]
        assert first.removeprefix("/opt/titans3/bin/") in CLIENTS | TOOLS | {"make", "export", "eval", "titans3", "titanctl"}, line


def test_variables_that_shell_lines_use_are_those_that_env_prints() -> None:
    source = (ROOT / "titans3/cli/titanctl.py").read_text()
    for name in set(re.findall(r"\$\{?(AWS_[A-Z_]+)", README.read_text() + START.read_text())):
        assert f'"{name}"' in source, name


def test_python_blocks_compile() -> None:
    assert blocks(README, "python")
    for block in blocks(README, "python"):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/configuration.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in _LINK.findall(page.read_text()):
        if file.startswith("http"):
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        if anchor:
            headings = [re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in target.read_text().splitlines()]
            assert anchor in headings, anchor


def test_packages_of_a_bare_image_are_named() -> None:
    assert "apt-get install make python3-venv git" in README.read_text()


def test_configuration_keys_that_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:node|s3|http|engine|log)\.[a-z_0-9]+)`", page.read_text()):
            assert name in by_path(), name


def source_text() -> str:
    """All of the package with implicitly joined strings joined."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "titans3").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def explained(heading: str) -> list[str]:
    """What the first column of a section's table has in backticks."""
    section = NIGHT.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [message for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for message in re.findall(r"`([^`]+)`", row)]


def test_messages_that_the_night_page_explains_are_messages_of_the_server() -> None:
    source = source_text()
    of_the_system = {"No space left on device", "Permission denied"}
    messages = explained("The server does not start") + explained("What the log says while it runs")
    assert len(messages) > 80
    for message in messages:
        assert message in of_the_system or message in source, message
    codes = explained("It runs, but clients complain")
    assert len(codes) > 5
    for code in codes:
        assert f'"{code}"' in (ROOT / "titans3/s3/errors.py").read_text(), code


def texts_of(node: ast.expr) -> str:
    """The constant text of a string expression; what is filled in is a NUL."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(texts_of(part) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    if isinstance(node, ast.BinOp):
        return texts_of(node.left) + texts_of(node.right)
    if isinstance(node, ast.IfExp):
        return texts_of(node.body)
    return "\0"


def said() -> tuple[dict[str, str], dict[str, str]]:
    """Where each message of the log from ``warning`` up is said, and each refusal of a start."""
    logged, refused = {}, {}
    starts = (
        "supervisor/", "crypto/kept_key", "cluster/feature", "meta/environment", "engine/identity", "engine/volume", "engine/logwalk",
        "worker/node",
    )  # fmt: skip
    for path in sorted((ROOT / "titans3").rglob("*.py")):
        name = str(path.relative_to(ROOT / "titans3"))
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = ast.unparse(node.func)
            if re.fullmatch(r"_?logger\.(warning|error|critical|exception)", called):
                logged[texts_of(node.args[0])] = f"{name}:{node.lineno}"
            elif called in ("ConfigError", "FormatError", "PositionLost") and name.startswith(starts):
                refused[texts_of(node.args[0])] = f"{name}:{node.lineno}"
    return logged, refused


def test_the_night_page_explains_every_warning_and_every_refusal_to_start() -> None:
    logged, refused = said()
    assert len(logged) > 40 and len(refused) > 30
    for found, heading in ((logged, "What the log says while it runs"), (refused, "The server does not start")):
        messages = explained(heading)
        words = {text: place for text, place in found.items() if re.search(r"[a-z]{3}", text)}  # others pass on what somebody else says
        missing = {place: text for text, place in words.items() if not any(message in text for message in messages)}
        assert not missing, missing
