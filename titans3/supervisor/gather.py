"""How many workers take connections: one for each processor that others leave.

Where clients on the same machine, a proxy or other programs use the processors too, requests are served for less by fewer workers: fewer
processes wake, more records share a sync, fewer calls go from worker to worker, caches serve more of them (docs/performance.md has the
figures). Where the processors are the server's own, or it needs more of them than that, every worker takes connections.

Invariants
* ``Gathering`` is pure: what was measured in, a number of workers out, between one and all.
* What this server itself uses never counts as taken by others: its own load gathers nothing.
* It changes by one worker at a time, only when two looks in turn say the same, and rests then: what the change itself costs says nothing.
* A server with little to do stays as it is: nothing moves to and fro between two tasks.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from titans3.observe.board import Board
from titans3.observe.process import ProcessorSeconds, read_cpu_seconds, read_processors

LOOK_SECONDS, IDLE_LOOK_SECONDS = 0.25, 0.5  # between looks, and while there is nothing to decide
_EARLY_SECONDS = 0.05  # a look that is earlier by less is one
_LATE_SECONDS = 5.0  # what is older says nothing of now
_AGREEING = 2
_REST_LOOKS = 6  # after a change
# Processors left beyond whole ones: with less of the last than this its worker takes no connections, with more than that it does again.
_LEAST_LEFT, _ENOUGH_LEFT = 0.25, 0.4
_BUSY = 0.1  # processors in use for each worker that takes connections; below it nothing changes
_FULL = 1.05  # processors in use for each of them; with more their threads have use for another one, and fewer would not do


class Usage(Struct, frozen=True, gc=False):
    """Processors that others left, and that this server used."""

    left: float
    own: float


class Gathering:
    """Decides, look by look."""

    def __init__(self, workers: int, processors: int) -> None:
        self.active = self._workers = workers
        self._share = min(1.0, processors / workers)  # more workers than processors: each is for a part of one
        self._wanted: deque[int] = deque(maxlen=_AGREEING)
        self._rest = 0

    def look(self, usage: Usage) -> int:
        """How many workers shall take connections."""
        if self._rest:
            self._rest -= 1
            return self.active
        active, left, own = self.active, usage.left / self._share, usage.own / self._share
        wanted = active
        if own < _BUSY * active:
            pass
        elif left > active + _ENOUGH_LEFT or own > _FULL * active:
            wanted = min(active + 1, self._workers)
        elif left < active - 1 + _LEAST_LEFT and own <= _FULL * (active - 1):
            wanted = active - 1
        self._wanted.append(wanted)
        if wanted != active and self._wanted.count(wanted) == _AGREEING:
            self.active, self._rest = wanted, _REST_LOOKS
            self._wanted.clear()
        return self.active


class _Seen(Struct, frozen=True):
    at: float
    processors: ProcessorSeconds
    own: dict[int, float]


class Gatherer:
    """Looks at the machine, four times a second at most. ``wait_seconds``: until the next look is worth it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._processors = frozenset(os.sched_getaffinity(0))
        self._gathering = Gathering(board.workers, len(self._processors))
        self._seen: _Seen | None = None
        self.wait_seconds = IDLE_LOOK_SECONDS

    def look(self, pids: Iterable[int]) -> None:
        """Put on the board how many workers shall take connections; ``pids``: the processes of this server."""
        now, old = time.monotonic(), self._seen
        if old is not None and now - old.at < LOOK_SECONDS - _EARLY_SECONDS:
            return
        new = self._seen = _Seen(now, read_processors(self._processors), {pid: read_cpu_seconds(pid) for pid in pids})
        if old is None or now - old.at > _LATE_SECONDS or old.own.keys() != new.own.keys():
            return
        usage = self._usage(old, new)
        if usage is not None:
            self._board.active = self._gathering.look(usage)
            self.wait_seconds = LOOK_SECONDS if usage.own > _BUSY / 2 else IDLE_LOOK_SECONDS

    def _usage(self, old: _Seen, new: _Seen) -> Usage | None:
        passed = (new.processors.all - old.processors.all) / len(self._processors)
        if passed <= 0:
            return None
        own = sum(new.own.values()) - sum(old.own.values())
        others = max(new.processors.used - old.processors.used - own, 0.0)
        return Usage(len(self._processors) - others / passed, own / passed)
