"""Bodies in aws-chunked coding: signed chunk by chunk, with signed and unsigned trailers; and every way of tampering with them.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html, https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from typing import Any

import pytest

from tests.conformance.served import Answer, Endpoint
from tests.conformance.socketed import SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER, Signing, connected, cut

pytestmark = pytest.mark.operation("PutObject")
_BROKEN = ("MalformedTrailerError", "InvalidRequest", "SignatureDoesNotMatch", "IncompleteBody")
BODY = bytes(range(256)) * 1000
CRC = b64encode(zlib.crc32(BODY).to_bytes(4, "big")).decode()
CODED = {"x-amz-decoded-content-length": str(len(BODY)), "content-encoding": "aws-chunked"}
TRAILED = {**CODED, "x-amz-trailer": "x-amz-checksum-crc32"}


def put(endpoint: Endpoint, signing: Signing, body: bytes) -> Answer:
    with connected(endpoint) as sock:
        sock.send(signing.head(content_length=str(len(body))), body)
        return sock.answer()


def kept(s3: Any, bucket: str) -> bytes | None:
    if "Contents" not in s3.list_objects_v2(Bucket=bucket):
        return None
    data = s3.get_object(Bucket=bucket, Key="k")["Body"].read()
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize("places", [(), (65536, 131072), (1, 2, 100_000), tuple(range(8192, 256_000, 8192))])
def test_signed_chunks(endpoint: Endpoint, s3: Any, bucket: str, places: tuple[int, ...]) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", CODED, SIGNED)
    chunks, _ = signing.chunks(*cut(BODY, *places))
    assert put(endpoint, signing, b"".join(chunks) + b"\r\n").status == 200
    assert kept(s3, bucket) == BODY
    assert "ContentEncoding" not in s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("what", ["data", "signature", "order", "missing", "seed"])
def test_signed_chunks_that_were_tampered_with(endpoint: Endpoint, s3: Any, bucket: str, what: str) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", CODED, SIGNED)
    if what == "seed":
        signing.seed = "0" * 64
    chunks, _ = signing.chunks(*cut(BODY, 64_000, 128_000, 192_000))
    if what == "data":
        chunks[1] = chunks[1].replace(b"\x10\x11", b"\x11\x10", 1)
    elif what == "signature":
        at = chunks[2].index(b"signature=") + 10
        chunks[2] = chunks[2][:at] + b"0" * 64 + chunks[2][at + 64 :]
    elif what == "order":
        chunks[0], chunks[1] = chunks[1], chunks[0]
    elif what == "missing":
        del chunks[1]
    answer = put(endpoint, signing, b"".join(chunks) + b"\r\n")
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    assert kept(s3, bucket) is None


@pytest.mark.parametrize("what", ["no last chunk", "size", "no signature", "more", "less", "junk"])
def test_framing_that_is_broken(endpoint: Endpoint, s3: Any, bucket: str, what: str) -> None:
    length = len(BODY) + {"more": -1, "less": 1}.get(what, 0)
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", {**CODED, "x-amz-decoded-content-length": str(length)}, SIGNED)
    chunks, _ = signing.chunks(BODY)
    if what == "no last chunk":
        del chunks[1]
    elif what == "size":
        chunks[0] = b"zz" + chunks[0][2:]
    elif what == "no signature":
        chunks[0] = chunks[0].replace(b";chunk-signature=", b";chunk=")
    elif what == "junk":
        chunks.append(b"\r\njunk")
    answer = put(endpoint, signing, b"".join(chunks) + b"\r\n")
    assert answer.status in (400, 403), answer.body
    assert answer.code in ("IncompleteBody", "InvalidArgument", "SignatureDoesNotMatch", "InvalidRequest"), answer.code
    assert kept(s3, bucket) is None


def test_a_signed_trailer(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", TRAILED, SIGNED_TRAILER)
    chunks, last = signing.chunks(*cut(BODY, 100_000))
    answer = put(endpoint, signing, b"".join(chunks) + signing.trailer(last, x_amz_checksum_crc32=CRC))
    assert answer.status == 200, answer.body
    assert answer.headers["x-amz-checksum-crc32"] == CRC
    assert kept(s3, bucket) == BODY


@pytest.mark.parametrize("what", ["value", "signature", "other value", "missing", "another name", "not announced"])
def test_trailers_that_were_tampered_with(endpoint: Endpoint, s3: Any, bucket: str, what: str) -> None:
    headers = CODED if what == "not announced" else TRAILED
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", headers, SIGNED_TRAILER)
    chunks, last = signing.chunks(*cut(BODY, 100_000))
    wrong = b64encode(b"\0\0\0\1").decode()
    trailer = signing.trailer(last, x_amz_checksum_crc32=CRC)
    if what == "value":
        trailer = trailer.replace(CRC.encode(), wrong.encode())
    elif what == "signature":
        trailer = trailer.replace(trailer[-68:-4], b"0" * 64)
    elif what == "other value":
        trailer = signing.trailer(last, x_amz_checksum_crc32=wrong)
    elif what == "missing":
        trailer = b"\r\n"
    elif what == "another name":
        trailer = signing.trailer(last, x_amz_checksum_sha1=CRC)
    answer = put(endpoint, signing, b"".join(chunks) + trailer)
    expected = {"value": "SignatureDoesNotMatch", "signature": "SignatureDoesNotMatch", "other value": "BadDigest"}.get(what)
    assert answer.status in (400, 403)
    assert answer.code == expected if expected else answer.code in _BROKEN
    assert kept(s3, bucket) is None


@pytest.mark.parametrize("outer", [False, True])
def test_unsigned_chunks_with_a_trailer(endpoint: Endpoint, s3: Any, bucket: str, outer: bool) -> None:
    """SDKs over TLS put this inside HTTP's own chunked coding."""
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", TRAILED, UNSIGNED_TRAILER)
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(BODY, 65536, 131072))
    coded += b"0\r\nx-amz-checksum-crc32:" + CRC.encode() + b"\r\n\r\n"
    if not outer:
        assert put(endpoint, signing, coded).status == 200
    else:
        with connected(endpoint) as sock:
            sock.send(signing.head(transfer_encoding="chunked"))
            for at in range(0, len(coded), 50_001):
                piece = coded[at : at + 50_001]
                sock.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            sock.send(b"0\r\n\r\n")
            assert sock.answer().status == 200
    assert kept(s3, bucket) == BODY


