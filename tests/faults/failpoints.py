"""A server that is killed at each named failpoint, under a storm, and what is there after the next start.

One data folder lives through all of it. A round arms one name, storms until a process died there (at start, while serving, or
while it came back), kills the rest, starts again unarmed and verifies every key that was touched.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.faults.server import Server
from tests.faults.storm import BUCKET, Shape, Storm
from titans3.observe.failpoint import NAMES

# Few keys and large small bodies: log segments fill, die, are compacted and unlinked within seconds.
SHAPE = Shape(6, ("", "/"), (0, 100, 4096, 30_000, 65_536, 65_537, 300_000), (1, 2, 4, 8, 16, 3, 1))
SMALL = {
    "TITANS3_ENGINE__LOG_SEGMENT_BYTES": "16MiB",
    "TITANS3_ENGINE__DATA_SEGMENT_BYTES": "16MiB",
    "TITANS3_ENGINE__RESERVE_BYTES": "64MiB",
    "TITANS3_ENGINE__CHECKPOINT_SECONDS": "50ms",
    "TITANS3_ENGINE__CHECKPOINT_ROWS": "100",
}
# The most hits that are waited for: what a few seconds of storm reach in one process. Names that are not here: two.
HITS = dict.fromkeys(NAMES, 2) | {
    "segment switch": 3, "write": 300, "flush": 300, "apply": 1500, "freeze": 8, "checkpoint put": 8, "checkpoint commit": 8,
    "overlay drop": 8, "loc swap": 2, "unlink": 7, "recovery": 1, "extent write": 40, "extent sync": 30,
}
assert set(HITS) == set(NAMES), "a name that is gone"
REACH_SECONDS = 60.0
_KILLED = b"signal SIGKILL"


class Run:
    """Rounds over one data folder. ``reached`` are the names that a process died at."""

    def __init__(self, folder: Path, *, seed: int, clients: int = 8, workers: int = 2) -> None:
        self.rng = random.Random(seed)
        self.coverage_log = folder / "failpoints"
        self.server = Server(folder / "data", workers=workers, env={**SMALL, "TITANS3_FAILPOINT_LOG": str(self.coverage_log)})
        self.storm = Storm(self.server, clients=clients, seed=seed, shape=SHAPE)
        self.reached: set[str] = set()

    async def begin(self) -> None:
        """A first start and the bucket."""
        self.server.start()
        await self.server.wait_ready()
        wire = self.server.wire()
        status, _, answer = await wire.call("PUT", f"/{BUCKET}")
        assert status == 200, answer
        wire.close()
        self.server.kill_tree()

    async def round(self, name: str, count: int) -> str:
        """Die at the ``count``-th hit of ``name``, come back, verify. One line about it."""
        begin = time.monotonic()
        acks = self.storm.acks
        log_from = self.server.log.stat().st_size
        self.server.start({"TITANS3_FAILPOINT": f"{name}:{count}=kill"})
        await self._until_killed(log_from, name)
        self.reached.add(name)
        self.server.kill_tree()
        died = time.monotonic() - begin
        self.server.start()
        ready = await self.server.wait_ready()
        checked = await self.storm.verify()
        self.server.kill_tree()
        return f"{name}:{count}  died after {died:.1f} s, {self.storm.acks - acks} acks  ready {ready:.2f} s  checked {checked} keys"

    def _killed(self, log_from: int) -> bool:
        with open(self.server.log, "rb") as log:
            log.seek(log_from)
            return _KILLED in log.read()

    async def _until_killed(self, log_from: int, name: str) -> None:
        begin = time.monotonic()
        ready = asyncio.ensure_future(self.server.wait_ready())
        while not self._killed(log_from):
            done, _ = await asyncio.wait([ready], timeout=0.05)
            if done:
                break
        if self._killed(log_from):
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
            return
        await ready
        async with self.storm.blowing():
            while not self._killed(log_from):
                assert time.monotonic() - begin < REACH_SECONDS, f"failpoint {name!r} was not reached in {REACH_SECONDS} s"
                await asyncio.sleep(0.02)

    def coverage(self) -> set[str]:
        """Every name that any process of the run reached."""
        return set(self.coverage_log.read_text().splitlines())

    def end(self) -> None:
        """Nothing is left running."""
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.kill_tree()


async def run(folder: Path, *, rounds: int, seed: int, workers: int = 2) -> None:
    """The long form: random hits of every name in turn, ``rounds`` in all; prints a line a round."""
    one = Run(folder, seed=seed, workers=workers)
    try:
        await one.begin()
        for number in range(rounds):
            name = NAMES[number % len(NAMES)]
            line = await one.round(name, one.rng.randint(1, HITS[name]))
            print(f"round {number + 1}/{rounds} {line}", flush=True)
        if rounds >= len(NAMES):
            assert one.coverage() == set(NAMES), f"never reached: {sorted(set(NAMES) - one.coverage())}"
    finally:
        one.end()
