"""Long work: digests and writes of large bodies, in threads or on the event loop itself.

While processors are idle, threads do it beside the loop: an upload is received, hashed and written at once. When none is, and several
bodies are under way, threads bring nothing. Each step costs the way to a thread and back, threads and loop wait for each other's turn
of the interpreter, now and then for one that was put aside by the kernel, and all of them share what the processors have left.
Then the loop does it, step by step.

Invariants
* A step on the loop begins in the turn in which it is due, or in one of the next: none begins after TURN_SECONDS of a turn. Between
  turns the loop does whatever else is ready.
* Steps are done in the order in which they came; those of ``here_last`` when no other waits, or after _LAST_TURNS_MAX turns all the same.
* Who stops waiting for a step does not stop it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
TURN_SECONDS = 0.002
_LAST_TURNS_MAX = 10
BODIES_MIN = 3  # under way at once; one or two are done sooner by threads, whoever else uses the processors
IDLE_SHARE = 0.25  # of the processors: with as much unused, or more, threads have where to run
BUSY_SHARE = 0.125  # with no more than that unused all of them are as good as in use
_Step: TypeAlias = "tuple[Callable[..., Any], tuple[object, ...], asyncio.Future[Any]]"


def _unknown() -> float | None:
    return None


class LongWork:
    """Of one loop. ``idle`` tells the share of the machine's processors that nobody uses, ``None`` if it is not known.

    ``writers``: extents that are being written, by all volumes of this worker. ``steps`` were done on the loop since the start.
    """

    def __init__(self, idle: Callable[[], float | None] = _unknown) -> None:
        self._idle = idle
        self._steps: deque[_Step] = deque()
        self._last: deque[_Step] = deque()
        self._is_due = False
        self._turns = 0  # in which a step of ``here_last`` waited for others
        self.writers = self.steps = 0

    @property
    def pressure(self) -> float:
        """0 where processors are idle, or where it is not known; 1 where all of them are in use."""
        idle = self._idle()
        if idle is None or idle >= IDLE_SHARE:
            return 0.0
        return min((IDLE_SHARE - idle) / (IDLE_SHARE - BUSY_SHARE), 1.0)

    def is_here(self, bodies: int) -> bool:
        """Whether the loop does what threads would do, with so many bodies under way."""
        return bodies >= BODIES_MIN and self.pressure > 0.0

    def here(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Call it on the loop, in one of its next turns."""
        return self._add(self._steps, function, arguments)

    def here_last(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """The same, when there is nothing else to do here, or after some turns."""
        return self._add(self._last, function, arguments)

    def _add(self, steps: deque[_Step], function: Callable[..., T], arguments: tuple[object, ...]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        steps.append((function, arguments, done))
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._turn, loop)
        return done

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        end = time.monotonic() + TURN_SECONDS
        try:
            while steps := (self._last if self._turns >= _LAST_TURNS_MAX else self._steps or self._last):
                if steps is self._last:
                    self._turns = 0
                self.steps += 1
                _do(steps.popleft())
                if time.monotonic() >= end:
                    break
        finally:
            self._turns = self._turns + 1 if self._last else 0
            self._is_due = bool(self._steps or self._last)
            if self._is_due:
                loop.call_soon(self._turn, loop)


def _do(step: _Step) -> None:
    function, arguments, done = step
    try:
        result = function(*arguments)
    except Exception as error:  # noqa: BLE001 - of whoever waits for the step
        if not done.done():
            done.set_exception(error)
    else:
        if not done.done():
            done.set_result(result)
