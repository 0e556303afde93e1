"""A real TitanS3 on a free port, started as an operator starts it, killed as a disaster kills it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import psutil

from bench.peers.usage import Tree
from tests.faults.wire import Unknown, Wire
from titans3.observe.board import Board

TITANS3 = str(Path(sys.executable).with_name("titans3"))
READY_SECONDS = 30.0
T = TypeVar("T")


PORTS = range(15_000, 32_000)  # below those that the kernel gives to whoever connects: a server that is down keeps its port


def free_port() -> int:
    """A port nobody listens on right now."""
    chance = random.SystemRandom()  # tests seed the other
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = chance.choice(PORTS)
            probe.bind(("127.0.0.1", port))
            return port


async def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until a condition holds; the seconds it took. AssertionError with ``what`` when it takes longer."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


def _is_alive(process: psutil.Process) -> bool:
    """Whether it still holds anything: what init has not reaped yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Server:
    """One data folder and, at times, a running server on it. ``tls``: what clients trust, when ``options`` name a certificate."""

    def __init__(
        self, data: Path, *, workers: int = 2, options: tuple[str, ...] = (), env: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.data, self.workers, self.options, self.tls = data, workers, options, tls
        self.port = free_port()
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.with_name(data.name + ".log")
        self._family: list[psutil.Process] = []

    def start(self, extra_env: dict[str, str] | None = None) -> None:
        """Start without waiting."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [TITANS3, "run", "--data", str(self.data), "--s3", f"127.0.0.1:{self.port}", "--workers",
                 str(self.workers), *self.options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**self.env, **(extra_env or {})},
                start_new_session=True,
            )

    def credentials(self) -> tuple[str, str]:
        """Root access key and secret."""
        record = json.loads((self.data / "credentials.json").read_text())
        return record["access_key"], record["secret_key"]

    def wire(self) -> Wire:
        """A client."""
        return Wire("127.0.0.1", self.port, *self.credentials(), tls=self.tls)

    async def wait_ready(self, seconds: float = READY_SECONDS) -> float:
        """Until /health/ready answers 200 through every worker's turn; the seconds it took."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the server stopped with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
                try:
                    writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    head = await asyncio.wait_for(reader.read(4096), 2)
                    if head.startswith(b"HTTP/1.1 200") and self.is_announced():
                        return time.monotonic() - begin
                finally:
                    writer.close()
                    with contextlib.suppress(OSError, TimeoutError):
                        await asyncio.wait_for(writer.wait_closed(), 1)
            await asyncio.sleep(0.05)
        raise RuntimeError(f"not ready after {seconds} s:\n{self.tail()}")

    def is_announced(self) -> bool:
        """Whether every worker serves: then the supervisor says where."""
        assert self.process is not None
        with contextlib.suppress(FileNotFoundError):
            return bool(json.loads((self.data / "run" / "endpoint.json").read_text())["pid"] == self.process.pid)
        return False

    def tail(self) -> str:
        """The last of what the server printed."""
        return self.log.read_bytes()[-6000:].decode(errors="replace") if self.log.exists() else ""

    def worker_pids(self) -> list[int]:
        """Worker processes, in order of age."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in sorted(children, key=lambda child: child.create_time())]

    def board(self) -> Board:
        """The board of the running server."""
        return Board.read(json.loads((self.data / "run" / "endpoint.json").read_text())["board"])

    async def answer(self, path: str, seconds: float = 5.0) -> tuple[int, str]:
        """Status and body of a plain GET on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await asyncio.wait_for(reader.read(), seconds)).partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body.decode()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def is_refusing(self) -> bool:
        """Whether nobody listens at the port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def family(self) -> list[psutil.Process]:
        """Supervisor and all below it."""
        assert self.process is not None
        try:
            parent = psutil.Process(self.process.pid)
            self._family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass
        return self._family

    def kill_tree(self) -> None:
        """SIGKILL to all at once, supervisor first."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert self.process is not None
        self.process.wait(10)
        deadline = time.monotonic() + 10
        while any(_is_alive(process) for process in family):
            assert time.monotonic() < deadline, "a killed process does not end"
            time.sleep(0.005)

    def kill_supervisor(self) -> list[psutil.Process]:
        """SIGKILL to the supervisor alone; the orphans, which must stop by themselves."""
        family = self.family()
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        return family[1:]

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_tree()
            raise RuntimeError(f"the server did not stop in {seconds} s:\n{self.tail()}") from None

    def cpu_seconds(self) -> float:
        """User and system time of the whole family so far."""
        assert self.process is not None
        return Tree(self.process.pid).cpu_seconds()


def play(server: Server, count: int, scenario: Callable[[list[Wire]], Awaitable[T]]) -> T:
    """Run a scenario with ``count`` clients of a connection each: the balancing gives every worker its share."""

    async def run() -> T:
        clients = [server.wire() for _ in range(count)]
        try:
            return await scenario(clients)
        finally:
            for wire in clients:
                await wire.end()

    return asyncio.run(run())


def play_to_death(data: Path, scenario: Callable[[Server, float, int], Awaitable[T]], seconds: float, seed: int) -> T:
    """Run a scenario that starts and kills its server itself; whatever is left of it is killed at the end."""
    server = Server(data)

    async def run() -> T:
        return await scenario(server, seconds, seed)

    try:
        return asyncio.run(run())
    finally:
        if server.process is not None:
            server.kill_tree()


def play_long(scenario: Callable[[Server, float, int], Awaitable[T]]) -> T:
    """The long form: seconds, and a seed to repeat, of the command line."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="titans3-faults-") as name:
        return play_to_death(Path(name) / "data", scenario, seconds, seed)


__all__ = ["Server", "Unknown", "free_port", "play", "play_long", "play_to_death"]
