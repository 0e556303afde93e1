"""Both chunked codings: any split of the bytes gives the same result; every broken framing gives the one named error."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.errors import ClientError, Reason
from titans3.http.authentication import PayloadMode
from titans3.http.awschunked import AwsChunkedDecoder, ChunkSeed
from titans3.http.chunked import ChunkedDecoder
from titans3.http.payload import decoded_in_place
from titans3.http.signing import SigningIdentity, encode_chunks
from titans3.lanes import digests
from titans3.limits import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX

DATE = "20260131T120000Z"
IDENTITY = SigningIdentity("AK", "secret")
SEED = hashlib.sha256(b"seed").hexdigest()
LANES = digests.load()
SIGNED = (PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(at)]


def http_chunked(pieces: list[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + end


@given(st.binary(max_size=3000), st.lists(st.integers(0, 9999)), st.lists(st.integers(0, 9999)), st.integers(1, 500))
@settings(max_examples=200, deadline=None)
def test_http_chunked_any_split(data: bytes, chunks: list[int], cuts: list[int], room: int) -> None:
    wire = http_chunked(split(data, chunks), b"0\r\nX-Trailer: 1\r\n\r\n") + b"GET /next"
    decoder = ChunkedDecoder()
    out = bytearray()
    rest = b""
    for piece in split(wire, cuts):
        rest += piece
        while rest and not decoder.done:
            target = bytearray(room)
            used, made = decoder.decode(memoryview(rest), memoryview(target))
            out += target[:made]
            rest = rest[used:]
            assert used or not rest
    assert decoder.done
    assert bytes(out) == data
    assert rest == b"GET /next"


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n", b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1_0\r\n", b"5\n", b"1\r\nab\r\n", b"1\r\na\n",
        b"1" * 16 + b"\r\n", b"1;" + b"x" * (CHUNK_LINE_BYTES_MAX + 8), b"1;x\ry\r\n", b"0\r\nno colon\r\n",
        b"0\r\n" + b"a: b\r\n" * TRAILER_BYTES_MAX, b"0\r\na: " + b"b" * (TRAILER_BYTES_MAX + 8),
    ],
)  # fmt: skip
def test_http_chunked_refusals(wire: bytes) -> None:
    for step in (1, len(wire)):
        decoder = ChunkedDecoder()
        with pytest.raises(ClientError) as caught:
            for at in range(0, len(wire), step):
                decoder.decode(memoryview(wire[at : at + step]), None)
        assert caught.value.reason is Reason.BODY_FRAMING


def make(mode: PayloadMode, length: int, names: frozenset[str] = frozenset()) -> AwsChunkedDecoder:
    seed = ChunkSeed(IDENTITY.key(DATE), DATE, IDENTITY.scope(DATE), SEED) if mode in SIGNED else None
    return AwsChunkedDecoder(length, seed, with_trailer=mode is not PayloadMode.SIGNED_CHUNKS, trailer_names=names)


def encode(data: bytes, mode: PayloadMode, *, chunk: int = 100, trailers: dict[str, str] | None = None, lf: bool = False) -> bytes:
    return encode_chunks(
        data, mode, identity=IDENTITY, date=DATE, seed_signature=SEED, chunk_bytes=chunk, trailers=trailers, line_feed_trailers=lf
    )


def run(decoder: AwsChunkedDecoder, pieces: list[bytes], *, writable: bool = True) -> bytes:
    out = bytearray()
    for piece in pieces:
        found = decoded_in_place(decoder, memoryview(bytearray(piece)) if writable else memoryview(piece))
        out += found or b""
    decoder.finish()
    return bytes(out)


@given(
    st.sampled_from([PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER]),
    st.binary(max_size=3000),
    st.integers(1, 700),
    st.lists(st.integers(0, 9999)),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_aws_chunked_any_split(
    mode: PayloadMode, data: bytes, chunk: int, cuts: list[int], line_feeds: bool, writable: bool
) -> None:
    trailers = {} if mode is PayloadMode.SIGNED_CHUNKS else {"x-amz-checksum-crc32": "AAAAAA=="}
    wire = encode(data, mode, chunk=chunk, trailers=trailers, lf=line_feeds)
    decoder = make(mode, len(data), frozenset(trailers))
    assert run(decoder, split(wire, cuts), writable=writable) == data
    assert decoder.trailers == trailers


@given(st.sampled_from(SIGNED), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_never_passes_as_other_data(mode: PayloadMode, at: int, flip: int) -> None:
    data = bytes(range(250))
    trailers = {} if mode is PayloadMode.SIGNED_CHUNKS else {"x-amz-checksum-crc32": "AAAAAA=="}
    wire = bytearray(encode(data, mode, trailers=trailers))
    wire[at % len(wire)] ^= flip
    decoder = make(mode, len(data), frozenset(trailers))
    try:
        out = run(decoder, [bytes(wire)])
    except ClientError:
        return
    assert out == data  # only spelling changed: the case of a hex digit or a name, the carriage return of a line
    assert decoder.trailers == trailers


@pytest.mark.parametrize("mode", [PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER])
def test_a_truncated_stream_is_short(mode: PayloadMode) -> None:
    data = bytes(250)
    trailers = {} if mode is PayloadMode.SIGNED_CHUNKS else {"x-amz-checksum-crc32": "AAAAAA=="}
    wire = encode(data, mode, trailers=trailers)
    for cut in range(len(wire) - 2):
        with pytest.raises(ClientError) as caught:
            run(make(mode, len(data), frozenset(trailers)), [wire[:cut]])
        assert caught.value.reason in (Reason.BODY_SHORT, Reason.TRAILER), cut


@pytest.mark.parametrize(
    ("wire", "length", "reason"),
    [
        (b"3\r\nabc\r\n0\r\n\r\n", 2, Reason.DECODED_LENGTH),
        (b"3\r\nabc\r\n0\r\n\r\n", 4, Reason.DECODED_LENGTH),
        (b"3\r\nabc\r\n0\r\n\r\nmore", 3, Reason.BODY_FRAMING),
        (b"3\r\nabcd\r\n0\r\n\r\n", 3, Reason.BODY_FRAMING),
        (b"x\r\n", 3, Reason.BODY_FRAMING),
        (b"3;" + b"e" * 2000, 3, Reason.BODY_FRAMING),
        (b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", 0, Reason.TRAILER),
        (b"0\r\nno colon\r\n\r\n", 0, Reason.TRAILER),
        (b"0\r\n" + b"a:b\r\n" * 5000, 0, Reason.TRAILER),
        (b"0\r\nx-amz-trailer-signature:" + b"a" * 64 + b"\r\n\r\n", 0, Reason.TRAILER),
    ],
)
def test_aws_chunked_refusals(wire: bytes, length: int, reason: Reason) -> None:
    with pytest.raises(ClientError) as caught:
        run(make(PayloadMode.UNSIGNED_TRAILER, length), [wire])
    assert caught.value.reason is reason


def test_chunks_cannot_be_reordered_and_the_seed_counts() -> None:
    data = bytes(200)
    wire = encode(data, PayloadMode.SIGNED_CHUNKS)
    size = wire.index(b"\r\n") + 2 + 100 + 2
    swapped = wire[size : 2 * size] + wire[:size] + wire[2 * size :]
    other_seed = ChunkSeed(IDENTITY.key(DATE), DATE, IDENTITY.scope(DATE), "0" * 64)
    for decoder, stream in (
        (make(PayloadMode.SIGNED_CHUNKS, 200), swapped),
        (AwsChunkedDecoder(200, other_seed, with_trailer=False), wire),
    ):
        with pytest.raises(ClientError) as caught:
            run(decoder, [stream])
        assert caught.value.reason is Reason.CHUNK_SIGNATURE


def test_a_signed_trailer_needs_its_signature() -> None:
    wire = encode(b"abc", PayloadMode.SIGNED_CHUNKS_TRAILER, trailers={"x-amz-checksum-crc32": "AAAAAA=="})
    cut = wire.index(b"x-amz-trailer-signature")
    for stream in (wire[:cut] + b"\r\n\r\n", wire.replace(b"AAAAAA==", b"AAAAAB==")):
        with pytest.raises(ClientError) as caught:
            run(make(PayloadMode.SIGNED_CHUNKS_TRAILER, 3, frozenset(("x-amz-checksum-crc32",))), [stream])
        assert caught.value.reason in (Reason.TRAILER, Reason.CHUNK_SIGNATURE)


@given(st.lists(st.integers(0, 9999)))
@settings(max_examples=50, deadline=None)
def test_minio_go_ends_unsigned_trailers_with_one_more_empty_line(cuts: list[int]) -> None:
    wire = b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\n\r\n\r\n"
    decoder = make(PayloadMode.UNSIGNED_TRAILER, 3, frozenset(("x-amz-checksum-crc32",)))
    assert run(decoder, split(wire, cuts)) == b"abc"
    assert decoder.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}
    for more in (b"\r\n", b"x"):
        with pytest.raises(ClientError) as caught:
            run(make(PayloadMode.UNSIGNED_TRAILER, 3, frozenset(("x-amz-checksum-crc32",))), split(wire + more, cuts))
        assert caught.value.reason is Reason.BODY_FRAMING


@given(
    st.sampled_from((100, 16384, 20000, 65536)),
    st.integers(0, 40),
    st.integers(0, 99),
    st.lists(st.integers(0, 10**7), max_size=4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whoever_takes_the_pieces_proves_chunks_side_by_side(chunk: int, count: int, rest: int, cuts: list[int], is_changed: bool) -> None:
    """Many chunks of one size in pieces of any size, their data moved together, proven afterwards, with lanes where there are any."""
    data = hashlib.shake_128(b"%d" % chunk).digest(chunk * count + rest)
    wire = bytearray(encode(data, PayloadMode.SIGNED_CHUNKS, chunk=chunk))
    if is_changed and data:
        wire[wire.index(b"\r\n") + 2 + sum(cuts) % min(chunk, len(data))] ^= 1
    decoder = AwsChunkedDecoder(len(data), ChunkSeed(IDENTITY.key(DATE), DATE, IDENTITY.scope(DATE), SEED), with_trailer=False, lanes=LANES)
    proof = decoder.defer()
    assert proof is not None
    out = bytearray()

    def take() -> None:
        for piece in split(bytes(wire), cuts):
            found = decoded_in_place(decoder, memoryview(bytearray(piece)))
            if found is not None:
                out.extend(found)
                proof.update(found)
        decoder.finish()

    if is_changed and data:
        with pytest.raises(ClientError) as caught:
            take()
        assert caught.value.reason is Reason.CHUNK_SIGNATURE
    else:
        take()
        assert out == data


@pytest.mark.parametrize("odd", [1, 2, 3, 63, 64, 400])
def test_chunks_that_are_not_alike_are_not_looked_at_again_and_again(odd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of tiny chunks, every so many of them spelled otherwise."""
    looked = 0
    unpack = struct.iter_unpack

    def counted(form: str, data: memoryview) -> Iterator[tuple[object, ...]]:
        nonlocal looked
        looked += len(data)
        return unpack(form, data)

    monkeypatch.setattr(struct, "iter_unpack", counted)
    wire = b"".join(b"01\r\na\r\n" if at % odd == 0 else b"1\r\na\r\n" for at in range(20_000)) + b"0\r\n\r\n"
    decoder = make(PayloadMode.UNSIGNED_TRAILER, 20_000)
    assert run(decoder, [wire]) == b"a" * 20_000
    assert looked < 5 * len(wire)
