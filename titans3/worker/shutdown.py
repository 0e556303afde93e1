"""The end of a TLS connection that this side closes.

Invariants
* TLS closes by asking the peer to close, too. An idle client does not hear it and is not waited for; one that is still taking its
  answer is, as long as it takes something within the write timeout.
* Nothing unsent counts only when two looks in a row find it: below the TLS layer the transport keeps up to some tens of KiB that it does
  not tell, and a loop that stood still while the kernel's buffer ran empty has them yet to write.
"""

from __future__ import annotations

import asyncio

from titans3.worker.queued import unacknowledged_bytes
from titans3.worker.wheel import NEVER, TimerWheel

_LOOK_SECONDS = 1.0


class Shutdown:
    """Watches one transport from its ``close()`` until its end."""

    __slots__ = ("_moved_at", "_transport", "_unsent", "_was_sent", "_wheel", "_write_seconds", "deadline", "wheel_from", "wheel_tick")

    def __init__(self, wheel: TimerWheel, transport: asyncio.Transport, write_seconds: float) -> None:
        self._wheel, self._transport, self._write_seconds = wheel, transport, write_seconds
        self._unsent = unacknowledged_bytes(transport)
        self._was_sent = False
        self._moved_at = wheel.now
        self.wheel_tick, self.wheel_from = -1, NEVER
        self.deadline = 0.0
        wheel.set(self, wheel.now + _LOOK_SECONDS)

    def on_deadline(self) -> None:
        """Look again: drop the connection if the peer has everything, or has taken nothing for too long."""
        unsent, now = unacknowledged_bytes(self._transport), self._wheel.now
        if unsent != self._unsent:  # also more: what was queued went down, because the peer took something
            self._unsent, self._moved_at = unsent, now
        if (not unsent and self._was_sent) or now - self._moved_at >= self._write_seconds:
            self._transport.abort()
        else:
            self._was_sent = not unsent
            self._wheel.set(self, now if not unsent else now + _LOOK_SECONDS)  # now: at the next tick, after a turn of the loop
