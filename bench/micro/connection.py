"""Server CPU per request of the connection alone and with SigV4: GET and PUT of 4 KiB against a handler that does nothing else.

Run: python -m bench.micro.connection [seconds]. The client is another process; only the server's CPU time counts.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import selectors
import socket
import sys
import time
from multiprocessing.connection import Connection as Pipe

import uvloop

from titans3.http.canonical import EMPTY_SHA256
from titans3.http.message import Request, Response
from titans3.http.payload import open_payload
from titans3.http.signing import SigningIdentity, sign_headers
from titans3.http.sigv4 import SigV4
from titans3.worker.context import ConnectionContext

IDENTITY = SigningIdentity("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
BODY = os.urandom(4096)
CONNECTIONS = 16


def serve(pipe: Pipe) -> None:
    """Child process: answer until told to stop; replies to each message with its CPU seconds and request count."""
    verifier = SigV4({IDENTITY.access_key: IDENTITY.secret}.get)
    headers = [(b"etag", b'"d41d8cd98f00b204e9800998ecf8427e"'), (b"last-modified", b"Sat, 31 Jan 2026 12:00:00 GMT")]

    async def handler(request: Request) -> Response:
        verified = None
        if request.query != b"bare":
            verified = verifier.verify(request.method, request.path, request.query, request.fields, time.time())
            assert verified is not None
        if request.method == "PUT":
            await open_payload(request.body, verified, request.fields).read_all(65536)
            return Response(200, headers)
        return Response(200, headers, BODY)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = ConnectionContext(handler, loop)
        context.start()
        server = await loop.create_server(context.protocol, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        done = asyncio.Event()

        def answer() -> None:
            if pipe.recv() == "stop":
                done.set()
            else:
                pipe.send((time.process_time(), context.counters.requests))

        loop.add_reader(pipe.fileno(), answer)
        await done.wait()

    uvloop.run(main())


def load(port: int, data: bytes, seconds: float) -> int:
    """Closed loop over CONNECTIONS sockets; returns answers counted."""
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        sock.send(data)
    count = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(1):
            sock = key.fileobj  # type: ignore[assignment]
            got = sock.recv(65536)
            assert got.startswith(b"HTTP/1.1 200"), got[:400]
            count += 1
            sock.send(data)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    return count


def wire(method: str, query: bytes, body: bytes, payload_hash: str) -> bytes:
    """One request as it goes out again and again; signed now."""
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = b"/warp-benchmark-bucket/9xdEMCkV/1.kqhvMRPYBFJ2vHrn.rnd"
    extra = {"host": "127.0.0.1:9000", "content-type": "application/octet-stream", "user-agent": "MinIO (linux; amd64) minio-go/v7"}
    extra["x-amz-checksum-mode"] = "ENABLED"
    headers = sign_headers(IDENTITY, method, path, query, extra, date=date, payload_hash=payload_hash).headers
    if body:
        headers["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    target = path + b"?" + query if query else path
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method.encode(), target, lines.encode(), body)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
    process.start()
    port = ours.recv()
    cases = (
        ("GET 4 KiB, no signature check", wire("GET", b"bare", b"", EMPTY_SHA256)),
        ("GET 4 KiB, SigV4", wire("GET", b"", b"", EMPTY_SHA256)),
        ("PUT 4 KiB, SigV4, unsigned payload", wire("PUT", b"", BODY, "UNSIGNED-PAYLOAD")),
    )
    for name, data in cases:
        ours.send("read")
        cpu, before = ours.recv()
        count = load(port, data, seconds)
        ours.send("read")
        cpu_after, after = ours.recv()
        each = (cpu_after - cpu) / max(1, after - before) * 1e6
        print(f"{name:38} {count / seconds:8.0f} requests/s  {each:6.1f} µs of server CPU each")
    ours.send("stop")
    process.join(5)


if __name__ == "__main__":
    main()
