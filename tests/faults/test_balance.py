"""Connections are shared out: no worker holds more than its fair share plus two, however they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.faults.server import Server, until
from titans3.observe.board import CONNECTIONS, Board

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
BESIDE = 2  # what a fair share may be exceeded by


def loads(board: Board) -> list[int]:
    return [board.get(worker, CONNECTIONS) for worker in range(board.workers)]


async def ask(pair: Pair) -> None:
    pair[1].write(HEALTH)
    assert (await asyncio.wait_for(pair[0].readuntil(b"live\n"), 5)).startswith(b"HTTP/1.1 200")


async def fair(board: Board, connections: int, seconds: float) -> None:
    """All connections are on the board and shared fairly."""
    share = -(-connections // board.workers)
    await until(lambda: sum(loads(board)) == connections and max(loads(board)) <= share + BESIDE, seconds, f"fair: {loads(board)}")


async def scenario(server: Server) -> None:
    server.start()
    await server.wait_ready()
    board = server.board()
    await until(lambda: sum(loads(board)) == 0, 30, "no connections")
    pairs: list[Pair] = []
    for _ in range(20):  # one by one
        pairs.append(await asyncio.open_connection("127.0.0.1", server.port))
        await ask(pairs[-1])
    await fair(board, 20, 2)
    for pair in pairs:
        await end(pair)
    await until(lambda: sum(loads(board)) == 0, 30, "no connections")
    pairs = list(await asyncio.gather(*(asyncio.open_connection("127.0.0.1", server.port) for _ in range(20))))  # all at once
    await asyncio.gather(*(ask(pair) for pair in pairs))
    await fair(board, 20, 2)

    closed: list[Pair] = []
    while board.get(0, CONNECTIONS):  # until a worker has none left, so that the others' have to move
        closed.append(pairs[len(closed)])
        await end(closed[-1])
        await until(lambda: sum(loads(board)) == 20 - len(closed), 30, "one less")
    pairs = [pair for pair in pairs if pair not in closed]
    await fair(board, len(pairs), 5)
    await asyncio.gather(*(ask(pair) for pair in pairs))  # wherever they are now

    pairs += await asyncio.gather(*(asyncio.open_connection("127.0.0.1", server.port) for _ in range(20 - len(pairs))))
    await fair(board, 20, 5)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGUSR2)
    await until(lambda: b"rolling restart done" in server.log.read_bytes(), 40, "the rolling restart")
    await fair(board, 20, 5)  # nobody is left with all that his siblings handed over
    await asyncio.gather(*(ask(pair) for pair in pairs))
    for pair in pairs:
        await end(pair)
    board.close()


async def end(pair: Pair) -> None:
    pair[1].close()
    with contextlib.suppress(OSError):
        await pair[1].wait_closed()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [2, 4])
def test_no_worker_holds_more_than_its_share_and_two(tmp_path: Path, workers: int) -> None:
    server = Server(tmp_path / "data", workers=workers)
    try:
        asyncio.run(scenario(server))
        assert server.stop() == 0
    finally:
        server.kill_tree()
