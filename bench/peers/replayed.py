"""The replayer as the client: where there is no warp, and where the server is none of S3 (nginx).

Requests are signed before the clock starts, bodies are sent unhashed (UNSIGNED-PAYLOAD) and reused, so the client costs less than warp and
PUT costs every server less. multipart-put and versioned need ids that a server gives: warp alone can.
"""

from __future__ import annotations

import asyncio
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
_MOST_PER_SECOND = {4 << 10: 8_000, 64 << 10: 4_000, 1 << 20: 1_000}  # writes that are signed before; with more the cell is shorter
_MOST_LARGE = 150
_MOST = 150_000  # what fits into memory


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
        self.body = random.Random(1).randbytes(cell.bytes)

    async def fill(self) -> None:
        """The bucket and its objects; RuntimeError if one is refused."""
        if isinstance(self.server, Nginx):
            for number in range(self.cell.objects):
                self.server.put_file(self.bench.key(number), self.body)
            return
        bucket = await play(self.server, [[self.bench.sign.head("PUT", f"/{BUCKET}")]], lanes=1, seconds=30, once=True)
        run = await play(
            self.server, self.bench.puts(0, self._filled(), self.body), lanes=self.cell.concurrency, seconds=FILL_SECONDS, once=True
        )  # fmt: skip
        for statuses in (bucket.statuses, run.statuses):
            if not statuses.keys() <= {200}:
                raise RuntimeError(f"filling was refused: {statuses}")

    def _filled(self) -> int:
        return PAGE * PREFIXES if self.cell.operation == "list" else self.cell.objects

    def requests(self) -> tuple[list[list[bytes]], bool]:
        """(signed requests, whether each is sent once)."""
        cell, bench = self.cell, self.bench
        most = min(_MOST, math.ceil(_MOST_PER_SECOND.get(cell.bytes, _MOST_LARGE) * cell.seconds))
        bench.sign.renew()
        if cell.operation == "get":
            return bench.plain("GET", 0, cell.objects), False
        if cell.operation == "stat":
            return bench.plain("HEAD", 0, cell.objects), False
        if cell.operation == "put":
            return bench.puts(FIRST_NEW, most, self.body), True
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
                found += self.bench.puts(new, 1, self.body)
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
    cpu, own, begin = server.cpu_seconds(), time.process_time(), time.perf_counter()
    run = await play(server, requests, lanes=cell.concurrency, seconds=cell.seconds, once=once)
    seconds, own, cpu = time.perf_counter() - begin, time.process_time() - own, server.cpu_seconds() - cpu
    return outcome(run, seconds, cpu, own, cell)


def outcome(run: Run, seconds: float, cpu: float, own: float, cell: Cell) -> Outcome:
    """The figures of a run; an answer other than 200 and 204 is an error."""
    bad = {status: count for status, count in run.statuses.items() if status not in (200, 204)}
    count = len(run.latencies)
    if not count:
        return Outcome(trouble=f"no answers: {run.statuses}")
    times = [int(latency * 1e9) for latency in run.latencies]
    return Outcome(
        requests=count, seconds=seconds, per_second=count / seconds, median_per_second=count / seconds, p50_ms=percentile(times, 50),
        p99_ms=percentile(times, 99), server_us=cpu / count * 1e6, client_us=own / count * 1e6,
        kinds={cell.operation: Kind(count, percentile(times, 50), percentile(times, 99))}, errors=sum(bad.values()),
        first_errors=[f"{number} answers of {status}" for status, number in bad.items()], client_command=NAME,
    )  # fmt: skip
