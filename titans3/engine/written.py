"""What was written last stays in the page cache, and what was written before it goes: uploads take no more of it than they are given.

Invariants
* A hint and nothing else: what leaves the page cache is on the medium (the kernel drops nothing that is not), and is read from there.
* Ranges of a segment that lie behind each other leave together, so that small extents cost next to nothing each.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial

from titans3.engine.files import Files
from titans3.limits import MIB

_RANGE_BYTES = 16 * MIB


class Written:
    """Of one volume, on its loop. ``limit``: bytes that stay; ``run`` calls a function in a thread, some time."""

    def __init__(self, files: Files, limit: int, run: Callable[[Callable[[], None]], object]) -> None:
        self.limit = limit
        self._files, self._run = files, run
        self._spans: deque[tuple[str, int, int]] = deque()  # path, offset, length
        self._bytes = 0

    def add(self, path: str, offset: int, length: int) -> None:
        """A range was written and synced."""
        spans = self._spans
        self._bytes += length
        if spans:
            last_path, start, size = spans[-1]
            if last_path == path and start + size == offset and size < _RANGE_BYTES:
                spans[-1] = (path, start, size + length)
                return
        spans.append((path, offset, length))
        while self._bytes > self.limit and len(spans) > 1:
            oldest = spans.popleft()
            self._bytes -= oldest[2]
            self._run(partial(self._uncache, *oldest))

    def _uncache(self, path: str, offset: int, length: int) -> None:
        try:
            fd = self._files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return  # the segment was unlinked, and its pages with it
        try:
            self._files.uncache(fd, offset, length)
        finally:
            self._files.close(fd)
