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
from titans3.http.hashing import BodyHashing, update_held
from titans3.http.payload import Payload, open_payload
from titans3.http.signing import SigningIdentity, encode_chunks
from titans3.lanes import digests
from titans3.lanes.batches import Md5Batches
from titans3.long_work import LongWork

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


def hashing_in_lanes() -> BodyHashing:
    hashing, lanes = BodyHashing(), digests.load()
    hashing.batches = None if lanes is None else Md5Batches(lanes, None, LongWork())
    return hashing


def streaming(
    data: bytes, mode: PayloadMode, piece_bytes: int, chunk_bytes: int = 65536, *, flip: int = -1, hashing: BodyHashing | None = None
) -> tuple[MemoryBody, Payload]:
    """``flip``: a byte of the data that arrives as another one."""
    trailers = None if mode is PayloadMode.SIGNED_CHUNKS else CRC
    wire = encode_chunks(
        data, mode, identity=IDENTITY, date=DATE, seed_signature=SEED, trailers=trailers, chunk_bytes=chunk_bytes
    )
    if flip >= 0:
        changed = bytearray(wire)
        at = wire.index(data[flip : flip + 40])
        changed[at] ^= 0x80
        wire = bytes(changed)
    body = MemoryBody(wire, piece_bytes)
    fields = {b"x-amz-decoded-content-length": str(len(data)).encode(), b"x-amz-trailer": b"x-amz-checksum-crc32" if trailers else b""}
    return body, open_payload(body, verified(mode), fields, hashing)


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


async def drain_deferred(payload: Payload) -> bytes:
    """As who writes a large body does: hashes in a thread while the next piece comes."""
    proof = payload.defer()
    out, loop, updating = bytearray(), asyncio.get_running_loop(), None
    held: memoryview | None = None
    while (piece := await payload.next()) is not None:
        if updating is not None and held is not None:
            await updating
            payload.release(held)
        out += piece
        held = piece
        updating = loop.run_in_executor(None, proof.update, piece) if proof is not None else loop.run_in_executor(None, bytes)
    if updating is not None and held is not None:
        await updating
        payload.release(held)
    payload.prove()
    return bytes(out)


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER])
@pytest.mark.parametrize(("size", "chunk_bytes"), [(0, 65536), (3_000_001, 65536), (900_000, 20_000), (400_000, 8192), (2_500_000, 10**6)])
@pytest.mark.parametrize("piece_bytes", [9973, 1 << 20])
@pytest.mark.parametrize("with_lanes", [False, True])
def test_who_takes_the_pieces_may_hash_them(mode: PayloadMode, size: int, chunk_bytes: int, piece_bytes: int, with_lanes: bool) -> None:
    data = os.urandom(size)
    body, payload = streaming(data, mode, piece_bytes, chunk_bytes, hashing=hashing_in_lanes() if with_lanes else None)
    assert run(drain_deferred(payload)) == data
    assert body.out == 0
    assert payload.trailers == ({} if mode is PayloadMode.SIGNED_CHUNKS else CRC)


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER])
@pytest.mark.parametrize("piece_bytes", [300_000, 1 << 20, 1 << 22])
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("with_lanes", [False, True])
def test_one_changed_bit_of_a_large_body_is_found(mode: PayloadMode, piece_bytes: int, deferred: bool, with_lanes: bool) -> None:
    data = os.urandom(1_600_000)
    hashing = hashing_in_lanes() if with_lanes else None
    for flip in (0, 65_535 - 40, 65_536, 290_000, 1_048_000, 1_500_000, 1_599_950):
        _, payload = streaming(data, mode, piece_bytes, flip=flip, hashing=hashing)
        with pytest.raises(ClientError) as caught:
            run((drain_deferred if deferred else drain)(payload))
        assert caught.value.reason is Reason.CHUNK_SIGNATURE, flip


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_hash_of_all_may_be_left_to_who_takes_the_pieces(size: int) -> None:
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    payload = open_payload(MemoryBody(data, 1 << 20), verified(PayloadMode.HASHED, digest), {})
    assert run(drain_deferred(payload)) == data
    assert payload.sha256 == digest
    payload = open_payload(MemoryBody(data, 1 << 20), verified(PayloadMode.HASHED, "0" * 64), {})
    with pytest.raises(ClientError) as caught:
        run(drain_deferred(payload))
    assert caught.value.reason is Reason.BODY_SHA256


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.HASHED])
def test_who_says_that_he_hashes_and_does_not_has_proven_nothing(mode: PayloadMode) -> None:
    data = os.urandom(200_000)
    if mode is PayloadMode.HASHED:
        payload = open_payload(MemoryBody(data, 1 << 20), verified(mode, hashlib.sha256(data).hexdigest()), {})
    else:
        _, payload = streaming(data, mode, 1 << 20)

    async def careless() -> None:
        payload.defer()
        while (piece := await payload.next()) is not None:
            payload.release(piece)
        payload.prove()

    with pytest.raises(ClientError):
        run(careless())
    assert payload.trailers == {}
    assert payload.sha256 is None


def test_a_body_of_tiny_chunks_does_not_keep_the_loop() -> None:
    """A mebibyte of chunks of one byte is taken apart in a thread, but for the first of them: the loop turns meanwhile."""
    data = os.urandom(12_000)
    _, payload = streaming(data, PayloadMode.SIGNED_CHUNKS, 1 << 21, 1)
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def take() -> memoryview | None:
        payload.defer()
        other = asyncio.ensure_future(turning())
        try:
            return await payload.next()
        finally:
            other.cancel()

    piece = run(take())
    assert piece is not None
    assert bytes(piece) == data
    assert turns > 1
