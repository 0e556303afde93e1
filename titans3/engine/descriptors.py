"""Open segments for reading: a bounded cache of descriptors.

Invariants
* A descriptor in use is never closed under its user: ``Handle`` counts.
* A segment that was unlinked leaves the cache at the next ``sweep``, so that its space comes back; who still reads it keeps reading.

Loop thread only, except that ``fd`` of a held handle may be read from any thread, through ``Handle.in_thread``.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from titans3.engine.files import Files

T = TypeVar("T")


class Handle:
    """A read-only descriptor. ``release`` exactly once for each ``acquire``."""

    __slots__ = ("_files", "dropped", "fd", "path", "users")

    def __init__(self, files: Files, path: str, fd: int) -> None:
        self._files = files
        self.path = path
        self.fd = fd
        self.users = 0
        self.dropped = False

    def release(self) -> None:
        """The user is done."""
        self.users -= 1
        assert self.users >= 0
        if self.dropped and self.users == 0:
            self._files.close(self.fd)

    async def in_thread(self, pool: Executor, function: Callable[..., T], *arguments: object) -> T:
        """A blocking read in a thread. The descriptor stays open until the thread is done, also when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        self.users += 1
        job = pool.submit(function, *arguments)
        try:
            return await asyncio.wrap_future(job)
        finally:
            if job.done():
                self.release()
            else:
                job.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self.release))

    def drop(self) -> None:
        """Close when the last user is done."""
        assert not self.dropped
        self.dropped = True
        if self.users == 0:
            self._files.close(self.fd)


class Descriptors:
    """At most ``limit`` idle descriptors, least recently used first to go."""

    def __init__(self, files: Files, limit: int = 256) -> None:
        self._files = files
        self._limit = limit
        self._handles: OrderedDict[str, Handle] = OrderedDict()

    def __len__(self) -> int:
        return len(self._handles)

    def acquire(self, path: str) -> Handle:
        """A handle on a file. Raises FileNotFoundError. Opening a known path reads no data block."""
        handle = self._handles.get(path)
        if handle is None:
            handle = Handle(self._files, path, self._files.open(path, os.O_RDONLY))
            self._handles[path] = handle
            while len(self._handles) > self._limit:
                _, oldest = self._handles.popitem(last=False)
                oldest.drop()
        else:
            self._handles.move_to_end(path)
        handle.users += 1
        return handle

    def forget(self, path: str) -> None:
        """The file is about to be unlinked, or is gone."""
        handle = self._handles.pop(path, None)
        if handle is not None:
            handle.drop()

    def sweep(self) -> int:
        """Drop what was unlinked by others; how many."""
        gone = [path for path, handle in self._handles.items() if not self._files.is_linked(handle.fd)]
        for path in gone:
            self.forget(path)
        return len(gone)

    def close(self) -> None:
        """Drop everything."""
        while self._handles:
            _, handle = self._handles.popitem()
            handle.drop()
