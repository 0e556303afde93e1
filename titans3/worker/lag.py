"""How late the event loop is: a timer that looks at the clock when it is called.

Invariants
* A sample costs microseconds, ten times a second, whatever the load; a loop that stands still is one late sample when it goes on.
"""

from __future__ import annotations

import asyncio

from titans3.clock import Clock
from titans3.observe.histogram import Histogram
from titans3.observe.metrics import METRICS

SAMPLE_SECONDS = 0.1


class LoopLag:
    """Samples from ``start`` to ``stop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock
        self.seconds = Histogram(METRICS["titans3_loop_lag_seconds"].bounds)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample; a second call changes nothing."""
        if self._timer is None:
            self._next()

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._due = self._clock.monotonic() + SAMPLE_SECONDS
        self._timer = self._loop.call_later(SAMPLE_SECONDS, self._sample)

    def _sample(self) -> None:
        self.seconds.add(max(0.0, self._clock.monotonic() - self._due))
        self._next()
