"""Prepared segments: allocated, headed and synced by a thread before anyone needs them.

Invariants
* A segment is handed out only after its header is synced and its name is synced in its folder: a used segment whose header
  does not hold is damage, never a torn tail.
* Two log segments are kept ready; a data segment is made on demand, in the pool thread that needs it.
* Without room the preparer keeps trying; ``on_full`` tells, ``is_starving`` while it lasts, and ``take`` waits, ``is_awaited`` meanwhile.
  After ``give_up`` it waits for no room: a stop must not depend on it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from titans3.clock import Clock
from titans3.engine.files import Files, write_all
from titans3.engine.segment import LOG, SegmentHeader, folder_of, segment_name, segment_number
from titans3.errors import DiskError, VolumeFull

READY = 2
_RETRY_SECONDS = 0.25


class OpenSegment(msgspec.Struct):
    """A segment of this process, open for writing."""

    header: SegmentHeader
    path: str
    fd: int

    @property
    def number(self) -> int:
        """Segment number."""
        return self.header.number


class SegmentMaker:
    """Makes segments of one volume and epoch. Any thread."""

    def __init__(self, files: Files, folder: str, *, volume: bytes, epoch: int, clock: Clock) -> None:
        self._files = files
        self._folder = folder
        self._volume = volume
        self._clock = clock
        self._lock = threading.Lock()
        self._counter = 0
        self.epoch = epoch

    def make(self, kind: int, capacity: int, flags: int = 0, *, keep: int = 0) -> OpenSegment:
        """A new segment, durable in its folder; ``keep`` bytes of the file system must be free afterwards.

        Raises VolumeFull without room, DiskError else; nothing stays behind then.
        """
        if keep and (free := self._files.free_bytes(self._folder)) < capacity + keep:
            raise VolumeFull(f"a segment of {capacity} bytes would leave {free - capacity} bytes free, the reserve is {keep}")
        with self._lock:
            self._counter += 1
            number = segment_number(self.epoch, self._counter)
        salt = int.from_bytes(os.urandom(8), "big")
        header = SegmentHeader(kind, flags, self._volume, number, salt, self.epoch, capacity, self._clock.wall_ms())
        folder = f"{self._folder}/{folder_of(kind)}"
        path = f"{folder}/{segment_name(number)}"
        fd = -1
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self._files.allocate(fd, capacity)
            write_all(self._files, fd, (header.pack(),), 0)
            self._files.sync(fd, "segment.header")
            self._files.sync_dir(folder, "segment.name")
        except OSError as error:
            if fd >= 0:
                self._files.close(fd)
                try:
                    self._files.unlink(path)
                except OSError as second:
                    raise DiskError(f"segment {path}: {error}; and it cannot be removed: {second}") from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise VolumeFull(f"no room for a segment of {capacity} bytes: {error}") from error
            raise DiskError(f"segment {path}: {error}") from error
        return OpenSegment(header, path, fd)


class Preparer:
    """The thread that keeps two log segments ready."""

    def __init__(
        self,
        maker: SegmentMaker,
        capacity: int,
        *,
        on_failed: Callable[[DiskError], None],
        on_full: Callable[[VolumeFull], None],
    ) -> None:
        self._maker = maker
        self._capacity = capacity
        self._on_failed = on_failed
        self._on_full = on_full
        self._ready: deque[OpenSegment] = deque()
        self._change = threading.Condition()
        self._stopped = False
        self.is_starving = False
        self.is_awaited = False
        self._patient = True
        self._failure: DiskError | None = None
        self._thread = threading.Thread(target=self._run, name="segment preparer", daemon=True)
        self._thread.start()

    @property
    def ready_bytes(self) -> int:
        """Bytes of segments that are prepared and not yet in use."""
        return len(self._ready) * self._capacity

    def numbers(self) -> list[int]:
        """Segments that are prepared."""
        with self._change:
            return [segment.number for segment in self._ready]

    def take(self) -> OpenSegment:
        """The next prepared segment; waits for one. Raises DiskError when there will be none."""
        with self._change:
            if not self._ready:
                self.is_awaited = True
                try:
                    self._wait_ready()
                finally:
                    self.is_awaited = False
            segment = self._ready.popleft()
            self._change.notify_all()
            return segment

    def _wait_ready(self) -> None:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._stopped:
                raise DiskError("the volume is closing")
            if self.is_starving and not self._patient:
                raise DiskError("the volume is closing without room for its log")
            self._change.wait()

    def give_up(self) -> None:
        """From here on ``take`` fails where it would wait for room."""
        with self._change:
            self._patient = False
            self._change.notify_all()

    def stop(self) -> list[OpenSegment]:
        """End the thread; the segments that were left over, for the caller to close."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._thread.join()
        left = list(self._ready)
        self._ready.clear()
        return left

    def _run(self) -> None:
        while True:
            with self._change:
                while len(self._ready) >= READY and not self._stopped:
                    self._change.wait()
                if self._stopped:
                    return
            try:
                segment = self._maker.make(LOG, self._capacity)
            except VolumeFull as full:
                self.is_starving = True
                self._on_full(full)
                with self._change:
                    self._change.notify_all()
                    self._change.wait(_RETRY_SECONDS)
                continue
            except DiskError as error:
                with self._change:
                    self._failure = error
                    self._change.notify_all()
                self._on_failed(error)
                return
            self.is_starving = False
            with self._change:
                self._ready.append(segment)
                self._change.notify_all()
