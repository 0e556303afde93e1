"""A replayer of pre-signed requests: how many a second, how long each, and what each costs the server in CPU.

Requests are signed before the clock starts, so the client's own work per request is one write and one short parse; on a machine
that client and server share this matters more than anything else. ``python -m bench.replay --help``.

What it is not: warp. It sends ``UNSIGNED-PAYLOAD`` unless ``--hash`` is given, and reuses one body per size.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec
import uvloop

from tests.faults.server import Server

BUCKET = "bench"
JOINED_BYTES = 4096  # larger bodies are not copied for each request
LOST = 0  # stands for a status: the connection ended before the answer
IN_CHUNKS = -1  # the answer's length is not told: not understood here
_FILL_SLICE = 100_000  # signed at a time


class Signer:
    """SigV4 over headers with one key; only what a benchmark needs."""

    def __init__(self, host: str, access_key: str, secret_key: str) -> None:
        self.host, self.access_key, self._secret = host, access_key, secret_key
        self.renew()

    def renew(self) -> None:
        """Sign as of now: a signature holds for 15 minutes."""
        self.stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.scope = f"{self.stamp[:8]}/us-east-1/s3/aws4_request"
        key = ("AWS4" + self._secret).encode()
        for step in self.scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        self.key = key

    def head(self, method: str, path: str, query: str = "", *, length: int = 0, payload: str = "UNSIGNED-PAYLOAD") -> bytes:
        """A signed head; ``path`` is raw, ``query`` sorted and encoded."""
        canonical = (
            f"{method}\n{path}\n{query}\nhost:{self.host}\nx-amz-content-sha256:{payload}\nx-amz-date:{self.stamp}\n\n"
            f"host;x-amz-content-sha256;x-amz-date\n{payload}"
        )
        text = f"AWS4-HMAC-SHA256\n{self.stamp}\n{self.scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self.key, text.encode(), "sha256").hex()
        target = f"{path}?{query}" if query else path
        return (
            f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nx-amz-date: {self.stamp}\r\n"
            f"x-amz-content-sha256: {payload}\r\nContent-Length: {length}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope}, "
            f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}\r\n\r\n"
        ).encode()


class Target(Protocol):
    """A server that can be asked."""

    port: int

    def credentials(self) -> tuple[str, str]:
        """Access key and secret."""

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""


class Lane(asyncio.Protocol):
    """One connection: sends the next request when the last answer is whole."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.left = -1
        self.begin = 0.0
        self.head_only = False
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.next()

    def next(self) -> None:
        """Send one more, or close."""
        request = self.run.take()
        self.waiting = request is not None
        assert self.transport is not None
        if request is None:
            self.transport.close()
            return
        self.head_only = request[0][:4] == b"HEAD"
        self.begin = time.perf_counter()
        self.transport.writelines(request) if len(request) > 1 else self.transport.write(request[0])

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            self.buffer = self.buffer + data if self.buffer else data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            status = int(head[9:12])
            at = head.find(b"content-length:")
            length = 0
            if at >= 0 and not self.head_only and status not in (204, 304):
                stop = head.find(b"\r\n", at)
                length = int(head[at + 15 : stop if stop > 0 else None])
            elif b"\r\ntransfer-encoding:" in head:
                self.run.status(IN_CHUNKS)
                self.waiting = False
                assert self.transport is not None
                self.transport.close()
                return
            self.run.status(status)
            self.left = length - (len(self.buffer) - end - 4)
            self.buffer = b""
        else:
            self.left -= len(data)
        if self.left <= 0:
            self.left = -1
            self.run.done(time.perf_counter() - self.begin)
            self.next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting:
            self.run.status(LOST)
        self.run.lost()


