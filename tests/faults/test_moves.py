"""Connections and volumes move between live workers: no request fails, nothing acknowledged is lost, whoever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from tests.faults.server import Server, until
from tests.faults.test_rolling import Client, rolled
from tests.faults.wire import Unknown
from tests.scale import LONG, scaled
from titans3.observe.board import CONNECTIONS, PID, SERVING, STATE

CLIENTS = 8
ACTIVE = "TITANS3_NODE__ACTIVE_WORKERS"
MOVED, BEGUN = b" moved from worker ", b" is to move from worker "


class Moving:
    """A server whose number of active workers follows its configuration file, and what its log says of moves."""

    def __init__(self, folder: Path, workers: int, *, active: int) -> None:
        self.config = folder / "titans3.toml"
        self._write(active)
        self.server = Server(folder / "data", workers=workers, options=("--config", str(self.config)))
        self.server.env.pop(ACTIVE, None)

    def _write(self, active: int) -> None:
        self.config.write_text(f'[node]\nactive_workers = {active}\n[log]\nlevel = "debug"\n')

    def set_active(self, active: int) -> None:
        """From now on so many are to be active."""
        self._write(active)
        assert self.server.process is not None
        os.kill(self.server.process.pid, signal.SIGHUP)

    def play(self, run: Callable[[], Coroutine[None, None, None]]) -> None:
        """A scenario to its end; nothing of the server is left behind."""
        try:
            asyncio.run(run())
        finally:
            self.server.kill_tree()

    @property
    def moved(self) -> int:
        """Volumes that moved so far."""
        return self.server.log.read_bytes().count(MOVED)

    @property
    def begun(self) -> int:
        """Moves that were begun, whatever became of them."""
        return self.server.log.read_bytes().count(BEGUN)

    def loads(self) -> list[int]:
        """Connections by worker."""
        board = self.server.board()
        try:
            return [board.get(worker, CONNECTIONS) for worker in range(board.workers)]
        finally:
            board.close()

    def serving(self) -> bool:
        """Whether every worker serves."""
        board = self.server.board()
        try:
            return all(board.get(worker, STATE) == SERVING for worker in range(board.workers))
        finally:
            board.close()


class Load:
    """Clients that put, get, delete and upload in parts, each its own keys."""

    def __init__(self, server: Server, count: int = CLIENTS) -> None:
        self.server = server
        self.clients = [Client(number, server.wire()) for number in range(count)]
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        assert (await self.clients[0].wire.call("PUT", "/load"))[0] == 200
        self._tasks = [asyncio.create_task(client.work(self._stop)) for client in self.clients]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        for client in self.clients:
            await client.wire.end()

    @property
    def failures(self) -> list[str]:
        return [failure for client in self.clients for failure in client.failures]

    async def check(self) -> int:
        """End the work; everything that was acknowledged is there. How many requests were answered."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        assert not self.failures, self.server.tail()
        check = Client(200, self.server.wire())
        for client in self.clients:
            check.acknowledged = client.acknowledged
            for key in client.acknowledged:
                await check.get(key)
        await check.wire.end()
        return sum(client.done for client in self.clients)


