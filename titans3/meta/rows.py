"""Physical values: the logical value and 4 bytes of checksum over physical key and value. Hot: every read opens one, a LIST a thousand.

Invariant: what ``open_value`` and ``open_rows`` return was checked; LMDB 0.9 has no page checksums of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from titans3.errors import DiskError
from titans3.meta.keys import OBJECTS, PREFIX_BYTES, TABLE_AT

MASK = 0xFFFF_FFFF


class RowDamaged(DiskError):
    """A row of LMDB whose checksum does not match; ``key`` is the physical key. The text names the object if it is an object's row."""

    def __init__(self, key: bytes) -> None:
        name = ""
        if len(key) > PREFIX_BYTES and key[TABLE_AT] == OBJECTS:
            bucket = int.from_bytes(key[TABLE_AT + 1 : PREFIX_BYTES], "big")
            name = f", of group {int.from_bytes(key[:TABLE_AT], 'big')}, bucket id {bucket}, key {key[PREFIX_BYTES:]!r},"
        super().__init__(f"metadata row {key.hex()}{name} is damaged")
        self.key = key


def seal_value(key: bytes, value: bytes) -> bytes:
    """Physical value of a row."""
    return value + (xxh3_64_intdigest(key + value) & MASK).to_bytes(4, "big")


def open_value(key: bytes, stored: bytes) -> bytes:
    """Logical value of a row; raises RowDamaged."""
    value = stored[:-4]
    if xxh3_64_digest(key + value)[4:] != stored[-4:]:  # the digest is big-endian, so these are the low 32 bits
        raise RowDamaged(key)
    return value


def open_rows(raw: Sequence[tuple[bytes, bytes]], cut: int = 0) -> list[tuple[bytes, bytes]]:
    """(key without its first ``cut`` bytes, logical value) of many rows, without a call for each; raises RowDamaged."""
    rows = [(key[cut:], value) for key, stored in raw if xxh3_64_digest(key + (value := stored[:-4]))[4:] == stored[-4:]]
    if len(rows) < len(raw):
        for key, stored in raw:
            open_value(key, stored)
    return rows
