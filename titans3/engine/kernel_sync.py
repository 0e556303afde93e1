"""Syncs that the kernel carries out by itself, without a thread of ours: ``IOCB_CMD_FDSYNC`` of Linux AIO, told by an eventfd. Hot.

A flush on a thread hands the GIL over three times and wakes two sleepers; in a busy process each of these costs the loop tens of
microseconds (docs/internals/hot-path.md). Here the loop asks, and is told.

Invariants
* A sync that was begun is told of once, on the loop, after the kernel finished it: with nothing, or with the OSError it ended with.
* What the kernel does is ``fdatasync`` (``vfs_fsync`` with ``datasync``), on a thread of its own: nothing here waits for the disk.
* Where there is no such thing (another system or processor, a sandbox that forbids it, a file system without it) the caller is told
  so before anything was begun, and uses a thread.

Source: include/uapi/linux/aio_abi.h; io_submit(2), io_getevents(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import Protocol

FLYING_MAX = 64
_SETUP, _DESTROY, _SUBMIT, _GETEVENTS = range(4)
_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4), "riscv64": (0, 1, 2, 4)}
_IOCB = struct.Struct("<QIIHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_FDSYNC, _RESFD = 3, 1

Done = Callable[[OSError | None], None]
_logger = logging.getLogger("titans3.engine")


class Syncs(Protocol):
    """Files are synced while the loop goes on."""

    def begin(self, fd: int, site: str, done: Done) -> None:
        """Sync ``fd`` as ``Files.sync`` does; ``done`` is called on the loop. Raises OSError: nothing was begun."""

    def detach(self) -> None:
        """On the loop: nobody is told of anything any more."""

    def close(self) -> None:
        """After ``detach``, on any thread: wait for what is under way."""


class KernelSyncs:
    """Of one loop. Raises OSError where the kernel has none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if sys.platform != "linux" or sys.byteorder != "little" or sys.maxsize < 2**32:
            raise OSError("no such system call")
        try:
            self._numbers = _CALLS[platform.machine()]
        except KeyError:
            raise OSError(f"not known for {platform.machine()}") from None
        # With the GIL: the calls are short, and to give it away would cost more than they do.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(_SETUP, FLYING_MAX, ctypes.byref(self._context))
        self._loop = loop
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._list = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._events = ctypes.create_string_buffer(_EVENT.size * FLYING_MAX)
        self._flying: dict[int, Done] = {}
        self._number = 0
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._eventfd, self._ready)

    def _call(self, call: int, *arguments: object) -> int:
        result = int(self._syscall(self._numbers[call], *arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def begin(self, fd: int, site: str, done: Done) -> None:
        if len(self._flying) >= FLYING_MAX:
            raise BlockingIOError(errno.EAGAIN, "too many syncs are under way")
        number = self._number = self._number + 1
        _IOCB.pack_into(self._iocb, 0, number, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _RESFD, self._eventfd)
        self._flying[number] = done
        try:
            self._call(_SUBMIT, self._context, 1, self._list)
        except OSError:
            del self._flying[number]
            raise

    def _ready(self) -> None:
        with contextlib.suppress(BlockingIOError):  # told of before
            os.eventfd_read(self._eventfd)
        count = self._call(_GETEVENTS, self._context, 0, FLYING_MAX, self._events, None)
        results = [_EVENT.unpack_from(self._events, at * _EVENT.size) for at in range(count)]  # ``done`` may begin another one
        for number, _, result, _ in results:
            done = self._flying.pop(number)
            done(None if result == 0 else OSError(-result, os.strerror(-result)))

    def detach(self) -> None:
        self._loop.remove_reader(self._eventfd)
        self._flying.clear()

    def close(self) -> None:
        self._call(_DESTROY, self._context)
        os.close(self._eventfd)


def kernel_syncs(loop: asyncio.AbstractEventLoop) -> KernelSyncs | None:
    """``None`` where the kernel has none, or gives none to this process."""
    try:
        return KernelSyncs(loop)
    except OSError as error:
        _logger.info("threads sync, the kernel does not by itself: %s", error)
        return None
