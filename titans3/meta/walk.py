"""All rows of a range, in steps that grow: a short range costs a short scan, a long one few.

Invariant: rows that are deleted while walking are not seen again; rows put behind the position are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titans3.meta.machine import Rows

_FIRST_ROWS = 16
_MOST_ROWS = 1024


def walk(rows: Rows, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows with start <= key < stop, ascending."""
    limit = _FIRST_ROWS
    while True:
        found = rows.scan(start, stop, limit)
        yield from found
        if len(found) < limit:
            return
        start = found[-1][0] + b"\0"
        limit = min(limit * 4, _MOST_ROWS)
