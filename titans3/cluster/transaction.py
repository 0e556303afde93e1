"""Changes of several records of the control plane as one, tried again when somebody was faster.

Invariants
* What was read is what is changed: every record that a transaction read is among the expectations of its ``cas``, absent ones, too.
* A listing is not among them. What must not come into being meanwhile is kept away by a record that both sides write: whoever adds
  a key to a user, or a user to a group, touches the user and the group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from titans3.cluster.control.interface import Conflict, ControlPlane
from titans3.errors import ClientError, Reason

_TRIES = 30
_encode = msgspec.msgpack.Encoder().encode
R = TypeVar("R")


class Transaction:
    """One try."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._values: dict[str, bytes] = {}
        self.expect: dict[str, int] = {}
        self.changes: dict[str, bytes | None] = {}

    async def read(self, key: str, kind: type[R]) -> R | None:
        """A record as it is; ``None`` if it is not there."""
        rec = await self._control.get(key)
        self.expect[key] = 0 if rec is None else rec.rev
        if rec is None:
            return None
        self._values[key] = rec.value
        return msgspec.msgpack.decode(rec.value, type=kind)

    async def need(self, key: str, kind: type[R], absent: Exception) -> R:
        """A record that must be there; raises ``absent``."""
        record = await self.read(key, kind)
        if record is None:
            raise absent
        return record

    async def read_text(self, key: str) -> str:
        """A record that is a text; empty if it is not there."""
        rec = await self._control.get(key)
        self.expect[key] = 0 if rec is None else rec.rev
        return "" if rec is None else rec.value.decode()

    async def list(self, prefix: str, kind: type[R]) -> list[tuple[str, R]]:
        """Keys and records, in the order of the keys."""
        records, _ = await self._control.list(prefix)
        return [(rec.key, msgspec.msgpack.decode(rec.value, type=kind)) for rec in records]

    def put(self, key: str, record: object) -> None:
        """Write a record."""
        self.changes[key] = _encode(record)

    def put_text(self, key: str, text: str) -> None:
        """Write a record that is a text."""
        self.changes[key] = text.encode()

    def create(self, key: str, record: object) -> None:
        """Write a record that must not be there yet."""
        self.expect[key] = 0
        self.changes[key] = _encode(record)

    def delete(self, key: str) -> None:
        """Remove a record."""
        self.changes[key] = None

    def touch(self, key: str) -> None:
        """Write what was read, so that nobody else changes it meanwhile."""
        self.changes.setdefault(key, self._values[key])


async def transact(control: ControlPlane, attempt: Callable[[Transaction], Awaitable[R]]) -> R:
    """What ``attempt`` gives, once its changes are made; it is called again from the start if a record that it read was changed.

    Raises what ``attempt`` raises, and ClientError(CONFLICT) if others are faster all the time.
    """
    for _ in range(_TRIES):
        transaction = Transaction(control)
        result = await attempt(transaction)
        if not transaction.changes:
            return result
        try:
            await control.cas(list(transaction.changes.items()), transaction.expect)
        except Conflict:
            continue
        return result
    raise ClientError(Reason.CONFLICT, "Too many change this at once. Try again.")
