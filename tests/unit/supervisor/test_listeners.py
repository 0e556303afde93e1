"""Listening sockets of the supervisor."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from titans3.config.address import Address
from titans3.errors import ConfigError
from titans3.supervisor.listeners import address_of, listen, reachable


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_every_address_has_its_socket_and_ipv6_takes_ipv6_alone() -> None:
    found = listen(("127.0.0.1:0", "[::1]:0", "[::]:0"))
    assert [sock.family for sock in found] == [socket.AF_INET, socket.AF_INET6, socket.AF_INET6]
    for sock in found:
        host, port = address_of(sock).host, address_of(sock).port
        socket.create_connection((reachable(Address(host, port)).host, port), 2).close()
        assert not sock.get_inheritable() and not sock.getblocking()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address_of(found[2]).port), 2)
    close(found)


def test_localhost_is_one_port_in_every_family() -> None:
    found = listen(("localhost:0",))
    assert len(found) == 1
    close(found)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found = listen((f"localhost:{port}",))
    assert {address_of(sock).port for sock in found} == {port}
    close(found)


def test_an_address_in_use_is_named_and_nothing_stays_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
        probe.close()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen((f"127.0.0.1:{free}", f"127.0.0.1:{port}"))
        close(listen((f"127.0.0.1:{free}",)))


def test_an_address_that_becomes_free_is_waited_for() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    timer = threading.Timer(0.3, taken.close)
    timer.start()
    found = listen((f"127.0.0.1:{port}",), wait_seconds=10)
    assert address_of(found[0]).port == port
    close(found)
    timer.join()


def test_what_will_never_be_free_is_not_waited_for() -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="Cannot assign requested address"):
        listen(("192.0.2.1:0",), wait_seconds=10)
    with pytest.raises(ConfigError, match=r"s3\.listen: no-such-host\.invalid:0: "):
        listen(("no-such-host.invalid:0",), wait_seconds=10)
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize(
    ("host", "wanted"), [("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1"), ("10.0.0.1", "10.0.0.1:1"), ("::1", "[::1]:1")]
)
def test_a_wildcard_is_reached_at_loopback(host: str, wanted: str) -> None:
    assert str(reachable(Address(host, 1))) == wanted
