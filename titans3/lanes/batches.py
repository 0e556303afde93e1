"""Pieces of bodies that wait for their MD5, taken together by a thread. One per worker, used on its loop.

Invariants
* One batch is under way at a time; what arrives meanwhile is the next one.
* A batch costs the same for one body as for eight. On a busy machine, where the last one was kept from the processor, the next waits for
  the bodies that are about to bring a piece, in all no longer than WAIT_SECONDS_MAX; on one that is not it never waits.
* Who has brought nothing for WAIT_SECONDS_MAX is not waited for again before it does, and not at all whose last piece took longer than
  SLOW_SECONDS: clients that are slow do not hold up one that is fast.
* A future is done after the last byte of its piece was read, whatever happened: the buffer is free then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from typing import TypeAlias

from titans3.lanes.digests import Lanes, Md5

WAIT_SECONDS_MAX = 0.08
SLOW_SECONDS = 0.5
_WAIT_FACTOR = 32.0  # times what the last batches were kept from the processor
_REMEMBERED = 8.0  # batches, about
_WAIT_SECONDS_MIN = 0.0005  # less is no sign of a busy machine
_Waiting: TypeAlias = "tuple[Md5, memoryview, asyncio.Future[None]]"


class Md5Batches:
    """Moves bodies on, as many at a time as there are lanes.

    ``batches`` and ``pieces`` count since the start; ``patience``: seconds that a batch waits for company, 0 on a machine that is not busy.
    """

    def __init__(self, lanes: Lanes, executor: Executor | None) -> None:
        self.lanes, self._executor = lanes, executor
        self._waiting: deque[_Waiting] = deque()
        self._taken: list[_Waiting] = []
        self._expected: set[Md5] = set()  # waited for: begun or moved on, and no piece of theirs is here
        self._kept = self.patience = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False
        self.batches = self.pieces = 0

    def begin(self) -> Md5:
        """A body is about to come. ``end`` has to be called, whatever happens to it."""
        md5 = self.lanes.md5()
        md5.moved_at = time.monotonic()
        self._expected.add(md5)
        return md5

    def end(self, md5: Md5) -> None:
        """No more pieces of it will come."""
        md5.is_ended = True
        self._expected.discard(md5)
        self._consider(asyncio.get_running_loop())

    def digest(self, md5: Md5) -> bytes:
        """The MD5 of everything so far, 16 bytes. Some 10 microseconds."""
        return self.lanes.digest(md5)

    def update(self, md5: Md5, piece: memoryview) -> asyncio.Future[None]:
        """Done when the piece was taken. A body has one piece here at a time."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((md5, piece, done))
        self._expected.discard(md5)
        md5.is_slow = time.monotonic() - md5.moved_at > SLOW_SECONDS
        self._consider(loop)
        return done

    def _consider(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a batch if there is something to do and nobody to wait for."""
        if self._is_running or not self._waiting:
            return
        if self.patience and self._expected and len(self._waiting) < self.lanes.most:
            if self._timer is None:
                self._timer = loop.call_later(self.patience, self._waited, loop)
            return
        self._start(loop)

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting and not self._is_running:
            late = time.monotonic() - WAIT_SECONDS_MAX
            self._expected = {md5 for md5 in self._expected if md5.moved_at > late}
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            running = loop.run_in_executor(self._executor, self._work)
        except RuntimeError as error:  # the threads have ended
            self._finish(list(self._waiting), error)
            self._waiting.clear()
            return
        self._is_running = True
        running.add_done_callback(self._finished)

    def _work(self) -> None:
        """Whatever waits when a thread has time for it."""
        waiting = self._waiting
        self._taken = [waiting.popleft() for _ in range(min(len(waiting), self.lanes.most))]
        begin, begin_used = time.monotonic(), time.thread_time()
        self.lanes.update_all([(md5, piece) for md5, piece, _ in self._taken])
        kept = time.monotonic() - begin - (time.thread_time() - begin_used)
        self._kept += (kept - self._kept) / _REMEMBERED
        self.patience = min(self._kept * _WAIT_FACTOR, WAIT_SECONDS_MAX) if self._kept >= _WAIT_SECONDS_MIN else 0.0

    def _finished(self, running: asyncio.Future[None]) -> None:
        self._is_running = False
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        batch, self._taken = self._taken, []
        self.batches += 1
        self.pieces += len(batch)
        now = time.monotonic()
        for md5, _, _ in batch:
            md5.moved_at = now
            if not (md5.is_ended or md5.is_slow):
                self._expected.add(md5)
        self._finish(batch, error)
        self._consider(running.get_loop())

    def _finish(self, batch: list[_Waiting], error: BaseException | None) -> None:
        for _, _, done in batch:
            if done.done():
                continue  # cancelled
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
