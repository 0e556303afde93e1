"""Which address counts as the client's."""

from __future__ import annotations

import pytest

from titans3.http.forwarded import TrustedProxies


@pytest.mark.parametrize(
    ("networks", "peer", "header", "client"),
    [
        ((), "203.0.113.9:1", b"10.0.0.1", "203.0.113.9"),
        (("10.0.0.0/8",), "203.0.113.9:1", b"10.0.0.1", "203.0.113.9"),
        (("10.0.0.0/8",), "10.1.1.1:1", b"198.51.100.7", "198.51.100.7"),
        (("10.0.0.0/8",), "10.1.1.1:1", b"6.6.6.6, 198.51.100.7, 10.2.2.2", "198.51.100.7"),
        (("10.0.0.0/8",), "10.1.1.1:1", b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
        (("10.0.0.0/8",), "10.1.1.1:1", b"rubbish", "10.1.1.1"),
        (("10.0.0.0/8",), "10.1.1.1:1", b"198.51.100.7, rubbish", "10.1.1.1"),
        (("10.0.0.0/8",), "10.1.1.1:1", None, "10.1.1.1"),
        (("::1/128",), "[::1]:9", b"[2001:db8::7]:80", "2001:db8::7"),
        (("::1/128", "10.0.0.0/8"), "::1", b"2001:db8::7", "2001:db8::7"),
    ],
)
def test_client(networks: tuple[str, ...], peer: str, header: bytes | None, client: str) -> None:
    assert TrustedProxies(networks).client(peer, header) == client


def test_a_long_header_is_cut() -> None:
    proxies = TrustedProxies(("10.0.0.0/8",))
    assert proxies.client("10.0.0.1", b",".join([b"10.0.0.1"] * 10_000)) == "10.0.0.1"
