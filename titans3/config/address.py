"""Addresses in configuration: ``127.0.0.1:9000``, ``[::]:9000``, ``localhost:0``, and the networks of trusted proxies. Pure.

Invariants
* An IPv6 address stands in brackets. The host is always written: an open listener is a decision, not an omission.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

_NUMBERS = re.compile(r"[0-9.]+")


class Address(Struct, frozen=True):
    """Host without brackets, and port 0 … 65535 (0: any free one)."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError with what was expected."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9000 or [::]:9000")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"{port!r} in {text!r} is not a port, 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError(f"{host!r} in {text!r} is not an IPv6 address") from None
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    if not _HOST_NAME.fullmatch(host) or (_NUMBERS.fullmatch(host) and not _is_ipv4(host)):
        raise ValueError(f"{host!r} in {text!r} is not a host name or address")
    return Address(host, int(port))


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def parse_network(text: str) -> str:
    """A network or single address in canonical form (``10.0.0.0/8``). Raises ValueError."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or network such as 10.0.0.0/8 ({error})") from None
