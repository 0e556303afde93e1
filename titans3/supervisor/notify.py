"""What systemd is told, if it started us (``Type=notify``): ready, reloading, stopping. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> bool:
    """Send ``READY=1`` and the like; false if nobody asked for it. A lost notice is not worth an error."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where:
        return False
    if where.startswith("@"):
        where = "\0" + where[1:]
    if state.startswith("RELOADING"):
        state += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), where)
        except OSError:
            return False
    return True
