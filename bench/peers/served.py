"""A server that is measured: started by its recipe on an empty folder, its keys, its processes, its own counters, and its end.

Invariants
* It gets a clean environment: nothing that the user has set for a server of that kind.
* Only the processes that were started here are stopped, and all of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers.recipe import Recipe
from bench.peers.usage import Tree
from bench.replay import Signer
from tests.faults.server import free_port

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_KEPT = ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)", re.MULTILINE)


@contextlib.contextmanager
def on(cpus: frozenset[int]) -> Iterator[None]:
    """What is started inside runs on these processors; none are all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Served:
    """A server and its data folder. It speaks plain HTTP."""

    tls: ssl.SSLContext | None = None  # what the replayer asks of a server

    def __init__(self, recipe: Recipe, folder: Path, *, workers: int, cpus: frozenset[int] = frozenset()) -> None:
        self.recipe, self.data, self.cpus = recipe, folder / "data", cpus
        self.log = folder / "server.log"
        self.port = free_port()
        self._values = {
            "program": recipe.program, "data": str(self.data), "port": str(self.port), "access_key": "B" + secrets.token_hex(9).upper(),
            "secret_key": secrets.token_hex(20), "workers": str(workers), "tree": recipe.tree,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.tree: Tree | None = None

    def start(self) -> float:
        """Start and wait until it is ready, which took so many seconds; RuntimeError with what it printed if it is not."""
        self.data.mkdir(parents=True, exist_ok=True)
        for name in self.recipe.folders:
            (self.data / name).mkdir(parents=True)
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env = {**kept, "HOME": str(self.data.parent), **{name: self._fill(value) for name, value in self.recipe.env.items()}}
        command = [self._fill(part) for part in self.recipe.command]
        begin = time.monotonic()
        with open(self.log, "ab") as log, on(self.cpus):
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True, cwd=self.data.parent
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        ready = time.monotonic() - begin
        self.tree = Tree(self._process.pid)
        return ready

    def _fill(self, text: str) -> str:
        for name, value in self._values.items():
            text = text.replace("{" + name + "}", value)
        return text

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.recipe.name} stopped with {self._process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(self._fill(self.recipe.ready))[0] < 500 and self._has_credentials() and self._answers():
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.recipe.name} was not ready after {READY_SECONDS:g} s:\n{self.tail()}")

    def _has_credentials(self) -> bool:
        return not self.recipe.credentials or (self.data / self.recipe.credentials).exists()

    def _answers(self) -> bool:
        """Whether a signed request is no longer answered 5xx: MinIO says that it is ready a little before that."""
        head = Signer(f"127.0.0.1:{self.port}", *self.credentials()).head("GET", "/")
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(head)
            return re.match(rb"HTTP/1\.\d [234]", connection.recv(4096)) is not None

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a plain GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def credentials(self) -> tuple[str, str]:
        """Access key and secret."""
        if self.recipe.credentials:
            record = json.loads((self.data / self.recipe.credentials).read_text(encoding="utf-8"))
            return str(record["access_key"]), str(record["secret_key"])
        return self._values["access_key"], self._values["secret_key"]

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        assert self.tree is not None
        self.tree.refresh()
        return self.tree.cpu_seconds()

    def samples(self, wanted: str) -> dict[str, float]:
        """Those of its metrics that a pattern matches."""
        status, text = self.get(self.recipe.metrics)
        if status != 200:
            raise RuntimeError(f"{self.recipe.name}: {self.recipe.metrics} answered {status}")
        pattern = re.compile(wanted)
        return {name: float(value) for name, value in _SAMPLE.findall(text) if pattern.match(name)}

    def counters(self) -> dict[str, float]:
        """Its metrics by sample, without those that the recipe has no use for."""
        recipe = self.recipe
        if not recipe.metrics:
            return {}
        return self.samples("|".join(part for part in (recipe.errors, recipe.watch) if part))

    def counters_settled(self) -> dict[str, float]:
        """After the time in which a server's workers show what they have counted."""
        if not self.recipe.metrics:
            return {}
        time.sleep(self.recipe.settles)
        return self.counters()

    def server_errors(self, counters: dict[str, float]) -> int | None:
        """Answers of 5xx so far; ``None`` if it does not count them."""
        if not self.recipe.errors:
            return None
        return int(sum(value for name, value in counters.items() if re.match(self.recipe.errors, name)))

    def tail(self) -> str:
        """The last of what it printed."""
        return self.log.read_bytes()[-3000:].decode(errors="replace") if self.log.exists() else ""

    def command(self) -> str:
        """As it was started, without keys, folders and ports."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.recipe.env.items()), *self.recipe.command])

    def kill(self) -> None:
        """SIGKILL to all of it at once, as when the power fails but for the disk's cache."""
        assert self._process is not None
        process, self._process = self._process, None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole session if that does not help."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
