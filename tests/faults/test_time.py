"""The clock jumps an hour either way, while the server runs and across restarts: the last acknowledged write is what is there.

Needs libfaketime (apt-get install faketime). Client and server jump together, but for the one request that shows the skew rule.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.faults.server import Server, play
from tests.faults.wire import Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
LIBRARIES = [Path(f"/usr/lib/{place}/faketime/libfaketimeMT.so.1") for place in (f"{os.uname().machine}-linux-gnu", "")]
BUCKET = "clock"
HOUR = 3600
JUMPS = (HOUR, -HOUR, HOUR, 0)


class Clock:
    """The server's clock: an offset in a file that libfaketime reads every second."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.offset = 0
        self.jump(0)

    def jump(self, offset: int) -> None:
        """From now on the server's wall clock is so many seconds ahead."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset:+d}")
        fresh.rename(self.file)
        self.offset = offset

    def environment(self, library: Path) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class Record:
    """What was acknowledged last, by key."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server, self.clock = server, clock
        self.objects: dict[str, bytes] = {}
        self.rng = random.Random(5)

    async def write(self, wire: Wire) -> None:
        """Overwrite, make, delete; every answer must be a yes."""
        wire.ahead = self.clock.offset
        for number in range(16):
            key = f"k{number}"
            body = self.rng.randbytes(200_000 if number % 8 == 0 else 900)
            status, _, answer = await wire.call("PUT", f"/{BUCKET}/{key}", body=body)
            assert status == 200, (answer, self.server.tail())
            self.objects[key] = body
        gone = f"k{self.rng.randrange(16)}"
        assert (await wire.call("DELETE", f"/{BUCKET}/{gone}"))[0] == 204
        del self.objects[gone]

    async def check(self, wire: Wire) -> None:
        wire.ahead = self.clock.offset
        for key, body in self.objects.items():
            status, _, found = await wire.call("GET", f"/{BUCKET}/{key}")
            assert status == 200, (key, found)
            assert found == body, f"{key}: not what was acknowledged last"
        status, _, xml = await wire.call("GET", f"/{BUCKET}", {"list-type": "2"})
        assert status == 200
        items = ElementTree.fromstring(xml).iterfind("{*}Contents")
        listed = {item.findtext("{*}Key"): int(item.findtext("{*}Size") or -1) for item in items}
        assert listed == {key: len(body) for key, body in self.objects.items()}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    library = next((path for path in LIBRARIES if path.exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    clock = Clock(tmp_path)
    server = Server(tmp_path / "data", env={**clock.environment(library), "TITANS3_ENGINE__CHECKPOINT_SECONDS": "100ms"})
    made = Record(server, clock)
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield made
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill_tree()


async def _make(record: Record, wire: Wire) -> None:
    wire.ahead = record.clock.offset
    status, _, answer = await wire.call("PUT", f"/{BUCKET}")
    assert status == 200, answer


async def _arrive(record: Record, clients: list[Wire]) -> None:
    """Until every worker has seen the jump: a signature of its new time is taken."""
    for wire in clients:
        wire.ahead = record.clock.offset
        for _ in range(100):
            if (await wire.call("GET", f"/{BUCKET}", {"list-type": "2"}))[0] == 200:
                break
            await asyncio.sleep(0.05)


def test_the_clock_jumps_while_the_server_runs(record: Record) -> None:
    async def run(clients: list[Wire]) -> None:
        await _make(record, clients[0])
        for turn, offset in enumerate(JUMPS):
            record.clock.jump(offset)
            await _arrive(record, clients)
            await record.write(clients[turn % 4])
            await asyncio.sleep(0.6)  # a checkpoint and a beat under this clock
            for wire in clients:
                await record.check(wire)
        record.clock.jump(HOUR)
        await _arrive(record, clients)
        clients[0].ahead = 0
        status, _, answer = await clients[0].call("GET", f"/{BUCKET}/k1")
        assert status == 403
        assert b"RequestTimeTooSkewed" in answer
        clients[0].ahead = HOUR - 800
        assert (await clients[0].call("GET", f"/{BUCKET}", {"list-type": "2"}))[0] == 200, "within a quarter of an hour"

    play(record.server, 4, run)
    assert record.server.stop() == 0


def test_the_clock_jumps_across_restarts(record: Record) -> None:
    async def begin(clients: list[Wire]) -> None:
        await _make(record, clients[0])
        await record.write(clients[0])

    async def go_on(clients: list[Wire]) -> None:
        await record.check(clients[0])
        await record.write(clients[1])
        await record.check(clients[2])

    play(record.server, 1, begin)
    for turn, offset in enumerate(JUMPS):
        if turn % 2:
            record.server.kill_tree()
        else:
            assert record.server.stop() == 0
        record.clock.jump(offset)
        record.server.start()
        asyncio.run(record.server.wait_ready())
        play(record.server, 3, go_on)
