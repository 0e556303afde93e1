"""What the pieces of the HTTP floor cost for a typical GET with five signed headers, and 1 MiB of signed chunks.

Run: python -m bench.micro.http_floor. The first line calibrates: SHA-256 of 500 bytes, so that runs on a busy machine compare.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256

from titans3.http.authentication import PayloadMode
from titans3.http.awschunked import AwsChunkedDecoder, ChunkSeed
from titans3.http.head import HeadParser
from titans3.http.message import Request
from titans3.http.payload import decoded_in_place
from titans3.http.reply import ReplyHeads, RequestIds
from titans3.http.signing import SigningIdentity, encode_chunks, sign_headers
from titans3.http.sigv4 import SigV4
from titans3.worker.body import EMPTY_BODY

DATE = "20260131T120000Z"
NOW = 1769860800.0
ROUNDS = 40_000


def measure(name: str, step: object, rounds: int = ROUNDS) -> None:
    """Best of five runs."""
    assert callable(step)
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(rounds // 5):
            step()
        best = min(best, (time.perf_counter() - start) / (rounds // 5))
    print(f"{name:32} {best * 1e6:6.2f} µs")


def main() -> None:
    identity = SigningIdentity("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    extra = {"host": "127.0.0.1:9000", "content-type": "application/octet-stream", "x-amz-checksum-mode": "ENABLED"}
    extra["user-agent"] = "MinIO (linux; amd64) minio-go/v7.0.90 warp/1.1.3"
    path, query = b"/warp-benchmark-bucket/9xdEMCkV/1.kqhvMRPYBFJ2vHrn.rnd", b""
    signed = sign_headers(identity, "GET", path, query, extra, date=DATE)
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    raw = b"GET " + path + b" HTTP/1.1\r\n" + lines.encode() + b"Accept-Encoding: identity\r\n\r\n"
    parser, verifier, replies, ids = HeadParser(), SigV4({identity.access_key: identity.secret}.get), ReplyHeads("h"), RequestIds(1)
    head = parser.parse(raw)
    answer = [(b"etag", b'"d41d8cd98f00b204e9800998ecf8427e"'), (b"last-modified", b"Sat, 31 Jan 2026 12:00:00 GMT")]
    assert verifier.verify("GET", path, query, head.fields, NOW) is not None
    block = os.urandom(500)
    measure("calibration: SHA-256 of 500 B", lambda: sha256(block).hexdigest())
    measure("parse head", lambda: parser.parse(raw))
    measure(
        "make Request",
        lambda: Request("GET", path, path, b"", "", head.fields, EMPTY_BODY, "", ""),
    )
    measure("verify SigV4 header", lambda: verifier.verify("GET", path, query, head.fields, NOW))
    measure("build reply head", lambda: replies.build(200, answer, length=4096, request_id=ids.next(), now=NOW))
    data = os.urandom(1 << 20)
    coded = encode_chunks(data, PayloadMode.SIGNED_CHUNKS, identity=identity, date=DATE, seed_signature=signed.signature)
    key = identity.key(DATE)

    def decode() -> None:
        decoder = AwsChunkedDecoder(len(data), ChunkSeed(key, DATE, identity.scope(DATE), signed.signature), with_trailer=False)
        assert decoded_in_place(decoder, memoryview(bytearray(coded))) is not None
        decoder.finish()

    measure("SHA-256 of 1 MiB", lambda: sha256(data).digest(), 200)
    measure("1 MiB of signed 64 KiB chunks", decode, 200)


if __name__ == "__main__":
    main()
