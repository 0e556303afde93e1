"""Disks that refuse: failed syncs and full file systems cost what they must, are shown with their cause, and lose nothing acknowledged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.server import Server, play, until
from tests.faults.wire import Unknown, Wire

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


def test_the_space_of_deleted_bodies_comes_back(shelf: Shelf) -> None:
    """Deleted and overwritten bodies of every kind: their segments are compacted and unlinked while the server serves."""

    def used() -> int:
        total = 0
        for path in (shelf.server.data / "volumes").glob("*/data/*"):
            with contextlib.suppress(FileNotFoundError):  # unlinked since it was listed
                total += path.stat().st_blocks * 512
        return total

    async def run(clients: list[Wire]) -> None:
        keys = [f"large{number}" for number in range(40)]
        for key in [*keys, *keys[:10]]:
            assert await shelf.put(clients[0], key, 1_500_000) == 200
        full = used()
        assert full >= 75_000_000
        for key in keys:
            if key != "large7":
                assert (await clients[0].call("DELETE", f"/{BUCKET}/{key}"))[0] == 204
                del shelf.objects[key]
        await until(lambda: used() <= 34_000_000, 30, f"of {full} bytes all but two segments are given back, not {used()}")
        await shelf.check(clients[0])

    play(shelf.server, 1, run)


@pytest.mark.parametrize("kernel", ["true", "false"])
@pytest.mark.parametrize(("point", "count", "size"), [("flush", 60, 2000), ("write", 60, 2000), ("extent sync", 40, 200_000)])
def test_an_error_of_the_log_or_of_a_data_segment(shelf: Shelf, point: str, count: int, size: int, kernel: str) -> None:
    assert shelf.server.stop() == 0
    shelf.start({"TITANS3_FAILPOINT": f"{point}:{count}=error", "TITANS3_ENGINE__KERNEL_SYNC": kernel})

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
    shelf.start({"LD_PRELOAD": " ".join(map(str, preload)), "FIU_CTRL_FIFO": control, "TITANS3_ENGINE__KERNEL_SYNC": "false"})
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


@pytest.mark.parametrize("kernel", ["true", "false"])
def test_a_disk_that_fails_below_the_file_system(tmp_path: Path, kernel: str) -> None:
    """ext4 on a disk that takes no more writes from a moment on, whoever asks for the sync: what was acknowledged is on the disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    below, image, point = tmp_path / "below", tmp_path / "below/image", tmp_path / "mount"
    below.mkdir()
    point.mkdir()

    def command(*words: str, check: bool = True) -> None:
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not here")
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode and check:
            pytest.skip(f"{' '.join(words)}: {done.stderr.strip()}")

    server = Server(point / "data", workers=1, env={**SMALL, "TITANS3_ENGINE__RESERVE_BYTES": "0", "TITANS3_ENGINE__KERNEL_SYNC": kernel})
    server.log = tmp_path / "server.log"
    written: dict[str, bytes] = {}

    async def fill(clients: list[Wire]) -> None:
        assert (await clients[0].call("PUT", f"/{BUCKET}"))[0] == 200

        async def put(client: Wire, number: int) -> None:
            for turn in range(2000):
                key, body = f"{number}/{turn}", os.urandom(60_000 if turn % 4 else 200_000)
                try:
                    status, _, _ = await client.call("PUT", f"/{BUCKET}/{key}", body=body)
                except Unknown:
                    return
                if status == 507:  # the refused write was a new segment's: no room for it, and nothing has failed yet
                    await asyncio.sleep(0.05)
                    turns_left[number] -= 1
                    if turns_left[number]:
                        continue
                if status != 200:
                    assert status in (500, 503, 507)
                    return
                written[key] = body

        turns_left = [40] * len(clients)
        await asyncio.gather(*(put(client, number) for number, client in enumerate(clients)))

    async def look(clients: list[Wire]) -> None:
        for key, body in written.items():
            status, _, found = await clients[0].call("GET", f"/{BUCKET}/{key}")
            assert (status, found == body) == (200, True), key

    command("mount", "-t", "tmpfs", "-o", "size=100M", "titans3-test", str(below))
    try:
        with open(image, "wb") as file:
            file.truncate(600 << 20)
        command("mkfs.ext4", "-q", "-m", "0", str(image))
        command("mount", "-o", "loop", str(image), str(point))
        try:
            server.start()
            play(server, 0, lambda clients: server.wait_ready())
            play(server, 8, fill)
            assert len(written) > 100
            # which error a write that the disk refused comes back as is the kernel's choice; the file system itself is far from full
            told = [line for line in server.log.read_text().splitlines() if "volumes/000" in line]
            failures = [line for line in told if " failed: " in line] or [line for line in told if " is full: " in line]
            assert failures, server.tail()
            assert any(error in failures[0] for error in ("Input/output error", "Read-only file system", "No space left")), failures
        finally:
            server.kill_tree()
            _unmount(point)
        command("mount", "-o", "remount,size=800M", str(below))  # a disk that takes writes again: what is there is there
        command("e2fsck", "-p", str(image), check=False)
        command("mount", "-o", "loop", str(image), str(point))
        try:
            server.start()
            play(server, 0, lambda clients: server.wait_ready())
            play(server, 1, look)
            assert server.stop() == 0
        finally:
            server.kill_tree()
            _unmount(point)
    finally:
        _unmount(below)


