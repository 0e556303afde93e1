"""A client of a running TitanS3 whose phases are measured, and what the server weighs meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

from bench.peers.outcome import Outcome
from bench.peers.replayed import Tally
from bench.peers.rounds import take
from bench.peers.served import Served, on
from bench.peers.usage import disk_bytes, memory_of
from bench.replay import Signer

_SPACE = {
    "metadata_bytes": r"titans3_lmdb_used_bytes\b", "live_bytes": r"titans3_volume_live_bytes\b",
    "rows_kv": r'titans3_lmdb_entries\{.*table="kv"', "rows_loc": r'titans3_lmdb_entries\{.*table="loc"',
}  # fmt: skip
_CHECKPOINT_SECONDS_MAX = 60.0
T = TypeVar("T")


class Session:
    """``with`` around all phases."""

    def __init__(self, server: Served, client_cpus: frozenset[int]) -> None:
        self.server, self._cpus = server, client_cpus
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def sign(self) -> Signer:
        """As of now."""
        return Signer(f"127.0.0.1:{self.server.port}", *self.server.credentials())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """On the client's processors."""
        with on(self._cpus):
            return self._runner.run(work)

    def phase(self, operation: str, requests: list[list[bytes]], *, lanes: int, seconds: float, once: bool = False) -> Outcome:
        """One operation for some time."""
        with self.phases(operation) as (tally,):
            self.run(tally.play(self.server, requests, lanes=lanes, seconds=seconds, once=once))
        return self.outcomes[0]

    @contextlib.contextmanager
    def phases(self, *operations: str) -> Iterator[list[Tally]]:
        """Operations that are measured in turn; ``outcomes`` has their figures afterwards, what the server counted in each of them."""
        before = self.server.counters()
        tallies = [Tally(operation) for operation in operations]
        yield tallies
        self.outcomes = [tally.outcome() for tally in tallies]
        after, weight = self.server.counters_settled(), self.weight()
        for outcome in self.outcomes:
            take(outcome, self.server, before, after)
            outcome.figures |= weight
            outcome.server_command = self.server.command()

    def wait_checkpoint(self) -> None:
        """Until all that was written is in the B-tree."""
        deadline = time.monotonic() + _CHECKPOINT_SECONDS_MAX
        while any(self.server.samples(r"titans3_overlay_(frozen_)?rows\{").values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"rows were not in the B-tree after {_CHECKPOINT_SECONDS_MAX:g} s without a write")
            time.sleep(0.1)

    def weight(self) -> dict[str, float]:
        """Bytes: of the worker that has most of its own, of all processes, and of what is stored."""
        server = self.server
        assert server.tree is not None
        server.tree.refresh()
        supervisor, *workers = [memory_of(pid) for pid in server.tree.pids]
        found: dict[str, float] = {
            "worker_own_bytes": max(each.anonymous for each in workers), "worker_file_bytes": max(each.files for each in workers),
            "worker_peak_bytes": max(each.peak for each in workers), "server_bytes": sum(each.share for each in [supervisor, *workers]),
            "disk_bytes": disk_bytes(str(server.data)),
        }  # fmt: skip
        return found | {name: sum(server.samples(pattern).values()) for name, pattern in _SPACE.items()}
