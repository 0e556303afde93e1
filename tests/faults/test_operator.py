"""What an operator sees of a running server: health, notices, titles, the block to paste, modes of files, keys, status."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.server import TITANS3, Server, until
from tests.faults.wire import Wire
from titans3.observe.board import REQUESTS

TITANCTL = str(Path(sys.executable).with_name("titanctl"))


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    options = ("--s3", "0.0.0.0:0", "--s3", "[::1]:0")
    made = Server(tmp_path / "data folder", options=options, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    yield made
    made.kill_tree()


def told(notices: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in notices.recv(4096).decode().split("\n"))


def ctl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TITANCTL, *map(str, arguments)], capture_output=True, text=True, timeout=20, check=False)


def secrets_shown(server: Server, secret: str) -> list[str]:
    """Where anybody who may look at processes or logs would find a secret; what the operator's own environment had does not count."""
    assert server.process is not None
    places = {"log": server.log.read_bytes()}
    for process in server.family():
        for name in ("cmdline", "environ"):
            if not (process.pid == server.process.pid and name == "environ"):
                places[f"{process.pid} {name}"] = Path(f"/proc/{process.pid}/{name}").read_bytes()
    return [place for place, text in places.items() if secret.encode() in text]


def modes(folder: Path) -> dict[str, int]:
    return {str(name): stat.S_IMODE(name.lstat().st_mode) for name in [folder, *folder.rglob("*")]}


async def status_with(server: Server, access_key: str, secret_key: str) -> int:
    wire = Wire("127.0.0.1", server.port, access_key, secret_key)
    status, _, _ = await wire.call("GET", "/")
    await wire.end()
    return status


async def held_until_ready(server: Server) -> tuple[int, str]:
    """The answer to a request that is sent before the server is ready."""
    await until(lambda: not server.is_refusing(), 20, "a listener")
    assert not server.is_announced()
    return await server.answer("/health/ready", 20)


def check_block(server: Server, tmp_path: Path, access_key: str, secret_key: str) -> None:
    """The line to paste works in a shell that knows nothing, anywhere."""
    text = server.log.read_text()
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("eval"))
    script = f'{line}; echo "$AWS_ENDPOINT_URL $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $AWS_REGION"'
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": ""}, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stdout == f"http://127.0.0.1:{server.port} {access_key} {secret_key} us-east-1\n", done
    assert re.search(r"WARNING: plain HTTP on 0\.0\.0\.0:\d+: ", text)


def check_status(server: Server) -> None:
    assert server.process is not None
    seen = json.loads(ctl("status", "--data", server.data, "--json").stdout)
    assert seen["pid"] == server.process.pid and seen["url"] == f"http://127.0.0.1:{server.port}"
    assert [row["pid"] for row in seen["workers"]] == sorted(server.worker_pids(), key=lambda pid: psutil.Process(pid).cmdline())
    assert {row["state"] for row in seen["workers"]} == {"serving"} and {row["state"] for row in seen["volumes"]} == {"ok"}
    assert sum(row["requests"] for row in seen["workers"]) > 0 and all(row["free"] > row["reserve"] > 0 for row in seen["volumes"])
    lines = ctl("status", "--data", server.data).stdout.splitlines()
    wanted = [[str(row["worker"]), str(row["pid"]), "serving"] for row in seen["workers"]]
    assert [line.split()[:3] for line in lines if "serving" in line] == wanted
    assert sum(" ok " in line for line in lines) == 2


