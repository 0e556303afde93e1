"""The object bytes of a request: decoded, and proven against what the signature promised.

Invariants
* ``next`` returns ``None`` only after everything was verified: length, SHA-256, chunk signatures, trailers. Until then a
  caller holds bytes that are not proven and must not commit them.
* Pieces keep the ownership rules of :class:`titans3.http.message.Body`; decoding moves data inside the piece, never to a new buffer.
* After ``defer`` the caller hashes what it takes, and calls ``prove`` behind the last byte, before it commits anything.
* Hashing more than HASH_INLINE_BYTES_MAX happens in the executor, where hashlib lets go of the GIL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol, TypeVar

import msgspec

from titans3.errors import ClientError, Reason
from titans3.http.authentication import PAYLOAD_MODES, AuthError, AuthReason, PayloadMode, Verified
from titans3.http.awschunked import AwsChunkedDecoder, ChunkSeed
from titans3.http.canonical import EMPTY_SHA256
from titans3.http.hashing import BodyHashing, Hash, update_held
from titans3.http.message import Body
from titans3.limits import CHUNKS_INLINE_MAX, HASH_INLINE_BYTES_MAX

T = TypeVar("T")
_FRAMING_BYTES = 4096  # of a small body in chunks, some


def open_payload(
    body: Body, verified: Verified | None, fields: dict[bytes, bytes], hashing: BodyHashing | None = None
) -> Payload:
    """The reader for a request's object bytes; ``verified=None`` for an anonymous request.

    Raises ClientError(DECODED_LENGTH) without a usable x-amz-decoded-content-length, AuthError(UNSUPPORTED) for an anonymous signed stream.
    """
    if verified is not None:
        mode, word = verified.payload, verified.payload_hash
    else:
        mode, word = _anonymous_mode(fields.get(b"x-amz-content-sha256", b"").decode("latin-1"))
    if mode is PayloadMode.UNSIGNED:
        return Payload(body, body.length, None, hashing)
    if mode is PayloadMode.HASHED:
        return Payload(body, body.length, None, hashing, word.lower(), sha256())
    raw = fields.get(b"x-amz-decoded-content-length", b"")
    if not raw.isdigit() or len(raw) > 18:
        raise ClientError(Reason.DECODED_LENGTH, "x-amz-decoded-content-length is missing or malformed.", missing=not raw)
    seed = None
    if mode is not PayloadMode.UNSIGNED_TRAILER:
        assert verified is not None
        seed = ChunkSeed(verified.signing_key, verified.date, verified.scope, verified.signature)
    batches = None if hashing is None else hashing.batches_for(int(raw))
    names = fields.get(b"x-amz-trailer", b"").decode("latin-1").lower().split(",")
    decoder = AwsChunkedDecoder(
        int(raw),
        seed,
        with_trailer=mode is not PayloadMode.SIGNED_CHUNKS,
        trailer_names=frozenset(name.strip() for name in names if name.strip()),
        lanes=None if batches is None else batches.lanes,
    )
    return Payload(body, int(raw), decoder, hashing)


def _anonymous_mode(word: str) -> tuple[PayloadMode, str]:
    mode = PAYLOAD_MODES.get(word)
    if mode is not None:
        if mode in (PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER):
            raise AuthError(AuthReason.UNSUPPORTED, "Signed chunks need a signed request.")
        return mode, word
    if word.startswith("STREAMING-"):
        raise AuthError(AuthReason.UNSUPPORTED, f"The x-amz-content-sha256 value {word[:60]!r} is not supported.")
    return (PayloadMode.HASHED, word) if len(word) == 64 else (PayloadMode.UNSIGNED, word)


class Proof(Protocol):
    """Takes every byte once, in order. Raises ClientError when one is not what was signed."""

    def update(self, data: memoryview, /) -> None: ...


class Payload(msgspec.Struct, eq=False):
    """A :class:`Body` of decoded bytes. ``trailers`` is complete once the end was read.

    ``_hash``: the expected SHA-256 in hex, empty for none; ``_digest`` computes it.
    """

    _body: Body
    _length: int | None
    _decoder: AwsChunkedDecoder | None
    _hashing: BodyHashing | None
    _hash: str = ""
    _digest: Hash | None = None
    _ended: bool = False
    _is_deferred: bool = False

    def __repr__(self) -> str:
        return f"Payload({self._length})"

    @property
    def length(self) -> int | None:
        """Decoded bytes; ``None`` only for plain chunked transfer coding."""
        return self._length

    @property
    def trailers(self) -> dict[str, str]:
        """Lower-case trailing headers of aws-chunked, without the signature; empty before the end and in other modes."""
        return self._decoder.trailers if self._decoder is not None and self._ended else {}

    @property
    def sha256(self) -> str | None:
        """Hex SHA-256 of the whole payload if it was computed and matched, so nobody hashes it again."""
        return self._hash if self._ended and self._hash else None

    async def read_all(self, limit: int) -> bytes:
        """The whole payload. Raises ClientError(TOO_LARGE) past ``limit`` bytes, and whatever verification finds."""
        if self._length is not None and self._length > limit:
            raise ClientError(Reason.TOO_LARGE, limit=limit, length=self._length)
        if self._decoder is None:
            data = await self._body.read_all(limit)
            if self._digest is not None:
                if len(data) <= HASH_INLINE_BYTES_MAX:
                    update_held(self._digest, data)
                else:
                    await self._hash_piece(memoryview(data))
            self._end()
            return data
        wire = self._body.length
        if wire is not None and wire <= HASH_INLINE_BYTES_MAX + _FRAMING_BYTES:
            raw = await self._body.read_all(wire)
            simple = self._decoder.decode_simple(raw)
            if simple is None:
                found = self._decoder.decode(memoryview(raw))
                simple = bytes(found[0]) if len(found) == 1 else b"".join(found)
            self._end()
            return simple
        pieces = bytearray()
        while (piece := await self.next()) is not None:
            if len(pieces) + len(piece) > limit:
                self.release(piece)
                raise ClientError(Reason.TOO_LARGE, limit=limit)
            if self._ended_with(piece, pieces):
                data = bytes(piece)
                self.release(piece)
                if await self.next() is None:
                    return data
            pieces += piece
            self.release(piece)
        return bytes(pieces)

    def _ended_with(self, piece: memoryview, pieces: bytearray) -> bool:
        """Whether this first piece is the whole payload, so that it is copied once."""
        return not pieces and len(piece) == self._length

    async def next(self) -> memoryview | None:
        """Next decoded piece (at most BODY_BUFFER_BYTES, never empty); ``None`` at the verified end. Hand it back with ``release``."""
        while not self._ended:
            piece = await self._body.next()
            if piece is None:
                if not self._is_deferred:
                    self._end()
                return None
            if self._decoder is not None:
                try:
                    found = await self._decode(piece)
                except ClientError:
                    self._body.release(piece)
                    raise
                if found is None:
                    self._body.release(piece)
                    continue
                return found
            if self._digest is not None and not self._is_deferred:
                await self._hash_piece(piece)
            return piece
        return None

    def defer(self) -> Proof | None:
        """From the next piece on the caller updates this with all that ``next`` gives, in order, in a thread of its own choice.

        Then ``prove`` says whether it is what was signed. ``None``: nothing of it was.
        """
        self._is_deferred = True
        return self._decoder.defer() if self._decoder is not None else self._digest

    def prove(self) -> None:
        """After ``defer``, when everything was updated: raises what ``next`` would have raised at the end."""
        if not self._ended:
            self._end()

    def release(self, piece: memoryview) -> None:
        """Hand a piece back to the pool."""
        self._body.release(piece)

    async def _hash_piece(self, piece: memoryview) -> None:
        assert self._digest is not None
        if len(piece) <= HASH_INLINE_BYTES_MAX:
            update_held(self._digest, piece)
        else:
            await self._in_thread(self._digest.update, piece)

    async def _decode(self, piece: memoryview) -> memoryview | None:
        assert self._decoder is not None
        if self._is_deferred:
            found, at = self._decoder.parse(piece, 0, CHUNKS_INLINE_MAX)
            if at < len(piece):  # a body of small chunks: a thread goes on
                found += (await self._in_thread(self._decoder.parse, piece, at, len(piece)))[0]
            return _moved_together(piece, found)
        if len(piece) <= HASH_INLINE_BYTES_MAX + _FRAMING_BYTES:
            return decoded_in_place(self._decoder, piece)
        return await self._in_thread(decoded_in_place, self._decoder, piece)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        executor = None if self._hashing is None else self._hashing.executor
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def _end(self) -> None:
        """Everything is in: judge it."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._digest is not None:
            found = EMPTY_SHA256 if self._length == 0 else self._digest.hexdigest()
            if found != self._hash:
                raise ClientError(
                    Reason.BODY_SHA256,
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                    client=self._hash,
                    computed=found,
                )
        self._ended = True


def decoded_in_place(decoder: AwsChunkedDecoder, piece: memoryview) -> memoryview | None:
    """Decode a piece and move its data together at its front; ``None`` if it held framing alone."""
    return _moved_together(piece, decoder.decode(piece))


def _moved_together(piece: memoryview, found: list[memoryview]) -> memoryview | None:
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    if piece.readonly:
        return memoryview(b"".join(found))
    at = 0
    for data in found:
        size = len(data)
        piece[at : at + size] = data
        at += size
    return piece[:at]
