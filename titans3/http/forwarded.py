"""Who asks, when proxies stand between: the nearest address that is not a trusted proxy's. Pure.

Invariants
* ``X-Forwarded-For`` is believed only as far as trusted proxies wrote it: it is read from the right, and the first address that is no
  trusted proxy is the client. A stranger's own header never counts.
* Without trusted proxies the peer is the client and the header is not looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

_HOPS_MAX = 32


class TrustedProxies:
    """Networks whose word is taken (``s3.trusted_proxies``)."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Networks in CIDR form; ValueError for what is none."""
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def client(self, peer: str, forwarded: bytes | None) -> str:
        """The client's address for a connection from ``peer`` (``host`` or ``host:port``) with this header."""
        address = _host(peer)
        if forwarded is None or not self._networks or not self._trusts(address):
            return address
        for hop in reversed(forwarded.decode("latin-1").split(",")[-_HOPS_MAX:]):
            word = _host(hop.strip())
            try:
                ipaddress.ip_address(word)
            except ValueError:
                return address  # not an address: whoever wrote it is the last one we know
            address = word
            if not self._trusts(address):
                return address
        return address

    def contains(self, peer: str) -> bool:
        """Whether a connection from ``peer`` comes from one of the networks."""
        return self._trusts(_host(peer))

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)


@lru_cache(maxsize=4096)
def _host(peer: str) -> str:
    """``1.2.3.4:5`` and ``[::1]:5`` without port and brackets."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    return peer.partition(":")[0] if peer.count(":") == 1 else peer
