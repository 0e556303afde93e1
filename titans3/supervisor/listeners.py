"""Listening sockets: made once by the supervisor, kept over every restart of a worker, so no queued connection is dropped.

Invariants
* Sockets are bound before a worker starts: an address in use is an error of the start, not of a worker.
* IPv6 sockets take IPv6 alone; whoever wants both writes both.
"""

from __future__ import annotations

import errno
import socket
import time

from titans3.config.address import Address, parse_address
from titans3.errors import ConfigError

BACKLOG = 4096
_RETRY_SECONDS = 0.1


def listen(addresses: tuple[str, ...], *, wait_seconds: float = 0.0) -> list[socket.socket]:
    """Bind all addresses; ``wait_seconds``: how long an address in use is tried again. Raises ConfigError."""
    deadline = time.monotonic() + wait_seconds
    found: list[socket.socket] = []
    try:
        for text in addresses:
            found += _bind(parse_address(text), text, deadline)
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def _bind(address: Address, text: str, deadline: float) -> list[socket.socket]:
    try:
        places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"s3.listen: {text}: {error.strerror}") from error
    found: list[socket.socket] = []
    for family, _, _, _, place in dict.fromkeys(places):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if address.host == "localhost" and found and address.port == 0:
            break  # one free port, not two different ones
        try:
            sock = _bind_one(family, place, text, deadline, optional=bool(found) and address.host == "localhost")
        except BaseException:
            for other in found:
                other.close()
            raise
        if sock is not None:
            found.append(sock)
    if not found:
        raise ConfigError(f"s3.listen: {text}: no address to listen on")
    return found


def _bind_one(family: int, place: object, text: str, deadline: float, *, optional: bool) -> socket.socket | None:
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)  # type: ignore[arg-type]
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
                continue
            if optional:
                return None
            raise ConfigError(f"s3.listen: cannot listen on {text}: {error.strerror}") from error
        return sock


def address_of(sock: socket.socket) -> Address:
    """Where a socket listens."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)


def reachable(address: Address) -> Address:
    """An address to connect to from this machine: a wildcard becomes loopback."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return Address(wildcard.get(address.host, address.host), address.port)
