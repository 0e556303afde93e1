"""A machine that is set up as docs/getting-started.md says, in a scratch folder, so that commands of a page run on it as they stand.

Invariants
* A block runs in a shell that stops at the first failure, with what earlier blocks of the page exported. Nothing of it is changed but where
  things are: paths lie in the scratch folder, the example address is a server of the test, and the owner of files is whoever runs the test.
* ``systemctl`` starts and signals a real server as conf/systemd/titans3.service says; ``start`` returns when it is ready, or fails with it.
* ``runuser`` runs the command: there is one user.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.faults.server import free_port
from tests.pages import ROOT, Block, sections
from titans3 import __version__
from titans3.cluster.messages import FEATURE_LEVEL

BIN = Path(sys.executable).parent
_OURS = re.compile(r"(?<![\w./-])/(?=(?:srv|backup|usr/src|etc/titans3|opt/titans3)(?:[/\s.\"'$-]|$))")
_RUNUSER = '#!/bin/sh\nshift 2\n[ "$1" = -- ] && shift\nexec "$@"\n'
_SYSTEMCTL = '''#!{python}
"""start, stop and kill of one unit."""
import json, os, pathlib, signal, subprocess, sys, time
root, command, verb = pathlib.Path({root!r}), {command!r}, sys.argv[1]
assert sys.argv[-1] == "titans3", sys.argv
kept = root / "pid"
pid = int(kept.read_text()) if kept.exists() else 0
def is_running():
    try:
        return pid and pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
def wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"systemctl: {{verb}} takes longer than {{seconds}} s")
        time.sleep(0.05)
def is_ready(process):
    if process.poll() is not None:
        sys.exit("systemctl: the service failed")
    try:
        return json.loads((root / "srv/titans3/run/endpoint.json").read_text())["pid"] == process.pid
    except FileNotFoundError:
        return False
if verb == "start" and not is_running():
    with open(root / "log", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
    kept.write_text(str(process.pid))
    wait(lambda: is_ready(process), 60)
elif verb == "stop" and is_running():
    os.kill(pid, signal.SIGTERM)
    wait(lambda: not is_running(), 60)
elif verb == "kill":
    (name,) = [word.removeprefix("--signal=") for word in sys.argv if word.startswith("--signal=")]
    os.kill(pid, signal.Signals["SIG" + name])
elif verb not in ("start", "stop"):
    sys.exit("systemctl: " + verb)
'''


class Machine:
    """``root`` holds its file system; ``port`` is where its server listens."""

    def __init__(self, root: Path, **replaced: str) -> None:
        self.root, self.port, self._replaced = root, free_port(), replaced
        self.data, self.config = root / "srv/titans3", root / "etc/titans3"
        self.log = root / "log"
        self._exports: list[str] = []
        self._kept = ["TMPDIR", "LD_LIBRARY_PATH"]
        for folder in ("srv", "etc/titans3", "opt", "usr/src", "backup", "home", "bin"):
            (root / folder).mkdir(parents=True)
        self.data.mkdir(mode=0o700)
        (start,) = re.findall(r"^ExecStart=(.+)$", (ROOT / "conf/systemd/titans3.service").read_text(encoding="utf-8"), re.MULTILINE)
        self._program("runuser", _RUNUSER)
        self._program("systemctl", _SYSTEMCTL.format(python=sys.executable, root=str(root), command=self.placed(start).split()))

    def _program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def installed(self) -> None:
        """``/opt/titans3`` is what the tests run from."""
        self._kept.append("PYTHONPATH")  # where that comes from; what pip installs must not be hidden by it
        (self.root / "opt/titans3/bin").mkdir(parents=True)
        for name in ("titans3", "titanctl"):
            (self.root / "opt/titans3/bin" / name).symlink_to(BIN / name)

    def installable(self) -> None:
        """``/opt/titans3`` is a virtual environment into which pip installs, with what the tests run from in place of an index."""
        home, packages = self.root / "opt/titans3", Path(sysconfig.get_path("purelib"))
        venv.create(home, symlinks=True)
        others = self.root / "packages"
        others.mkdir()
        for path in packages.iterdir():
            if "titans3" not in path.name:
                (others / path.name).symlink_to(path)
        (site,) = home.glob("lib/python*/site-packages")
        (site / "others.pth").write_text(f"{others}\n")
        pip = home / "bin/pip"
        pip.write_text(f'#!/bin/sh\nexec {home}/bin/python -m pip --quiet --no-input --disable-pip-version-check "$@"\n')
        pip.chmod(0o755)

    def source(self, folder: str, version: str, level: int) -> None:
        """This tree as another version, which knows another feature level, in ``/usr/src``."""
        target = self.root / "usr/src" / folder
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ROOT / "titans3", target / "titans3", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, target)
        for name, old, new in (
            ("titans3/__init__.py", f'__version__ = "{__version__}"', f'__version__ = "{version}"'),
            ("titans3/cluster/messages.py", f"\nFEATURE_LEVEL = {FEATURE_LEVEL}", f"\nFEATURE_LEVEL = {level}"),
        ):
            path = target / name
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new), encoding="utf-8")

    def placed(self, text: str) -> str:
        """A text of a page with the places of this machine."""
        for example, ours in self._replaced.items():
            text = text.replace(example, ours)
        text = text.replace("-o titans3 -g titans3", f"-o {pwd.getpwuid(os.geteuid()).pw_name} -g {grp.getgrgid(os.getegid()).gr_name}")
        return _OURS.sub(f"{self.root}/", text)

    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        kept = {name: os.environ[name] for name in self._kept if name in os.environ}
        pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false", "PIP_ROOT_USER_ACTION": "ignore"}
        return {**kept, **pip, "PATH": path, "HOME": str(self.root / "home"), "LC_ALL": "C.UTF-8", "NO_PROXY": "127.0.0.1"}

    def run(self, text: str, code: int = 0, **more: str) -> str:
        """What a piece of shell prints, on both channels; it must end with ``code``."""
        script = "set -e\n" + "".join(self._exports) + self.placed(text)
        done = subprocess.run(
            ["sh", "-c", script], env={**self.environment(), **more}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200, check=False, cwd=self.root / "home",
        )  # fmt: skip
        assert done.returncode == code, f"{text}\nended with {done.returncode}:\n{done.stdout}\n{self.tail()}"
        return done.stdout

    def play(self, block: Block, **more: str) -> str:
        """A block of a page, whose exports hold from then on."""
        printed = self.run(block.text, **more)
        self._exports += [self.placed(line) + "\n" for line in block.text.splitlines() if line.startswith("export ")]
        return printed

    def refused(self) -> str:
        """A start that must fail; what the server said."""
        before = len(self.log.read_bytes()) if self.log.exists() else 0
        self.run("systemctl start titans3", code=1)
        return self.log.read_bytes()[before:].decode()

    def tail(self) -> str:
        """The last of what the server said."""
        return self.log.read_bytes()[-4000:].decode(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        self.run("systemctl stop titans3")


def blocks_of(page: str) -> list[Block]:
    """What a page of docs/ has to be run."""
    return sections(ROOT / "docs" / page, "sh")