def test_a_wrong_unsigned_trailer(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", TRAILED, UNSIGNED_TRAILER)
    for trailer, code in (
        (b"x-amz-checksum-crc32:AAAAAA==\r\n", "BadDigest"),
        (b"", "MalformedTrailerError"),
        (b"nonsense\r\n", "MalformedTrailerError"),
    ):
        answer = put(endpoint, signing, b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, trailer))
        assert (answer.status, answer.code) == (400, code)
    assert kept(s3, bucket) is None


@pytest.mark.parametrize(
    "name",
    [
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
        "STREAMING-NONSENSE",
        "nonsense",
        "0" * 63,
    ],
)
def test_codings_that_are_not_known_are_never_stored(endpoint: Endpoint, s3: Any, bucket: str, name: str) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", CODED, name)
    answer = put(endpoint, signing, b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.status in (400, 501), answer.body
    assert kept(s3, bucket) is None


def test_a_decoded_length_is_needed(endpoint: Endpoint, bucket: str) -> None:
    signing = Signing(endpoint, "PUT", f"/{bucket}/k", {"content-encoding": "aws-chunked"}, SIGNED)
    chunks, _ = signing.chunks(BODY)
    answer = put(endpoint, signing, b"".join(chunks) + b"\r\n")
    assert (answer.status, answer.code) == (411, "MissingContentLength")


@pytest.mark.operation("UploadPart")
def test_parts_too(endpoint: Endpoint, s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    signing = Signing(endpoint, "PUT", f"/{bucket}/k?partNumber=1&uploadId={upload}", CODED, SIGNED)
    chunks, _ = signing.chunks(*cut(BODY, 100_000))
    answer = put(endpoint, signing, b"".join(chunks) + b"\r\n")
    assert answer.status == 200, answer.body
    assert s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"][0]["Size"] == len(BODY)
