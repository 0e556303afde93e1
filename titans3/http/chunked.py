"""HTTP/1.1 chunked transfer coding, taken off (RFC 9112 7.1). Hot for uploads of unknown length.

Invariants
* Pure: bytes from ``source`` are copied into ``target``; one slice assignment per run of data, no object kept per chunk.
* Size lines and trailers are bounded (CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX); lines end in CR LF and nothing else.
* Trailer fields of the transfer coding are read and dropped: none may change framing or authentication.
* After ``done`` no byte of ``source`` is consumed: it belongs to the next request.
"""

from __future__ import annotations

from titans3.errors import ClientError, Reason
from titans3.limits import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)
_HEX = frozenset(b"0123456789abcdefABCDEF")


def framing(message: str) -> ClientError:
    """The body's framing is broken."""
    return ClientError(Reason.BODY_FRAMING, message)


class ChunkedDecoder:
    """One body's state. ``done`` is set when the last chunk and its trailers were consumed."""

    __slots__ = ("_line", "_phase", "_remaining", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self.done = False
        self._phase = _SIZE
        self._remaining = 0
        self._line = b""
        self._trailer_bytes = 0

    def decode(self, source: memoryview, target: memoryview | None) -> tuple[int, int]:
        """Copy data of ``source`` into ``target``; returns (bytes consumed, bytes produced).

        Stops when the source is used up, the target is full (data remains) or the body is done. ``target=None`` throws the
        data away and still counts it. Raises ClientError(BODY_FRAMING).
        """
        at = 0
        made = 0
        end = len(source)
        room = end if target is None else len(target)
        while at < end and not self.done:
            if self._phase == _DATA:
                take = min(self._remaining, end - at, room - made)
                if take == 0:
                    break
                if target is not None:
                    target[made : made + take] = source[at : at + take]
                at += take
                made += take
                self._remaining -= take
                if self._remaining == 0:
                    self._phase = _DATA_END
                continue
            at = self._take_line(source, at, end)
        return at, made

    def _take_line(self, source: memoryview, at: int, end: int) -> int:
        """Consume up to one line; act on it when it is whole. Returns the new position."""
        bound = CHUNK_LINE_BYTES_MAX if self._phase == _SIZE else TRAILER_BYTES_MAX
        window = bytes(source[at : min(end, at + bound + 2)])
        cut = window.find(b"\n")
        if cut < 0:
            self._line += window
            if len(self._line) > bound:
                raise framing("A line of the chunked coding is too long.")
            return at + len(window)
        line = self._line + window[: cut + 1]
        self._line = b""
        if line[-2:] != b"\r\n" or len(line) > bound + 2:
            raise framing("A line of the chunked coding is malformed.")
        self._act(line[:-2])
        return at + cut + 1

    def _act(self, line: bytes) -> None:
        if self._phase == _SIZE:
            digits, _, extension = line.partition(b";")
            digits = digits.rstrip(b" \t") if extension else digits
            if not 1 <= len(digits) <= 15 or not _HEX.issuperset(digits) or b"\r" in extension or b"\0" in extension:
                raise framing("A chunk size is malformed.")
            self._remaining = int(digits, 16)
            self._phase = _DATA if self._remaining else _TRAILER
        elif self._phase == _DATA_END:
            if line:
                raise framing("A chunk is longer than its size.")
            self._phase = _SIZE
        else:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > TRAILER_BYTES_MAX + 2 or (line and b":" not in line):
                raise framing("The chunked trailer is malformed or too long.")
            if not line:
                self._phase = _DONE
                self.done = True
