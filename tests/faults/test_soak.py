"""Garbage, truncated and mutated requests against a live server, plain and TLS: no worker dies or grows, valid requests are right.

Eight seconds in CI; ``TITANS3_SOAK_SECONDS=60 pytest tests/faults/test_soak.py`` is the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from tests.faults.server import Server, play
from tests.faults.wire import Wire
from tests.fuzz.test_http_fuzz import CORPUS

SECONDS = float(os.environ.get("TITANS3_SOAK_SECONDS", "8"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]
GROWTH_BYTES_MAX = 48 << 20
BUCKET = "soak"
NASTY = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"%", b"%0", b";",
    b"=", b"&", b",", b"-1", b"\xff", b"X-Amz-", b"a" * 40_000, b"?uploads", b"?partNumber=99999999999", b"x-amz-copy-source: /\r\n",
    b"Range: bytes=9-1\r\n", b"Expect: 100-continue\r\n", b"x-amz-decoded-content-length: 9\r\n",
)  # fmt: skip
ANSWERS = (b"HTTP/1.1 2", b"HTTP/1.1 1", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 501", b"HTTP/1.1 505")


def signed(wire: Wire, rng: random.Random) -> bytes:
    """A valid request of any kind, body and all."""
    key = f"/{BUCKET}/k{rng.randrange(20)}"
    body = rng.randbytes(rng.choice((0, 10, 5000, 100_000)))
    xml = b"<Delete><Object><Key>a</Key></Object></Delete>"
    method, path, query, headers, data = rng.choice((
        ("PUT", key, {}, {}, body), ("PUT", key, {}, {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, body),
        ("PUT", key, {}, {"x-amz-copy-source": f"/{BUCKET}/steady"}, b""), ("GET", key, {}, {"range": "bytes=0-100"}, b""),
        ("HEAD", key, {}, {}, b""), ("DELETE", key, {}, {}, b""), ("GET", f"/{BUCKET}", {"list-type": "2", "delimiter": "/"}, {}, b""),
        ("POST", f"/{BUCKET}", {"delete": ""}, {}, xml), ("POST", key, {"uploads": ""}, {}, b""),
        ("POST", key, {"uploadId": "A" * 32}, {}, b"<CompleteMultipartUpload>"),
        ("PUT", key, {"partNumber": "1", "uploadId": "B"}, {}, body),
        ("PUT", key, {}, {"if-none-match": "*"}, body), ("GET", f"/{BUCKET}", {"uploads": "", "max-uploads": "7"}, {}, b""),
    ))  # fmt: skip
    return wire.head(method, path, query, headers, len(data)) + data


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced, deleted or inserted; half of it in the head."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(len(made), rng.choice((300, 100_000))) + 1)
        made[at : at + rng.randrange(9)] = rng.choice((rng.choice(NASTY), rng.randbytes(rng.randrange(7))))
    return bytes(made)


def wrong(wire: Wire, rng: random.Random) -> bytes:
    """Something no client should send."""
    draw = rng.random()
    if draw < 0.15:
        return rng.randbytes(rng.choice((1, 20, 300, 70_000)))
    if draw < 0.35:
        whole = signed(wire, rng)
        return whole[: rng.randrange(len(whole))]
    if draw < 0.55:
        return mutated(rng.choice(CORPUS), rng)
    if draw < 0.85:
        return mutated(signed(wire, rng), rng)
    return b"".join(signed(wire, rng) for _ in range(3)) + rng.choice(NASTY)


async def abuse(server: Server, wire: Wire, seed: int, until: float) -> int:
    """One bad client after the other; how many."""
    rng, loop, count = random.Random(seed), asyncio.get_running_loop(), 0
    while loop.time() < until:
        count += 1
        try:
            reader, writer = await asyncio.open_connection(wire.host, wire.port, ssl=server.tls)
        except (OSError, ssl.SSLError):
            continue
        try:
            data = wrong(wire, rng)
            writer.write(data)
            if server.tls is None and rng.random() < 0.7:
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(65_536), rng.choice((0.02, 0.3)))
            assert not answer or answer.startswith(ANSWERS), (data[:2000], answer[:1000])
        except (OSError, ssl.SSLError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)
    await asyncio.sleep(0.05)  # transports of handshakes that failed close a turn later
    return count


async def behave(wire: Wire, number: int, until: float) -> int:
    """A client that does everything right and must see it so."""
    rng, loop, count = random.Random(number), asyncio.get_running_loop(), 0
    while loop.time() < until:
        key, body = f"/{BUCKET}/good{number}-{rng.randrange(5)}", rng.randbytes(rng.choice((0, 700, 90_000)))
        status, _, answer = await wire.call("PUT", key, body=body)
        assert status == 200, answer
        status, _, found = await wire.call("GET", key)
        assert (status, found == body) == (200, True)
        count += 1
    return count


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    options: tuple[str, ...] = ()
    context = None
    if request.param == "tls":
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        made.cert_chain_pems[0].write_to_path(cert)
        made.private_key_pem.write_to_path(key)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        options = ("--tls-cert", str(cert), "--tls-key", str(key))
    env = {"TITANS3_HTTP__BODY_SECONDS": "2s", "TITANS3_HTTP__HEAD_SECONDS": "2s"}
    started = Server(tmp_path / "data", options=options, tls=context, env=env)
    started.start()
    try:
        asyncio.run(started.wait_ready())
        yield started
        assert started.stop() == 0
    finally:
        if started.process is not None and started.process.poll() is None:
            started.kill_tree()


def test_wrong_input(server: Server) -> None:
    async def run(clients: list[Wire]) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert (await clients[0].call("PUT", f"/{BUCKET}"))[0] == 200
        assert (await clients[0].call("PUT", f"/{BUCKET}/steady", body=b"steady"))[0] == 200
        await asyncio.gather(*(abuse(server, clients[2], seed, loop.time() + 2) for seed in range(100, 108)))  # caches fill
        before = {pid: psutil.Process(pid).memory_info().rss for pid in server.worker_pids()}
        end = loop.time() + SECONDS / 2
        counts = await asyncio.gather(
            *(abuse(server, clients[2], seed, end) for seed in range(8)), *(behave(clients[number], number, end) for number in (0, 1))
        )
        after = {pid: psutil.Process(pid).memory_info().rss for pid in server.worker_pids()}
        assert list(after) == list(before), "a worker died"
        growth = {pid: after[pid] - before[pid] for pid in after}
        assert max(growth.values()) < GROWTH_BYTES_MAX, growth
        print(f"growth {[size >> 10 for size in growth.values()]} KiB, of {[size >> 10 for size in before.values()]} KiB")
        return sum(counts[:8]), sum(counts[8:])

    bad, good = play(server, 3, run)
    print(f"{bad} bad clients, {good} good rounds")
    assert bad > 50
    assert good > 10
    log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert "error " not in log, log[log.index("error ") - 100 :][:2000]
