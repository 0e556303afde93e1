"""The file layer: the only door between the engine and the operating system's files.

Invariants
* Every sync names its call site. The power-loss tests drop each site in turn and must then see a loss, so a sync that
  nothing depends on cannot hide in the code.
* A method does one system call; errors are ``OSError`` as the kernel gave them, except that a file system without ``RWF_NOWAIT`` is
  one where every such read would wait. What an error means is the caller's business.
* Nothing here is cached: what the kernel says is what is returned.

``OsFiles`` is the real one. Tests hand in a simulated disk with the same methods.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from typing import Protocol

from titans3.engine.kernel_sync import Syncs, kernel_syncs

_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux; not in the standard library
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_RANGE_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, wait for nothing
PIECES_MAX = 1000  # IOV_MAX is 1,024 on Linux

Piece = bytes | bytearray | memoryview


class Files(Protocol):
    """What the engine needs of a file system. Offsets and lengths are bytes; ``fd`` is whatever ``open`` returned."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int: ...
    def close(self, fd: int) -> None: ...
    def pwritev(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        """Bytes written, which may be fewer than given."""

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
        """Bytes read, fewer at the end of the file. With ``nowait`` only what the page cache holds; BlockingIOError for nothing."""

    def next_data(self, fd: int, offset: int) -> int | None:
        """Where something begins that was written, at or after ``offset``: before it there are zeros. ``None``: zeros to the end."""

    def begin_write_back(self, fd: int, offset: int, length: int) -> None:
        """Ask the kernel to write a range to the medium meanwhile. A hint: a sync is still needed, and tells what went wrong."""

    def uncache(self, fd: int, offset: int, length: int) -> None:
        """Give back what the page cache holds of a range, as far as it is on the medium. A hint."""

    def sync(self, fd: int, site: str) -> None:
        """Data and size of a file are on the medium afterwards."""

    def syncs(self, loop: asyncio.AbstractEventLoop) -> Syncs | None:
        """For syncs that go on beside the loop without a thread; ``None`` where there is no such thing."""

    def sync_dir(self, path: str, site: str) -> None:
        """Names in a directory are on the medium afterwards."""

    def allocate(self, fd: int, length: int) -> None: ...
    def size(self, fd: int) -> int: ...
    def is_linked(self, fd: int) -> bool: ...
    def listdir(self, path: str) -> list[str]: ...
    def mkdir(self, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def free_bytes(self, path: str) -> int: ...
    def lock(self, path: str) -> int:
        """An exclusive lock for the life of the descriptor; BlockingIOError when another holds it."""


class OsFiles:
    """The files of this machine."""

    __slots__ = ()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwritev(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        return os.pwritev(fd, pieces, offset)

    def preadv(self, fd: int, buffer: bytearray | memoryview, offset: int, *, nowait: bool = False) -> int:
        if not nowait:
            return os.preadv(fd, (buffer,), offset)
        try:
            return os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # tmpfs, overlayfs and others cannot tell: a thread reads
                raise BlockingIOError(errno.EAGAIN, "this file system does not read without waiting") from error
            raise

    def next_data(self, fd: int, offset: int) -> int | None:
        try:
            return os.lseek(fd, offset, os.SEEK_DATA)  # what is allocated and not written is a hole
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            if error.errno == errno.EINVAL:  # a file system that cannot tell
                return offset
            raise

    def begin_write_back(self, fd: int, offset: int, length: int) -> None:
        if _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(fd, offset, length, _RANGE_WRITE)

    def uncache(self, fd: int, offset: int, length: int) -> None:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self, fd: int, site: str) -> None:
        os.fdatasync(fd)

    def syncs(self, loop: asyncio.AbstractEventLoop) -> Syncs | None:
        return kernel_syncs(loop)

    def sync_dir(self, path: str, site: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, length: int) -> None:
        os.posix_fallocate(fd, 0, length)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def is_linked(self, fd: int) -> bool:
        return os.fstat(fd).st_nlink > 0

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def lock(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd


def write_all(files: Files, fd: int, pieces: Sequence[Piece], offset: int) -> int:
    """Write every piece at ``offset`` with as few calls as the kernel allows; returns the bytes written."""
    start = offset
    for first in range(0, len(pieces), PIECES_MAX):
        group: Sequence[Piece] = pieces[first : first + PIECES_MAX]
        while group:
            written = files.pwritev(fd, group, offset)
            if written <= 0:
                raise OSError(5, "a write made no progress")
            offset += written
            group = _after(group, written)
    return offset - start


def _after(pieces: Sequence[Piece], written: int) -> Sequence[Piece]:
    """Pieces left when ``written`` bytes of them are out."""
    for number, piece in enumerate(pieces):
        if written < len(piece):
            rest: list[Piece] = list(pieces[number:])
            rest[0] = memoryview(piece)[written:]
            return rest
        written -= len(piece)
    return ()


def read_into(files: Files, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset``; may wait for the disk. Returns the bytes read, fewer only at the end of the file."""
    view = memoryview(buffer)
    filled = 0
    while filled < len(view):
        count = files.preadv(fd, view[filled:], offset + filled)
        if count == 0:
            break
        filled += count
    return filled


def read_at(files: Files, fd: int, length: int, offset: int, *, nowait: bool = False) -> bytearray:
    """``length`` bytes at ``offset``, fewer at the end of the file. May wait for the disk: never on the event loop.

    ``nowait``: all of them from the page cache, or BlockingIOError.
    """
    buffer = bytearray(length)
    if nowait:
        if files.preadv(fd, buffer, offset, nowait=True) < length:
            raise BlockingIOError(errno.EAGAIN, "not all of it is in the page cache")
        return buffer
    filled = read_into(files, fd, buffer, offset)
    del buffer[filled:]
    return buffer
