"""What was written last stays in the page cache, and what was written before it goes: uploads take no more of it than they are given.

Invariants
* A hint and nothing else: what leaves the page cache is on the medium (the kernel drops nothing that is not), and is read from there.
* Segments leave in blocks, the one that was begun first before the others, so that small extents cost next to nothing each and their
  order does not matter. An extent that is still being written may lose what the kernel has written of it already.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

from titans3.engine.files import Files
from titans3.limits import MIB

_logger = logging.getLogger("titans3.engine.written")
_BLOCK_BYTES = 16 * MIB


class Written:
    """Of one volume, on its loop. ``limit``: bytes that stay; ``run`` calls a function in a thread, some time."""

    def __init__(self, files: Files, limit: int, run: Callable[[Callable[[], None]], object]) -> None:
        self.limit = limit
        self._files, self._run = files, run
        self._blocks: dict[tuple[str, int], int] = {}  # segment's path and number of the block: bytes written in it; the oldest first
        self._bytes = 0

    def add(self, path: str, offset: int, length: int) -> None:
        """A range was written and synced."""
        blocks, end = self._blocks, offset + length
        self._bytes += length
        for number in range(offset // _BLOCK_BYTES, -(-end // _BLOCK_BYTES)):
            begin = number * _BLOCK_BYTES
            blocks[path, number] = blocks.get((path, number), 0) + min(end, begin + _BLOCK_BYTES) - max(offset, begin)
        while self._bytes > self.limit and blocks:
            path, number = next(iter(blocks))
            self._bytes -= blocks.pop((path, number))
            self._run(partial(self._uncache, path, number * _BLOCK_BYTES))

    def _uncache(self, path: str, offset: int) -> None:
        try:
            fd = self._files.open(path, os.O_RDONLY)
            try:
                self._files.uncache(fd, offset, _BLOCK_BYTES)
            finally:
                self._files.close(fd)
        except FileNotFoundError:
            return  # the segment was unlinked, and its pages with it
        except OSError as error:
            _logger.debug("what was written to %s stays in the page cache: %s", path, error)
