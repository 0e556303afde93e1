"""The end of a TLS connection that this side closes.

Invariants
* TLS closes by asking the peer to close, too. An idle client does not hear it and is not waited for; one that is still taking its
  answer is, as long as it takes something within the write timeout.
"""

from __future__ import annotations

import asyncio

from titans3.worker.queued import unacknowledged_bytes
from titans3.worker.wheel import TimerWheel

_LOOK_SECONDS = 1.0


class Shutdown:
    """Watches one transport from its ``close()`` until its end."""

    __slots__ = ("_moved_at", "_transport", "_unsent", "_wheel", "_write_seconds", "deadline", "wheel_tick")

    def __init__(self, wheel: TimerWheel, transport: asyncio.Transport, write_seconds: float) -> None:
        self._wheel, self._transport, self._write_seconds = wheel, transport, write_seconds
        self._unsent = unacknowledged_bytes(transport)
        self._moved_at = wheel.now
        self.wheel_tick = -1
        self.deadline = 0.0
        wheel.set(self, wheel.now + _LOOK_SECONDS)

    def on_deadline(self) -> None:
        """Look again: drop the connection if the peer has everything, or has taken nothing for too long."""
        unsent, now = unacknowledged_bytes(self._transport), self._wheel.now
        if unsent < self._unsent:
            self._unsent, self._moved_at = unsent, now
        if not unsent or now - self._moved_at >= self._write_seconds:
            self._transport.abort()
        else:
            self._wheel.set(self, now + _LOOK_SECONDS)
