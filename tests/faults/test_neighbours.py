"""A worker that reads a sibling's volume by itself never tells anything but the newest that was acknowledged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conformance.scraped import scrape
from tests.faults.server import Server
from tests.faults.wire import Unknown, Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
LONG = bool(os.environ.get("TITANS3_LONG"))
SECONDS = 120.0 if LONG else 6.0
KEYS, CLIENTS = 40, 8
# Checkpoints all the time, so that rows go from overlays to the B-tree under the readers' eyes.
ENV = {"TITANS3_ENGINE__CHECKPOINT_SECONDS": "0.1", "TITANS3_METRICS__PUBLIC": "true"}


class Seen:
    """What clients know of the keys: of each the last number that was acknowledged, and the last that was begun; -1 for absent.

    ``loose``: numbers of unknown outcome, which may yet come to pass after later ones.
    """

    def __init__(self) -> None:
        self.done = dict.fromkeys(range(KEYS), -1)
        self.begun = dict.fromkeys(range(KEYS), -1)
        self.loose: dict[int, set[int]] = {key: set() for key in range(KEYS)}
        self.reads = self.lists = self.unknown = 0
        self.wrong: list[str] = []


async def write(wire: Wire, seen: Seen, key: int, rng: random.Random) -> None:
    """One writer a key: numbers that rise; now and then the key is deleted in between."""
    number = seen.begun[key] = seen.begun[key] + 1
    deletes = rng.random() < 0.2
    try:
        if deletes:
            status, _, _ = await wire.call("DELETE", f"/near/k{key:02d}")
            assert status in (204, 503), status
            if status == 204:
                seen.done[key] = -1 - number - 2  # deleted after that number
                return
        else:
            status, _, answer = await wire.call("PUT", f"/near/k{key:02d}", body=b"%d" % number + b"." * 100)
            assert status in (200, 503), answer
            if status == 200:
                seen.done[key] = number
                return
    except Unknown:
        pass
    seen.unknown += 1
    seen.loose[key].add(-1 if deletes else number)


def is_fresh(before: int, number: int, begun: int) -> bool:
    """Whether a read may say ``number`` (-1: absent) when ``before`` was acknowledged as it began and ``begun`` begun as it ended."""
    if before >= 0:  # a later write or deletion may have come meanwhile
        return before <= number <= begun or (number == -1 and begun > before)
    deleted = -before - 3 if before < -1 else -1
    return number == -1 or deleted < number <= begun


async def look(wire: Wire, seen: Seen, key: int) -> None:
    before = seen.done[key]
    try:
        status, _, body = await wire.call("GET", f"/near/k{key:02d}")
    except Unknown:
        return
    if status == 503:
        return
    assert status in (200, 404), (status, body)
    number = int(body.partition(b".")[0]) if status == 200 else -1
    seen.reads += 1
    if number not in seen.loose[key] and not is_fresh(before, number, seen.begun[key]):
        seen.wrong.append(f"key {key}: {number} was read when {before} was acknowledged, {seen.begun[key]} begun")


async def list_all(wire: Wire, seen: Seen) -> None:
    before = dict(seen.done)
    try:
        status, _, body = await wire.call("GET", "/near", {"list-type": "2"})
    except Unknown:
        return
    if status != 200:
        return
    seen.lists += 1
    for key, number in before.items():
        if seen.loose[key]:
            continue
        is_there = b"<Key>k%02d</Key>" % key in body
        if number >= 0 and not is_there and seen.begun[key] == number:
            seen.wrong.append(f"key {key} is not listed though {number} was acknowledged")
        if number < -1 and is_there and seen.begun[key] == -number - 3:
            seen.wrong.append(f"key {key} is listed though its deletion was acknowledged")


async def play(
    server: Server, seconds: float, disturb: Callable[[], Awaitable[None]] | None = None, seen: Seen | None = None
) -> Seen:
    """Writers and readers through all workers for a while."""
    seen = seen or Seen()
    rng, wires = random.Random(7), [server.wire() for _ in range(CLIENTS)]
    end = time.monotonic() + seconds

    async def writer(keys: range) -> None:
        while time.monotonic() < end:
            for key in keys:
                await write(rng.choice(wires), seen, key, rng)
                await look(rng.choice(wires), seen, key)
            await asyncio.sleep(rng.random() * 0.3)

    async def reader() -> None:
        while time.monotonic() < end:
            await look(rng.choice(wires), seen, rng.randrange(KEYS))

    async def lister() -> None:
        while time.monotonic() < end:
            await list_all(rng.choice(wires), seen)
            await asyncio.sleep(0.02)

    work = [writer(range(first, KEYS, 4)) for first in range(4)] + [reader() for _ in range(4)] + [lister()]
    if disturb is not None:
        work.append(disturb())
    try:
        await asyncio.gather(*work)
    finally:
        for wire in wires:
            await wire.end()
    return seen


def near_reads(server: Server) -> float:
    """Reads of siblings' volumes so far."""
    return scrape(f"http://127.0.0.1:{server.port}").total("titans3_dispatch_total", where="neighbour")


async def begin(server: Server) -> None:
    server.start()
    await server.wait_ready()
    wire = server.wire()
    status, _, answer = await wire.call("PUT", "/near")
    assert status == 200, answer
    await wire.end()


def test_reads_through_every_worker_are_of_the_newest(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", env=ENV)
    try:
        asyncio.run(begin(server))
        seen = asyncio.run(play(server, SECONDS))
        assert not seen.wrong, seen.wrong[:10]
        assert seen.reads > 100
        assert seen.lists > 10
        assert seen.unknown == 0
        assert near_reads(server) > 20, "no read was of a sibling's volume: nothing was shown"
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


def test_a_killed_owner_leaves_no_stale_reads_behind(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", env=ENV)

    async def kill() -> None:
        for _ in range(12 if LONG else 2):
            await asyncio.sleep(SECONDS / (14 if LONG else 4))
            os.kill(random.choice(server.worker_pids()), signal.SIGKILL)
            await server.wait_ready()

    try:
        asyncio.run(begin(server))
        seen = asyncio.run(play(server, SECONDS, kill))
        assert not seen.wrong, seen.wrong[:10]
        asyncio.run(server.wait_ready())
        before = near_reads(server)
        asyncio.run(play(server, 3.0, seen=seen))
        assert not seen.wrong, seen.wrong[:10]
        assert near_reads(server) > before, "after the kill siblings' volumes are not read any more"
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()
