"""What a request costs from the gateway down to the synced log, without a socket: 4 KiB PUT and GET, HEAD, DELETE, LIST of 300.

``WIRE`` is the GET from the bytes of its head to those of its answer: parser, connection and what is counted for the metrics with it.

Run: python bench/micro/s3.py [--tree FOLDER]. Microseconds of the whole, waits for the disk included, best of five rounds. With
``--instructions`` callgrind counts (valgrind must be there; some eight minutes): the difference of a long and a short run, divided by the
requests between them, so that start-up does not count; it varies by up to three percent. ``--tree``: the same for
another revision, from a work tree of it (``git worktree add ../before REVISION``).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titans3.worker.context import ConnectionContext

CELLS = ("GET", "HEAD", "PUT", "DELETE", "LIST", "WIRE")
SHORT, LONG = 40, 240  # requests of the two runs that are subtracted
KEYS = 300
BODY = b"x" * 4096
ROUNDS = 5


def play(cell: str, counts: Sequence[int]) -> list[float]:
    """Seconds of each round of so many requests."""
    import titans3.engine.metadata as metadata
    from tests.unit.cluster.workers import Machine, run
    from titans3.clock import SystemClock
    from titans3.http.message import Request
    from titans3.http.signing import SigningIdentity, sign_headers
    from titans3.model.identity import ROOT_ACCOUNT
    from titans3.s3.gateway import Gateway
    from titans3.worker.connection import Connection
    from titans3.worker.context import ConnectionContext

    metadata.Environment = functools.partial(metadata.Environment, map_bytes=1 << 30)  # valgrind has no room for the usual map
    identity = SigningIdentity("AK", "SECRET")
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    class Body:
        """A body that is there at once."""

        def __init__(self, data: bytes) -> None:
            self._data, self.length = data, len(data)

        async def read_all(self, limit: int) -> bytes:
            return self._data

    def request(cell: str, number: int) -> Request:
        cell = "GET" if cell == "WIRE" else cell
        method, path, query = (cell, b"/bucket/k%d" % number, b"") if cell != "LIST" else ("GET", b"/bucket", b"list-type=2")
        body = BODY if method == "PUT" else b""
        signed = sign_headers(identity, method, path, query, {"host": "h"}, date=date, payload_hash="UNSIGNED-PAYLOAD").headers
        fields = {name.lower().encode(): value.encode() for name, value in signed.items()}
        if body:
            fields[b"content-length"] = b"%d" % len(body)
        target = path + b"?" + query if query else path
        return Request(method, target, path, query, "h", fields, Body(body), "127.0.0.1", "A" * 16)

    class Transport(asyncio.Transport):
        """Takes everything at once."""

        written = 0

        def write(self, data: bytes) -> None:
            self.written += len(data)

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return 0

        def is_closing(self) -> bool:
            return False

        def pause_reading(self) -> None:
            pass

        resume_reading = pause_reading

    async def measured(folder: str) -> list[float]:
        async with Machine(Path(folder), 1, 1) as machine:
            worker = machine[0]
            await worker.directory.ensure_root("AK", "SECRET")
            await worker.store.create_bucket("bucket", ROOT_ACCOUNT, "us-east-1")
            gateway = Gateway(worker.store, SystemClock())

            async def send(requests: Sequence[Request]) -> float:
                begin = time.perf_counter()
                for item in requests:
                    status = (await gateway.handle(item)).status
                    assert status in (200, 204), status
                return time.perf_counter() - begin

            def wire(requests: Sequence[Request]) -> float:
                """The same through a connection."""
                context = ConnectionContext(gateway.handle, asyncio.get_running_loop())
                fold = count_answers(context)
                transport = Transport()
                connection = Connection(context)
                connection.connection_made(transport)
                lines = [b"".join(b"%s: %s\r\n" % pair for pair in item.headers) for item in requests]
                heads = [b"GET %s HTTP/1.1\r\n%s\r\n" % pair for pair in zip((item.target for item in requests), lines, strict=True)]
                begin = time.perf_counter()
                for head in heads:
                    connection.get_buffer(-1)[: len(head)] = head
                    connection.buffer_updated(len(head))
                fold()
                seconds = time.perf_counter() - begin
                assert transport.written > len(BODY) * len(requests), transport.written
                connection.connection_lost(None)
                return seconds

            await send([request("PUT", number) for number in range(KEYS)])
            requests = [request(cell, number) for number in range(KEYS)]  # all of them, so that a long run signs no more than a short one
            if cell == "WIRE":
                return [wire(requests[:count]) for count in counts]
            return [await send(requests[:count]) for count in counts]

    with tempfile.TemporaryDirectory(prefix="titans3-bench-") as folder:
        return run(functools.partial(measured, folder), 900)


def count_answers(context: ConnectionContext) -> Callable[[], None]:
    """As a worker does; returns what its beat calls. Nothing in a tree from before there were metrics."""
    try:
        from titans3.observe.requests import RequestCounters
    except ImportError:
        return lambda: None
    counters = RequestCounters()
    context.on_answered = counters.answered
    return counters.fold


def instructions(tree: Path, cell: str, count: int) -> int:
    """Of a whole run, as callgrind counts them."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, __file__, "--only", cell, str(count)]
    done = subprocess.run(command, env=_environment(tree), capture_output=True, text=True, timeout=900, check=True)
    found = re.search(r"Collected : ([0-9]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}


def main() -> None:
    """A line per cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--only", nargs=2, metavar=("CELL", "REQUESTS"), help="one round, for a tool that watches the process")
    options = parser.parse_args()
    if options.only:
        cell, count = options.only
        rounds = [KEYS] * ROUNDS if count == "best" else [int(count)]
        print(f"{min(play(cell, rounds)) / rounds[0] * 1e6:.0f}")
        return
    tree = options.tree.resolve()
    for cell in options.cells.split(","):
        if options.instructions:
            each = (instructions(tree, cell, LONG) - instructions(tree, cell, SHORT)) / (LONG - SHORT)
            print(f"{cell:7} {each:9,.0f} instructions", flush=True)
        else:
            done = subprocess.run(
                [sys.executable, __file__, "--only", cell, "best"], env=_environment(tree), capture_output=True, text=True, check=True
            )
            print(f"{cell:7} {done.stdout.strip():>6} µs", flush=True)


if __name__ == "__main__":
    main()