def _unmount(point: Path) -> None:
    for _ in range(50):
        done = subprocess.run(["umount", str(point)], capture_output=True, text=True, timeout=30)
        if done.returncode == 0 or "not mounted" in done.stderr:
            return
        time.sleep(0.1)  # a process that was killed lets go a moment later
    raise AssertionError(f"{point} cannot be unmounted: {done.stderr}")


MOUNT_BYTES = 320 << 20
RESERVE = "96MiB"  # of both volumes


@pytest.fixture(params=["ext4", "tmpfs"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    point = tmp_path / "mount"
    point.mkdir()
    if request.param == "ext4":
        image = tmp_path / "image"
        with open(image, "wb") as file:
            file.truncate(MOUNT_BYTES)
        commands = [["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(point)]]
    else:
        commands = [["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "titans3-test", str(point)]]
    for command in commands:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not here")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode:
            pytest.skip(f"{command[0]}: {done.stderr.strip()}")
    yield point
    _unmount(point)


def test_a_full_file_system(mounted: Path) -> None:
    """Writes are refused before the reserve is gone, all else goes on, and with room they go on by themselves."""
    server = Server(mounted / "data", workers=1, env={**SMALL, "TITANS3_ENGINE__RESERVE_BYTES": RESERVE})
    server.log = mounted.with_name("server.log")
    shelf = Shelf.__new__(Shelf)
    shelf.server, shelf.objects = server, {}
    shelf.start()
    try:
        play(server, 4, lambda clients: _fill_and_free(shelf, clients, mounted))
        assert server.stop() == 0
    finally:
        shelf.end()


def _take_all_but(hog: Path, left: int) -> None:
    """Another program's file: less is left than a segment. A server that takes room meanwhile only makes it smaller."""
    with open(hog, "wb") as file:
        for _ in range(50):
            stat = os.statvfs(hog.parent)
            try:
                os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize + os.fstat(file.fileno()).st_blocks * 512 - left)
                return
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    raise AssertionError("the room changes faster than it can be taken")


def test_a_first_start_without_room(mounted: Path) -> None:
    """It says what is missing, stops when told to, and serves as soon as there is room."""
    hog = mounted / "hog"
    _take_all_but(hog, 6 << 20)
    server = Server(mounted / "data", workers=2, env=SMALL)
    server.log = mounted.with_name("server.log")

    async def starved() -> None:
        await until(lambda: "has waited 5 s for room: no room for a segment of 16777216 bytes" in server.tail(), 20, server.tail())

    server.start()
    asyncio.run(starved())
    assert server.stop(20) is not None
    server.start()
    try:
        asyncio.run(starved())
        hog.unlink()
        asyncio.run(server.wait_ready(20))

        async def put(clients: list[Wire]) -> int:
            assert (await clients[0].call("PUT", f"/{BUCKET}"))[0] == 200
            return (await clients[0].call("PUT", f"/{BUCKET}/key", body=b"here"))[0]

        assert play(server, 1, put) == 200
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


@pytest.mark.parametrize("mounted", ["tmpfs"], indirect=True)
def test_others_take_the_reserve_too(mounted: Path) -> None:
    """Then nothing can be written, not even a delete: that is said at once, what was under way is answered, and room heals it."""
    server = Server(mounted / "data", workers=1, env={**SMALL, "TITANS3_ENGINE__RESERVE_BYTES": RESERVE})
    server.log = mounted.with_name("server.log")
    server.start()
    try:
        play(server, 0, lambda clients: server.wait_ready())
        play(server, 5, lambda clients: _starve_and_feed(clients, server, mounted / "hog"))
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


async def _starve_and_feed(wires: list[Wire], server: Server, hog: Path) -> None:
    wire = wires[0]
    assert (await wire.call("PUT", f"/{BUCKET}"))[0] == 200
    assert (await wire.call("PUT", f"/{BUCKET}/kept", body=b"kept"))[0] == 200

    _take_all_but(hog, 8 << 20)
    items = "".join(f"<Object><Key>{number:04d}{'x' * 1000}</Key></Object>" for number in range(1000))
    body = f"<Delete>{items}</Delete>".encode()
    digest = {"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}

    async def flood(one: Wire) -> tuple[bytes, float]:
        """Entries of a megabyte, until one is refused: the refusal and how long it took."""
        for _ in range(200):
            begin = time.monotonic()
            status, _, data = await one.call("POST", f"/{BUCKET}", {"delete": ""}, digest, body)
            if status != 200 or b"<Error>" in data:
                return data, time.monotonic() - begin
        raise AssertionError("the log never ran out of room")

    answers = await asyncio.gather(*(flood(one) for one in wires[1:]))
    assert any(b"InternalError" in data for data, _ in answers), [data[:300] for data, _ in answers]  # they were in its queue
    assert all(seconds < 15 for _, seconds in answers)
    data, seconds = await flood(wire)
    assert b"<Code>InsufficientStorage</Code>" in data, data[:300]
    assert seconds < 3
    assert (await wire.call("GET", f"/{BUCKET}/kept"))[2] == b"kept"
    assert "is full" in server.tail()
    hog.unlink()
    begin = time.monotonic()
    while (await wire.call("PUT", f"/{BUCKET}/later", body=b"later"))[0] != 200:
        assert time.monotonic() - begin < 30, "writes do not resume"
        await asyncio.sleep(0.2)
    assert (await wire.call("DELETE", f"/{BUCKET}/kept"))[0] == 204
    assert (await wire.call("GET", f"/{BUCKET}/later"))[2] == b"later"


async def _fill(shelf: Shelf, wire: Wire, name: str, size: int, folder: Path) -> int:
    """Write until it is refused; how many were taken."""
    least = 12 << 20  # the reserve is there for two log segments and for checkpoints; it is never gone
    for number in range(4000):
        status = await shelf.put(wire, f"{name}{number}", size)
        stat = os.statvfs(folder)
        assert stat.f_bavail * stat.f_frsize >= least, "the reserve is gone"
        if status != 200:
            assert status == 507, status
            return number
    raise AssertionError("it never filled up")


async def _fill_and_free(shelf: Shelf, wires: list[Wire], folder: Path) -> None:
    wire = wires[0]
    assert (await wire.call("PUT", f"/{BUCKET}"))[0] == 200
    assert await _fill(shelf, wire, "large", 3_000_000, folder) > 10
    await asyncio.gather(*(_fill(shelf, other, f"small{place}-", 60_000, folder) for place, other in enumerate(wires)))
    await asyncio.sleep(0.7)
    status, _, health = await wire.call("GET", "/health/cluster")
    assert status == 503
    assert b"volume 0: full" in health
    assert b"reserve" in health
    _, _, answer = await wire.call("PUT", f"/{BUCKET}/one-more", body=bytes(100))
    assert b"InsufficientStorage" in answer
    await shelf.check(wire)
    assert (await wire.call("GET", f"/{BUCKET}", {"list-type": "2"}))[0] == 200

    shelf.server.kill_tree()  # full, and in the middle of things
    wire.close()
    shelf.server.start()
    await shelf.server.wait_ready()
    await shelf.check(wire)
    assert await shelf.put(wire, "one-more", 100) in (200, 507)  # a start gives back what was prepared and not used

    for number, key in enumerate(list(shelf.objects)):
        if number % 8:
            status, _, answer = await wire.call("DELETE", f"/{BUCKET}/{key}")
            assert status == 204, (status, answer)
            del shelf.objects[key]
    begin = asyncio.get_running_loop().time()
    for number in range(20):
        for name, size in (("resumed", 1_000_000), ("resumed-small", 1_000)):
            while (status := await shelf.put(wire, f"{name}{number}", size)) != 200:
                assert status == 507
                assert asyncio.get_running_loop().time() - begin < 60, "writes do not resume"
                await asyncio.sleep(0.2)
    await shelf.check(wire)
    while (await wire.call("GET", "/health/cluster"))[0] != 200:
        assert asyncio.get_running_loop().time() - begin < 60, "the volumes stay full"
        await asyncio.sleep(0.2)
