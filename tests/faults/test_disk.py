"""Disks that refuse: failed syncs and full file systems cost what they must, are shown with their cause, and lose nothing acknowledged."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.server import Server, play
from tests.faults.wire import Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
BUCKET = "shelf"
SMALL = {
    "TITANS3_ENGINE__LOG_SEGMENT_BYTES": "16MiB",
    "TITANS3_ENGINE__DATA_SEGMENT_BYTES": "16MiB",
    "TITANS3_ENGINE__CHECKPOINT_SECONDS": "100ms",
}


class Shelf:
    """A server of two volumes, and what was acknowledged. Keys by the volume that owns them."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "data", env=SMALL)
        self.objects: dict[str, bytes] = {}
        self.keys: list[list[str]] = [[], []]

    def start(self, env: dict[str, str] | None = None) -> None:
        self.server.start(env)
        play(self.server, 0, lambda clients: self.server.wait_ready())

    def prepare(self) -> None:
        """The bucket, and which keys are whose: a body lies in the log of its owner."""

        async def run(clients: list[Wire]) -> None:
            assert (await clients[0].call("PUT", f"/{BUCKET}"))[0] == 200
            for number in range(60):
                assert await self.put(clients[0], f"k{number}", 2000) == 200

        self.start()
        play(self.server, 1, run)
        logs = [b"".join(path.read_bytes() for path in (self.server.data / f"volumes/{volume:04d}/log").iterdir()) for volume in (0, 1)]
        for key, body in self.objects.items():
            (volume,) = [volume for volume in (0, 1) if body in logs[volume]]
            self.keys[volume].append(key)
        assert min(map(len, self.keys)) > 5

    async def put(self, wire: Wire, key: str, size: int) -> int:
        """Status; the body is remembered if it was acknowledged, the key is not held against the server if the outcome is open."""
        body = random.Random(f"{key}{size}{random.random()}").randbytes(size)
        status, _, answer = await wire.call("PUT", f"/{BUCKET}/{key}", body=body)
        if status == 200:
            self.objects[key] = body
        else:
            assert b"<Code>" in answer, answer
            if status == 500:  # it may have been done
                self.objects.pop(key, None)
        return status

    async def check(self, wire: Wire) -> None:
        """Everything acknowledged is there."""
        for key, body in self.objects.items():
            status, _, data = await wire.call("GET", f"/{BUCKET}/{key}")
            assert (status, data == body) == (200, True), (key, status, data[:300])

    def end(self) -> None:
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.kill_tree()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    made.prepare()
    yield made
    made.end()


async def _after_failure(shelf: Shelf, wires: list[Wire], cause: str) -> None:
    """One volume has failed: what that costs, and what not."""
    status, _, text = await wires[0].call("GET", "/health/cluster")
    health = text.decode()
    failed = 0 if "volume 0: failed" in health else 1
    assert status == 503
    assert f"volume {failed}: failed" in health
    assert f"volume {1 - failed}: ok" in health
    assert cause in health
    assert cause in shelf.server.tail()
    for wire in wires[:4]:  # of both workers
        for key in shelf.keys[failed][:2]:
            assert await shelf.put(wire, key, 2000) == 503
            assert await shelf.put(wire, key, 200_000) == 503
            assert (await wire.call("DELETE", f"/{BUCKET}/{key}"))[0] == 503
        for key in shelf.keys[1 - failed][:2]:
            assert await shelf.put(wire, key, 2000) == 200
            assert await shelf.put(wire, key, 200_000) == 200
        status, _, listed = await wire.call("GET", f"/{BUCKET}", {"list-type": "2"})
        assert status == 200
        assert listed.count(b"<Contents>") >= len(shelf.objects)
        await shelf.check(wire)


def _heals(shelf: Shelf) -> None:
    """After a restart everything is there and writes work."""
    shelf.start()

    async def run(clients: list[Wire]) -> None:
        await shelf.check(clients[0])
        for key in [*shelf.keys[0], *shelf.keys[1]]:
            assert await shelf.put(clients[0], key, 3000) == 200
        assert (await clients[0].call("GET", "/health/cluster"))[0] == 200

    play(shelf.server, 1, run)


@pytest.mark.parametrize(("point", "count", "size"), [("flush", 60, 2000), ("write", 60, 2000), ("extent sync", 40, 200_000)])
def test_an_error_of_the_log_or_of_a_data_segment(shelf: Shelf, point: str, count: int, size: int) -> None:
    assert shelf.server.stop() == 0
    shelf.start({"TITANS3_FAILPOINT": f"{point}:{count}=error"})

    async def run(clients: list[Wire]) -> None:
        statuses: list[int] = []
        while not statuses or statuses[-1] == 200:
            assert len(statuses) < 200
            statuses.append(await shelf.put(clients[0], shelf.keys[1][len(statuses) % len(shelf.keys[1])], size))
        assert statuses[-1] >= 500, "the write whose sync failed is not acknowledged"
        await asyncio.sleep(0.7)  # the board is written twice a second
        await _after_failure(shelf, clients, f"failpoint {point}")

    play(shelf.server, 8, run)
    shelf.server.kill_tree()
    _heals(shelf)


def test_an_fdatasync_that_the_kernel_refuses(shelf: Shelf, tmp_path: Path) -> None:
    """The same from below Python, by libfiu: every fdatasync of one worker fails from a moment on."""
    preload = [path for path in map(Path, ("/usr/lib/fiu/fiu_run_preload.so", "/usr/lib/fiu/fiu_posix_preload.so")) if path.exists()]
    if shutil.which("fiu-ctrl") is None or len(preload) < 2:
        pytest.skip("libfiu is not installed: apt-get install fiu-utils")
    assert shelf.server.stop() == 0
    control = str(tmp_path / "fiu")
    shelf.start({"LD_PRELOAD": " ".join(map(str, preload)), "FIU_CTRL_FIFO": control})
    pid = shelf.server.worker_pids()[1]
    subprocess.run(["fiu-ctrl", "-f", control, "-c", "enable name=posix/io/sync/fdatasync,failinfo=5", str(pid)], check=True, timeout=20)

    async def run(clients: list[Wire]) -> None:
        statuses = [await shelf.put(clients[0], shelf.keys[1][0], 2000) for _ in range(3)]
        assert statuses == [500, 503, 503]
        await asyncio.sleep(0.7)
        await _after_failure(shelf, clients, "Input/output error")

    play(shelf.server, 8, run)
    shelf.server.kill_tree()
    _heals(shelf)
