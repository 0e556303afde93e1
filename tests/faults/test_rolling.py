"""SIGUSR2 under load: every worker is replaced and no client notices, but for answers that say ``Connection: close``."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from tests.faults.server import Server, until
from tests.faults.wire import Unknown, Wire

CLIENTS = 8
THINK_SECONDS = 0.01  # enough to leave new processes some of two cores
PART_BYTES = 5 * 1024 * 1024
SIZES = (100, 4_096, 30_000, 70_000, 300_000)
ROLLED = b"rolling restart done"


class Client:
    """One kept-alive connection that does everything in turn and remembers what was acknowledged."""

    def __init__(self, number: int, wire: Wire) -> None:
        self.number, self.wire = number, wire
        self.random = random.Random(number)
        self.acknowledged: dict[str, bytes | None] = {}
        self.failures: list[str] = []
        self.done = 0

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
        got, _, answer = await self.wire.call(method, path, query, body=body)
        self.done += 1
        if got != status:
            raise Unknown(f"{method} {path} {query}: {got} {answer[:300]!r}")
        return answer

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
            _, headers, _ = answered = await self.wire.call("PUT", key, {"partNumber": str(number), "uploadId": upload}, body=part)
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


async def roll_under_load(server: Server, rounds: int) -> None:
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
    try:
        for turn in range(1, rounds + 1):
            before = set(server.worker_pids())
            done = sum(client.done for client in clients)
            os.kill(server.process.pid, signal.SIGUSR2)
            await until(lambda turn=turn: rolled(server) >= turn or any(client.failures for client in clients), 40, "the rolling restart")
            assert not [failure for client in clients for failure in client.failures], server.tail()
            assert not before & set(server.worker_pids()), "a worker of before is still there"
            assert sum(client.done for client in clients) > done
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert not [failure for client in clients for failure in client.failures], server.tail()
    if server.tls is None:
        for client in idle:  # on the very connection they had
            await client.get(f"/load/idle/{client.number}")
    check = Client(200, server.wire())
    for client in clients:
        check.acknowledged = client.acknowledged
        for key in client.acknowledged:
            await check.get(key)
    for wire in [setup, check.wire, *[client.wire for client in [*clients, *idle]]]:
        await wire.end()
    assert b" error " not in server.log.read_bytes(), server.tail()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("workers", "rounds"), [(2, 2), (1, 1)])
def test_no_request_fails(tmp_path: Path, workers: int, rounds: int) -> None:
    server = Server(tmp_path / "data", workers=workers)
    try:
        asyncio.run(roll_under_load(server, rounds))
        assert server.stop() == 0
    finally:
        server.kill_tree()


@pytest.mark.timeout(90)
def test_no_request_fails_over_tls_with_a_worker_that_owns_no_volume(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = Server(tmp_path / "data", workers=3, options=("--tls-cert", str(cert), "--tls-key", str(key)), tls=context)
    try:
        asyncio.run(roll_under_load(server, 1))
        assert len(list((tmp_path / "data" / "volumes").iterdir())) == 2
        assert server.stop() == 0
    finally:
        server.kill_tree()
