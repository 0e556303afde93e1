"""What a Raft core asks its driver to do. Values only.

The rules: ``msgs_after`` leave only after the write of ``hard_state`` and ``entries`` is durable; the driver then says
``persisted(token)``, applies what the next ``ready`` calls committed, and says ``applied_to(index)``.
"""

from __future__ import annotations

import msgspec


class HardState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What must be durable before a message that reveals it leaves."""

    term: int
    vote: int


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry; ``context`` is the proposer's, replica-local."""

    index: int
    term: int
    prev_term: int
    data: bytes
    context: object = None


class Ready(msgspec.Struct, gc=False):
    """Work for the driver. Lists may be empty; ``hard_state`` is implied by the entries' term when it is ``None``."""

    token: int
    entries: list[Entry]
    committed: list[Entry]
    hard_state: HardState | None = None
    truncate_from: int | None = None
    msgs_now: tuple[object, ...] = ()
    msgs_after: tuple[object, ...] = ()
