"""Stops and deaths of real processes: what was acknowledged is there, what is not concerned goes on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.server import Server, until
from tests.faults.wire import Unknown, Wire
from titans3.cli.ring import find_bucket
from titans3.observe.board import CONNECTIONS, PID
from titans3.ring.ownership import Ownership
from titans3.ring.placement import ring_hash
from titans3.supervisor.folder import read_cluster
from titans3.supervisor.lock import is_held

BODY = random.Random(8).randbytes(8 * 1024 * 1024)
LIVENESS_SECONDS = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "data", env={"_TITANS3_LIVENESS_SECONDS": str(LIVENESS_SECONDS)})
    yield made
    if made.process is not None:
        made.kill_tree()
        assert b"Traceback" not in made.log.read_bytes(), made.tail()


def is_there(process: psutil.Process) -> bool:
    """A process that nobody reaps holds nothing any more."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def begin_upload(server: Server, wire: Wire, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The head and the first half of BODY; the server has taken it when this returns."""
    board = server.board()

    def connections() -> int:
        return sum(board.get(worker, CONNECTIONS) for worker in range(2))

    before = connections()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(wire.head("PUT", path, {}, {}, len(BODY)) + BODY[: len(BODY) // 2])
    await asyncio.wait_for(writer.drain(), 10)
    await until(lambda: connections() > before, 30, "the connection on the board")
    board.close()
    return reader, writer


@pytest.mark.timeout(90)
def test_a_stop_finishes_what_is_in_flight_and_cuts_what_never_ends(server: Server) -> None:
    async def finishes() -> None:
        server.start()
        await server.wait_ready()
        assert server.process is not None
        wire = server.wire()
        assert (await wire.call("PUT", "/stop"))[0] == 200
        reader, writer = await begin_upload(server, wire, "/stop/slow")
        server.process.send_signal(signal.SIGTERM)
        await until(server.is_refusing, 30, "new connections are refused")
        assert server.process.poll() is None
        writer.write(BODY[len(BODY) // 2 :])
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close\r\n" in answer.lower(), answer
        writer.close()
        await wire.end()
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert not (server.data / "run" / "endpoint.json").exists()

    async def cuts(*signals: int) -> float:
        server.start()
        await server.wait_ready()
        assert server.process is not None
        wire = server.wire()
        assert (await wire.call("GET", "/stop/slow"))[2] == BODY
        reader, writer = await begin_upload(server, wire, "/stop/never")
        for number in signals:
            server.process.send_signal(number)
            await until(server.is_refusing, 30, "new connections are refused")
        begin = time.monotonic()
        with pytest.raises((OSError, EOFError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        cut = time.monotonic() - begin
        writer.close()
        await wire.end()
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        return cut

    asyncio.run(finishes())
    assert asyncio.run(cuts(signal.SIGTERM, signal.SIGTERM)) < 10  # drain_seconds is 30: the second signal gives up
    server.env["TITANS3_NODE__DRAIN_SECONDS"] = "1"
    assert 0.5 < asyncio.run(cuts(signal.SIGTERM)) < 10
    assert server.log.read_bytes().count(b"cut 1 requests") == 2


@pytest.mark.timeout(60)
def test_workers_of_a_killed_supervisor_let_go_of_everything(server: Server) -> None:
    async def scenario() -> None:
        server.start()
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/kept"))[0] == 200
        bodies = {f"/kept/{number}": random.Random(number).randbytes(100 * number) for number in range(40)}
        for path, body in bodies.items():
            assert (await wire.call("PUT", path, body=body))[0] == 200
        await wire.end()
        orphans = server.kill_supervisor()
        assert len(orphans) == 2
        await until(lambda: not any(map(is_there, orphans)), 30, "the workers end by themselves")
        assert server.is_refusing()
        assert not any(is_held(str(lock)) for lock in server.data.glob("volumes/*/lock"))
        server.start()
        await server.wait_ready()
        orphans = server.kill_supervisor()
        server.start()  # at once: it waits for port and volumes
        await server.wait_ready()
        wire = server.wire()
        for path, body in bodies.items():
            assert (await wire.call("GET", path))[::2] == (200, body)
        await wire.end()
        assert not any(map(is_there, orphans))

    asyncio.run(scenario())


class Reader:
    """Asks for keys in turn; reconnects once a death, and sees what each key answered while a worker was dead."""

    def __init__(self, wire: Wire, keys: list[str]) -> None:
        self.wire, self.keys = wire, keys
        self.answers: list[tuple[str, int, bytes, float]] = []
        self.broken = 0

    async def work(self, stop: asyncio.Event) -> None:
        for key in itertools.cycle(self.keys):
            if stop.is_set():
                return
            begin = time.monotonic()
            try:
                status, _, body = await self.wire.call("GET", key)
            except Unknown:
                self.broken += 1
            else:
                self.answers.append((key, status, body, time.monotonic() - begin))
                await asyncio.sleep(0.005)


@pytest.mark.timeout(90)
def test_a_dead_worker_costs_its_own_keys_for_a_moment_and_nothing_else(server: Server) -> None:
    keys = [f"/one/{number}" for number in range(60)]
    readers: list[Reader] = []

    async def replaced(old: int, seconds: float) -> None:
        board = server.board()
        await until(lambda: board.get(1, PID) not in (0, old), seconds, "a new process")
        while (await server.answer("/health/cluster"))[0] != 200:
            await asyncio.sleep(0.01)
        board.close()

    async def scenario() -> None:
        server.start()
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/one"))[0] == 200
        for key in keys:
            assert (await wire.call("PUT", key, body=key.encode()))[0] == 200
        await wire.end()
        readers.extend(Reader(server.wire(), keys) for _ in range(6))
        stop = asyncio.Event()
        tasks = [asyncio.create_task(reader.work(stop)) for reader in readers]
        try:
            old = server.board().get(1, PID)
            os.kill(old, signal.SIGKILL)
            seen = set()
            begin = time.monotonic()
            while len(seen) < 3 and time.monotonic() - begin < 5:
                with contextlib.suppress(OSError, TimeoutError, IndexError):  # taken by the dead worker before anybody knew
                    seen.add(("ready", *(await server.answer("/health/ready", 0.3))))
                    seen.add(("live", *(await server.answer("/health/live", 0.3))))
                seen &= {("ready", 503, "volumes not open: 1\n"), ("ready", 200, "ready\n"), ("live", 200, "live\n")}
            assert len(seen) == 3, seen  # not ready while it is dead, alive all the time, ready again
            await asyncio.wait_for(replaced(old, 5), 5 - (time.monotonic() - begin))
            assert sum(reader.broken for reader in readers) <= len(readers)
            old = server.board().get(1, PID)
            os.kill(old, signal.SIGSTOP)
            await asyncio.wait_for(replaced(old, LIVENESS_SECONDS + 8), LIVENESS_SECONDS + 10)
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            for reader in readers:
                await reader.wire.end()

    asyncio.run(scenario())
    assert server.stop() == 0
    cluster = read_cluster(str(server.data))
    record = find_bucket(str(server.data), cluster, "one")
    places = Ownership(cluster.group_volume, (0, 1))
    volume = {key: places.volume_of(ring_hash(record.bucket, key[5:].encode(), record.shards)) for key in keys}
    assert set(volume.values()) == {0, 1}
    answers = [answer for reader in readers for answer in reader.answers]
    assert not [answer for answer in answers if volume[answer[0]] == 0 and answer[1:3] != (200, answer[0].encode())]
    refused = [answer for answer in answers if answer[1] != 200]
    assert refused
    assert all(status == 503 and b"<Code>SlowDown</Code>" in body for _, status, body, _ in refused), refused[:3]
    assert b"stands still: killed" in server.log.read_bytes()


@pytest.mark.timeout(60)
def test_a_successor_that_cannot_start_leaves_the_old_worker_serving_and_a_stop_in_between_is_clean(server: Server) -> None:
    async def scenario() -> None:
        server.start()
        await server.wait_ready()
        assert server.process is not None
        supervisor = psutil.Process(server.process.pid)
        before = server.worker_pids()

        def standby() -> list[int]:
            return [pid for pid in server.worker_pids() if pid not in before]

        supervisor.send_signal(signal.SIGUSR2)
        await until(standby, 30, "a standby")
        os.kill(standby()[0], signal.SIGKILL)
        await until(lambda: b"rolling restart ended early" in server.log.read_bytes(), 30, "the word about it")
        assert server.worker_pids() == before
        assert (await server.answer("/health/cluster"))[0] == 200
        used = supervisor.cpu_times()
        descriptors = supervisor.num_fds()

        supervisor.send_signal(signal.SIGUSR2)
        await until(standby, 30, "a standby")
        os.kill(server.board().get(0, PID), signal.SIGKILL)  # the old one, while its successor loads
        await until(lambda: server.log.read_bytes().count(b"rolling restart done") == 1, 30, "the rolling restart")
        await until(lambda: len(server.worker_pids()) == 2, 30, "two workers")
        assert not set(before) & set(server.worker_pids())
        assert (await server.answer("/health/cluster"))[0] == 200
        assert supervisor.num_fds() == descriptors
        spent = supervisor.cpu_times()
        assert spent.user + spent.system - used.user - used.system < 1.0  # it sleeps while others work

        before[:] = server.worker_pids()
        supervisor.send_signal(signal.SIGUSR2)
        await until(standby, 30, "a standby")
        supervisor.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert not [pid for pid in before if psutil.pid_exists(pid)]

    asyncio.run(scenario())
