"""SIGUSR2 under load: every worker is replaced and no client notices, but for answers that say ``Connection: close``."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.faults.server import Server, until
from tests.faults.wire import Closed, Unknown, Wire
from titans3.observe.board import DRAINING, STATE
from titans3.worker.shell import LINGER_SECONDS

LONG = bool(os.environ.get("TITANS3_LONG"))

CLIENTS = 8
THINK_SECONDS = 0.01  # enough to leave new processes some of two cores
PART_BYTES = 5 * 1024 * 1024
SIZES = (100, 4_096, 30_000, 70_000, 300_000)
LONG_ANSWER_BYTES = 48 * 1024 * 1024  # more than the buffers on the way take
ROLLED = b"rolling restart done"


class Client:
    """One kept-alive connection that does everything in turn and remembers what was acknowledged."""

    def __init__(self, number: int, wire: Wire) -> None:
        self.number, self.wire = number, wire
        self.random = random.Random(number)
        self.acknowledged: dict[str, bytes | None] = {}
        self.failures: list[str] = []
        self.done = self.repeated = 0

    async def work(self, stop: asyncio.Event) -> None:
        for turn in itertools.count():
            if stop.is_set() or self.failures:
                return
            key = f"/load/{self.number}/{turn % 12}"
            try:
                if turn % 60 == 30:
                    await self.multipart(key)
                elif turn % 4 == 3:
                    await self.expect(204, "DELETE", key)
                    self.acknowledged[key] = None
                else:
                    await self.put(key)
                await self.get(key)
                await asyncio.sleep(THINK_SECONDS)
            except Unknown as error:
                self.failures.append(f"client {self.number}: {error}")

    async def expect(self, status: int, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b"") -> bytes:
        got, _, answer = await self.call(method, path, query, body)
        self.done += 1
        if got != status:
            raise Unknown(f"{method} {path} {query}: {got} {answer[:300]!r}")
        return answer

    async def call(self, method: str, path: str, query: dict[str, str] | None, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Over TLS a client that asked for nothing for two seconds may ask while its connection is being closed, and then asks again, as
        every HTTP client does. All that is asked here may be asked twice, a completion too."""
        try:
            return await self.wire.call(method, path, query, body=body)
        except Closed:
            if self.wire.tls is None:
                raise
        self.repeated += 1
        return await self.wire.call(method, path, query, body=body)

    async def put(self, key: str) -> None:
        body = self.random.randbytes(self.random.choice(SIZES))
        await self.expect(200, "PUT", key, body=body)
        self.acknowledged[key] = body

    async def get(self, key: str) -> None:
        wanted = self.acknowledged.get(key)
        answer = await self.expect(404 if wanted is None else 200, "GET", key)
        if wanted is not None and answer != wanted:
            raise Unknown(f"GET {key}: {len(answer)} other bytes")

    async def multipart(self, key: str) -> None:
        answer = await self.expect(200, "POST", key, {"uploads": ""})
        upload = answer.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
        parts = [self.random.randbytes(PART_BYTES), self.random.randbytes(1000)]
        tags = []
        for number, part in enumerate(parts, 1):
            _, headers, _ = answered = await self.call("PUT", key, {"partNumber": str(number), "uploadId": upload}, part)
            if answered[0] != 200:
                raise Unknown(f"part {number} of {key}: {answered}")
            tags.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{headers['etag']}</ETag></Part>")
        document = f"<CompleteMultipartUpload>{''.join(tags)}</CompleteMultipartUpload>".encode()
        answer = await self.expect(200, "POST", key, {"uploadId": upload}, document)
        if b"<ETag>" not in answer:
            raise Unknown(f"completion of {key}: {answer!r}")
        self.acknowledged[key] = b"".join(parts)


def rolled(server: Server) -> int:
    return server.log.read_bytes().count(ROLLED)


