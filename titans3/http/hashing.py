"""Hashing on the event loop: small bodies, without letting go of the GIL. Hot.

hashlib lets go of the GIL for 2,048 bytes and more. On the loop of a worker whose flush thread waits for it that costs two switches of
threads in the middle of a request, and the loop waits until it has it back: 4 KiB PUTs took up to twice as long. What is hashed
in less time than a switch takes is therefore given to hashlib in steps that it keeps the GIL for.
"""

from __future__ import annotations

from typing import Protocol

from titans3.limits import HASH_INLINE_BYTES_MAX

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
