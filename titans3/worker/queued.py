"""What a connection has queued: what the peer has not taken yet, what of the peer was not read yet.

Invariants
* Only asked when a deadline has passed or a drain begins: one system call then, none per write or read.
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
    return transport.get_write_buffer_size() + _kernel(transport, termios.TIOCOUTQ)


def unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes of the peer that are here and were not read yet."""
    return _kernel(transport, termios.FIONREAD)


def _kernel(transport: asyncio.Transport, request: int) -> int:
    sock = transport.get_extra_info("socket")
    queued = bytearray(4)
    if sock is None:
        return 0
    try:
        fcntl.ioctl(sock.fileno(), request, queued)
    except (OSError, ValueError):  # the socket is gone already; connection_lost is on its way
        return 0
    return int.from_bytes(queued, sys.byteorder)
