"""The eight calls behind which the control plane lies, whatever drives it.

Invariants
* ``get``, ``list`` and ``cas`` are linearizable; every record carries the revision that wrote it, which is the fencing token.
* ``cas`` changes all of its keys or none, and raises ``Conflict`` naming the key whose revision was not the expected one.
* A watcher that fell behind gets ``Compacted`` and lists again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from titans3.errors import PeerError, TitanError
from titans3.model.control import Event, Rec

Op = tuple[str, bytes | None]


class Conflict(TitanError):
    """A revision was not the expected one; ``key`` says whose."""

    def __init__(self, key: str) -> None:
        super().__init__(f"conflict on {key}")
        self.key = key


class Compacted(TitanError):
    """Events from that revision are gone: list again."""


class NotSupported(TitanError):
    """The driver has no such call (leases on one machine)."""


class Lease(Protocol):
    """A lease with a keep-alive of its own."""

    async def revoke(self) -> None: ...


class ControlPlane(Protocol):
    """See the module."""

    async def get(self, key: str) -> Rec | None: ...
    async def list(self, prefix: str) -> tuple[list[Rec], int]: ...
    async def cas(self, ops: Sequence[Op], expect: dict[str, int]) -> int: ...
    def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Event]: ...
    async def lease(self, ttl: float) -> Lease: ...
    async def cas_leased(self, lease: Lease, key: str, value: bytes, expect: int) -> int: ...
    async def status(self) -> dict[str, object]: ...
    async def close(self) -> None: ...


__all__ = ["Compacted", "Conflict", "ControlPlane", "Lease", "NotSupported", "Op", "PeerError"]
