"""How many workers take connections: one for each processor that others leave.

Where clients on the same machine, a proxy or other programs use the processors too, many small requests are served for less by fewer
workers: fewer processes wake, more records share a sync, fewer calls go from worker to worker (docs/performance.md has the figures).
Where the processors are the server's own, or requests are long, every worker takes connections.

Invariants
* ``Gathering`` is pure: what was measured in, a number of workers out, between one and all.
* What this server itself uses never counts as taken by others: its own load gathers nothing.
* It changes by one worker at a time, only when two looks in turn say the same, and rests then: what the change itself costs says nothing.
* A server with little to do stays as it is: nothing moves to and fro between two tasks.
* What share of the processors nobody uses is on the board whether or not anything is decided here: workers do long work accordingly
  (``titans3/long_work.py``).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from titans3.observe.board import REQUESTS, Board
from titans3.observe.process import ProcessorSeconds, read_cpu_seconds, read_processors, read_quota

LOOK_SECONDS, IDLE_LOOK_SECONDS = 0.25, 0.5  # between looks, and while there is nothing to decide
_EARLY_SECONDS = 0.05  # a look that is earlier by less is one
_REQUEST_LOOKS = 4  # workers show their counts four times a second, so those of one look may be missing or twice as many
_LOOKS_MIN = 3
_LATE_SECONDS = 5.0  # what is older says nothing of now
_AGREEING = 2
_REST_LOOKS = 6  # after a change
# Processors left beyond whole ones: with less of the last than this its worker takes no connections, with more than that it does again.
_LEAST_LEFT, _ENOUGH_LEFT = 0.25, 0.5
_BUSY = 0.4  # processors in use for each worker that takes connections; below it nothing changes
_LONG_SECONDS = 0.0015  # of CPU for a request: a worker that wakes for it costs little beside it


class Usage(Struct, frozen=True, gc=False):
    """Processors that others left and that this server used, its CPU seconds for a request, and the share of all that
    nobody used, or that the loops of the active workers could not."""

    left: float
    own: float
    seconds: float
    idle: float = 0.0


class Gathering:
    """Decides, look by look."""

    def __init__(self, workers: int, processors: int) -> None:
        self.active = self._workers = workers
        self._processors = processors
        self._wanted: deque[int] = deque(maxlen=_AGREEING)
        self._rest = 0

    def look(self, usage: Usage) -> int:
        """How many workers shall take connections."""
        if self._rest:
            self._rest -= 1
            return self.active
        left = usage.left * max(1.0, self._workers / self._processors)  # more workers than processors: each is for a part of one
        wanted = self.active
        if usage.own < _BUSY * self.active * min(1.0, self._processors / self._workers):
            pass
        elif usage.seconds > _LONG_SECONDS or left > self.active + _ENOUGH_LEFT:
            wanted = min(self.active + 1, self._workers)
        elif left < self.active - 1 + _LEAST_LEFT:
            wanted = max(self.active - 1, 1)
        self._wanted.append(wanted)
        if wanted != self.active and self._wanted.count(wanted) == _AGREEING:
            self.active, self._rest = wanted, _REST_LOOKS
            self._wanted.clear()
        return self.active


class _Seen(Struct, frozen=True):
    at: float
    processors: ProcessorSeconds
    own: dict[int, float]
    requests: int


class Gatherer:
    """Looks at the machine and at the board, four times a second at most. ``wait_seconds``: until the next look is worth it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._processors = frozenset(os.sched_getaffinity(0))
        self._quota = read_quota()  # of a container: what is idle beyond it is not for us
        self._gathering = Gathering(board.workers, len(self._processors))
        self._seen: deque[_Seen] = deque(maxlen=_REQUEST_LOOKS + 1)
        self.wait_seconds = IDLE_LOOK_SECONDS

    def look(self, pids: Iterable[int], *, decides: bool = True) -> None:
        """Put on the board how much is idle and, if it ``decides`` that, how many workers shall take connections.

        ``pids``: the processes of this server.
        """
        now = time.monotonic()
        if self._seen and now - self._seen[-1].at < LOOK_SECONDS - _EARLY_SECONDS:
            return
        board, seen = self._board, self._seen
        requests = sum(board.get(worker, REQUESTS) for worker in range(board.workers))
        new = _Seen(now, read_processors(self._processors), {pid: read_cpu_seconds(pid) for pid in pids}, requests)
        if seen and (now - seen[-1].at > _LATE_SECONDS or seen[-1].own.keys() != new.own.keys() or requests < seen[-1].requests):
            seen.clear()
        seen.append(new)
        if len(seen) >= _LOOKS_MIN and (usage := self._usage(seen[0], seen[-2], new)) is not None:
            before = board.idle
            board.idle = usage.idle if before is None else min(usage.idle, (before + usage.idle) / 2)  # busy at once, idle after a while
            if decides:
                board.active = self._gathering.look(usage)
            self.wait_seconds = LOOK_SECONDS if usage.own > _BUSY / 2 else IDLE_LOOK_SECONDS

    def _usage(self, first: _Seen, old: _Seen, new: _Seen) -> Usage | None:
        passed = (new.processors.all - old.processors.all) / len(self._processors)
        if passed <= 0:
            return None
        own = _own(old, new)
        others = max(new.processors.used - old.processors.used - own, 0.0)
        count = len(self._processors)
        left = count - others / passed
        idle = 1.0 - (new.processors.used - old.processors.used) / (new.processors.all - old.processors.all)
        if self._quota:
            idle = min(idle, 1.0 - own / passed / self._quota)
        spare = (min(left, self._quota or left) - self._board.active) / count  # that loops alone could not use
        return Usage(left, own / passed, _own(first, new) / max(new.requests - first.requests, 1), max(idle, spare))


def _own(old: _Seen, new: _Seen) -> float:
    return sum(new.own.values()) - sum(old.own.values())
