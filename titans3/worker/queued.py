"""How much a peer has not taken yet, in our buffer and in the kernel's.

Invariants
* Only asked when a deadline has passed: one system call then, none per write.
* The kernel reports room in its send buffer in steps of up to megabytes, so our own buffer alone would make a slow reader look
  like a dead one.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes written to ``transport`` that the peer has not acknowledged."""
    own = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None:
        return own
    queued = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
    except (OSError, ValueError):  # the socket is gone already; connection_lost is on its way
        return own
    return own + int.from_bytes(queued, sys.byteorder)
