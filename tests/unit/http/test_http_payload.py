"""Payload readers: what is signed is what is handed out, and nothing ends well that does not verify."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from titans3.errors import ClientError, Reason
from titans3.http.authentication import AuthError, PayloadMode, Verified
from titans3.http.hashing import update_held
from titans3.http.payload import Payload, open_payload
from titans3.http.signing import SigningIdentity, encode_chunks

DATE = "20260131T120000Z"
IDENTITY = SigningIdentity("AK", "secret")
T = TypeVar("T")
SEED = "a" * 64
CRC = {"x-amz-checksum-crc32": "AAAAAA=="}


class MemoryBody:
    """A body whose pieces are mutable buffers, as the pool's are; counts what is out."""

    def __init__(self, data: bytes, piece_bytes: int) -> None:
        self._pieces = [bytearray(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
        self._data = data
        self.out = 0

    @property
    def length(self) -> int | None:
        return len(self._data)

    async def read_all(self, limit: int) -> bytes:
        return self._data

    async def next(self) -> memoryview | None:
        if not self._pieces:
            return None
        self.out += 1
        return memoryview(self._pieces.pop(0))

    def release(self, piece: memoryview) -> None:
        self.out -= 1


def verified(mode: PayloadMode, payload_hash: str = "") -> Verified:
    return Verified("AK", "us-east-1", "s3", DATE, IDENTITY.scope(DATE), SEED, IDENTITY.key(DATE), mode, payload_hash, False, ("host",))


def streaming(data: bytes, mode: PayloadMode, piece_bytes: int, chunk_bytes: int = 65536) -> tuple[MemoryBody, Payload]:
    trailers = None if mode is PayloadMode.SIGNED_CHUNKS else CRC
    wire = encode_chunks(
        data, mode, identity=IDENTITY, date=DATE, seed_signature=SEED, trailers=trailers, chunk_bytes=chunk_bytes
    )
    body = MemoryBody(wire, piece_bytes)
    fields = {b"x-amz-decoded-content-length": str(len(data)).encode(), b"x-amz-trailer": b"x-amz-checksum-crc32" if trailers else b""}
    return body, open_payload(body, verified(mode), fields)


async def drain(payload: Payload) -> bytes:
    out = bytearray()
    while (piece := await payload.next()) is not None:
        assert len(piece) > 0
        out += piece
        payload.release(piece)
    return bytes(out)


def run(awaitable: Awaitable[T]) -> T:
    async def inner() -> T:
        return await awaitable

    return asyncio.run(inner())


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER])
@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
@pytest.mark.parametrize("piece_bytes", [4099, 1 << 20])
def test_streams(mode: PayloadMode, size: int, piece_bytes: int) -> None:
    data = os.urandom(size)
    body, payload = streaming(data, mode, piece_bytes)
    assert payload.length == size
    assert run(drain(payload)) == data
    assert body.out == 0
    assert payload.trailers == ({} if mode is PayloadMode.SIGNED_CHUNKS else CRC)
    body, payload = streaming(data, mode, piece_bytes)
    assert run(payload.read_all(size)) == data
    assert body.out == 0


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
@pytest.mark.parametrize("whole", [True, False])
def test_hashed(size: int, whole: bool) -> None:
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    for claimed in (digest, digest.upper()):
        payload = open_payload(MemoryBody(data, 1 << 20), verified(PayloadMode.HASHED, claimed), {})
        assert run(payload.read_all(size) if whole else drain(payload)) == data
        assert payload.sha256 == digest
    payload = open_payload(MemoryBody(data, 1 << 20), verified(PayloadMode.HASHED, "0" * 64), {})
    with pytest.raises(ClientError) as caught:
        run(payload.read_all(size) if whole else drain(payload))
    assert caught.value.reason is Reason.BODY_SHA256


