"""Where a worker's time goes: py-spy samples the loop's thread while the replayer asks, and the functions that were running are listed.

``python tools/dev.py bench profile --operations get,put --size 4k``. One worker, so that there are no hops. A share is one of the samples
in which the loop's thread did anything. py-spy has to be allowed to look into the server (the same user, and ptrace is not forbidden).
"""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.peers import recipe, types
from bench.peers.matrix import Cell
from bench.peers.replayed import OPERATIONS, Player
from bench.peers.served import Served
from bench.scale.session import Session

RATE = 400  # samples a second
LARGEST = 14
_LOOP = "titans3/worker/__main__.py"  # at the bottom of the loop's thread
_BEGINS_SECONDS = 2.0  # py-spy, before and after


def profile(cell: Cell, python: str, folder: Path) -> list[tuple[float, str]]:
    """(share, function and its file) of a running server, the largest first. RuntimeError when py-spy or the server could not."""
    place = Path(tempfile.mkdtemp(prefix="titans3-profile-", dir=folder))
    server = Served(recipe.titans3(python), place, workers=1)
    try:
        server.start()
        assert server.tree is not None
        with Session(server, frozenset()) as session:
            player = Player(cell, server)
            session.run(player.fill())
            requests, once = player.requests()
            raw = place / "samples"
            command = [
                str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "-p", str(server.tree.pids[1]),
                "-d", f"{cell.seconds:.0f}", "-r", str(RATE), "-f", "raw", "-o", str(raw),
            ]  # fmt: skip
            spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            try:
                outcome = session.phase(
                    cell.operation, requests, lanes=cell.concurrency, seconds=cell.seconds + 2 * _BEGINS_SECONDS, once=once
                )
                _, said = spy.communicate(timeout=60)
            finally:
                spy.kill()
        if not outcome.is_sound:
            raise RuntimeError(f"{cell.title}: {outcome.trouble or outcome.first_errors}")
        if spy.returncode or not raw.exists():
            raise RuntimeError(f"py-spy: {said.decode(errors='replace').strip()}")
        return by_function(raw.read_text())
    finally:
        server.stop()
        shutil.rmtree(place)


def by_function(raw: str) -> list[tuple[float, str]]:
    """Of py-spy's raw form, a line for each stack with the number of its samples."""
    counts: collections.Counter[str] = collections.Counter()
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if any(_LOOP in frame for frame in frames):
            name, _, where = frames[-1].partition(" (")
            counts[f"{name} · {where.partition(':')[0]}"] += int(number)
    total = sum(counts.values()) or 1
    return [(count / total, name) for name, count in counts.most_common(LARGEST)]


def main(arguments: list[str]) -> int:
    """Prints a table for each operation."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--operations", type=types.names(OPERATIONS), default=["get", "put"], help=f"of {','.join(OPERATIONS)}")
    made.add_argument("--size", type=types.sizes, default=["4k"], help="4k, 1m, 5g")
    made.add_argument("--concurrency", type=int, default=16)
    made.add_argument("--duration", type=types.seconds, default=10.0, metavar="SECONDS")
    made.add_argument("--python", default=sys.executable, help="the interpreter that runs TitanS3, with its dependencies installed")
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the server's data")
    options = made.parse_args(arguments)
    for operation in options.operations:
        cell = Cell(operation, options.size[0], options.concurrency, options.duration)
        print(f"\n| {cell.title} | share |\n|---|---|")
        for share, name in profile(cell, options.python, options.folder):
            print(f"| `{name}` | {share:.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
