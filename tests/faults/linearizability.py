"""Was there one order of these operations on one key that explains every answer, and that respects who was done before whom?

Sources: J. Wing, C. Gong, "Testing and verifying concurrent objects" (1993); its memory: G. Lowe, "Testing for linearizability" (2017)

Invariants
* An operation of unknown outcome may have happened at any time after it began, or never.
* Pure: operations with times in, a verdict out. Bodies are compared as they are; a condition names the body that it wants to find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What an operation answered.
DONE, REFUSED, ABSENT, LOST = "done", "refused", "absent", "lost"


@dataclass(frozen=True)
class Operation:
    """``kind``: get, put, create (if there is none), replace (if ``expected`` is there), delete, remove (delete if ``expected`` is there).

    ``result`` is DONE, REFUSED (412), ABSENT (404) or LOST (not known); ``value`` what was written, or what a get has seen.
    """

    kind: str
    begin: float
    end: float
    result: str
    value: bytes | None = None
    expected: bytes | None = None


def explain(operation: Operation, state: bytes | None) -> tuple[bool, bytes | None]:
    """(whether ``operation`` may have been done on ``state`` with its answer, the state after it)."""
    kind, result = operation.kind, operation.result
    if kind == "get":
        return result == LOST or (result == DONE and state is not None and state == operation.value) or (
            result == ABSENT and state is None
        ), state
    if kind == "put":
        return result in (DONE, LOST), operation.value
    if kind == "delete":
        return result in (DONE, LOST), None
    if kind == "create":
        should = DONE if state is None else REFUSED
    else:
        should = ABSENT if state is None else DONE if state == operation.expected else REFUSED
    after = state if should != DONE else None if kind == "remove" else operation.value
    return result in (should, LOST), after


def is_linearizable(history: Sequence[Operation], state: bytes | None = None) -> bool:
    """Whether one order explains everything; ``state`` is what was there before."""
    operations = sorted(history, key=lambda operation: operation.begin)
    ends = [math.inf if operation.result == LOST else operation.end for operation in operations]
    needed = sum(1 << at for at, operation in enumerate(operations) if operation.result != LOST)
    seen: set[tuple[int, bytes | None]] = set()
    stack: list[tuple[int, bytes | None]] = [(0, state)]
    while stack:
        done, current = stack.pop()
        if done & needed == needed:
            return True
        if (done, current) in seen:
            continue
        seen.add((done, current))
        horizon = math.inf  # nothing that began after the first end among what is left can come next
        for at, operation in enumerate(operations):
            if done >> at & 1:
                continue
            if operation.begin > horizon:
                break
            horizon = min(horizon, ends[at])
            possible, after = explain(operation, current)
            if possible:
                stack.append((done | 1 << at, after))
    return False
