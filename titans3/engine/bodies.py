"""Reading small bodies out of log and packed segments. Hot: every GET of a small object.

Invariants
* Bytes are returned only after data id and checksum matched (I6); else ``BodyDamaged`` with everything that names the object.
* ``nowait`` reads only what the page cache holds, so the event loop never waits for a disk (I9).
"""

from __future__ import annotations

import msgspec

from titans3.engine.descriptors import Handle
from titans3.engine.files import Files, read_at
from titans3.engine.location import Location
from titans3.engine.record import command_of, unpack_body
from titans3.errors import DiskError
from titans3.model.command import decode_command


class BodyDamaged(DiskError):
    """Bytes on disk are not the ones that were written. ``bucket`` is -1 and ``key`` empty when not even the name is readable."""

    def __init__(self, path: str, offset: int, data_id: bytes, bucket: int = -1, key: bytes = b"") -> None:
        name = f"bucket id {bucket}, key {key!r}" if bucket >= 0 else "an object whose name is damaged too"
        super().__init__(f"damaged body of {name}: data id {data_id.hex()} at byte {offset} of {path}")
        self.path = path
        self.offset = offset
        self.data_id = data_id
        self.bucket = bucket
        self.key = key


def name_of(command: bytes) -> tuple[int, bytes]:
    """(bucket id, key) of an entry's command; (-1, b"") when it names none or is damaged."""
    try:
        decoded = decode_command(command)
    except (LookupError, ValueError, msgspec.MsgspecError):
        return -1, b""
    return getattr(decoded, "bucket", -1), getattr(decoded, "key", b"")


def read_nowait(files: Files, handle: Handle, location: Location, data_id: bytes) -> bytes | None:
    """The body if the page cache holds all of its record, else ``None``. Raises BodyDamaged."""
    buffer = bytearray(location.length)
    try:
        if files.preadv(handle.fd, buffer, location.offset, nowait=True) != location.length:
            return None
    except BlockingIOError:
        return None
    body = unpack_body(buffer, data_id)
    if body is None:
        raise _damaged(buffer, handle, location, data_id)
    return bytes(body)


def read_wait(files: Files, handle: Handle, location: Location, data_id: bytes) -> bytes:
    """The body, read in the calling thread. Raises BodyDamaged, DiskError."""
    try:
        buffer = read_at(files, handle.fd, location.length, location.offset)
    except OSError as error:
        raise DiskError(f"{handle.path} at byte {location.offset}: {error}") from error
    body = unpack_body(buffer, data_id) if len(buffer) == location.length else None
    if body is None:
        raise _damaged(buffer, handle, location, data_id)
    return bytes(body)


def _damaged(buffer: bytearray, handle: Handle, location: Location, data_id: bytes) -> BodyDamaged:
    bucket, key = name_of(command_of(buffer))
    return BodyDamaged(handle.path, location.offset, data_id, bucket, key)
