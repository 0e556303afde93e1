"""Work of milliseconds takes turns: one piece in a turn of the event loop, in the order in which they came.

Invariants
* Between two pieces the loop does whatever else is ready, so many of them at once delay other requests by one piece, not by all.
* Nobody waits who is alone: a piece that finds no other begun in this turn goes on without a step.
* Who is cancelled while waiting takes no turn from others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Of one loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None] | Callable[[], None]] = deque()
        self._is_taken = False

    async def wait(self) -> None:
        """Return when it is the caller's turn; the piece is what he does until he waits for something."""
        if (turn := self.ask()) is not None:
            await turn

    def ask(self) -> asyncio.Future[None] | None:
        """``None`` if it is the caller's turn, else a future to await."""
        loop = asyncio.get_running_loop()
        if self._is_taken:
            mine = loop.create_future()
            self._waiting.append(mine)
            return mine
        self._is_taken = True
        loop.call_soon(self._next)
        return None

    def take(self, then: Callable[[], None]) -> None:
        """``then`` when it is its turn, which may be now: ``wait`` for who needs no task."""
        if self._is_taken:
            self._waiting.append(then)
        else:
            self._is_taken = True
            asyncio.get_running_loop().call_soon(self._next)
            then()

    def _next(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            loop = asyncio.get_running_loop()
            if not isinstance(first, asyncio.Future):
                loop.call_soon(self._next)
                first()
                return
            if not first.done():
                first.set_result(None)  # who waits goes on in the next turn, and then this is called again
                loop.call_soon(self._next)
                return
        self._is_taken = False
