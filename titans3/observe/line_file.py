"""A file that pieces of text are appended to while a loop is busy, and that is turned when it is long.

Invariants
* A piece is written where it comes up, by the loop: a page cache takes it in microseconds. A thread that writes needs the GIL after each of
  its calls, and while it waits for it every system call of a busy loop wakes it in vain.
* What may wait is a thread's business: opening, turning, a network file system, and after a write of more than SLOW_SECONDS everything for
  THREADED_SECONDS. Pieces wait meanwhile, and keep their order.
* Nothing grows without bound: past WAITING_BYTES_MAX that wait, pieces are counted instead of kept; the file is turned at ``file_bytes``
  (what comes within TICK_SECONDS waits for that), and the oldest goes past ``files_max``.
* A file that somebody moved away or deleted is made anew within TICK_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from titans3.clock import Clock
from titans3.config.mounts import NETWORK_FILE_SYSTEMS, file_system, mounts
from titans3.limits import MIB

TICK_SECONDS = 0.5
WAITING_BYTES_MAX = 8 * MIB
SLOW_SECONDS = 0.025
THREADED_SECONDS = 5.0
_SAID_SECONDS = 60.0
_logger = logging.getLogger("titans3.files")


class LineFileStatistics(msgspec.Struct, frozen=True):
    """Since start. ``lines`` are in the file, ``dropped`` in none; ``failures``: writes that failed."""

    lines: int
    dropped: int
    failures: int


class LineFile:
    """``<folder>/<stem>.log``, of which this process is the only writer. All methods belong to the loop's thread."""

    def __init__(
        self, folder: str, stem: str, clock: Clock, *, file_bytes: int, files_max: int, monotonic: Callable[[], float] = time.monotonic,
        mounted: Callable[[], str] = mounts,
    ) -> None:  # fmt: skip
        """``monotonic`` and ``mounted``: what looks at the clock and at the mounts."""
        self._folder, self._stem, self._clock, self._monotonic, self._mounted = folder, stem, clock, monotonic, mounted
        self.path = os.path.join(folder, f"{stem}.log")
        self._file_bytes, self._files_max = file_bytes, files_max
        self._fd, self._size, self._inode = -1, 0, 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._waiting_lines = 0
        self._threaded_until = 0.0
        self._is_far = False
        self._lines = self._dropped = self._failures = 0
        self._said = -_SAID_SECONDS
        self._ticking = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "line file")  # one, so a tick that was cancelled and the next do not write beside each other

    @property
    def is_behind(self) -> bool:
        """So much waits that a further piece would be dropped."""
        return self._waiting_bytes > WAITING_BYTES_MAX

    def append(self, piece: bytes, lines: int) -> None:
        """Whole lines, and how many."""
        if self._fd < 0:
            if self.is_behind:
                self._dropped += lines
                return
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)
            self._waiting_lines += lines
            return
        begin = self._monotonic()
        try:
            _write(self._fd, piece)
        except OSError as error:
            self._fail(error, lines)
            self._close()
            return
        self._lines += lines
        self._size += len(piece)
        if self._size >= self._file_bytes:
            self._close()
        elif self._monotonic() - begin > SLOW_SECONDS:
            self._threaded_until = begin + THREADED_SECONDS
            self._close()

    def drop(self, lines: int) -> None:
        """Lines that were not made, because it is behind."""
        self._dropped += lines

    def statistics(self) -> LineFileStatistics:
        """Counters."""
        return LineFileStatistics(self._lines, self._dropped, self._failures)

    async def tick(self) -> None:
        """Write what waits, turn the file if it is long, look whether it is still there: every TICK_SECONDS, and at the end."""
        async with self._ticking:
            if self._fd >= 0 and self._is_ours():
                return
            self._close()
            pieces, lines = self._waiting, self._waiting_lines
            if not pieces and self._size < self._file_bytes:
                return
            self._waiting, self._waiting_bytes, self._waiting_lines = [], 0, 0
            try:
                fd = await asyncio.get_running_loop().run_in_executor(self._thread, self._write_and_turn, pieces)
            except OSError as error:
                self._fail(error, lines)
                return
            self._lines += lines
            if self._is_far or self._monotonic() < self._threaded_until:
                os.close(fd)
                return
            self._fd = fd
            pieces, lines = self._waiting, self._waiting_lines
            self._waiting, self._waiting_bytes, self._waiting_lines = [], 0, 0
            if pieces:
                self.append(b"".join(pieces), lines)

    def _is_ours(self) -> bool:
        with contextlib.suppress(OSError):
            return os.stat(self.path).st_ino == self._inode
        return False

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError, lines: int) -> None:
        self._failures += 1
        self._dropped += lines
        now = self._monotonic()
        if now - self._said >= _SAID_SECONDS:
            self._said = now
            _logger.error("%s cannot be written, %d lines are in no file so far: %s", self.path, self._dropped, error)

    # in a thread, one at a time --------------------------------------------------------------------------------------

    def _write_and_turn(self, pieces: list[bytes]) -> int:
        """A descriptor of the file that comes next to be written."""
        os.makedirs(self._folder, mode=0o750, exist_ok=True)
        kind = file_system(self._folder, self._mounted())
        self._is_far = kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse")
        fd = self._open()
        try:
            if pieces:
                _write(fd, b"".join(pieces))
            if os.fstat(fd).st_size >= self._file_bytes:
                os.close(fd)
                fd = -1
                self._turn()
                fd = self._open()
            state = os.fstat(fd)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        self._size, self._inode = state.st_size, state.st_ino
        return fd

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _turn(self) -> None:
        """A new file; the oldest goes."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._clock.wall_ms() / 1000))
        target = os.path.join(self._folder, f"{self._stem}.{stamp}.log")
        number = 1
        while os.path.exists(target):
            number += 1
            target = os.path.join(self._folder, f"{self._stem}.{stamp}.{number}.log")
        os.rename(self.path, target)
        prefix = f"{self._stem}."
        old = sorted(
            (entry.stat().st_mtime_ns, entry.path)
            for entry in os.scandir(self._folder)
            if entry.name.startswith(prefix) and entry.path != self.path
        )
        for _, path in old[: max(0, len(old) - self._files_max + 1)]:
            os.unlink(path)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
