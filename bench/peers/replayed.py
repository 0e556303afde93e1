"""The replayer as the client: where there is no warp, and where the server is none of S3 (nginx).

Requests are signed before the clock starts, bodies are sent unhashed (UNSIGNED-PAYLOAD) and reused, so the client costs less than warp and
PUT costs every server less. multipart-put and versioned need ids that a server gives: warp alone can.
"""

from __future__ import annotations

import asyncio
import collections
import math
import random
import time
from urllib.parse import quote

import uvloop

from bench.peers.matrix import MIXED, PAGE, Cell
from bench.peers.outcome import Kind, Outcome, percentile
from bench.peers.physical import Nginx
from bench.peers.served import Served
from bench.replay import BUCKET, Bench, Run, play

OPERATIONS = ("get", "put", "delete", "list", "stat", "mixed")
NAME = "the replayer of pre-signed requests (bench/replay.py)"
PREFIXES = 16  # of Bench.key
FILL_SECONDS = 1200.0
FIRST_NEW = 10_000_000  # number of the first key that is put in the timed phase
_MOST_PER_SECOND = ((4 << 10, 8_000), (64 << 10, 4_000), (1 << 20, 1_000), (10 << 20, 150))  # writes that are signed before, by size
_MOST_LARGE = 2 << 30  # bytes a second, of larger ones; where a server can more, the cell is shorter
_MOST = 150_000  # what fits into memory
_PIECE = 16 << 20  # larger bodies are so many bytes over and over


def run(cell: Cell, server: Served) -> Outcome:
    """One cell."""
    if cell.operation not in OPERATIONS:
        return Outcome(trouble=f"{cell.operation} needs warp")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measured(cell, server))


class Player:
    """Fills a server and asks it."""

    def __init__(self, cell: Cell, server: Served) -> None:
        self.cell, self.server = cell, server
        self.bench = Bench(server, cell.concurrency, cell.seconds, cell.objects)
        self.times = math.ceil(cell.bytes / _PIECE)
        self.body = random.Random(1).randbytes(cell.bytes // self.times)
        assert len(self.body) * self.times == cell.bytes

    async def fill(self) -> None:
        """The bucket and its objects; RuntimeError if one is refused."""
        if isinstance(self.server, Nginx):
            for number in range(self.cell.objects):
                self.server.put_file(self.bench.key(number), self.body)
            return
        bucket = await play(self.server, [[self.bench.sign.head("PUT", f"/{BUCKET}")]], lanes=1, seconds=30, once=True)
        run = await play(
            self.server, self._puts(0, self._filled()), lanes=self.cell.concurrency, seconds=FILL_SECONDS, once=True
        )  # fmt: skip
        for statuses in (bucket.statuses, run.statuses):
            if not statuses.keys() <= {200}:
                raise RuntimeError(f"filling was refused: {statuses}")

    def _puts(self, first: int, count: int) -> list[list[bytes]]:
        return self.bench.puts(first, count, self.body, times=self.times)

    def _filled(self) -> int:
        return PAGE * PREFIXES if self.cell.operation == "list" else self.cell.objects

    def requests(self) -> tuple[list[list[bytes]], bool]:
        """(signed requests, whether each is sent once)."""
        cell, bench = self.cell, self.bench
        rate = next((most for size, most in _MOST_PER_SECOND if cell.bytes <= size), _MOST_LARGE / cell.bytes)
        most = min(_MOST, cell.concurrency + math.ceil(rate * cell.seconds))
        bench.sign.renew()
        if cell.operation == "get":
            return bench.plain("GET", 0, cell.objects), False
        if cell.operation == "stat":
            return bench.plain("HEAD", 0, cell.objects), False
        if cell.operation == "put":
            return self._puts(FIRST_NEW, most), True
        if cell.operation == "delete":
            return bench.plain("DELETE", 0, cell.objects), True
        if cell.operation == "list":
            prefixes = [quote(bench.key(number).split("/")[2] + "/", safe="") for number in range(PREFIXES)]
            return [[bench.sign.head("GET", f"/{BUCKET}", f"list-type=2&max-keys={PAGE}&prefix={prefix}")] for prefix in prefixes], False
        return self._mixed(most), True

    def _mixed(self, most: int) -> list[list[bytes]]:
        """Of the first half of the objects GET and STAT, of the second DELETE, in the shares of warp's mix."""
        half = self.cell.objects // 2
        dice = random.Random(2)
        kinds = dice.choices([*MIXED], [*MIXED.values()], k=most)
        doomed = iter(range(half, self.cell.objects))
        found, new = [], FIRST_NEW
        for kind in kinds:
            if kind == "PUT":
                found += self._puts(new, 1)
                new += 1
            elif kind == "DELETE":
                number = next(doomed, None)
                if number is None:
                    break
                found.append([self.bench.sign.head("DELETE", self.bench.key(number))])
            else:
                method = "HEAD" if kind == "STAT" else kind
                found.append([self.bench.sign.head(method, self.bench.key(dice.randrange(half)))])
        return found


async def _measured(cell: Cell, server: Served) -> Outcome:
    player = Player(cell, server)
    await player.fill()
    requests, once = player.requests()
    tally = Tally(cell.operation)
    await tally.play(server, requests, lanes=cell.concurrency, seconds=cell.seconds, once=once)
    return tally.outcome()


class Tally:
    """Timed runs of one operation, added up."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.latencies: list[float] = []
        self.statuses: collections.Counter[int] = collections.Counter()
        self.seconds = self.server = self.own = 0.0

    async def play(self, server: Served, requests: list[list[bytes]], *, lanes: int, seconds: float, once: bool = False) -> Run:
        """One run more."""
        server_before, own_before, begin = server.cpu_seconds(), time.process_time(), time.perf_counter()
        run = await play(server, requests, lanes=lanes, seconds=seconds, once=once)
        self.seconds += time.perf_counter() - begin
        self.own += time.process_time() - own_before
        self.server += server.cpu_seconds() - server_before
        self.latencies += run.latencies
        self.statuses.update(run.statuses)
        return run

    def outcome(self) -> Outcome:
        """The figures; an answer other than 200 and 204 is an error."""
        bad = {status: count for status, count in self.statuses.items() if status not in (200, 204)}
        count = len(self.latencies)
        if not count:
            return Outcome(trouble=f"no answers: {dict(self.statuses)}")
        times = [int(latency * 1e9) for latency in self.latencies]
        p50, p99, rate = percentile(times, 50), percentile(times, 99), count / self.seconds
        return Outcome(
            requests=count, seconds=self.seconds, per_second=rate, median_per_second=rate, p50_ms=p50, p99_ms=p99,
            server_us=self.server / count * 1e6, client_us=self.own / count * 1e6, kinds={self.operation: Kind(count, p50, p99)},
            errors=sum(bad.values()), first_errors=[f"{number} answers of {status}" for status, number in bad.items()], client_command=NAME,
        )  # fmt: skip
