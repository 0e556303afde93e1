"""What a head, a signature and an answer cost: microseconds per typical GET with five signed headers. Run: python bench/micro/sigv4.py"""

from __future__ import annotations

import time

from titans3.http.head import HeadParser
from titans3.http.message import Request
from titans3.http.reply import ReplyHeads, RequestIds
from titans3.http.signing import SigningIdentity, sign_headers
from titans3.http.sigv4 import SigV4
from titans3.worker.body import EMPTY_BODY

DATE = "20260131T120000Z"
NOW = 1769860800.0
ROUNDS = 40_000


def measure(name: str, step: object) -> None:
    """Best of five runs."""
    assert callable(step)
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(ROUNDS // 5):
            step()
        best = min(best, (time.perf_counter() - start) / (ROUNDS // 5))
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
    measure("parse head", lambda: parser.parse(raw))
    measure("make Request", lambda: Request("GET", path, head.headers, EMPTY_BODY, secure=False, peer="", request_id="", fields=head.fields))
    measure("verify SigV4 header", lambda: verifier.verify("GET", path, query, head.fields, NOW))
    measure("build reply head", lambda: replies.build(200, answer, length=4096, request_id=ids.next(), now=NOW))


if __name__ == "__main__":
    main()
