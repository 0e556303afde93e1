"""Hashing: small bodies on the event loop, without letting go of the GIL; large ones in threads, side by side where it can be. Hot.

hashlib lets go of the GIL for 2,048 bytes and more. On the loop of a worker whose flush thread waits for it that costs two switches of
threads in the middle of a request, and the loop waits until it has it back: 4 KiB PUTs took up to twice as long. What is hashed
in less time than a switch takes is therefore given to hashlib in steps that it keeps the GIL for.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from typing import Protocol

from titans3.lanes.batches import Md5Batches
from titans3.lanes.digests import Lanes, load
from titans3.limits import HASH_INLINE_BYTES_MAX, LANES_BODY_BYTES_MIN
from titans3.long_work import LongWork

_logger = logging.getLogger("titans3.http.hashing")

_STEP_BYTES = 1984  # 31 blocks of 64 bytes: below the bound, and no block is put together from two steps
_STEPS = tuple(slice(at, at + _STEP_BYTES) for at in range(0, HASH_INLINE_BYTES_MAX, _STEP_BYTES))


class Hash(Protocol):
    """A hashlib object."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def update_held(digest: Hash, data: bytes | memoryview) -> None:
    """``digest.update(data)`` that keeps the GIL for up to HASH_INLINE_BYTES_MAX."""
    size = len(data)
    if size <= _STEP_BYTES or size > HASH_INLINE_BYTES_MAX:
        digest.update(data)
        return
    view = memoryview(data)
    update = digest.update
    for step in _STEPS[: -(-size // _STEP_BYTES)]:
        update(view[step])


class BodyHashing:
    """How a worker computes the digests of large bodies: in ``executor`` (``None``: the loop's own), with :mod:`titans3.lanes` if it may,
    or on the loop where ``work`` says that threads bring nothing.

    Lanes are loaded when the first body of LANES_BODY_BYTES_MIN asks for them; that one does without, as smaller ones do.
    """

    def __init__(self, executor: Executor | None = None, work: LongWork | None = None, *, with_lanes: bool = False) -> None:
        self.executor = executor
        self._work = work or LongWork()
        self._may_load = with_lanes
        self.batches: Md5Batches | None = None

    def batches_for(self, length: int | None) -> Md5Batches | None:
        """Where the MD5 of a body of that length is computed, and with whose lanes its chunks are hashed; ``None``: by hashlib."""
        if length is not None and length < LANES_BODY_BYTES_MIN:
            return None
        if self._may_load:
            self._may_load = False
            asyncio.get_running_loop().run_in_executor(self.executor, load).add_done_callback(self._loaded)
        return self.batches

    def _loaded(self, loading: asyncio.Future[Lanes | None]) -> None:
        try:
            lanes = loading.result()
        except (OSError, ArithmeticError, ImportError) as error:
            _logger.warning("digests of bodies are computed one after the other, not side by side: %s", error)
            return
        if lanes is not None:
            self.batches = Md5Batches(lanes, self.executor, self._work)
