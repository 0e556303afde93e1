"""Bodies up and down: whole or in parts, checked, with progress.

Invariants
* What arrives is what was there: an upload carries the SHA-256 of each request and its CRC64NVME as S3 has it; a download is compared with
  the object's CRC64NVME or MD5 before it gets its name.
* Memory is bounded: a piece is PART_BYTES, and a file up to WHOLE_BYTES_MAX goes in one.
* An upload in parts that fails is aborted; nothing of it stays on the server.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from typing import IO, TYPE_CHECKING

from awscrt.checksums import crc64nvme

from titans3.ctl.address import Address
from titans3.ctl.client import Reply
from titans3.errors import DiskError

if TYPE_CHECKING:
    import rich.progress

PART_BYTES = 16 * 1024 * 1024
WHOLE_BYTES_MAX = 32 * 1024 * 1024
PARTS_AT_ONCE = 4
_PARTS_MAX = 10_000
_READ_BYTES = 1024 * 1024


class Progress:
    """Bytes that moved, and bytes that are to move. This one shows nothing."""

    def __call__(self, count: int) -> None:
        """So many more moved."""

    def expect(self, count: int) -> None:
        """So many more are to."""


nothing = Progress()


class _Bar(Progress):
    """On a terminal; without a total until something is expected."""

    def __init__(self, bar: rich.progress.Progress, text: str, total: int) -> None:
        self._bar, self._total = bar, total
        self._task = bar.add_task(text, total=total or None)

    def __call__(self, count: int) -> None:
        self._bar.advance(self._task, count)

    def expect(self, count: int) -> None:
        self._total += count
        self._bar.update(self._task, total=self._total)


@contextlib.contextmanager
def progress(total: int, text: str, *, shown: bool) -> Iterator[Progress]:
    """A bar on a terminal; ``total`` bytes, 0 for what is expected later."""
    if not shown or not sys.stderr.isatty():
        yield nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, text, total)


# up --------------------------------------------------------------------------------------------------------------------


def upload(source: IO[bytes], address: Address, headers: dict[str, str] | None = None, tick: Progress = nothing) -> int:
    """A body of unknown length; its bytes. Raises RemoteError."""
    first = _read(source, WHOLE_BYTES_MAX + 1)
    if len(first) <= WHOLE_BYTES_MAX:
        address.client.s3("PUT", address.bucket, address.key, headers={**(headers or {}), **_checksum(first)}, body=first)
        tick(len(first))
        return len(first)
    return _in_parts(first, source, address, headers or {}, tick)


def _in_parts(first: bytes, source: IO[bytes], address: Address, headers: dict[str, str], tick: Progress) -> int:
    client = address.client
    started = client.s3(
        "POST", address.bucket, address.key, {"uploads": ""},
        {**headers, "x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"},
    ).xml  # fmt: skip
    upload_id = started.findtext("UploadId") or ""
    total, crc = 0, 0

    def send(number: int, piece: bytes) -> tuple[int, str]:
        query = {"partNumber": str(number), "uploadId": upload_id}
        reply = client.s3("PUT", address.bucket, address.key, query, _checksum(piece), piece)
        tick(len(piece))
        return number, reply.headers["etag"]

    try:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            waiting, tags = [], []
            for number, piece in enumerate(_pieces(first, source), 1):
                total += len(piece)
                crc = crc64nvme(piece, crc)
                waiting.append(pool.submit(send, number, piece))
                if len(waiting) >= 2 * PARTS_AT_ONCE:
                    tags.append(waiting.pop(0).result())
            tags += [one.result() for one in waiting]
        parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in tags)
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        proof = {
            "x-amz-checksum-crc64nvme": b64encode(crc.to_bytes(8, "big")).decode(),
            "x-amz-checksum-type": "FULL_OBJECT",
        }
        client.s3("POST", address.bucket, address.key, {"uploadId": upload_id}, proof, body).read()
    except BaseException:
        client.s3("DELETE", address.bucket, address.key, {"uploadId": upload_id})
        raise
    return total


def _pieces(first: bytes, source: IO[bytes]) -> Iterator[bytes]:
    """Parts of growing size, so that _PARTS_MAX are enough for a terabyte and more."""
    for at in range(0, len(first) - PART_BYTES, PART_BYTES):
        yield first[at : at + PART_BYTES]
        last = at + PART_BYTES
    rest = first[last:]
    number = len(first) // PART_BYTES
    while True:
        size = PART_BYTES * (1 + number // 1000)
        piece = rest + _read(source, size - len(rest))
        rest = b""
        if not piece:
            return
        yield piece
        number += 1
        if len(piece) < size:
            return


def _read(source: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    pieces = []
    while size > 0 and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _checksum(data: bytes) -> dict[str, str]:
    return {"x-amz-checksum-crc64nvme": b64encode(crc64nvme(data).to_bytes(8, "big")).decode()}


# down ------------------------------------------------------------------------------------------------------------------


def open_object(address: Address, version_id: str = "") -> Reply:
    """Its answer, the body not read. Raises RemoteError."""
    query = {"versionId": version_id} if version_id else {}
    return address.client.s3("GET", address.bucket, address.key, query, {"x-amz-checksum-mode": "ENABLED"})


def stream(reply: Reply, out: IO[bytes], tick: Progress = nothing) -> int:
    """A body into a file, compared with its checksum; its bytes. Raises DiskError if it is not what the server has."""
    wanted = reply.headers.get("x-amz-checksum-crc64nvme", "")
    whole = reply.headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT"
    etag = reply.headers.get("etag", "").strip('"')
    by_md5 = not (wanted and whole) and len(etag) == 32 and "x-amz-server-side-encryption" not in reply.headers
    digest = md5(usedforsecurity=False) if by_md5 else None
    total, crc = 0, 0
    while piece := reply.read(_READ_BYTES):
        out.write(piece)
        total += len(piece)
        if wanted and whole:
            crc = crc64nvme(piece, crc)
        elif digest is not None:
            digest.update(piece)
        tick(len(piece))
    length = int(reply.headers.get("content-length", total))
    if total != length:
        raise DiskError(f"the body ended after {total} of {length} bytes")
    if wanted and whole and b64encode(crc.to_bytes(8, "big")).decode() != wanted:
        raise DiskError("the body is not the one that the server has: its CRC64NVME is another")
    if digest is not None and digest.hexdigest() != etag:
        raise DiskError("the body is not the one that the server has: its MD5 is another")
    return total


def download(address: Address, path: str, tick: Progress = nothing, version_id: str = "", *, expected: bool = False) -> int:
    """An object into a file, which appears when it is whole; its bytes. ``expected``: ``tick`` knows of them already."""
    reply = open_object(address, version_id)
    if not expected:
        tick.expect(int(reply.headers.get("content-length", 0)))
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=".titanctl-", dir=folder)
    try:
        with os.fdopen(fd, "wb") as out:
            total = stream(reply, out, tick)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return total
