"""What is measured: operations, sizes and concurrencies, and what each asks of the client.

DELETE is one DeleteObject: warp deletes by DeleteObjects, one key at least, but for keys that XML cannot hold, so its keys get a prefix
of that kind. LIST is one request that answers 1,000 keys: each of the client's lanes has a prefix with as many objects. In multipart-put
the size is that of a part, and what counts are the parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

OPERATIONS = ("get", "put", "delete", "list", "stat", "mixed", "multipart-put", "versioned")
SIZES = ("4k", "64k", "1m", "10m")
CONCURRENCY = (1, 16, 64)
PAGE = 1000  # keys a LIST answers
PARTS = 16  # of an upload in multipart-put
NOT_IN_XML = "\x01"
MIXED = {"GET": 45, "STAT": 30, "PUT": 15, "DELETE": 10}
TIMED = {
    "get": ("GET",), "put": ("PUT",), "delete": ("DELETE",), "list": ("LIST",), "stat": ("STAT",), "mixed": tuple(MIXED),
    "multipart-put": ("PUTPART",), "versioned": tuple(MIXED),
}  # fmt: skip
DATA_MAX = 1 << 30  # bytes that are stored before the clock starts,
DATA_MOST = 8 << 30  # where that would be less than four objects for each lane; one for each lane there is always
OBJECTS = 5_000  # to read from, where they fit in DATA_MAX
OBJECTS_PER_SECOND = 1_000  # a short phase reads from fewer
DELETES_PER_SECOND = 2_000  # objects to delete for each second; with fewer than the server can delete the cell is shorter
TARGETS = {  # of docs/performance.md: server CPU at most 1/x of MinIO's, rate at least y of it, 16 at a time
    ("get", "4k"): (4.4, 2.2), ("stat", "4k"): (4.0, 2.2), ("put", "4k"): (5.5, 3.3), ("delete", "4k"): (4.0, 2.8),
    ("list", "4k"): (10.0, 2.4), ("mixed", "4k"): (4.5, 2.6), ("get", "64k"): (3.0, 2.0), ("put", "64k"): (4.0, 3.0),
    ("get", "1m"): (2.3, 1.5), ("put", "1m"): (2.5, 2.0), ("get", "10m"): (2.0, 1.4), ("put", "10m"): (2.0, 1.6),
}  # fmt: skip
_ORDER = [*TARGETS]


def size_bytes(text: str) -> int:
    """Of 4k, 1m, 5g."""
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30}[text[-1]]


class Cell(msgspec.Struct, frozen=True, order=True):
    """One square of the matrix; ``seconds`` is the timed phase."""

    operation: str
    size: str
    concurrency: int
    seconds: float

    @property
    def title(self) -> str:
        """As a column is called: LIST, STAT and DELETE only with a size that is not the usual one."""
        name = self.operation.upper() if self.operation in ("get", "put", "delete", "list", "stat") else self.operation
        plain = self.operation == "list" or (self.operation in ("stat", "delete") and self.size == "4k")
        return name if plain else f"{name} {self.size.replace('m', 'M')}"

    @property
    def bytes(self) -> int:
        """Bytes of a body."""
        return size_bytes(self.size)

    @property
    def objects(self) -> int:
        """How many are stored before the clock starts."""
        fit = max(self.concurrency, min(4 * self.concurrency, DATA_MOST // self.bytes), DATA_MAX // self.bytes)
        if self.operation in ("put", "multipart-put"):
            return 0
        if self.operation == "list":
            return PAGE * self.concurrency
        if self.operation == "delete":
            return max(4 * self.concurrency, min(fit, math.ceil(DELETES_PER_SECOND * self.seconds)))
        return min(fit, OBJECTS, max(4 * self.concurrency, math.ceil(OBJECTS_PER_SECOND * self.seconds)))

    def warp(self) -> list[str]:
        """warp's arguments, but for the server."""
        found = [self.operation, "--concurrent", str(self.concurrency), "--duration", f"{self.seconds:g}s"]
        if self.operation == "multipart-put":
            return [*found, "--part.size", str(self.bytes), "--parts", str(PARTS), "--part.concurrent", "1"]
        found += ["--obj.size", str(self.bytes)]
        if self.operation != "put":
            found += ["--objects", str(self.objects)]
        if self.operation == "put" and self.bytes <= 16 << 20:
            found.append("--disable-multipart")
        if self.operation == "delete":
            found += ["--batch", "1", "--prefix", NOT_IN_XML]
        if self.operation == "list":
            found += ["--max-keys", str(PAGE)]
        return found


def cells(operations: Iterable[str], sizes: Iterable[str], concurrency: Iterable[int], seconds: float) -> list[Cell]:
    """All combinations, in the order of the table; a page of keys does not depend on the size of their objects, so LIST has one size."""
    found = []
    for lanes in concurrency:
        for operation in operations:
            found += [Cell(operation, size, lanes, seconds) for size in (["4k"] if operation == "list" else sizes)]
    return sorted(dict.fromkeys(found), key=lambda cell: (cell.concurrency, *_place(cell)))


def _place(cell: Cell) -> tuple[int, int, str]:
    """Columns of the targets first, as they are listed there."""
    key = (cell.operation, cell.size)
    return (_ORDER.index(key) if key in _ORDER else len(_ORDER), OPERATIONS.index(cell.operation), f"{cell.bytes:012d}")
