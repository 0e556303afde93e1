"""Physical values: the logical value and 4 bytes of checksum over physical key and value.

Invariant: what ``open_value`` returns was checked; LMDB 0.9 has no page checksums of its own.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from titans3.errors import DiskError

MASK = 0xFFFF_FFFF


class RowDamaged(DiskError):
    """A row of LMDB whose checksum does not match; ``key`` is the physical key."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"metadata row {key.hex()} is damaged")
        self.key = key


def seal_value(key: bytes, value: bytes) -> bytes:
    """Physical value of a row."""
    return value + (xxh3_64_intdigest(key + value) & MASK).to_bytes(4, "big")


def open_value(key: bytes, stored: bytes) -> bytes:
    """Logical value of a row; raises RowDamaged."""
    value = stored[:-4]
    if (xxh3_64_intdigest(key + value) & MASK).to_bytes(4, "big") != stored[-4:]:
        raise RowDamaged(key)
    return value
