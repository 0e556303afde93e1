"""aws-chunked content coding, taken off and verified. Hot for every signed streaming upload: ``bench/micro/http_floor.py``.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and .../sigv4-streaming-trailers.html

Invariants
* Pure. ``decode`` takes a piece of any size and returns slices of it that are object data; nothing is copied but size lines.
* A chunk's signature is checked by the end of the piece that its last byte is in, chunks that lie in it as a whole side by side if
  there are ``lanes``; data handed out before is proven only once ``finish`` returned.
* The signatures are chained: seed, chunks, the empty last chunk, then the trailer. Lines may end in LF alone, as minio-go's trailers do.
* The decoded length equals x-amz-decoded-content-length; trailers are exactly those that x-amz-trailer announced.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from titans3.errors import ClientError, Reason
from titans3.http import canonical
from titans3.http.hashing import update_held
from titans3.lanes.digests import Lanes
from titans3.limits import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX

_SIZE, _DATA, _DATA_END, _TRAILER, _LAST_LINE, _SPARE_LINE, _DONE = range(7)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_SIGNATURE_TRAILER = "x-amz-trailer-signature"
_LAST = b"\r\n0;chunk-signature="
_SIMPLE_END = len(_LAST) + 64 + 4


class ChunkSeed:
    """What the chain of chunk signatures starts from; all of it is in :class:`Verified`."""

    __slots__ = ("date", "scope", "signature", "signing_key")

    def __init__(self, signing_key: canonical.SigningKey, date: str, scope: str, signature: str) -> None:
        self.signing_key = signing_key
        self.date = date
        self.scope = scope
        self.signature = signature


def framing(message: str) -> ClientError:
    """The aws-chunked framing is broken."""
    return ClientError(Reason.BODY_FRAMING, message)


class AwsChunkedDecoder:
    """One body. ``seed=None``: unsigned chunks. ``trailer_names`` are lower-case names announced by x-amz-trailer."""

    __slots__ = (
        "_again",
        "_chunk_bytes",
        "_digest",
        "_expected",
        "_lanes",
        "_length",
        "_line",
        "_phase",
        "_previous",
        "_raw_trailers",
        "_remaining",
        "_seed",
        "_total",
        "_trailer_bytes",
        "_trailer_names",
        "_whole",
        "_with_trailer",
        "trailers",
    )

    def __init__(
        self,
        length: int,
        seed: ChunkSeed | None,
        *,
        with_trailer: bool,
        trailer_names: frozenset[str] = frozenset(),
        lanes: Lanes | None = None,
    ) -> None:
        self.trailers: dict[str, str] = {}
        self._length = length
        self._seed = seed
        self._previous = "" if seed is None else seed.signature
        self._with_trailer = with_trailer
        self._trailer_names = trailer_names
        self._phase = _SIZE
        self._line = b""
        self._remaining = self._chunk_bytes = 0
        self._again = b""  # how the line of a next chunk of this size would begin, behind the end of this one
        self._total = 0
        self._digest = sha256()
        self._expected = ""
        self._raw_trailers: list[str] = []
        self._trailer_bytes = 0
        self._lanes = lanes
        self._whole: list[tuple[memoryview, str]] = []  # chunks of this piece that are to be hashed together, and their signatures

    def decode(self, piece: memoryview) -> list[memoryview]:
        """The data slices of ``piece`` in order. Raises ClientError (BODY_FRAMING, CHUNK_SIGNATURE, TRAILER, DECODED_LENGTH)."""
        at = 0
        end = len(piece)
        found: list[memoryview] = []
        while at < end:
            if self._phase == _DATA:
                take = min(self._remaining, end - at)
                data = piece[at : at + take]
                found.append(data)
                at += take
                if self._lanes is not None and take == self._chunk_bytes:
                    self._whole.append((data, self._expected))
                    self._remaining, self._phase = 0, _DATA_END
                    continue
                if self._seed is not None:
                    self._digest.update(data)
                self._remaining -= take
                if self._remaining == 0:
                    self._check_chunk()
                    self._phase = _DATA_END
            elif self._phase == _DONE:
                raise framing("Bytes follow the last chunk.")
            else:
                taken = self._take_next(piece, at) if self._phase == _DATA_END else 0
                at = at + taken if taken else self._take_line(piece, at, end)
        self._check_whole()
        return found

    def decode_simple(self, raw: bytes) -> bytes | None:
        """The data of a whole body of one signed chunk and the last one, as small uploads are; ``None``: it is not, and nothing was taken.

        Raises ClientError(CHUNK_SIGNATURE). For bodies that are hashed on the loop.
        """
        seed, length = self._seed, self._length
        if seed is None or self._with_trailer or not length:
            return None
        first = b"%x;chunk-signature=" % length
        signed = len(first)
        start = signed + 66
        end = start + length
        if len(raw) != end + _SIMPLE_END:
            return None
        line, tail = raw[:start], raw[end:]
        if not (line.startswith(first) and line.endswith(b"\r\n") and tail.startswith(_LAST) and tail.endswith(b"\r\n\r\n")):
            return None
        data = raw[start:end]
        update_held(self._digest, data)
        sent, sent_last = line[signed:-2], tail[len(_LAST) : -4]
        if not (sent.isalnum() and sent_last.isalnum()):
            raise framing("A chunk has no valid chunk-signature.")
        signature, last = sent.decode("ascii"), sent_last.decode("ascii")
        self._expected = signature
        text = canonical.chunk_text(seed.date, seed.scope, self._previous, self._digest.hexdigest())
        self._compare(seed.signing_key.sign(text), self._expected, "The chunk signature does not match.")
        self._expected = last
        text = canonical.chunk_text(seed.date, seed.scope, signature, canonical.EMPTY_SHA256)
        self._compare(seed.signing_key.sign(text), self._expected, "The chunk signature does not match.")
        self._total, self._phase = length, _DONE
        return data

    def finish(self) -> None:
        """The body has ended. Raises ClientError if it ended early or its length is not the announced one."""
        if self._phase == _TRAILER and self._line == b"" and not self._with_trailer:
            self._phase = _DONE  # the empty line after the last chunk is missing: nothing was left unproven
        if self._phase == _LAST_LINE and self._line == b"":
            self._end_trailers()
        if self._phase == _SPARE_LINE:
            if self._line:
                raise framing("Bytes follow the last chunk.")
            self._phase = _DONE
        if self._phase != _DONE:
            raise ClientError(Reason.BODY_SHORT, "The aws-chunked body ended before its last chunk.")
        if self._total != self._length:
            raise ClientError(Reason.DECODED_LENGTH, "The decoded body is shorter than x-amz-decoded-content-length.")

    def _take_next(self, piece: memoryview, at: int) -> int:
        """Consume the end of a signed chunk and the line of a next one of its size, as nearly all are. Returns their bytes, or 0."""
        again = self._again
        lines = bytes(piece[at : at + len(again) + 66])
        signature = lines[len(again) : -2]
        if not again or self._line or not lines.startswith(again) or len(signature) != 64:
            return 0
        if not lines.endswith(b"\r\n") or not _HEX.issuperset(signature):
            return 0
        self._expected = signature.decode("ascii")
        self._begin_chunk(self._chunk_bytes)
        return len(lines)

    def _take_line(self, piece: memoryview, at: int, end: int) -> int:
        """Consume up to one line and act on it when whole. Returns the new position."""
        bound = CHUNK_LINE_BYTES_MAX if self._phase == _SIZE else TRAILER_BYTES_MAX
        window = bytes(piece[at : min(end, at + bound + 2)])
        cut = window.find(b"\n")
        line = self._line + (window if cut < 0 else window[:cut])
        if len(line) > bound:
            raise framing("A line of the aws-chunked coding is too long.")
        if cut < 0:
            self._line = line
            return at + len(window)
        self._line = b""
        self._act(line[:-1] if line[-1:] == b"\r" else line)
        return at + cut + 1

    def _act(self, line: bytes) -> None:
        if self._phase == _SIZE:
            self._start_chunk(line)
        elif self._phase == _DATA_END:
            if line:
                raise framing("A chunk is longer than its size.")
            self._phase = _SIZE
        elif self._phase == _SPARE_LINE:
            if line:
                raise framing("Bytes follow the last chunk.")
            self._phase = _DONE
        else:
            self._trailer_line(line)

    def _start_chunk(self, line: bytes) -> None:
        digits, _, extension = line.partition(b";")
        if not 1 <= len(digits) <= 15 or not _HEX.issuperset(digits):
            raise framing("A chunk size is malformed.")
        size = int(digits, 16)
        if self._seed is not None:
            name, _, value = extension.partition(b"=")
            if name != b"chunk-signature" or len(value) != 64 or not _HEX.issuperset(value):
                raise framing("A chunk has no valid chunk-signature.")
            self._expected = value.decode("ascii")
            self._again = b"\r\n%s;chunk-signature=" % digits
        self._begin_chunk(size)

    def _begin_chunk(self, size: int) -> None:
        self._total += size
        if self._total > self._length:
            raise ClientError(Reason.DECODED_LENGTH, "The decoded body is longer than x-amz-decoded-content-length.")
        self._remaining = self._chunk_bytes = size
        self._phase = _DATA
        if size == 0:
            self._check_whole()
            self._check_chunk()
            self._phase = _TRAILER

    def _check_chunk(self) -> None:
        """Verify the chunk that is now complete and move the chain on."""
        seed = self._seed
        if seed is None:
            return
        text = canonical.chunk_text(seed.date, seed.scope, self._previous, self._digest.hexdigest())
        self._digest = sha256()
        self._compare(seed.signing_key.sign(text), self._expected, "The chunk signature does not match.")

    def _check_whole(self) -> None:
        """Verify the chunks that were left to be hashed together."""
        whole, seed = self._whole, self._seed
        if not whole or self._lanes is None or seed is None:
            return
        for (_, expected), digest in zip(whole, self._lanes.sha256_all([data for data, _ in whole]), strict=True):
            text = canonical.chunk_text(seed.date, seed.scope, self._previous, digest.hex())
            self._compare(seed.signing_key.sign(text), expected, "The chunk signature does not match.")
        whole.clear()

    def _compare(self, signature: str, expected: str, message: str) -> None:
        if not hmac.compare_digest(signature, expected):
            raise ClientError(Reason.CHUNK_SIGNATURE, message)
        self._previous = signature

    def _trailer_line(self, line: bytes) -> None:
        """Trailers up to the empty line; minio-go has one more: before the signature of the trailer, or at the end if there is none."""
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise ClientError(Reason.TRAILER, "The trailer is too long.")
        if not line:
            if self._seed is not None and self._with_trailer and self._phase == _TRAILER:
                if self._raw_trailers and self._raw_trailers[-1] == "":
                    raise ClientError(Reason.TRAILER, "The trailer has no signature.")
                self._raw_trailers.append("")
                return
            self._end_trailers()
            return
        if not self._with_trailer or self._phase == _LAST_LINE:
            raise framing("Unexpected bytes after the last chunk.")
        name_bytes, mark, value_bytes = line.partition(b":")
        name = name_bytes.decode("latin-1").lower().strip()
        if not mark or not name:
            raise ClientError(Reason.TRAILER, "A trailer line is malformed.")
        value = value_bytes.decode("latin-1").strip()
        if name == _SIGNATURE_TRAILER:
            self._check_trailer(value)
            return
        if name in self.trailers:
            raise ClientError(Reason.TRAILER, f"The trailer {name[:60]} is repeated.")
        self.trailers[name] = value
        self._raw_trailers.append(f"{name}:{value}\n")

    def _check_trailer(self, signature: str) -> None:
        seed = self._seed
        if seed is None:
            raise ClientError(Reason.TRAILER, "A trailer signature without signed chunks.")
        if len(signature) != 64 or not signature.isascii():
            raise ClientError(Reason.TRAILER, "x-amz-trailer-signature is malformed.")
        digest = sha256("".join(self._raw_trailers).encode("latin-1")).hexdigest()
        self._expected = signature
        text = canonical.trailer_text(seed.date, seed.scope, self._previous, digest)
        self._compare(seed.signing_key.sign(text), self._expected, "The trailer signature does not match.")
        self._phase = _LAST_LINE

    def _end_trailers(self) -> None:
        if self._seed is not None and self._with_trailer and self._phase != _LAST_LINE:
            raise ClientError(Reason.TRAILER, "The trailer has no signature.")
        if self._with_trailer and self.trailers.keys() != self._trailer_names:
            raise ClientError(Reason.TRAILER, "The trailers are not those announced in x-amz-trailer.")
        self._phase = _SPARE_LINE if self._seed is None and self._with_trailer else _DONE
