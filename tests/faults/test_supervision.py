"""Signals, deaths and stopped processes in any order: a seed replays a plan, and at the end a whole server stands there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

import psutil
import pytest

from tests.faults.server import Server, until
from tests.faults.wire import Unknown, Wire
from titans3.observe.board import PID

STEPS = 24
DEATHS_MAX = 5  # more of them in a minute only show the back-off


def plan(seed: int) -> list[tuple[float, str]]:
    """Pauses and acts."""
    chosen = random.Random(seed)
    acts = ["roll", "roll", "roll", "reload", "kill", "kill", "stop"]
    found: list[tuple[float, str]] = []
    while len(found) < STEPS:
        act = chosen.choice(acts)
        if act not in ("kill", "stop") or sum(past in ("kill", "stop") for _, past in found) < DEATHS_MAX:
            found.append((chosen.random() * 0.5, act))
    return found


async def write(wire: Wire, number: int, possible: dict[str, list[bytes]], stop: asyncio.Event) -> None:
    """Overwrites ten keys in turn; what each may hold is the last acknowledged body, or one of unknown outcome since."""
    turn = 0
    while not stop.is_set():
        turn += 1
        key, body = f"/plan/{number}/{turn % 10}", b"%d" % turn
        try:
            status, _, _ = await wire.call("PUT", key, body=body, timeout=8)
        except Unknown:
            status = 0
        if status == 200:
            possible[key] = [body]
        else:
            possible.setdefault(key, [b""]).append(body)
        await asyncio.sleep(0.01)


async def carry_out(server: Server, seed: int) -> None:
    server.start()
    await server.wait_ready()
    assert server.process is not None
    supervisor = psutil.Process(server.process.pid)
    descriptors = supervisor.num_fds()
    setup = server.wire()
    assert (await setup.call("PUT", "/plan"))[0] == 200
    possible: dict[str, list[bytes]] = {}
    stop = asyncio.Event()
    wires = [server.wire() for _ in range(3)]
    writers = [asyncio.create_task(write(wire, number, possible, stop)) for number, wire in enumerate(wires)]
    chosen = random.Random(-seed)
    board = server.board()
    for pause, act in plan(seed):
        await asyncio.sleep(pause)  # the pauses are the plan
        owners = [pid for pid in (board.get(worker, PID) for worker in range(server.workers)) if pid]
        with contextlib.suppress(ProcessLookupError):
            if act in ("roll", "reload"):
                supervisor.send_signal(signal.SIGUSR2 if act == "roll" else signal.SIGHUP)
            elif act == "kill":
                os.kill(chosen.choice(server.worker_pids()), signal.SIGKILL)  # a standby, perhaps
            elif owners:
                os.kill(chosen.choice(owners), signal.SIGSTOP)
        assert server.process.poll() is None, server.tail()
    stop.set()
    await asyncio.gather(*writers)

    async def is_whole() -> bool:
        with contextlib.suppress(OSError, TimeoutError, IndexError):
            return (await server.answer("/health/cluster", 2))[0] == 200 and len(server.worker_pids()) == server.workers
        return False

    def is_rolling() -> bool:
        text = server.log.read_text()
        return text.count("rolling restart of") > text.count("rolling restart done") + text.count("rolling restart ended early")

    await until(lambda: not is_rolling(), 40, "the last rolling restart comes to an end")
    async with asyncio.timeout(30):
        while not await is_whole():
            await asyncio.sleep(0.05)
    assert supervisor.num_fds() <= descriptors
    check = server.wire()
    for key, bodies in possible.items():
        status, _, body = await check.call("GET", key)
        assert (body if status == 200 else b"") in bodies, (key, status, body, bodies[:3])
    board.close()
    for wire in (setup, check, *wires):
        await wire.end()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("seed", "workers"), [(2, 2), (6, 3)])
def test_a_whole_server_stands_there_in_the_end(tmp_path: Path, seed: int, workers: int) -> None:
    server = Server(tmp_path / "data", workers=workers, env={"_TITANS3_LIVENESS_SECONDS": "2", "TITANS3_NODE__DRAIN_SECONDS": "2"})
    try:
        asyncio.run(carry_out(server, seed))
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text(), server.tail()
    finally:
        server.kill_tree()
