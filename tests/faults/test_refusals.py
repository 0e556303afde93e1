"""``titans3 run`` that must not run: one line that names the thing, exit code 1, nothing changed on disk."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.server import TITANS3
from titans3.clock import SystemClock
from titans3.supervisor.folder import open_folder

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("TITANS3_", "PYTHON"))}


def run(*arguments: object, command: tuple[str, ...] = (TITANS3,), **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, which must end by itself."""
    words = [*command, "run", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=30, check=False)


def names(path: Path) -> list[str]:
    return sorted(str(name.relative_to(path)) for name in path.rglob("*"))


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("titans3: "), done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_new_folder_is_not_made_for_a_server_that_cannot_run(tmp_path: Path, taken: str) -> None:
    data = tmp_path / "data"
    refused(run("--data", data, "--s3", taken), f"s3.listen: cannot listen on {taken}: Address already in use")
    refused(run("--data", data, "--s3", "192.0.2.1:0"), "s3.listen: cannot listen on 192.0.2.1:0: Cannot assign requested address")
    refused(run("--data", data, "--s3", "127.0.0.1:0", TITANS3_ROOT_ACCESS_KEY="root"), "TITANS3_ROOT_SECRET_KEY is missing")
    refused(run("--data", data, "--s3", "127.0.0.1:0", TITANS3_ROOT_SECRET_KEY="long enough"), "TITANS3_ROOT_ACCESS_KEY is missing")
    refused(run("--data", data, tmp_path / "b", "--s3", "127.0.0.1:0"), "2 paths were given")
    (tmp_path / "pem").write_text("nonsense")
    refused(run("--data", data, "--s3", "127.0.0.1:0", "--tls-cert", tmp_path / "pem", "--tls-key", tmp_path / "pem"), "not a PEM")
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run([TITANS3, "run", "--wrong"], stderr=log, env=ENVIRONMENT, timeout=30, check=False)
    assert done.returncode == 2 and "no such option" in (tmp_path / "log").read_text()
    assert names(tmp_path) == ["log", "pem"]


@pytest.mark.parametrize(("flag", "environment"), [(("-O",), {}), ((), {"PYTHONOPTIMIZE": "1"})])
def test_an_interpreter_without_assertions_is_refused(tmp_path: Path, flag: tuple[str, ...], environment: dict[str, str]) -> None:
    done = run("--data", tmp_path / "data", command=(sys.executable, *flag, "-m", "titans3.cli.main"), **environment)
    refused(done, "does not run under `python -O` or PYTHONOPTIMIZE")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_fit_is_left_as_it_is(tmp_path: Path, taken: str) -> None:
    data = tmp_path / "data"
    open_folder(str(data), SystemClock(), 2).close()
    before = names(data)
    arguments = ("--data", data, "--s3", "127.0.0.1:0")
    refused(run("--data", data, "--s3", taken), "Address already in use")
    with open(data / "volumes" / "0000" / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(run(*arguments), f"volume 0 at {data}/volumes/0000 is in use by process {os.getpid()}")
    (data / "volumes" / "0000" / "lock").unlink()
    table = data / "cluster.json"
    text = table.read_text()
    table.write_text(json.dumps(json.loads(text) | {"format": 99}))
    refused(run(*arguments), "was written by a newer version: format 99")
    table.unlink()
    (data / "audit").mkdir(exist_ok=True)  # it is there after a first service
    refused(run(*arguments), "holds volumes (0000, 0001) but cluster.json is missing. Bring it back")
    (data / "audit").rmdir()
    table.write_text(text)
    (data / "volumes" / "0001").rename(tmp_path / "unplugged")
    refused(run(*arguments), "volume 1 of 2 is missing: expected at", "uuid")
    (tmp_path / "unplugged").rename(data / "volumes" / "0001")
    assert names(data) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write into another user's folder")
def test_tools_refuse_root_where_another_user_s_server_has_to_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_folder(str(data), SystemClock(), 2).close()
    for path in (data, *data.rglob("*")):
        os.chown(path, 65534, 65534)
    before = names(data)
    for command in (
        (TITANS3, "credentials", "reset"), (TITANS3, "tools", "disk", "ls"),
        (TITANS3, "tools", "meta", "snapshot", str(tmp_path / "snapshot")),
    ):  # fmt: skip
        done = subprocess.run([*command, "--data", str(data)], capture_output=True, text=True, env=ENVIRONMENT, timeout=30, check=False)
        refused(done, "belongs to nobody, whose server could not read what root writes: runuser -u nobody -- ")
    assert names(data) == before and {path.stat().st_uid for path in data.rglob("*")} == {65534}


def test_volumes_that_do_not_open_end_the_start_with_their_reason(tmp_path: Path) -> None:
    """What only a worker can find: the supervisor says it once and gives up, instead of trying for ever."""
    data = tmp_path / "data"
    open_folder(str(data), SystemClock(), 2).close()
    (data / "volumes" / "0001" / "meta").rmdir()
    (data / "volumes" / "0001" / "meta").write_text("not a folder")
    begin = time.monotonic()
    done = run("--data", data, "--s3", "127.0.0.1:0", "--workers", 2)
    assert done.returncode == 1 and done.stdout == "" and time.monotonic() - begin < 25
    assert "Traceback" not in done.stderr and "volumes/0001" in done.stderr, done.stderr
    assert not (data / "run" / "endpoint.json").exists()


def test_a_start_that_is_stopped_before_it_is_ready_ends_cleanly(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen([TITANS3, "run", "--data", data, "--s3", "127.0.0.1:0"], stdout=log, stderr=log, env=ENVIRONMENT)
    while not list(data.glob("volumes/*/meta/data.mdb")) and server.poll() is None:
        time.sleep(0.005)
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    open_folder(str(data), SystemClock(), 2).close()
