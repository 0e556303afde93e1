"""An operator's first hour in a terminal: from starting the server to users, groups, policies and quotas, with nothing read but ``--help``.

Every command that is typed was found in a help text that the session itself has shown before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.installed import missing
from tests.faults.server import free_port

BIN = Path(sys.executable).parent
SECONDS_MAX = 30.0
PROMPT = "op> "


class Terminal:
    """A terminal of 400 columns in tmux, which no line fills, on a socket of its own; ``seen`` is all that it has shown."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        kept = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
        path = f"{BIN}:{os.environ['PATH']}"
        self._env = {**kept, "PATH": path, "HOME": str(folder), "TERM": "screen", "LC_ALL": "C.UTF-8", "PS1": PROMPT}
        self._do("new-session", "-d", "-x", "400", "-y", "2000", "-s", "op", "-c", str(folder), "sh")
        self._do("set-option", "-g", "history-limit", "50000")
        self._panes = 1
        self._await_prompt(0)

    def _do(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], env=self._env, capture_output=True, text=True, timeout=30, check=True).stdout

    def screen(self, pane: int = 0) -> str:
        """What a pane has shown."""
        return self._do("capture-pane", "-p", "-J", "-S", "-", "-t", f"op:{pane}")

    def window(self, folder: Path) -> int:
        """A further window; its number."""
        self._do("new-window", "-d", "-c", str(folder), "sh")
        self._panes += 1
        self._await_prompt(self._panes - 1)
        return self._panes - 1

    def _await_prompt(self, pane: int) -> None:
        """What is typed before the shell's prompt stands twice on the screen."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self.screen(pane).strip():
            assert time.monotonic() < deadline, "the shell shows no prompt"
            time.sleep(0.05)

    def type(self, line: str, pane: int = 0) -> None:
        """Type a line and Enter."""
        self._do("send-keys", "-t", f"op:{pane}", "-l", line)
        self._do("send-keys", "-t", f"op:{pane}", "Enter")

    def interrupt(self, pane: int) -> None:
        """Ctrl-C."""
        self._do("send-keys", "-t", f"op:{pane}", "C-c")

    def wait(self, text: str, pane: int = 0) -> str:
        """Until a pane shows a text; all that it shows."""
        deadline = time.monotonic() + SECONDS_MAX
        while text not in (shown := self.screen(pane)):
            assert time.monotonic() < deadline, f"never shown: {text!r}\n{shown}"
            time.sleep(0.05)
        return shown

    def run(self, line: str, pane: int) -> str:
        """What a command prints; it must succeed."""
        number = len(re.findall(r"^done-\d+ ", self.screen(pane), re.M))
        self.type(f"{line}; echo done-{number} $?", pane)
        shown = self.wait(f"\ndone-{number} ", pane)
        answer = shown.rpartition(f"echo done-{number} $?\n")[2]
        printed, _, code = answer.partition(f"done-{number} ")
        assert code.startswith("0"), f"{line}\n{printed}"
        return printed

    def close(self) -> None:
        self._do("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        missing("tmux", "apt-get install tmux")
    found = Terminal(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_from_the_first_start_to_users_policies_and_quotas(terminal: Terminal, tmp_path: Path) -> None:
    server, port = 0, free_port()
    terminal.type("titans3 --help", server)
    assert " run " in terminal.wait("Run a server until it is stopped", server)
    terminal.type("titans3 run --help", server)
    assert "--s3" in terminal.wait("Where S3 is served", server)
    terminal.type(f"titans3 run --s3 127.0.0.1:{port} --workers 2", server)
    ready = terminal.wait("titanctl env", server)
    line = next(text for text in ready.splitlines() if "titanctl env" in text)
    operator = terminal.window(tmp_path)
    shown = ""

    def run(command: str) -> str:
        """A command whose words were in a help text before."""
        nonlocal shown
        words = [word for word in command.split() if re.fullmatch(r"(--)?[a-z][a-z-]+", word) and word not in ("titanctl", *own)]
        assert all(re.search(rf"(^|[\s,\[|]){re.escape(word)}\b", shown, re.M) for word in words[:2]), (command, words)
        printed = terminal.run(command, operator)
        shown += printed
        return printed

    own = {"photos", "alice", "backup", "writers", "readwrite", "readonly"}
    terminal.run(line[line.index("eval") :].strip(), operator)
    shown += terminal.run("titanctl --help", operator)
    for group in ("bucket", "user", "group", "policy", "key", "object", "service"):
        assert re.search(rf"^  {group} ", shown, re.M), group
        shown += terminal.run(f"titanctl {group} --help", operator)
    assert "survive" in run("titanctl info") or "one copy" in shown
    run("titanctl bucket create photos")
    run("titanctl user add --help")
    assert "readwrite" in run("titanctl policy ls")
    made = run("titanctl user add alice --policy readonly")
    access_key, secret = re.findall(r"\b[A-Z0-9]{20}\b", made)[0], re.findall(r"\S{40}", made)[0]
    assert "implicitDeny" in run("titanctl policy simulate alice s3:PutObject photos/a.jpg || true")
    run("titanctl group add writers")
    run("titanctl group join writers alice")
    run("titanctl policy attach --help")
    run("titanctl policy attach readwrite --group writers")
    assert "allowed" in run("titanctl policy simulate alice s3:PutObject photos/a.jpg")
    shown += terminal.run("titanctl bucket quota --help", operator)
    run("titanctl bucket quota set photos 1MiB")
    (tmp_path / "small").write_bytes(bytes(1000))
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    as_alice = f"AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret}"
    terminal.run(f"{as_alice} titanctl object put small photos/", operator)
    refused = terminal.run(f"{as_alice} titanctl object put large photos/ || true", operator)
    assert "QuotaExceeded" in refused
    assert "1000 B of 1.0 MiB" in run("titanctl bucket quota get photos")
    assert "alice" in run("titanctl user ls")
    terminal.run("titanctl user disable alice", operator)
    assert "InvalidAccessKeyId" in terminal.run(f"{as_alice} titanctl object ls photos || true", operator)
    denied = terminal.run("titanctl audit ls", operator)
    assert "user" in denied
    assert secret not in terminal.screen(server)
    assert terminal.run("titanctl bucket nonsense 2>&1 || true", operator).startswith("titanctl: no such command 'nonsense'")
    run("titanctl service stop --help")
    terminal.run("titanctl service stop --yes", operator)
    terminal.type("echo ended with $?", server)
    terminal.wait("ended with 0", server)
