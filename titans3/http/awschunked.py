"""aws-chunked content coding, taken off and verified. Hot for every signed streaming upload: ``bench/micro/http_floor.py``.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and .../sigv4-streaming-trailers.html

Invariants
* Pure. ``decode`` takes a piece of any size and returns slices of it that are object data; nothing is copied but size lines.
* A chunk's signature is checked by the end of the piece that its last byte is in, chunks that lie in it as a whole side by side if
  there are ``lanes``; data handed out before is proven only once ``finish`` returned. After ``defer`` whoever takes the pieces proves
  them with ``ChunkChain.update``, and ``finish`` comes after the last of them.
* The signatures are chained: seed, chunks, the empty last chunk, then the trailer. Lines may end in LF alone, as minio-go's trailers do.
* The decoded length equals x-amz-decoded-content-length; trailers are exactly those that x-amz-trailer announced.
"""

from __future__ import annotations

import hmac
import struct
from collections import deque
from hashlib import sha256
from typing import TypeAlias

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
_EVEN_FIRST, _EVEN_MAX = 64, 1024  # chunks that are looked at together: at first, and when they have been alike
_NOTHING = memoryview(b"")
_Run: TypeAlias = tuple[memoryview, int, int, int]  # a piece, where chunks behind one another begin and end in it, the size of each


class ChunkSeed:
    """What the chain of chunk signatures starts from; all of it is in :class:`Verified`."""

    __slots__ = ("date", "scope", "signature", "signing_key")

    def __init__(self, signing_key: canonical.SigningKey, date: str, scope: str, signature: str) -> None:
        self.signing_key = signing_key
        self.date = date
        self.scope = scope
        self.signature = signature

    def follow(self, previous: str, digest: str, sent: str) -> str:
        """The signature of a chunk of this SHA-256 in hex, behind one that is signed ``previous``. Raises ClientError(CHUNK_SIGNATURE)."""
        computed = self.signing_key.sign(canonical.chunk_text(self.date, self.scope, previous, digest))
        if not hmac.compare_digest(computed, sent):
            raise ClientError(Reason.CHUNK_SIGNATURE, "The chunk signature does not match.")
        return computed

    def follow_all(self, previous: str, digests: list[str], sent: list[str]) -> str:
        """The same for chunks one behind the other: the signature of the last one."""
        ends = [canonical.CHUNK_END + digest for digest in digests]
        computed = self.signing_key.sign_chain(canonical.chunk_start(self.date, self.scope), previous, ends)
        if not hmac.compare_digest("".join(computed), "".join(sent)) or len(computed) != len(sent):
            raise ClientError(Reason.CHUNK_SIGNATURE, "The chunk signature does not match.")
        return computed[-1] if computed else previous


