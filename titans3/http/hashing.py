"""Hashing on the event loop: small bodies, without letting go of the GIL. Hot.

hashlib lets go of the GIL for 2,048 bytes and more. On the loop of a worker whose flush thread waits for it that costs two switches of
threads in the middle of a request, and the loop waits until it has it back: 4 KiB PUTs took up to twice as long. What is hashed
in less time than a switch takes is therefore given to hashlib in steps that it keeps the GIL for.
"""

from __future__ import annotations

from typing import Protocol

_STEP_BYTES = 1984  # 31 blocks of 64 bytes: below the bound, and no block is put together from two steps


class Hash(Protocol):
    """A hashlib object."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def update_held(digest: Hash, data: bytes | memoryview) -> None:
    """``digest.update(data)`` that keeps the GIL; for at most some 64 KiB."""
    size = len(data)
    if size <= _STEP_BYTES:
        digest.update(data)
        return
    view = memoryview(data)
    update = digest.update
    for at in range(0, size, _STEP_BYTES):
        update(view[at : at + _STEP_BYTES])
