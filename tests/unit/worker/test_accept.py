"""What a connection is set to when it is taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from titans3.worker.accept import NEAR_BYTES, keep_near


@contextlib.contextmanager
def connected(source: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and the client's, which comes from this address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 5, (source, 0))
        server, _ = listener.accept()
        with client, server:
            yield server, client


def unsent_at_most(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def grown(server: socket.socket, client: socket.socket) -> int:
    """The buffer after so much that the kernel lets it grow if it may."""
    server.setblocking(False)
    piece = b"x" * 1_000_000
    client.settimeout(5)
    for _ in range(60):
        with contextlib.suppress(BlockingIOError):
            server.send(piece)
        client.recv(200_000)
    return unsent_at_most(server)


def test_a_client_on_this_machine_gets_no_more_ahead_than_a_cache_holds() -> None:
    with connected("127.0.0.1") as (server, client):
        keep_near(server)
        fixed = unsent_at_most(server)
        assert fixed <= 2 * NEAR_BYTES
        assert grown(server, client) == fixed


def test_for_any_other_client_the_kernel_chooses() -> None:
    with connected("127.0.0.2") as (server, client):
        before = unsent_at_most(server)
        keep_near(server)
        assert unsent_at_most(server) == before
        assert grown(server, client) > before


def test_a_client_that_is_gone_is_the_loops_business() -> None:
    with connected("127.0.0.1") as (server, client):
        server.shutdown(socket.SHUT_RDWR)
        client.close()
        keep_near(server)
