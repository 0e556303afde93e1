"""One coarse timer for all connections of a worker.

Invariants
* Setting a later deadline is an attribute store on the entry: the entry stays in its slot and is moved on when the slot fires.
* ``wheel_tick`` is -1 and ``wheel_from`` NEVER exactly while an entry has no slot.
* A deadline fires at most one tick late and never early. ``now`` is the monotonic time of the last tick: no clock call per request.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

NEVER = math.inf
_SLOTS = 128


class Timed(Protocol):
    """What sits in the wheel: ``deadline`` in monotonic seconds, ``wheel_tick`` the slot it is queued for (-1: none), ``wheel_from`` the
    latest deadline that needs an earlier slot."""

    deadline: float
    wheel_tick: int
    wheel_from: float

    def on_deadline(self) -> None: ...


class TimerWheel:
    """Slots of ``tick_seconds``; entries further away than the wheel is long are looked at once a turn."""

    def __init__(self, monotonic: Callable[[], float], tick_seconds: float = 0.5) -> None:
        self._monotonic = monotonic
        self._tick_seconds = tick_seconds
        self._slots: list[list[Timed]] = [[] for _ in range(_SLOTS)]
        self._start = monotonic()
        self._tick = 0
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.now = self._start

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._handle is None
        self._loop = loop
        self._handle = loop.call_later(self._tick_seconds, self._on_timer)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def set(self, entry: Timed, deadline: float) -> None:
        """Give the entry a deadline (``NEVER`` to switch it off). Cheap when the deadline only moves away."""
        entry.deadline = deadline
        if deadline <= entry.wheel_from and deadline != NEVER:
            self._queue(entry, math.ceil((deadline - self._start) / self._tick_seconds) + 1)

    def advance(self) -> None:
        """Fire what is due at the current time."""
        self.now = self._monotonic()
        reached = int((self.now - self._start) / self._tick_seconds)
        first = max(self._tick + 1, reached - _SLOTS + 1)
        self._tick = reached
        for tick in range(first, reached + 1):
            slot = self._slots[tick % _SLOTS]
            if not slot:
                continue
            self._slots[tick % _SLOTS] = []
            for entry in slot:
                if 0 <= entry.wheel_tick <= reached:  # otherwise a stale place: it was queued again for an earlier slot
                    entry.wheel_tick, entry.wheel_from = -1, NEVER
                    if entry.deadline <= self.now:
                        entry.deadline = NEVER
                        entry.on_deadline()
                    elif entry.deadline != NEVER:
                        self.set(entry, entry.deadline)

    def _queue(self, entry: Timed, tick: int) -> None:
        tick = max(min(tick, self._tick + _SLOTS - 1), self._tick + 1)
        entry.wheel_tick, entry.wheel_from = tick, self._start + (tick - 2) * self._tick_seconds
        self._slots[tick % _SLOTS].append(entry)

    def _on_timer(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_later(self._tick_seconds, self._on_timer)
        self.advance()
