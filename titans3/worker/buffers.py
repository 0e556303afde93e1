"""The pool of buffers, of somewhat more than 2 MiB, that large request bodies are received into.

Invariants
* A large body is admitted before its first buffer; an admitted body may always take its share, BODY_BUFFERS_PER_CONNECTION or what its
  length asks for, so bodies cannot wait for each other in a circle. Bodies that are not admitted wait in order of arrival.
* Free buffers are kept for as many as the admitted bodies may hold, ``kept`` at least: fresh ones are mapped and zeroed page by page.
* A buffer that a handler did not hand back is left to the garbage collector: a thread may still be using it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import msgspec

from titans3.limits import BODY_BUFFER_BYTES, BODY_BUFFERS_KEPT, BODY_BUFFERS_MAX, BODY_BUFFERS_PER_CONNECTION


class Waiting(Protocol):
    """A body that waits for admission. ``share``: buffers that it may hold at a time."""

    @property
    def share(self) -> int: ...
    def on_admitted(self) -> None: ...


class BufferStatistics(msgspec.Struct, frozen=True):
    """Counts of buffers and bodies at this moment, and how often a body had to wait."""

    admitted: int
    waiting: int
    free: int
    waits: int


class BufferPool:
    """One per worker; loop thread only."""

    def __init__(self, buffers_max: int = BODY_BUFFERS_MAX, kept: int = BODY_BUFFERS_KEPT) -> None:
        self._shares_max = max(buffers_max, BODY_BUFFERS_PER_CONNECTION)
        self._kept = kept
        self._free: list[bytearray] = []
        self._waiting: deque[Waiting] = deque()
        self._admitted = self._shares = 0
        self._waits = 0

    def admit(self, body: Waiting) -> bool:
        """Whether the body may start; if not, ``on_admitted`` is called later unless it gives up."""
        if not self._waiting and self._shares + body.share <= self._shares_max:
            self._admitted += 1
            self._shares += body.share
            return True
        self._waits += 1
        self._waiting.append(body)
        return False

    def give_up(self, body: Waiting) -> None:
        """A waiting body does not wait any more."""
        if body in self._waiting:
            self._waiting.remove(body)
            self._admit_waiting()

    def leave(self, body: Waiting) -> None:
        """An admitted body has ended; the next ones are admitted."""
        self._admitted -= 1
        self._shares -= body.share
        assert self._shares >= 0
        self._admit_waiting()
        if len(self._free) > max(self._kept, self._shares):
            del self._free[max(self._kept, self._shares) :]

    def _admit_waiting(self) -> None:
        while self._waiting and self._shares + self._waiting[0].share <= self._shares_max:
            body = self._waiting.popleft()
            self._admitted += 1
            self._shares += body.share
            body.on_admitted()

    def take(self) -> bytearray:
        """A buffer of BODY_BUFFER_BYTES; contents are arbitrary."""
        return self._free.pop() if self._free else bytearray(BODY_BUFFER_BYTES)

    def give(self, buffer: bytearray) -> None:
        """Hand a buffer back."""
        if len(self._free) < max(self._kept, self._shares):
            self._free.append(buffer)

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(self._admitted, len(self._waiting), len(self._free), self._waits)