def test_the_end_is_not_given_before_the_last_chunk_is_proven() -> None:
    data = os.urandom(200_000)
    wire = bytearray(encode_chunks(data, PayloadMode.SIGNED_CHUNKS, identity=IDENTITY, date=DATE, seed_signature=SEED))
    wire[-10] ^= 1  # inside the signature of the last, empty chunk
    fields = {b"x-amz-decoded-content-length": b"200000"}
    payload = open_payload(MemoryBody(bytes(wire), 1 << 20), verified(PayloadMode.SIGNED_CHUNKS), fields)
    with pytest.raises(ClientError):
        run(drain(payload))


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER])
@pytest.mark.parametrize(("size", "chunk_bytes"), [(3_000_001, 65536), (900_000, 8192), (20_000, 1), (2_500_000, 10**6)])
@pytest.mark.parametrize("piece_bytes", [997, 1 << 20])
def test_chunks_of_any_size_cut_anywhere(mode: PayloadMode, size: int, chunk_bytes: int, piece_bytes: int) -> None:
    data = os.urandom(size)
    body, payload = streaming(data, mode, piece_bytes, chunk_bytes)
    assert run(drain(payload)) == data
    assert body.out == 0


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER])
@pytest.mark.parametrize("piece_bytes", [4099, 1 << 20])
def test_every_flipped_bit_is_found(mode: PayloadMode, piece_bytes: int) -> None:
    data = os.urandom(300_000)
    wire = streaming(data, mode, piece_bytes)[0]._data
    rng = random.Random(3)
    line = len(b"10000;chunk-signature=")
    second = wire.index(b"10000;", 65536)
    marked = [second - 2, second, second + 3, second + line, second + line + 63, wire.rindex(b"0;chunk-signature=") + 30, 0, 3]
    for at in [*marked, *(rng.randrange(len(wire)) for _ in range(40))]:
        bad = bytearray(wire)
        bad[at] ^= 1 << rng.randrange(5)
        fields = {b"x-amz-decoded-content-length": b"300000"}
        if mode is not PayloadMode.SIGNED_CHUNKS:
            fields[b"x-amz-trailer"] = b"x-amz-checksum-crc32"
        payload = open_payload(MemoryBody(bytes(bad), piece_bytes), verified(mode), fields)
        with pytest.raises(ClientError):
            run(drain(payload))


@pytest.mark.parametrize("raw", [b"", b"-1", b"1x", b"9" * 30])
def test_the_decoded_length_must_be_told(raw: bytes) -> None:
    fields = {b"x-amz-decoded-content-length": raw} if raw else {}
    with pytest.raises(ClientError) as caught:
        open_payload(MemoryBody(b"", 1), verified(PayloadMode.UNSIGNED_TRAILER), fields)
    assert caught.value.reason is Reason.DECODED_LENGTH


def test_anonymous_requests() -> None:
    wire = encode_chunks(b"abc", PayloadMode.UNSIGNED_TRAILER, identity=IDENTITY, date=DATE, seed_signature=SEED, trailers=CRC)
    fields = {
        b"x-amz-content-sha256": b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"x-amz-decoded-content-length": b"3",
        b"x-amz-trailer": b"x-amz-checksum-crc32",
    }
    assert run(open_payload(MemoryBody(wire, 99), None, fields).read_all(3)) == b"abc"
    assert run(open_payload(MemoryBody(b"abc", 99), None, {}).read_all(3)) == b"abc"
    for word in (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b"STREAMING-OTHER"):
        with pytest.raises(AuthError):
            open_payload(MemoryBody(wire, 99), None, {b"x-amz-content-sha256": word})


def test_read_all_has_a_limit() -> None:
    body, payload = streaming(bytes(1000), PayloadMode.SIGNED_CHUNKS, 100)
    with pytest.raises(ClientError) as caught:
        run(payload.read_all(999))
    assert caught.value.reason is Reason.TOO_LARGE
    assert body.out == 0


@pytest.mark.parametrize("size", [0, 1, 1983, 1984, 1985, 3968, 4096, 65_535, 65_536, 65_537, 200_000])
def test_a_digest_in_steps_is_that_of_the_whole(size: int) -> None:
    data, digest = os.urandom(size), hashlib.sha256()
    update_held(digest, data)
    assert digest.digest() == hashlib.sha256(data).digest()