class Run:
    """One timed run: ``requests`` are cycled until ``seconds`` are over (or sent once, with ``once``)."""

    def __init__(self, requests: list[list[bytes]], seconds: float, *, once: bool = False) -> None:
        self.requests, self.once = requests, once
        self.at = 0
        self.stop_at = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}
        self.open = 0
        self.finished = asyncio.get_running_loop().create_future()

    def take(self) -> list[bytes] | None:
        """Next request, ``None`` when it is over."""
        if time.perf_counter() >= self.stop_at or (self.once and self.at >= len(self.requests)):
            return None
        self.at += 1
        return self.requests[(self.at - 1) % len(self.requests)]

    def status(self, status: int) -> None:
        """Count an answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def done(self, seconds: float) -> None:
        """Count a latency."""
        self.latencies.append(seconds)

    def lost(self) -> None:
        """A connection ended."""
        self.open -= 1
        if self.open == 0 and not self.finished.done():
            self.finished.set_result(None)


class Result(msgspec.Struct):
    """One cell of the table."""

    operation: str
    concurrency: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_us: float
    statuses: dict[int, int]


async def play(server: Target, requests: list[list[bytes]], *, lanes: int, seconds: float, once: bool = False) -> Run:
    """Send requests over so many connections."""
    run = Run(requests, seconds, once=once)
    loop = asyncio.get_running_loop()
    run.open = lanes
    for _ in range(lanes):
        await loop.create_connection(lambda: Lane(run), "127.0.0.1", server.port, ssl=server.tls)
    await run.finished
    return run


async def measure(server: Target, name: str, requests: list[list[bytes]], *, lanes: int, seconds: float, once: bool = False) -> Result:
    """Run one cell."""
    cpu, begin = server.cpu_seconds(), time.perf_counter()
    run = await play(server, requests, lanes=lanes, seconds=seconds, once=once)
    spent, cpu = time.perf_counter() - begin, server.cpu_seconds() - cpu
    times = sorted(run.latencies) or [0.0]
    count = len(run.latencies)
    return Result(
        name, lanes, count, count / spent, times[count // 2] * 1e3, times[min(count - 1, count * 99 // 100)] * 1e3,
        cpu / max(1, count) * 1e6, run.statuses,
    )


class Bench:
    """The cells of the first table."""

    def __init__(self, server: Target, lanes: int, seconds: float, objects: int) -> None:
        self.server, self.lanes, self.seconds, self.objects = server, lanes, seconds, objects
        self.sign = Signer(f"127.0.0.1:{server.port}", *server.credentials())
        self.rng = random.Random(1)
        self.small = self.rng.randbytes(4096)
        self.objects_filled = False
        self.fresh = max(objects, 20_000)  # first number of a key that was never put

    def key(self, number: int) -> str:
        """Raw path of an object, shaped as warp's."""
        return f"/{BUCKET}/{quote(f'p{number % 16}x/{number}.{number * 2654435761 % 2**32:08x}.rnd')}"

    def puts(self, first: int, count: int, body: bytes, *, hashed: bool = False, times: int = 1) -> list[list[bytes]]:
        """PUT requests of fresh keys; the body is sent so many times over."""
        payload = hashlib.sha256(body).hexdigest() if hashed else "UNSIGNED-PAYLOAD"
        heads = [self.sign.head("PUT", self.key(first + n), length=len(body) * times, payload=payload) for n in range(count)]
        return [[head + body] if len(body) <= JOINED_BYTES else [head, *[body] * times] for head in heads]

    def plain(self, method: str, first: int, count: int) -> list[list[bytes]]:
        """Requests without a body over existing keys, in random order."""
        numbers = [first + n for n in range(count)]
        self.rng.shuffle(numbers)
        return [[self.sign.head(method, self.key(n))] for n in numbers]

    async def cell(self, name: str, requests: list[list[bytes]], *, once: bool = False) -> Result:
        """Measure and print."""
        result = await measure(self.server, name, requests, lanes=self.lanes, seconds=self.seconds, once=once)
        print(
            f"{name:10s} c={result.concurrency:<3d} {result.per_second:9.0f}/s  p50 {result.p50_ms:7.2f} ms  "
            f"p99 {result.p99_ms:7.2f} ms  server {result.server_us:8.1f} us  {result.statuses}",
            flush=True,
        )
        if not result.statuses.keys() <= {200, 204}:
            raise SystemExit(f"{name}: a figure of refused requests is none")
        return result

    async def run(self, cells: list[str]) -> list[Result]:
        """All named cells."""
        await measure(self.server, "bucket", [[self.sign.head("PUT", f"/{BUCKET}")]], lanes=1, seconds=30, once=True)
        results = []
        if self.objects and not self.objects_filled:
            results.append(await self._fill())
        for cell in cells:
            self.sign.renew()
            if cell == "put4k":
                results.append(await self.cell(cell, self.puts(self.fresh, 150_000, self.small), once=True))
                self.fresh += 150_000
            elif cell in ("get4k", "head"):
                method = "GET" if cell == "get4k" else "HEAD"
                results.append(await self.cell(cell, self.plain(method, 0, min(self.objects, 40_000))))
            elif cell == "delete":
                results.append(await self.cell(cell, self.plain("DELETE", 0, min(self.objects, 150_000)), once=True))
            elif cell == "list":
                pages = [f"list-type=2&max-keys=1000&start-after={quote(self.key(n)[len(BUCKET) + 2:], safe='')}"
                         for n in range(0, self.objects, max(1, self.objects // 200))]
                results.append(await self.cell(cell, [[self.sign.head("GET", f"/{BUCKET}", page)] for page in pages]))
            elif cell == "put10m":
                body = self.rng.randbytes(10 << 20)
                results.append(await self.cell(cell, self.puts(900_000_000, 50, body, hashed=True)))
            elif cell == "get10m":
                body = self.rng.randbytes(10 << 20)
                await measure(self.server, cell, self.puts(900_000_000, 50, body), lanes=4, seconds=60, once=True)
                results.append(await self.cell(cell, self.plain("GET", 900_000_000, 50)))
        return results

    async def _fill(self) -> Result:
        """All objects; the result is of the last slice."""
        keep, self.seconds = self.seconds, 3600.0
        body = self.small if self.objects <= 50_000 else self.small[:256]
        try:
            for first in range(0, self.objects, _FILL_SLICE):
                self.sign.renew()
                last = await self.cell("fill", self.puts(first, min(_FILL_SLICE, self.objects - first), body), once=True)
            return last
        finally:
            self.seconds = keep
            self.objects_filled = True


async def main_async(options: argparse.Namespace) -> None:
    """Start a server, run, write JSON."""
    with tempfile.TemporaryDirectory(prefix="titans3-bench-") as folder:
        server = Server(Path(folder) / "data", workers=options.workers)
        server.start()
        await server.wait_ready()
        try:
            bench = Bench(server, options.concurrency, options.seconds, options.objects)
            results = await bench.run(options.cells.split(","))
        finally:
            server.stop()
    if options.json:
        text = json.dumps([msgspec.to_builtins(result, str_keys=True) for result in results], indent=1)
        await asyncio.to_thread(Path(options.json).write_text, text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--cells", default="put4k,get4k,head,list,delete,put10m,get10m")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    uvloop.install() if sys.version_info < (3, 12) else None
    asyncio.run(main_async(options))


if __name__ == "__main__":
    main()
