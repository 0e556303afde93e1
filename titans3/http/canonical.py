"""The canonical forms of SigV4, shared by the verifier and the signer. Hot: guarded by ``bench/micro/sigv4.py``.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html

Invariants
* Pure functions over text decoded as latin-1, so that any byte on the wire maps to one character and back.
* A path or query that is already canonical costs one regular-expression match and no re-encoding.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from urllib.parse import quote_from_bytes, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

_CANONICAL_PATH = re.compile(rb"(?:[A-Za-z0-9/\-._~]|%[0-9A-F]{2})*\Z").match


def path_once_encoded(path: bytes) -> bytes:
    """URI-encoding of the decoded path, ``/`` kept: what AWS's own SDKs sign whatever they put on the wire."""
    return quote_from_bytes(unquote_to_bytes(path), safe="/-._~").encode("ascii")


def is_plain_path(path: bytes) -> bool:
    """No character that encoding could change (an encoded unreserved one, ``%41``, still could)."""
    return _CANONICAL_PATH(path) is not None and b"%" not in path


def query_as_sent(query: bytes, skip: str = "") -> str:
    """Sorted query with names and values as on the wire; a name without ``=`` becomes ``name=``; ``skip`` is left out."""
    if not query:
        return ""
    pairs: list[tuple[str, str]] = []
    for item in query.decode("latin-1").split("&"):
        if item:
            name, _, value = item.partition("=")
            if name != skip or not skip:
                pairs.append((name, value))
    if len(pairs) > 1:
        pairs.sort()
    return "&".join([f"{name}={value}" for name, value in pairs])


def query_once_encoded(query: bytes, skip: str = "") -> str:
    """As :func:`query_as_sent` with every name and value decoded and encoded once; ``+`` counts as a space."""
    pairs: list[tuple[str, str]] = []
    for item in query.replace(b"+", b"%20").split(b"&"):
        if item:
            name, _, value = item.partition(b"=")
            encoded = quote_from_bytes(unquote_to_bytes(name), safe="-._~")
            if encoded != skip or not skip:
                pairs.append((encoded, quote_from_bytes(unquote_to_bytes(value), safe="-._~")))
    pairs.sort()
    return "&".join([f"{name}={value}" for name, value in pairs])


def folded(value: bytes) -> str:
    """Header value trimmed, runs of white space inside made one space."""
    if b"  " in value or b"\t" in value or value[:1] == b" " or value[-1:] == b" ":
        value = b" ".join(value.split())
    return value.decode("latin-1")


def string_to_sign(date: str, scope: str, canonical_request: str) -> str:
    """The text under the signature."""
    return f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{sha256(canonical_request.encode('latin-1')).hexdigest()}"


def derive_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The signing key of a day, region and service: four HMACs."""
    key = hmac.digest(b"AWS4" + secret.encode(), day.encode(), "sha256")
    for part in (region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature_of(key: bytes, text: str) -> str:
    """Hex HMAC-SHA256."""
    return hmac.digest(key, text.encode("latin-1"), "sha256").hex()


def chunk_text(date: str, scope: str, previous: str, data_sha256: str) -> str:
    """What a chunk's signature signs."""
    return f"AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{EMPTY_SHA256}\n{data_sha256}"


def trailer_text(date: str, scope: str, previous: str, trailer_sha256: str) -> str:
    """What x-amz-trailer-signature signs."""
    return f"AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{previous}\n{trailer_sha256}"
