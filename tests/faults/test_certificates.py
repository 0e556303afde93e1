"""TLS on a running server: what clients see when certificates are replaced, broken, and when a worker starts again meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import trustme
from botocore.config import Config as BotoConfig

from tests.faults.server import Server, until
from titans3.observe.board import PID

AUTHORITY = trustme.CA()


def write_pair(folder: Path, pair: trustme.LeafCert) -> None:
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")


def trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_pair(tmp_path, AUTHORITY.issue_cert("127.0.0.1"))
    config = tmp_path / "titans3.toml"
    config.write_text(f'[s3]\ntls_cert = "{tmp_path}/cert.pem"\ntls_key = "{tmp_path}/key.pem"\n')
    made = Server(tmp_path / "data", options=("--config", str(config)), tls=trust())
    yield made
    made.kill_tree()


def fingerprint(server: Server) -> str:
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw, trust().wrap_socket(raw, server_hostname="127.0.0.1") as sock:
        certificate = sock.getpeercert(binary_form=True)
        assert certificate is not None and sock.version() in ("TLSv1.2", "TLSv1.3")
        return hashlib.sha256(certificate).hexdigest()


async def seen(server: Server) -> set[str]:
    """The certificates that ten new connections see; both workers are among those that answer."""
    return {await asyncio.to_thread(fingerprint, server) for _ in range(10)}


@pytest.mark.timeout(60)
def test_a_new_certificate_is_for_new_connections_and_a_broken_one_for_none(server: Server, tmp_path: Path) -> None:
    async def reloaded(word: bytes) -> None:
        assert server.process is not None
        before = server.log.read_bytes().count(word)
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: server.log.read_bytes().count(word) > before, 30, f"{word!r} in the log")

    async def scenario() -> None:
        server.start()
        await server.wait_ready()
        first = await seen(server)
        assert len(first) == 1
        AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
        access_key, secret_key = server.credentials()
        s3 = boto3.client(
            "s3", endpoint_url=f"https://127.0.0.1:{server.port}", aws_access_key_id=access_key, aws_secret_access_key=secret_key,
            region_name="us-east-1", verify=str(tmp_path / "ca.pem"), config=BotoConfig(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        await asyncio.to_thread(s3.create_bucket, Bucket="tls")
        await asyncio.to_thread(lambda: s3.put_object(Bucket="tls", Key="a", Body=b"x" * 300_000))
        open_one = server.wire()
        assert (await open_one.call("GET", "/tls/a"))[0] == 200

        write_pair(tmp_path, AUTHORITY.issue_cert("127.0.0.1"))
        await reloaded(b"configuration reloaded")
        second = await seen(server)
        while second & first:  # a worker reloads within moments
            second = await seen(server)
        assert len(second) == 1
        assert (await open_one.call("GET", "/tls/a"))[2] == b"x" * 300_000  # still on the connection of before
        assert open_one.connections == 1

        (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        await reloaded(b"configuration not reloaded, the old one stays")
        assert await seen(server) == second
        board = server.board()
        old = board.get(1, PID)
        os.kill(old, signal.SIGKILL)  # its successor has no file to read, and needs none
        await until(lambda: board.get(1, PID) not in (0, old), 30, "a new process")
        board.close()
        while (await server.answer("/health/cluster"))[0] != 200:
            await asyncio.sleep(0.02)
        assert await seen(server) == second
        s3.close()
        await open_one.end()

    asyncio.run(scenario())
    assert server.stop() == 0


@pytest.mark.timeout(60)
def test_the_log_level_changes_and_what_waits_for_a_restart_is_said(tmp_path: Path) -> None:
    config = tmp_path / "titans3.toml"
    config.write_text('[log]\nlevel = "info"\n')
    server = Server(tmp_path / "data", workers=1, options=("--config", str(config)))

    async def scenario() -> None:
        server.start()
        await server.wait_ready()
        assert server.process is not None
        config.write_text('[log]\nlevel = "debug"\n[http]\nidle_seconds = 5\n')
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: b"only a restart takes it up: http.idle_seconds" in server.log.read_bytes(), 30, "the warning")
        os.kill(server.process.pid, signal.SIGUSR2)
        await until(lambda: b"worker 0 opened its volumes" in server.log.read_bytes(), 20, "a message of level debug")
        config.write_text('[log]\nlevel = "loud"\n')
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: b"configuration not reloaded" in server.log.read_bytes(), 30, "the refusal")
        line = next(line for line in server.log.read_text().splitlines() if "not reloaded" in line)
        assert "log.level" in line and "loud" in line and str(config) in line
        await until(lambda: b"rolling restart done" in server.log.read_bytes(), 20, "the rolling restart")

    try:
        asyncio.run(scenario())
        assert server.stop() == 0
    finally:
        server.kill_tree()


@pytest.mark.timeout(60)
def test_a_stop_does_not_wait_for_idle_clients_and_cuts_no_slow_one(server: Server) -> None:
    """A client that is not listening never answers the server's wish to close; a slow one takes all of its answer."""
    size = 24 << 20

    async def scenario() -> float:
        server.start()
        await server.wait_ready()
        idle, slow = server.wire(), server.wire()
        assert (await idle.call("PUT", "/bucket"))[0] == 200
        assert (await slow.call("PUT", "/bucket/large", body=bytes(size)))[0] == 200
        assert (await idle.call("GET", "/bucket"))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.tls, limit=1 << 16)
        writer.write(slow.head("GET", "/bucket/large", {}, {}, 0))
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        process = server.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        while taken < size:
            piece = await reader.read(1 << 18)
            assert piece, f"cut after {taken} bytes"
            taken += len(piece)
            await asyncio.sleep(0.03)
        whole = time.monotonic()
        assert whole - begin > 2, "it was not slow"
        await until(lambda: process.poll() is not None, 30, "the server's end")
        assert process.returncode == 0
        writer.close()
        for wire in (idle, slow):
            await wire.end()
        return time.monotonic() - whole

    assert asyncio.run(scenario()) < 5


@pytest.mark.timeout(60)
def test_a_stop_with_nothing_but_idle_clients_is_short(server: Server) -> None:
    async def scenario() -> float:
        server.start()
        await server.wait_ready()
        wires = [server.wire() for _ in range(8)]
        for wire in wires:
            assert (await wire.call("GET", "/"))[0] == 200
        begin = time.monotonic()
        assert server.stop(10) == 0  # the loop of the clients stands still meanwhile
        seconds = time.monotonic() - begin
        for wire in wires:
            await wire.end()
        return seconds

    assert asyncio.run(scenario()) < 5
