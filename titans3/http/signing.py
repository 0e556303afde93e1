"""The client's side of SigV4: sign headers, presign, encode streaming bodies. For tests, benchmarks and titanctl.

Invariants
* Pure: the date is handed in. Paths and queries are the bytes that go on the wire; the caller has encoded them.
* Shares the canonical forms with the verifier but not its parsing, and is checked against botocore in the tests.
"""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote

import msgspec

from titans3.http import canonical
from titans3.http.authentication import PayloadMode


class SigningIdentity(msgspec.Struct, frozen=True):
    """Who signs, for which region and service."""

    access_key: str
    secret: str
    region: str = "us-east-1"
    service: str = "s3"
    session_token: str = ""

    def scope(self, date: str) -> str:
        return f"{date[:8]}/{self.region}/{self.service}/aws4_request"

    def key(self, date: str) -> canonical.SigningKey:
        return canonical.derive_key(self.secret, date[:8], self.region, self.service)


class Signed(msgspec.Struct, frozen=True):
    """Headers to send in full, and the seed signature for a streaming body."""

    headers: dict[str, str]
    signature: str


def sign_headers(
    identity: SigningIdentity,
    method: str,
    path: bytes,
    query: bytes,
    headers: dict[str, str],
    *,
    date: str,
    payload_hash: str = canonical.EMPTY_SHA256,
    unsigned: frozenset[str] = frozenset(("user-agent", "expect", "content-length", "connection")),
) -> Signed:
    """``headers`` (with host) plus x-amz-date, x-amz-content-sha256 and authorization; names become lower case.

    ``date`` is ``20260131T235959Z``; names in ``unsigned`` are sent but not signed.
    """
    sent = {name.lower(): value for name, value in headers.items()}
    assert "host" in sent
    sent["x-amz-date"] = date
    sent["x-amz-content-sha256"] = payload_hash
    if identity.session_token:
        sent["x-amz-security-token"] = identity.session_token
    names = sorted(sent.keys() - unsigned)
    block = canonical.header_block([f"{name}:{sent[name]}".encode("latin-1") for name in names]).decode("latin-1")
    signed = ";".join(names)
    request = f"{method}\n{path.decode('latin-1')}\n{canonical.query_as_sent(query).decode('latin-1')}\n{block}\n{signed}\n{payload_hash}"
    scope = identity.scope(date)
    signature = identity.key(date).sign(canonical.string_to_sign(date, scope, request.encode("latin-1")))
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={identity.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    return Signed(sent, signature)


def presign(
    identity: SigningIdentity,
    method: str,
    path: bytes,
    query: bytes,
    headers: dict[str, str],
    *,
    date: str,
    expires: int,
) -> bytes:
    """The query with its authentication parameters; all of ``headers`` (with host) are signed and must be sent."""
    names = sorted(name.lower() for name in headers)
    assert "host" in names
    sent = {name.lower(): value for name, value in headers.items()}
    scope = identity.scope(date)
    parameters = {
        "X-Amz-Algorithm": canonical.ALGORITHM,
        "X-Amz-Credential": f"{identity.access_key}/{scope}",
        "X-Amz-Date": date,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": ";".join(names),
    }
    if identity.session_token:
        parameters["X-Amz-Security-Token"] = identity.session_token
    added = "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in parameters.items()).encode("ascii")
    full = query + b"&" + added if query else added
    block = canonical.header_block([f"{name}:{sent[name]}".encode("latin-1") for name in names]).decode("latin-1")
    request = (
        f"{method}\n{path.decode('latin-1')}\n{canonical.query_as_sent(full).decode('latin-1')}\n{block}\n{';'.join(names)}\nUNSIGNED-PAYLOAD"
    )
    signature = identity.key(date).sign(canonical.string_to_sign(date, scope, request.encode("latin-1")))
    return full + b"&X-Amz-Signature=" + signature.encode("ascii")


def encode_chunks(
    data: bytes,
    mode: PayloadMode,
    *,
    identity: SigningIdentity,
    date: str,
    seed_signature: str,
    trailers: dict[str, str] | None = None,
    chunk_bytes: int = 64 * 1024,
    line_feed_trailers: bool = False,
) -> bytes:
    """``data`` in aws-chunked coding. ``line_feed_trailers`` writes the trailer as minio-go does."""
    assert mode in (PayloadMode.SIGNED_CHUNKS, PayloadMode.SIGNED_CHUNKS_TRAILER, PayloadMode.UNSIGNED_TRAILER)
    signed = mode is not PayloadMode.UNSIGNED_TRAILER
    key, scope, previous = identity.key(date), identity.scope(date), seed_signature
    out: list[bytes] = []
    for at in [*range(0, len(data), chunk_bytes), len(data)]:
        chunk = data[at : at + chunk_bytes]
        extension = b""
        if signed:
            text = canonical.chunk_text(date, scope, previous, sha256(chunk).hexdigest())
            previous = key.sign(text)
            extension = b";chunk-signature=" + previous.encode("ascii")
        out.append(b"%x%b\r\n" % (len(chunk), extension))
        if chunk:
            out += [chunk, b"\r\n"]
    if mode is not PayloadMode.SIGNED_CHUNKS:
        lines = [f"{name}:{value}\n" for name, value in (trailers or {}).items()]
        for line in lines:
            out.append(line.encode("latin-1") if line_feed_trailers else line[:-1].encode("latin-1") + b"\r\n")
        if signed:
            digest = sha256("".join(lines).encode("latin-1")).hexdigest()
            last = key.sign(canonical.trailer_text(date, scope, previous, digest))
            out.append((b"\r\n" if line_feed_trailers else b"") + f"x-amz-trailer-signature:{last}\r\n".encode("ascii"))
    out.append(b"\r\n")
    return b"".join(out)