@pytest.mark.timeout(60)
def test_what_an_operator_sees(server: Server, notices: socket.socket, tmp_path: Path) -> None:
    async def first() -> tuple[str, str]:
        server.start()
        assert server.process is not None
        assert await held_until_ready(server) == (200, "ready\n")
        await server.wait_ready()
        assert told(notices) == {"READY": "1", "MAINPID": str(server.process.pid)}
        for word in ("live", "ready", "cluster"):
            assert (await server.answer(f"/health/{word}"))[0] == 200
        titles = [" ".join(psutil.Process(pid).cmdline()).strip() for pid in (server.process.pid, *server.worker_pids())]
        assert sorted(titles) == [f"titans3: supervisor {server.data}", "titans3: worker 0", "titans3: worker 1"]
        match = re.search(r"is ready: http://127\.0\.0\.1:\d+, http://0\.0\.0\.0:(\d+), http://(\[::1\]):(\d+)\n", server.log.read_text())
        assert match
        for host, port in (("::1", int(match[3])), ("127.0.0.1", int(match[1]))):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"live\n")
            writer.close()
            await writer.wait_closed()
        access_key, secret_key = server.credentials()
        assert await status_with(server, access_key, secret_key) == 200
        check_block(server, tmp_path, access_key, secret_key)
        board = server.board()
        await until(lambda: board.get(0, REQUESTS) + board.get(1, REQUESTS), 30, "a worker's next beat")
        board.close()
        check_status(server)
        found = modes(server.data)
        assert {mode for name, mode in found.items() if os.path.isdir(name)} == {0o700}, found
        assert {mode for name, mode in found.items() if not os.path.isdir(name)} == {0o600}, found
        assert secrets_shown(server, secret_key) == []

        server.process.send_signal(signal.SIGHUP)
        reloading = told(notices)
        assert reloading["RELOADING"] == "1" and int(reloading["MONOTONIC_USEC"]) > 0
        assert told(notices) == {"READY": "1"}
        server.process.send_signal(signal.SIGTERM)
        assert told(notices) == {"STOPPING": "1"}
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        gone = ctl("status", "--data", server.data)
        assert gone.returncode == 1 and gone.stdout == "" and f"no server runs on {server.data}" in gone.stderr
        return access_key, secret_key

    async def again(old: tuple[str, str], new: tuple[str, str]) -> None:
        server.start()
        await server.wait_ready()
        assert await status_with(server, *new) == 200
        assert await status_with(server, *old) == 403
        assert secrets_shown(server, new[1]) == []
        if server.env.get("TITANS3_ROOT_ACCESS_KEY"):
            assert json.loads(ctl("env", "--data", server.data, "--json").stdout)["AWS_SECRET_ACCESS_KEY"] == new[1]
            assert modes(server.data)[str(server.data / "run" / "endpoint.json")] == 0o600
        assert await asyncio.to_thread(server.stop) == 0
        assert not any(new[1].encode() in name.read_bytes() for name in server.data.glob("run/*") if name.is_file())

    made = asyncio.run(first())
    done = subprocess.run([TITANS3, "credentials", "reset", "--data", server.data], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    assert all(key in done.stdout for key in server.credentials())
    asyncio.run(again(made, server.credentials()))
    server.env |= {"TITANS3_ROOT_ACCESS_KEY": "operator", "TITANS3_ROOT_SECRET_KEY": "a-secret-of-the-operator"}
    asyncio.run(again(server.credentials(), ("operator", "a-secret-of-the-operator")))


def test_a_closed_standard_output_and_a_foreign_folder_do_not_matter(tmp_path: Path) -> None:
    """``titans3 run | head -0``, started where files have the names of modules that workers import."""
    (tmp_path / "uvloop.py").write_text("raise SystemExit('from the current folder')")
    (tmp_path / "titans3").mkdir()
    (tmp_path / "titans3" / "__init__.py").write_text("raise SystemExit('from the current folder')")
    data = tmp_path / "data"
    with open(tmp_path / "log", "wb") as log:
        command = [TITANS3, "run", "--data", "data", "--s3", "127.0.0.1:0", "--workers", "1"]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    server.stdout.close()

    def is_said() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        return "standard output is closed" in (tmp_path / "log").read_text()

    asyncio.run(until(is_said, 20, "ready"))
    assert ctl("status", "--data", data).returncode == 0
    server.terminate()
    assert server.wait(20) == 0, (tmp_path / "log").read_text()