async def roll_under_load(server: Server, rounds: int) -> tuple[int, int]:
    """Rolling restarts while clients work; how many requests were answered, and how many had to be sent twice."""
    server.start()
    await server.wait_ready()
    assert server.process is not None
    setup = server.wire()
    assert (await setup.call("PUT", "/load"))[0] == 200
    clients = [Client(number, server.wire()) for number in range(CLIENTS)]
    idle = [Client(100 + number, server.wire()) for number in range(12)]  # connections that are quiet while it happens
    for client in idle:
        await client.put(f"/load/idle/{client.number}")
    stop = asyncio.Event()
    tasks = [asyncio.create_task(client.work(stop)) for client in clients]
    check = Client(200, server.wire())
    try:
        for turn in range(1, rounds + 1):
            before = set(server.worker_pids())
            done = sum(client.done for client in clients)
            os.kill(server.process.pid, signal.SIGUSR2)
            await until(lambda turn=turn: rolled(server) >= turn or any(client.failures for client in clients), 40, "the rolling restart")
            assert not [failure for client in clients for failure in client.failures], server.tail()
            assert not before & set(server.worker_pids()), "a worker of before is still there"
            assert sum(client.done for client in clients) > done
        stop.set()
        await asyncio.gather(*tasks)
        assert not [failure for client in clients for failure in client.failures], server.tail()
        if server.tls is None:
            for client in idle:  # on the very connection they had
                await client.get(f"/load/idle/{client.number}")
        for client in clients:
            check.acknowledged = client.acknowledged
            for key in client.acknowledged:
                await check.get(key)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for wire in [setup, check.wire, *[client.wire for client in [*clients, *idle]]]:
            await wire.end()
    assert b" error " not in server.log.read_bytes(), server.tail()
    return sum(client.done for client in clients), sum(client.repeated for client in clients)


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("workers", "rounds"), [(2, 2), (1, 1)])
def test_no_request_fails(tmp_path: Path, workers: int, rounds: int) -> None:
    server = Server(tmp_path / "data", workers=workers)
    try:
        asyncio.run(roll_under_load(server, rounds))
        assert server.stop() == 0
    finally:
        server.kill_tree()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Callable[[int], Server]]:
    """Makes a server with TLS, of so many workers."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    servers: list[Server] = []

    def make(workers: int) -> Server:
        options = ("--tls-cert", str(cert), "--tls-key", str(key))
        servers.append(Server(tmp_path / "data", workers=workers, options=options, tls=context))
        return servers[-1]

    yield make
    for server in servers:
        server.kill_tree()


@pytest.mark.timeout(1800 if LONG else 90)
def test_no_request_fails_over_tls_with_a_worker_that_owns_no_volume(tmp_path: Path, secure: Callable[[int], Server]) -> None:
    server = secure(3)
    rounds = 20 if LONG else 1
    done, repeated = asyncio.run(roll_under_load(server, rounds))
    print(f"{rounds} rolling restarts, {done} requests, {repeated} of them sent twice")
    assert len(list((tmp_path / "data" / "volumes").iterdir())) == 2
    assert server.stop() == 0


def test_over_tls_a_connection_that_is_busy_for_long_is_kept_for_its_next_request(secure: Callable[[int], Server]) -> None:
    """Its answer began before the drain, so it does not say that the connection ends: the next request has its time, counted from then."""
    server = secure(1)

    async def read_slowly() -> None:
        server.start()
        await server.wait_ready()
        wire = server.wire()
        body = random.Random(1).randbytes(LONG_ANSWER_BYTES)
        assert (await wire.call("PUT", "/slow"))[0] == 200
        assert (await wire.call("PUT", "/slow/key", body=body))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.tls)
        writer.write(wire.head("GET", "/slow/key", {}, {}, 0))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" not in head.lower()
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGUSR2)
        await until(lambda: server.board().get(0, STATE) == DRAINING, 30, "the drain")
        await asyncio.sleep(LINGER_SECONDS + 0.5)  # longer than a quiet connection is kept
        assert await reader.readexactly(len(body)) == body
        await asyncio.sleep(LINGER_SECONDS / 4)
        writer.write(wire.head("GET", "/slow/key", {}, {"range": "bytes=0-9"}, 0))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 ")
        assert b"connection: close" in head.lower()
        assert await reader.read() == body[:10]
        writer.close()
        await until(lambda: rolled(server), 40, "the rolling restart")
        await wire.end()

    asyncio.run(read_slowly())
    assert server.stop() == 0
