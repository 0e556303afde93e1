"""Byte ranges of GET, HEAD and UploadPartCopy (RFC 9110 section 14).

Invariants
* Pure. A malformed Range or one with several ranges is ignored, as S3 does; one that cannot be satisfied is InvalidRange 416.
* A number may be larger than any object; past 100 digits it counts as malformed.
"""

from __future__ import annotations

import re

from titans3.s3.errors import S3Error, invalid_argument

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,100})\s*-\s*(\d{0,100})\s*\Z", re.ASCII | re.IGNORECASE).match
_COPY_RANGE = re.compile(r"bytes=(\d{1,100})-(\d{1,100})\Z", re.ASCII).match


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """(start, length) of a Range header for ``size`` bytes, or ``None`` to ignore it. Raises InvalidRange."""
    found = _RANGE(text)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        wanted = int(found[2])
        if wanted == 0 or size == 0:
            raise _unsatisfiable(text, size)
        length = min(wanted, size)
        return size - length, length
    start = int(found[1])
    stop = int(found[2]) + 1 if found[2] else size
    if found[2] and stop <= start:
        return None
    if start >= size:
        raise _unsatisfiable(text, size)
    return start, min(stop, size) - start


def _unsatisfiable(text: str, size: int) -> S3Error:
    headers = [(b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")]
    return S3Error("InvalidRange", headers=headers, RangeRequested=text[:100], ActualObjectSize=str(size))


def parse_copy_range(text: str, size: int) -> tuple[int, int]:
    """(start, length) of x-amz-copy-source-range, which must lie inside the source. Raises InvalidArgument, InvalidRange."""
    found = _COPY_RANGE(text)
    if found is None or int(found[1]) > int(found[2]):
        raise invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the "
            "first and last bytes to copy",
            "x-amz-copy-source-range",
            text,
        )
    start, last = int(found[1]), int(found[2])
    if last >= size:
        raise S3Error("InvalidRange", f"Range specified is not valid for source object of size: {size}", RangeRequested=text[:100])
    return start, last - start + 1


def content_range(start: int, length: int, size: int) -> bytes:
    """``bytes 0-9/100``."""
    return b"bytes %d-%d/%d" % (start, start + length - 1, size)
