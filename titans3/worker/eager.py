"""Run a coroutine at once; make a task only if it has to wait.

Invariants
* A coroutine that never suspends costs no task and no turn of the loop.
* One that suspends goes on inside a task that first waits for the very future the coroutine stopped at.
* Until the first suspension there is no current task: ``asyncio.timeout`` and ``TaskGroup`` do not work there, and context variables
  that are set there belong to the connection. Handlers use neither before their first real wait.
* Operations that mostly wait once, and are never cancelled, have none before their second wait either: the future that they wait for
  carries them on. A task, which they are spared, costs more than all that it would do.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

WAITS_ONCE = frozenset(("PutObject", "DeleteObject", "DeleteObjects"))
T = TypeVar("T")


def taken(waiting: Any) -> bool:
    """Whether what a coroutine stopped at is a future; then it is the caller's to wait for, as it would be a task's."""
    if not isinstance(waiting, asyncio.Future):
        return False
    waiting._asyncio_future_blocking = False  # what a task does when it takes over
    return True


@types.coroutine
def resumed(coroutine: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine whose first ``send(None)`` returned ``waiting``; to be given to ``create_task``.

    Yields what the coroutine yields, starting with ``waiting``; passes values and exceptions (cancellation too) into it.
    """
    while True:
        try:
            value = yield waiting
        except BaseException as error:  # noqa: BLE001 - handed on into the coroutine, cancellation included
            step: Any = coroutine.throw
            argument: Any = error
        else:
            step = coroutine.send
            argument = value
        try:
            waiting = step(argument)
        except StopIteration as stop:
            result: T = stop.value
            return result


if sys.version_info >= (3, 12):  # from there on a task takes what ``async def`` makes, and nothing else
    _passed = resumed

    async def resumed(coroutine: Coroutine[Any, Any, T], waiting: Any) -> T:
        """The same."""
        return await _passed(coroutine, waiting)
