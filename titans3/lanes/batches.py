"""Pieces of bodies that wait for their MD5, taken together by a thread. One per worker, used on its loop.

Invariants
* One batch is under way at a time; what arrives meanwhile is the next one. A piece that is alone does not wait for company.
* A future is done after the last byte of its piece was read, whatever happened: the buffer is free then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from typing import TypeAlias

from titans3.lanes.digests import LANES, Lanes, Md5

_Waiting: TypeAlias = "tuple[Md5, memoryview, asyncio.Future[None]]"


class Md5Batches:
    """Moves bodies on, up to LANES at a time. ``batches`` and ``pieces`` count since the start."""

    def __init__(self, lanes: Lanes, executor: Executor | None) -> None:
        self._lanes, self._executor = lanes, executor
        self._waiting: deque[_Waiting] = deque()
        self._taken: list[_Waiting] = []
        self._is_running = False
        self.batches = self.pieces = 0

    def md5(self) -> Md5:
        """The MD5 of nothing yet."""
        return self._lanes.md5()

    def digest(self, md5: Md5) -> bytes:
        """The MD5 of everything so far, 16 bytes. Some 10 microseconds."""
        return self._lanes.digest(md5)

    def update(self, md5: Md5, piece: memoryview) -> asyncio.Future[None]:
        """Done when the piece was taken. A body has one piece here at a time."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((md5, piece, done))
        if not self._is_running:
            self._start(loop)
        return done

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            running = loop.run_in_executor(self._executor, self._work)
        except RuntimeError as error:  # the threads have ended
            self._end(list(self._waiting), error)
            self._waiting.clear()
            return
        self._is_running = True
        running.add_done_callback(self._finished)

    def _work(self) -> None:
        """Whatever waits when a thread has time for it."""
        waiting = self._waiting
        self._taken = [waiting.popleft() for _ in range(min(len(waiting), LANES))]
        self._lanes.update_all([(md5, piece) for md5, piece, _ in self._taken])

    def _finished(self, running: asyncio.Future[None]) -> None:
        self._is_running = False
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        batch, self._taken = self._taken, []
        self.batches += 1
        self.pieces += len(batch)
        self._end(batch, error)
        if self._waiting:
            self._start(running.get_loop())

    def _end(self, batch: list[_Waiting], error: BaseException | None) -> None:
        for _, _, done in batch:
            if done.done():
                continue  # cancelled
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
