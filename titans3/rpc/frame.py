"""Frames between processes of one node: a fixed head, a msgpack part, raw bytes. Hot: one each way per hop.

``total u32, kind u8, flags u8, reserved u16, id u64, meta length u32`` (big-endian), meta, body. ``total`` counts what follows it.

Invariants
* A frame is at most FRAME_BYTES_MAX; a longer one, or a length that does not add up, closes the connection.
* Meta is msgpack (msgspec), never pickle. The body is raw and is not copied through msgpack.
* A frame with the flag WITHIN begins its meta with whose request it belongs to (``enclose``). It goes only to an end that said that it
  understands this.
"""

from __future__ import annotations

import struct

from titans3.errors import PeerError
from titans3.limits import FRAME_BYTES_MAX

HEAD = struct.Struct(">IBBHQI")
REQUEST, REPLY, FAILURE, WITHIN = 0, 1, 2, 3  # flags; WITHIN is a request, too
_COUNTED = HEAD.size - 4  # bytes of the head that ``total`` counts
Frame = tuple[int, int, int, bytes, bytes]


def encode_head(kind: int, flags: int, number: int, meta: bytes, body_length: int) -> bytes:
    """Head and meta of a frame. Raises PeerError for one that is too long."""
    total = _COUNTED + len(meta) + body_length
    if total > FRAME_BYTES_MAX:
        raise PeerError(f"frame of {total} bytes")
    return HEAD.pack(total, kind, flags, 0, number, len(meta)) + meta


def enclose(whose: bytes, meta: bytes) -> bytes:
    """Meta of a frame with the flag WITHIN: length u16, ``whose``, meta."""
    return len(whose).to_bytes(2, "big") + whose + meta


def disclose(meta: bytes) -> tuple[bytes, bytes]:
    """``whose`` and the meta proper. Raises PeerError for lengths that do not add up."""
    cut = 2 + int.from_bytes(meta[:2], "big")
    if len(meta) < cut:
        raise PeerError("bad frame")
    return meta[2:cut], meta[cut:]


class Frames:
    """Cuts a byte stream into frames: ``feed`` returns (kind, flags, id, meta, body) tuples."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def held(self) -> int:
        """Bytes of the frame that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Whole frames so far. Raises PeerError for nonsense; nothing can be fed after that."""
        buffer = self._buffer
        if not buffer:
            frames, at = _cut(data)
            if at < len(data):
                buffer += data[at:]
            return frames
        buffer += data
        with memoryview(buffer) as view:
            frames, at = _cut(view)
        del buffer[:at]
        return frames


def _cut(data: bytes | memoryview) -> tuple[list[Frame], int]:
    """The whole frames at the start of ``data``, and where they end."""
    frames: list[Frame] = []
    at, size, unpack = 0, len(data), HEAD.unpack_from
    while size - at >= HEAD.size:
        total, kind, flags, _, number, meta_length = unpack(data, at)
        if total > FRAME_BYTES_MAX or meta_length + _COUNTED > total:
            raise PeerError("bad frame")
        end = at + 4 + total
        if end > size:
            break
        start = at + HEAD.size
        cut = start + meta_length
        frames.append((kind, flags, number, bytes(data[start:cut]), bytes(data[cut:end])))
        at = end
    return frames, at
