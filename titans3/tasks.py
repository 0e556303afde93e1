"""Work that goes to its end whoever stops waiting for it.

Invariants
* Who waits may be cancelled at any time; the work is not.
* A failure that nobody waits for any more is the work's own to tell; asyncio does not report it as forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises."""
    task = asyncio.create_task(work)
    task.add_done_callback(_heard)
    return await asyncio.shield(task)


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
