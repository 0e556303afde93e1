"""The first table: requests a second and server CPU a request, on one and two workers, with a million objects already there.

``python tools/dev.py bench`` runs all of it (about half an hour); ``--quick`` is a short form for a first look. Writes
``bench/results/<name>.json`` and prints the table of docs/performance.md. With ``--profile`` each of GET and PUT is also sampled by py-spy
(in the development extras) and the costs are listed by function.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.replay import Bench, Result
from tests.faults.server import Server

CELLS = ("put4k", "get4k", "head", "list", "put10m", "get10m", "delete")
RESULTS = Path(__file__).parent / "results"
PROFILE_SECONDS = 10
PROFILE_RATE = 400
_LABELS = {
    "fill": "PUT 256 B (the fill)", "put4k": "PUT 4 KiB", "get4k": "GET 4 KiB", "head": "HEAD", "list": "LIST 1,000",
    "delete": "DELETE", "put10m": "PUT 10 MiB", "get10m": "GET 10 MiB",
}


async def table(workers: int, options: argparse.Namespace, folder: Path) -> tuple[list[Result], dict[str, list[tuple[float, str]]]]:
    """All cells for a number of workers on a fresh data folder."""
    server = Server(folder / f"data-{workers}", workers=workers)
    server.start()
    await server.wait_ready()
    profiles: dict[str, list[tuple[float, str]]] = {}
    try:
        bench = Bench(server, options.concurrency, options.seconds, options.objects)
        cells = options.cells.split(",")
        results = await bench.run([cell for cell in cells if cell != "delete"])
        for bench.lanes in options.also:
            results += await bench.run([cell for cell in ("put4k", "get4k") if cell in cells])
        bench.lanes = options.concurrency
        if options.profile and workers == 1:
            for cell in ("get4k", "put4k"):
                profiles[cell] = await profile(server, bench, cell)
        if "delete" in cells:  # the last: what it deletes is read no more
            results += await bench.run(["delete"])
    finally:
        server.stop()
    return results, profiles


async def profile(server: Server, bench: Bench, cell: str) -> list[tuple[float, str]]:
    """Share of the worker's loop thread by the innermost function of TitanS3 on the stack, largest first."""
    spy = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile(suffix=".raw") as raw:
        pid = server.worker_pids()[0]
        process = await asyncio.create_subprocess_exec(
            str(spy), "record", "--nonblocking", "-p", str(pid), "-d", str(PROFILE_SECONDS), "-r", str(PROFILE_RATE), "-f", "raw",
            "-o", raw.name,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        keep, bench.seconds = bench.seconds, PROFILE_SECONDS + 4.0
        try:
            await bench.run([cell])
        finally:
            bench.seconds = keep
        await asyncio.wait_for(process.wait(), 60)
        return _by_function(raw.read().decode())


def _by_function(raw: str) -> list[tuple[float, str]]:
    counts: collections.Counter[str] = collections.Counter()
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if not any("titans3/worker/__main__.py" in frame for frame in frames):
            continue
        counts[frames[-1].partition(" (")[0] + " · " + frames[-1].partition("(")[2].partition(":")[0]] += int(number)
    total = sum(counts.values()) or 1
    return [(count / total, name) for name, count in counts.most_common(14)]


def markdown(results: dict[int, list[Result]]) -> str:
    """The table."""
    lines = ["| operation | workers | in flight | requests/s | p50 ms | p99 ms | server CPU µs |", "|---|---|---|---|---|---|---|"]
    for workers, cells in results.items():
        lines += [
            f"| {_LABELS[cell.operation]} | {workers} | {cell.concurrency} | {cell.per_second:,.0f} | {cell.p50_ms:.2f} | "
            f"{cell.p99_ms:.2f} | {cell.server_us:,.0f} |"
            for cell in cells
        ]
    return "\n".join(lines)


def calibrate() -> float:
    """Seconds of CPU for a fixed piece of pure Python: tells runs on a busy machine from runs on a quiet one."""
    begin = time.process_time()
    total = 0
    for number in range(5_000_000):
        total += number & 7
    return time.process_time() - begin


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--also", type=int, nargs="*", default=[64], help="more concurrencies for 4 KiB GET and PUT")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="20,000 objects, 5 s a cell")
    parser.add_argument("--name", default="first", help="result file")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.objects = 5.0, 20_000
    if sys.version_info < (3, 12):
        uvloop.install()
    results: dict[int, list[Result]] = {}
    profiles: dict[str, Any] = {}
    before = calibrate()
    with tempfile.TemporaryDirectory(prefix="titans3-bench-") as folder:
        for workers in options.workers:
            results[workers], found = asyncio.run(table(workers, options, Path(folder)))
            profiles |= found
    RESULTS.mkdir(exist_ok=True)
    record = {
        "python": platform.python_version(), "kernel": platform.release(), "cpus": os.cpu_count(), "objects": options.objects,
        "seconds": options.seconds, "calibration_seconds": [before, calibrate()],
        "results": {str(workers): [msgspec.to_builtins(cell, str_keys=True) for cell in cells] for workers, cells in results.items()},
        "profiles": profiles,
    }
    (RESULTS / f"{options.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(markdown(results))
    for cell, costs in profiles.items():
        print(f"\n{_LABELS[cell]}, loop thread:")
        for share, name in costs:
            print(f"  {share * 100:5.1f} %  {name}")


if __name__ == "__main__":
    main()