class ChunkChain:
    """The chain of signatures over the chunks of a body. The decoder says what comes (``expect``), ``update`` proves the bytes.

    ``update`` may run in a thread while the decoder takes the next piece, one call at a time.
    """

    __slots__ = ("_digest", "_lanes", "_parts", "_previous", "_seed", "_trailer")

    def __init__(self, seed: ChunkSeed, lanes: Lanes | None) -> None:
        self._seed = seed
        self._lanes = lanes
        self._previous = seed.signature
        self._digest = sha256()
        self._parts: deque[tuple[int, bool, list[str]]] = deque()
        self._trailer: bytes | None = None

    def expect(self, size: int, starts: bool, signature: str) -> None:
        """The next ``size`` bytes begin a chunk or go on with one, and end it if there is a ``signature``."""
        self._parts.append((size, starts, [signature] if signature else []))

    def expect_even(self, size: int, signatures: list[str]) -> None:
        """The next chunks are of ``size`` bytes each, and have these signatures."""
        self._parts.append((size, True, signatures))

    def update(self, *pieces: memoryview) -> None:
        """Prove what was expected of these bytes, each in one piece as a whole, and everything without bytes that follows them.

        Raises ClientError(CHUNK_SIGNATURE).
        """
        parts, left = self._parts, iter(pieces)
        piece, at = _NOTHING, 0
        runs: list[_Run] = []
        expected: list[str] = []  # the signatures of their chunks
        while parts:
            size, starts, signatures = parts[0]
            if size > len(piece) - at:
                following = next(left, None)
                if following is None:
                    break
                piece, at = following, 0
                continue
            parts.popleft()
            if starts and signatures and size:
                count = len(signatures)
                while here := min(count, (len(piece) - at) // size):
                    end = at + here * size
                    if runs and runs[-1][0] is piece and runs[-1][3] == size:
                        runs[-1] = (piece, runs[-1][1], end, size)
                    else:
                        runs.append((piece, at, end, size))
                    at = end
                    count -= here
                    if at == len(piece) and count:
                        piece, at = next(left, _NOTHING), 0
                taken = len(signatures) - count
                expected += signatures[:taken]
                if count:
                    parts.appendleft((size, True, signatures[taken:]))
                continue
            self._prove(runs, expected)
            if self._trailer is not None and not size and not starts:
                self._check_trailer(self._trailer, signatures[0])
                continue
            self._digest.update(piece[at : at + size])
            at += size
            if signatures:
                digest, self._digest = self._digest.hexdigest(), sha256()
                self._check([digest], signatures)
        self._prove(runs, expected)

    def _prove(self, runs: list[_Run], expected: list[str]) -> None:
        """Chunks that are here as a whole, side by side if there are lanes; then the lists are empty."""
        if not runs:
            return
        digests: list[str] = []
        for piece, begin, end, size in runs:
            if self._lanes is None:
                digests += [sha256(piece[at : at + size]).hexdigest() for at in range(begin, end, size)]
            else:
                digests += [digest.hex() for digest in self._lanes.sha256_each(piece[begin:end], size)]
        self._check(digests, expected)
        runs.clear()
        expected.clear()

    def _check(self, digests: list[str], signatures: list[str]) -> None:
        """The next chunks, of these SHA-256 in hex, have to have the signatures. Raises ClientError(CHUNK_SIGNATURE)."""
        self._previous = self._seed.follow_all(self._previous, digests, signatures)

    def expect_trailer(self, lines: bytes, signature: str) -> None:
        """The end of the chain, proven behind everything else."""
        self._trailer = lines
        self._parts.append((0, False, [signature]))

    def finish(self) -> None:
        """Everything was given to ``update``: prove what has no bytes. Raises ClientError(CHUNK_SIGNATURE, BODY_FRAMING)."""
        self.update()
        if self._parts:
            raise framing("Bytes of the body were not proven.")

    def _check_trailer(self, lines: bytes, signature: str) -> None:
        seed = self._seed
        text = canonical.trailer_text(seed.date, seed.scope, self._previous, sha256(lines).hexdigest())
        if not hmac.compare_digest(seed.signing_key.sign(text), signature):
            raise ClientError(Reason.CHUNK_SIGNATURE, "The trailer signature does not match.")


def framing(message: str) -> ClientError:
    """The aws-chunked framing is broken."""
    return ClientError(Reason.BODY_FRAMING, message)


class AwsChunkedDecoder:
    """One body. ``seed=None``: unsigned chunks. ``trailer_names`` are lower-case names announced by x-amz-trailer."""

    __slots__ = (
        "_again",
        "_chain",
        "_chunk_bytes",
        "_even",
        "_expected",
        "_is_deferred",
        "_lanes",
        "_length",
        "_line",
        "_phase",
        "_raw_trailers",
        "_remaining",
        "_seed",
        "_total",
        "_trailer_bytes",
        "_trailer_names",
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
        self._chain: ChunkChain | None = None
        self._is_deferred = False
        self._with_trailer = with_trailer
        self._trailer_names = trailer_names
        self._phase = _SIZE
        self._line = b""
        self._remaining = self._chunk_bytes = 0
        self._again = b""  # the end of this chunk and how the line of a next one of its size would begin
        self._total = 0
        self._even = _EVEN_FIRST
        self._expected = ""
        self._raw_trailers: list[str] = []
        self._trailer_bytes = 0
        self._lanes = lanes

    def defer(self) -> ChunkChain | None:
        """From the next piece on the caller proves what ``decode`` gives out: ``update`` with all of it, in order. ``None``: not signed."""
        self._is_deferred = True
        return self._proof()

    def _proof(self) -> ChunkChain | None:
        if self._chain is None and self._seed is not None:
            self._chain = ChunkChain(self._seed, self._lanes)
        return self._chain

    def decode(self, piece: memoryview) -> list[memoryview]:
        """The data slices of ``piece`` in order. Raises ClientError (BODY_FRAMING, CHUNK_SIGNATURE, TRAILER, DECODED_LENGTH)."""
        found, _ = self.parse(piece, 0, len(piece))
        if self._chain is not None and not self._is_deferred:
            self._chain.update(*found)
        return found

    def parse(self, piece: memoryview, at: int, most: int) -> tuple[list[memoryview], int]:
        """At most ``most`` data slices behind ``at``, and where they end; proves nothing. Raises as ``decode``, but for signatures."""
        end = len(piece)
        found: list[memoryview] = []
        chain = self._proof()
        while at < end:
            if self._phase == _DATA:
                if len(found) == most:
                    break
                take = min(self._remaining, end - at)
                found.append(piece[at : at + take])
                at += take
                starts = self._remaining == self._chunk_bytes
                self._remaining -= take
                if self._remaining == 0:
                    self._phase = _DATA_END
                if chain is not None:
                    chain.expect(take, starts, "" if self._remaining else self._expected)
            elif self._phase == _DONE:
                raise framing("Bytes follow the last chunk.")
            elif self._phase == _DATA_END and (even := self._take_even(piece, at, most - len(found))):
                found += even
                at += len(even) * (len(self._again) + (66 if self._seed is not None else 0) + self._chunk_bytes)
            else:
                at = self._take_line(piece, at, end)
        return found, at

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
        digest = sha256()
        update_held(digest, data)
        sent, sent_last = line[signed:-2], tail[len(_LAST) : -4]
        if not (sent.isalnum() and sent_last.isalnum()):
            raise framing("A chunk has no valid chunk-signature.")
        previous = seed.follow(seed.signature, digest.hexdigest(), sent.decode("ascii"))
        seed.follow(previous, canonical.EMPTY_SHA256, sent_last.decode("ascii"))
        self._total, self._phase = length, _DONE
        return data

    def finish(self) -> None:
        """The body has ended, and all of it was proven. Raises ClientError if it ended early or its length is not the announced one."""
        if self._is_deferred and self._chain is not None:
            self._chain.finish()
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

    def _take_even(self, piece: memoryview, at: int, most: int) -> list[memoryview]:
        """Consume the end of a chunk, and up to ``most`` chunks of its size that are here as a whole behind it: nearly all are alike.

        Their data; empty if nothing was consumed.
        """
        again, size = self._again, self._chunk_bytes
        if not again or self._line:
            return []
        signed = self._seed is not None
        line_bytes = len(again) + (66 if signed else 0)
        stride = line_bytes + size
        count = min((len(piece) - at) // stride, most, self._even, (self._length - self._total) // size)
        if count <= 0:
            return []
        self._even = max(1, count // 8)  # if they are not alike: no stranger makes us look at the same ones again and again
        frames = struct.iter_unpack(f"{len(again)}s64s2s{size}x" if signed else f"{len(again)}s{size}x", piece[at : at + count * stride])
        begins, *rest = zip(*frames, strict=True)
        if begins.count(again) != count:
            return []
        if signed:
            signatures, ends = rest
            text = b"".join(signatures)
            if ends.count(b"\r\n") != count or not _HEX.issuperset(text):
                return []
            chain = self._proof()
            assert chain is not None
            chain.expect_even(size, [signature.decode("ascii") for signature in signatures])
        self._even = min(2 * count, _EVEN_MAX)
        self._total += count * size
        first = at + line_bytes
        return [piece[begin : begin + size] for begin in range(first, first + count * stride, stride)]

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
        else:
            self._again = b"" if extension else b"\r\n%s\r\n" % digits
        self._begin_chunk(size)

    def _begin_chunk(self, size: int) -> None:
        self._total += size
        if self._total > self._length:
            raise ClientError(Reason.DECODED_LENGTH, "The decoded body is longer than x-amz-decoded-content-length.")
        self._remaining = self._chunk_bytes = size
        self._phase = _DATA
        if size == 0:
            if (chain := self._proof()) is not None:
                chain.expect(0, True, self._expected)
            self._phase = _TRAILER

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
        chain = self._proof()
        assert chain is not None
        chain.expect_trailer("".join(self._raw_trailers).encode("latin-1"), signature)
        self._phase = _LAST_LINE

    def _end_trailers(self) -> None:
        if self._seed is not None and self._with_trailer and self._phase != _LAST_LINE:
            raise ClientError(Reason.TRAILER, "The trailer has no signature.")
        if self._with_trailer and self.trailers.keys() != self._trailer_names:
            raise ClientError(Reason.TRAILER, "The trailers are not those announced in x-amz-trailer.")
        self._phase = _SPARE_LINE if self._seed is None and self._with_trailer else _DONE
