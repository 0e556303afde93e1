"""Time as a value that is handed in.

Invariants
* Nothing below ``worker/`` reads a clock on its own: it is given a :class:`Clock`, so that tests and the simulator own time.
* ``wall_ms`` may jump either way. It is only ever used for what people see (Last-Modified, expiry); order comes from log indexes.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in milliseconds since 1970 and a monotonic time in seconds."""

    def wall_ms(self) -> int: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)  # twice a request, so without a frame of its own
