"""Large answers over real connections: clients that stop reading, go away or meet damage in the middle get right bytes or none."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import ssl
import struct
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from tests.faults.server import Server, until
from tests.faults.wire import Unknown
from titans3.limits import FIRST_PIECE_BYTES, MIB, PIECE_BUFFERS_KEPT

pytestmark = [pytest.mark.timeout(120)]
ROLLED = b"rolling restart done"
SIZES = [6 * MIB + 5, 3 * MIB, MIB, 9 * MIB + 70_001]
BODIES = [random.Random(number).randbytes(size) for number, size in enumerate(SIZES)]
STOPPED = 48  # more than there are buffers to be used again


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    options: tuple[str, ...] = ()
    context: ssl.SSLContext | None = None
    if request.param == "tls":
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        made.private_key_pem.write_to_path(tmp_path / "key.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    public = {"TITANS3_METRICS__PUBLIC": "true"}
    made_server = Server(tmp_path / "data", workers=1, options=options, env=public, tls=context)
    made_server.start()
    try:
        yield made_server
    finally:
        made_server.kill_tree()


async def fill(server: Server) -> None:
    await server.wait_ready()
    wire = server.wire()
    assert (await wire.call("PUT", "/large"))[0] == 200
    for number, body in enumerate(BODIES):
        assert (await wire.call("PUT", f"/large/{number}", body=body))[0] == 200
    await wire.end()


class Reading:
    """An answer that has begun; its client reads when it is told to. ``window``: bytes that the kernel may hold for it."""

    def __init__(self, number: int, start: int, end: int) -> None:
        self.number, self.start, self.end = number, start, end

    async def begin(self, server: Server, window: int = 64 * 1024) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        name = None if server.tls is None else "127.0.0.1"
        self.sock = sock
        self.reader, self.writer = await asyncio.open_connection(sock=sock, ssl=server.tls, server_hostname=name, limit=window)
        ranged = {"range": f"bytes={self.start}-{self.end - 1}"}
        self.writer.write(server.wire().head("GET", f"/large/{self.number}", {}, ranged, 0))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 "), head
        assert f"content-length: {self.end - self.start}\r\n".encode() in head.lower()

    async def finish(self) -> None:
        found = await self.reader.readexactly(self.end - self.start)
        assert found == BODIES[self.number][self.start : self.end], "other bytes than were put"
        self.writer.close()

    def vanish(self, *, reset: bool) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def whole(server: Server) -> None:
    wire = server.wire()
    for number, body in enumerate(BODIES):
        assert (await wire.call("GET", f"/large/{number}"))[2] == body
    await wire.end()


def test_clients_that_stop_reading_cost_bounded_memory_and_get_their_own_bytes_later(server: Server) -> None:
    rng = random.Random(5)

    async def work() -> None:
        await fill(server)
        await whole(server)
        worker = psutil.Process(server.worker_pids()[0])
        before = worker.memory_info().rss
        stopped = []
        for turn in range(STOPPED):
            number = turn % len(BODIES)
            start = rng.randrange(MIB // 2)
            stopped.append(Reading(number, start, len(BODIES[number]) - rng.randrange(1000)))
            await stopped[-1].begin(server)
        for _ in range(3):  # others are served meanwhile, through the same buffers
            await asyncio.gather(*(whole(server) for _ in range(4)))
        grown = worker.memory_info().rss - before
        assert grown < STOPPED * 3 * FIRST_PIECE_BYTES + PIECE_BUFFERS_KEPT * MIB + 64 * MIB, f"{grown >> 20} MiB for {STOPPED} clients"
        rng.shuffle(stopped)
        for reading in stopped:
            await reading.finish()
        await whole(server)

    asyncio.run(work())
    assert server.stop() == 0
    assert b" error " not in server.log.read_bytes(), server.tail()


@pytest.mark.parametrize("server", ["plain"], indirect=True)
def test_clients_that_go_away_in_the_middle_leave_nothing_behind(server: Server) -> None:
    async def work() -> None:
        await fill(server)
        await whole(server)
        worker = psutil.Process(server.worker_pids()[0])
        gone = [Reading(3, turn, len(BODIES[3])) for turn in range(24)]
        await asyncio.gather(*(reading.begin(server) for reading in gone))
        for turn, reading in enumerate(gone):
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reading.reader.readexactly(turn * 1000)
            reading.vanish(reset=turn % 2 == 0)
        await until(lambda: {each.status for each in worker.net_connections()} == {psutil.CONN_LISTEN}, 20, "no connection is left")
        await whole(server)

    asyncio.run(work())
    assert server.stop() == 0
    assert b" error " not in server.log.read_bytes(), server.tail()


def test_a_damaged_granule_in_the_middle_ends_the_answer_before_it(server: Server) -> None:
    async def filled() -> None:
        await fill(server)

    async def read() -> bytes:
        await server.wait_ready()
        reading = Reading(3, 0, len(BODIES[3]))
        await reading.begin(server)
        found = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while piece := await reading.reader.read(MIB):
                found += piece
        reading.writer.transport.abort()
        return found

    asyncio.run(filled())
    assert server.stop() == 0
    body, at = BODIES[3], 5 * MIB + 300_000
    (segment,) = [path for path in server.data.glob("volumes/*/data/*") if body[:64] in path.read_bytes()]
    fd = os.open(segment, os.O_RDWR)
    os.pwrite(fd, bytes([body[at] ^ 1]), segment.read_bytes().index(body[:64]) + at)
    os.close(fd)
    server.start()
    found = asyncio.run(read())
    assert found == body[: len(found)]
    assert len(found) <= at // 65536 * 65536
    assert len(found) >= MIB, "what is whole is served"
    assert server.stop() == 0


@pytest.mark.parametrize("server", ["plain"], indirect=True)
def test_uploads_that_the_loop_hashes_and_writes_are_whole_and_kept_when_it_is_killed(server: Server) -> None:
    """As on a machine without an idle processor: the test keeps saying so on the board."""
    rng = random.Random(11)
    bodies = {f"{turn}-{number}": rng.randbytes(rng.randrange(2 * MIB, 8 * MIB)) for turn in range(4) for number in range(8)}
    kept: set[str] = set()

    async def busy(server: Server) -> None:
        board = server.board()
        try:
            while True:
                board.idle = 0.0
                await asyncio.sleep(0.002)
        finally:
            board.close()

    async def put(keys: list[str]) -> None:
        wire = server.wire()
        for key in keys:
            try:
                sha1 = {"x-amz-checksum-sha1": b64encode(hashlib.sha1(bodies[key]).digest()).decode()}
                status, headers, _ = await wire.call("PUT", f"/large/{key}", body=bodies[key], headers=sha1)
            except Unknown:
                return
            assert status == 200
            assert headers["etag"].strip('"') == hashlib.md5(bodies[key]).hexdigest()
            kept.add(key)
        await wire.end()

    async def uploads(*, kill: bool) -> None:
        await fill(server)
        saying = asyncio.create_task(busy(server))
        worker = psutil.Process(server.worker_pids()[0])
        putting = [asyncio.create_task(put([f"{turn}-{number}" for turn in ((2, 3) if kill else (0, 1))])) for number in range(8)]
        if kill:
            await until(lambda: len(kept) >= 20, 60, "uploads")
            worker.kill()
        await asyncio.gather(*putting)
        if not kill:
            _, metrics = await server.answer("/_titans3/metrics")
            (steps,) = re.findall(r'^titans3_long_work_loop_steps_total{worker="0"} (\d+)', metrics, re.MULTILINE)
            assert int(steps) > 0
        saying.cancel()

    async def look() -> None:
        await server.wait_ready()
        wire = server.wire()
        for key, body in bodies.items():
            status, _, found = await wire.call("GET", f"/large/{key}")
            assert found == body if status == 200 else status == 404 and key not in kept, key
        await wire.end()

    asyncio.run(uploads(kill=False))
    assert len(kept) == 16
    asyncio.run(uploads(kill=True))
    assert 20 <= len(kept) < 32
    asyncio.run(look())
    assert server.stop() == 0


@pytest.mark.parametrize("server", ["plain"], indirect=True)
def test_a_large_answer_outlives_the_worker_that_began_it(server: Server) -> None:
    async def work() -> None:
        await fill(server)
        reading = Reading(3, 0, len(BODIES[3]))
        await reading.begin(server)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGUSR2)
        await asyncio.sleep(1)
        found = await reading.reader.readexactly(MIB)
        assert found == BODIES[3][:MIB]
        reading.start = MIB
        await reading.finish()
        await until(lambda: ROLLED in server.log.read_bytes(), 40, "the rolling restart")
        await whole(server)

    asyncio.run(work())
    assert server.stop() == 0