@pytest.mark.timeout(scaled(120, 900))
@pytest.mark.parametrize("workers", [2, 3] if LONG else [2])
def test_no_request_fails_while_volumes_and_connections_move(tmp_path: Path, workers: int) -> None:
    """Three workers have three volumes: two move then, one after the other."""
    moving = Moving(tmp_path, workers, active=workers)

    async def run() -> None:
        moving.server.env["TITANS3_NODE__WORKERS"] = str(workers)
        moving.server.start()
        await moving.server.wait_ready()
        volumes = len(list((tmp_path / "data" / "volumes").iterdir()))
        away = sum(volume % workers > 0 for volume in range(volumes))
        async with Load(moving.server) as load:
            moves = 0
            for active in (1, workers) * scaled(1, 6):
                moving.set_active(active)
                moves += away
                await until(lambda moves=moves: moving.moved == moves or load.failures, 30, f"{moves} moves: {moving.moved}")
                if active == 1:
                    await until(lambda: sum(moving.loads()[1:]) == 0 or load.failures, 10, "all at worker 0")
                else:
                    share = -(-CLIENTS // workers)
                    await until(lambda share=share: max(moving.loads()) <= share + 2 or load.failures, 10, "a fair share")
            assert await load.check() > 200
        assert moving.server.stop() == 0
        assert b" error " not in moving.server.log.read_bytes(), moving.server.tail()

    moving.play(run)


@pytest.mark.timeout(scaled(120, 900))
def test_a_large_body_under_way_keeps_its_volume_where_it_is(tmp_path: Path) -> None:
    moving = Moving(tmp_path, 2, active=2)
    body = os.urandom(12_000_000)

    async def run() -> None:
        server = moving.server
        server.start()
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/load"))[0] == 200
        slow = []
        for number in range(4):  # two at each worker, each on a volume of that worker
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(wire.head("PUT", f"/load/slow{number}", {}, {}, len(body)) + body[:6_000_000])
            await writer.drain()
            slow.append((reader, writer))
        await until(lambda: max(moving.loads()) <= 3, 5, "fair")
        moving.set_active(1)
        await asyncio.sleep(1.5)
        assert moving.moved == 0
        for number in range(20):  # and all else goes on
            assert (await wire.call("PUT", f"/load/{number}", body=body[: number * 9_000]))[0] == 200
        for reader, writer in slow:
            writer.write(body[6_000_000:])
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()
        await until(lambda: moving.moved == 1, 20, "the move")
        for number in range(4):
            assert (await wire.call("GET", f"/load/slow{number}"))[2] == body
        for number in range(20):
            assert (await wire.call("GET", f"/load/{number}"))[2] == body[: number * 9_000]
        await wire.end()
        assert server.stop() == 0

    moving.play(run)


@pytest.mark.timeout(scaled(120, 900))
def test_a_rolling_restart_and_moves_wait_for_each_other(tmp_path: Path) -> None:
    moving = Moving(tmp_path, 2, active=2)

    async def run() -> None:
        server = moving.server
        server.start()
        await server.wait_ready()
        assert server.process is not None
        async with Load(server) as load:
            for turn, active in enumerate((1, 2) * scaled(1, 4), 1):
                before = set(server.worker_pids())
                moving.set_active(active)
                await asyncio.sleep(random.uniform(0.0, 0.2))
                os.kill(server.process.pid, signal.SIGUSR2)
                await until(lambda turn=turn: rolled(server) >= turn or load.failures, 40, "the rolling restart")
                assert not load.failures, server.tail()
                assert not before & set(server.worker_pids())
                await until(lambda turn=turn: moving.moved >= turn or load.failures, 30, "the move")
            await load.check()
        assert server.stop() == 0
        assert b" error " not in server.log.read_bytes(), server.tail()

    moving.play(run)


@pytest.mark.timeout(scaled(120, 900))
def test_a_stop_in_the_middle_of_a_move_answers_what_is_in_flight(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, bytes] = {}
    for turn in range(scaled(2, 40)):
        moving = Moving(tmp_path, 2, active=1 + turn % 2)

        async def run(moving: Moving = moving, turn: int = turn) -> None:
            server = moving.server
            server.start()
            await server.wait_ready()
            wire = server.wire()
            for key, body in acknowledged.items():
                assert (await wire.call("GET", key))[2] == body
            assert (await wire.call("PUT", "/load"))[0] == 200
            before = moving.moved
            moving.set_active(1)
            await until(lambda: moving.moved > before or turn % 2 == 0, 10, "the first move")  # away from where it was assigned
            refused: list[int] = []

            async def work(number: int) -> None:
                own = server.wire()
                with contextlib.suppress(Unknown, ConnectionError):  # of an idle connection that was closed
                    for count in range(100_000):
                        key, body = f"/load/{turn}/{number}/{count % 50}", chance.randbytes(3_000)
                        status, headers, _ = await own.call("PUT", key, body=body)
                        if status == 200:
                            acknowledged[key] = body
                        else:
                            refused.append(status)
                        if headers.get("connection") == "close":
                            break
                await own.end()

            tasks = [asyncio.create_task(work(number)) for number in range(6)]
            await asyncio.sleep(0.3)
            moving.set_active(2)
            await asyncio.sleep(chance.uniform(0.0, 0.15))
            assert await asyncio.get_running_loop().run_in_executor(None, server.stop) == 0
            await asyncio.gather(*tasks)
            assert not refused
            await wire.end()

        moving.play(run)
    assert len(acknowledged) > 50


@pytest.mark.timeout(scaled(180, 900))
def test_whoever_dies_in_the_middle_of_a_move_the_volume_is_served_again(tmp_path: Path) -> None:
    moving = Moving(tmp_path, 2, active=2)
    chance = random.Random(3)
    states: dict[str, set[bytes | None]] = {}  # what a key may be: one thing, or what an unknown outcome leaves open

    async def work(server: Server, number: int, stop: asyncio.Event) -> None:
        wire = server.wire()
        for turn in range(1_000_000):
            if stop.is_set():
                break
            key, body = f"/load/{number}/{turn % 40}", chance.randbytes(chance.choice((500, 4_000, 200_000)))
            known = states.setdefault(key, {None})
            known.add(body)
            try:
                status = (await wire.call("PUT", key, body=body))[0]
            except (Unknown, OSError):
                await asyncio.sleep(0.02)
                continue
            assert status in (200, 500, 503), status
            if status == 200:
                states[key] = {body}
            elif status == 503:
                await asyncio.sleep(0.02)
        await wire.end()

    async def run() -> None:
        server = moving.server
        server.start()
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/load"))[0] == 200
        stop = asyncio.Event()
        tasks = [asyncio.create_task(work(server, number, stop)) for number in range(6)]
        active = 2
        for turn in range(scaled(2, 40)):
            before, tries = moving.begun, 0
            while moving.begun == before:  # a move that did not come about leaves nothing to do for the next number
                active, tries = 3 - active, tries + 1
                assert tries < 4
                moving.set_active(active)
                with contextlib.suppress(AssertionError):
                    await until(lambda before=before: moving.begun > before, 7, "the next move")
            # the new owner at once, before the old one has closed the volume; either of them at some moment
            await asyncio.sleep(chance.uniform(0.0, 0.1) if turn else 0.0)
            pids = server.worker_pids()
            victim = pids[turn % len(pids)]
            os.kill(victim, signal.SIGKILL)
            await until(lambda victim=victim: victim not in server.worker_pids() and moving.serving(), 30, "two workers")
            for _ in range(100):  # every volume is somebody's again, whatever comes next
                if (await server.answer("/health/cluster"))[0] == 200:
                    break
                await asyncio.sleep(0.1)
            assert (await server.answer("/health/cluster"))[0] == 200
        stop.set()
        await asyncio.gather(*tasks)
        await wire.end()
        wire = server.wire()  # the connection of the other one may have ended with its worker
        for key, known in states.items():
            status, _, found = await wire.call("GET", key)
            assert status in (200, 404), (key, status, found)
            assert (found if status == 200 else None) in known, key
        assert (await server.answer("/health/cluster"))[0] == 200
        await wire.end()
        assert server.stop() == 0

    moving.play(run)
    assert moving.begun >= 2


@pytest.mark.timeout(90)
def test_a_volume_that_was_closed_for_somebody_who_died_meanwhile_is_opened_again(tmp_path: Path) -> None:
    moving = Moving(tmp_path, 2, active=2)

    async def run() -> None:
        server = moving.server
        server.start()
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/load"))[0] == 200
        for number in range(50):
            assert (await wire.call("PUT", f"/load/{number}", body=b"%d" % number))[0] == 200
        await wire.end()
        board = server.board()
        target, source = board.get(0, PID), board.get(1, PID)
        os.kill(source, signal.SIGSTOP)
        try:
            moving.set_active(1)
            await until(lambda: moving.begun == 1, 10, "the move")
            os.kill(target, signal.SIGKILL)
            await until(lambda: board.get(0, PID) not in (0, target), 20, "a new process")
        finally:
            os.kill(source, signal.SIGCONT)
        await until(lambda: moving.serving() and all(board.volume(volume).state == "ok" for volume in (0, 1)), 20, "both volumes")
        board.close()
        wire = server.wire()
        for number in range(50):
            assert (await wire.call("GET", f"/load/{number}"))[2] == b"%d" % number
            assert (await wire.call("PUT", f"/load/{number}", body=b"again"))[0] == 200
        await until(lambda: moving.moved == 1, 20, "the next move")
        for number in range(50):
            assert (await wire.call("GET", f"/load/{number}"))[2] == b"again"
        await wire.end()
        assert server.stop() == 0

    moving.play(run)
