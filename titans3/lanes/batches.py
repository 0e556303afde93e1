"""Pieces of bodies that wait for their MD5, taken together by a thread or by the loop. One per worker, used on its loop.

Invariants
* One batch is under way at a time; what arrives meanwhile is the next one.
* A batch costs the same for one body as for eight. Where the processors are busy and the loop computes (``LongWork``), it waits for the
  bodies that are about to bring a piece, and a moment for those that nobody knows of yet: up to WAIT_SECONDS_MAX and
  QUIET_SECONDS_MAX, less the more is idle, and less for few. Where threads compute it never waits.
* On the loop a batch takes STEP_BYTES of each body, and what is left is in the next: others join meanwhile, and the loop is not kept.
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

from titans3.lanes.digests import BLOCK, Lanes, Md5
from titans3.limits import KIB, MIB
from titans3.long_work import BODIES_MIN, LongWork

WAIT_SECONDS_MAX = 0.06
QUIET_SECONDS_MAX = 0.01  # for bodies that nobody knows of yet
SLOW_SECONDS = 0.5
STEP_BYTES = MIB
_BODIES_MANY = 6  # beyond those with which nobody waits: then a batch waits as long as it may
_SCRAP_BYTES = 64 * KIB  # for which another step is not worth it
_Waiting: TypeAlias = "tuple[Md5, memoryview, asyncio.Future[None]]"


class Md5Batches:
    """Moves bodies on, as many at a time as there are lanes.

    ``batches`` and ``pieces`` count since the start; on the loop a piece is what one batch took of it.
    """

    def __init__(self, lanes: Lanes, executor: Executor | None, work: LongWork) -> None:
        self.lanes, self._executor, self._long_work = lanes, executor, work
        self._waiting: deque[_Waiting] = deque()
        self._taken: list[_Waiting] = []
        self._expected: set[Md5] = set()  # waited for: begun or moved on, and no piece of theirs is here
        self._bodies = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_quiet = False  # the timer is for those that nobody knows of
        self._is_running = False
        self.batches = self.pieces = 0

    def begin(self) -> Md5:
        """A body is about to come. ``end`` has to be called, whatever happens to it."""
        md5 = self.lanes.md5()
        md5.moved_at = time.monotonic()
        self._expected.add(md5)
        self._bodies += 1
        return md5

    def end(self, md5: Md5) -> None:
        """No more pieces of it will come."""
        md5.is_ended = True
        self._bodies -= 1
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
        if len(self._waiting) >= self.lanes.most or not self._long_work.is_here(self._bodies):
            self._start(loop)
        elif self._timer is None:
            self._is_quiet = not self._expected
            seconds = QUIET_SECONDS_MAX if self._is_quiet else WAIT_SECONDS_MAX
            share = min((self._bodies - BODIES_MIN + 1) / _BODIES_MANY, 1.0)  # the more there are, the more come while it waits
            self._timer = loop.call_later(seconds * share * self._long_work.pressure, self._waited, loop)
        elif not self._expected and not self._is_quiet:
            self._stop_waiting()
            self._consider(loop)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting and not self._is_running:
            late = time.monotonic() - WAIT_SECONDS_MAX
            self._expected = {md5 for md5 in self._expected if md5.moved_at > late}
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop_waiting()
        running: asyncio.Future[None]
        if self._long_work.is_here(self._bodies):
            running = self._long_work.here_last(self._move_on, STEP_BYTES)
        else:
            try:
                running = loop.run_in_executor(self._executor, self._move_on, None)
            except RuntimeError as error:  # the threads have ended
                self._finish(list(self._waiting), error)
                self._waiting.clear()
                return
        self._is_running = True
        running.add_done_callback(self._finished)

    def _move_on(self, most: int | None) -> None:
        """Whatever waits when there is time for it, up to ``most`` bytes of each and a scrap; ``_waiting`` begins with what is left."""
        waiting = self._waiting
        self._taken = taken = [waiting.popleft() for _ in range(min(len(waiting), self.lanes.most))]
        if most is None:
            self.lanes.update_all([(md5, piece) for md5, piece, _ in taken])
            return
        now: list[tuple[Md5, memoryview]] = []
        for number, (md5, piece, done) in enumerate(taken):
            if len(piece) > most + _SCRAP_BYTES:
                take = most - md5.length % BLOCK  # so that the next step begins with a whole block
                taken[number] = (md5, piece[take:], done)
                piece = piece[:take]
            else:
                taken[number] = (md5, piece[:0], done)
            now.append((md5, piece))
        self.lanes.update_all(now)
        left = [one for one in taken if len(one[1]) and not one[2].done()]
        self._taken = [one for one in taken if not len(one[1])]
        waiting.extendleft(reversed(left))
        self.pieces += len(left)

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
