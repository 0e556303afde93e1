"""Buffers that pieces of large bodies are read into, used again. Hot: every large GET.

A fresh mebibyte is mapped, zeroed and faulted in page by page before the first byte is read into it, and all of it again for the next
piece: a third of what a GET of a cached object cost.

Invariants
* A buffer is used again only when nobody holds a view of it any more: a piece that the transport has not sent yet, or that a thread
  is still reading into, keeps its bytes. Nobody has to give a buffer back, and nobody can give it back too early.
* At most PIECE_BUFFERS_KEPT buffers are kept; who needs more gets memory of its own, which goes with its last view.

Loop thread only.
"""

from __future__ import annotations

from collections import deque

from titans3.limits import PIECE_BUFFERS_KEPT, PIECE_BYTES

_LOOKS_MAX = 4
_KEPT_BYTES_MIN = 128 * 1024  # less than this malloc finds in memory that it has already


class PieceBuffers:
    """See the module."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[bytearray] = deque()  # the last one used at the right: it is the likeliest to be in the processor's cache

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, size: int) -> memoryview:
        """``size`` bytes, at most PIECE_BYTES, with arbitrary contents."""
        assert size <= PIECE_BYTES
        if size < _KEPT_BYTES_MIN:
            return memoryview(bytearray(size))
        kept = self._kept
        for _ in range(min(len(kept), _LOOKS_MAX)):
            if _is_free(kept[-1]):
                return memoryview(kept[-1])[:size]
            kept.rotate(1)
        if len(kept) >= PIECE_BUFFERS_KEPT:
            return memoryview(bytearray(size))
        buffer = bytearray(PIECE_BYTES)
        kept.append(buffer)
        return memoryview(buffer)[:size]


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of it is left: only then its size may change. The byte taken off and put back moves no memory."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True
