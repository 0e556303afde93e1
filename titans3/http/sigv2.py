"""Signature Version 2, verified: ``Authorization: AWS key:signature``, signed queries and the policies of forms.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html

Invariants
* Pure and without state: time is a number handed in, the secret is the caller's business. Nothing is logged.
* Signatures are compared in constant time.
* Every ``x-amz-*`` header is under the signature, and every sub-resource: who holds a signed query can make no other operation of it.
* The body is not under the signature. An x-amz-content-sha256 that is sent is judged all the same, and framing is never taken for data.
"""

from __future__ import annotations

import binascii
import calendar
import hmac
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes

import msgspec

from titans3.http.authentication import PAYLOAD_MODES, AuthError, AuthReason, PayloadMode, Verified
from titans3.http.canonical import SigningKey, path_once_encoded
from titans3.http.sigv4 import iso_time
from titans3.limits import CLOCK_SKEW_SECONDS_MAX

SCHEME = "AWS "
_PARAMETERS = (b"AWSAccessKeyId", b"Expires", b"Signature")
_ISO_DATE = re.compile(r"\d{8}T\d{6}Z\Z").match
_HEX64 = re.compile(r"[0-9a-fA-F]{64}\Z").match
_EXPIRES_DIGITS_MAX = 12
_NO_KEY = SigningKey(bytes(32))  # signed chunks are refused, so nothing is ever signed with it

# What AWS documents, and what its SDKs sign beyond that.
_DOCUMENTED = frozenset(
    b"accelerate acl analytics cors defaultObjectAcl delete inventory lifecycle location logging metrics notification object-lock "
    b"partNumber policy replication requestPayment response-cache-control response-content-disposition response-content-encoding "
    b"response-content-language response-content-type response-expires restore select select-type storageClass tagging torrent "
    b"uploadId uploads versionId versioning versions website".split()
)
# Sub-resources that are younger than Signature Version 2; some clients sign them, others do not.
_YOUNGER = frozenset(
    b"abac annotation annotationName attributes encryption intelligent-tiering legal-hold metadataAnnotationTable metadataConfiguration "
    b"metadataInventoryTable metadataJournalTable metadataTable ownershipControls policyStatus publicAccessBlock renameObject retention "
    b"session".split()
)
SUBRESOURCES = _DOCUMENTED | _YOUNGER


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A request's authentication as it claims it. ``date`` is the fourth line of what is signed: a date, nothing, or Expires."""

    access_key: str
    signature: bytes
    date: bytes
    presigned: bool


def claim(query: bytes, fields: dict[bytes, bytes], now: float) -> Claim | None:
    """Parse and judge everything but the signature; ``None`` for what is no Signature Version 2. Raises AuthError.

    ``query`` is raw, ``fields`` are lower-case names with joined values, ``now`` is seconds since 1970.
    """
    given = _query_parameters(query)
    authorization = fields.get(b"authorization", b"").decode("latin-1")
    if authorization.startswith(SCHEME):
        if b"Signature" in given:
            raise AuthError(
                AuthReason.SEVERAL,
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the "
                "Authorization header should be specified",
            )
        return _header_claim(authorization, fields, now)
    return _query_claim(given, now) if given else None


def check(
    found: Claim, secret: str | None, method: str, path: bytes, query: bytes, fields: dict[bytes, bytes], host_bucket: str = ""
) -> Verified:
    """Compare the signature under ``secret``. Raises ACCESS_KEY_UNKNOWN, SIGNATURE_MISMATCH, UNSUPPORTED.

    ``path`` and ``query`` are raw; ``host_bucket`` is the bucket of a virtual-host address, empty for path style.
    """
    if secret is None:
        raise AuthError(AuthReason.ACCESS_KEY_UNKNOWN, "The access key is not known.", access_key=found.access_key)
    start = _start_of(found, method, query, fields)
    first = b""
    for resource in _resources(path, query, host_bucket, found.presigned):
        text = start + resource
        if matches(secret, text, found.signature):
            mode, word = _payload(fields)
            return Verified(found.access_key, "", "s3", "", "", "", _NO_KEY, mode, word, found.presigned, ())
        first = first or text
    raise AuthError(
        AuthReason.SIGNATURE_MISMATCH,
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
        access_key=found.access_key,
        signature=found.signature.decode("latin-1"),
        string_to_sign=first.decode("latin-1"),
    )


def matches(secret: str, text: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (base64) is that of ``text``, compared in constant time. Policies of forms are signed so, too."""
    return hmac.compare_digest(sign(secret, text), signature)


def sign(secret: str, text: bytes) -> bytes:
    """Base64 of the HMAC-SHA1."""
    return binascii.b2a_base64(hmac.digest(secret.encode(), text, "sha1"), newline=False)


# claims ----------------------------------------------------------------------------------------------------------------


def _query_parameters(query: bytes) -> dict[bytes, bytes]:
    """The parameters of authentication, decoded."""
    found: dict[bytes, bytes] = {}
    for item in query.split(b"&"):
        name, _, value = item.partition(b"=")
        if name in _PARAMETERS:
            found.setdefault(name, unquote_to_bytes(value))
    return found


def _header_claim(authorization: str, fields: dict[bytes, bytes], now: float) -> Claim:
    access_key, mark, signature = authorization[len(SCHEME) :].strip().rpartition(":")
    if not mark or not access_key or not signature:
        raise AuthError(
            AuthReason.HEADER_V2_MALFORMED,
            "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature",
            argument_name="Authorization",
            argument_value="...",  # as in Signature Version 4
        )
    amz_date = fields.get(b"x-amz-date")
    raw = fields.get(b"date", b"") if amz_date is None else amz_date
    text = raw.decode("latin-1").strip()
    moment = _moment(text)
    if moment is None:
        raise AuthError(AuthReason.DATE_MISSING, "AWS authentication requires a valid Date or x-amz-date header")
    if abs(now - moment) > CLOCK_SKEW_SECONDS_MAX:
        raise AuthError(
            AuthReason.SKEW,
            "The difference between the request time and the current time is too large.",
            request_time=text,
            server_time=iso_time(now),
            max_allowed_skew_ms=str(CLOCK_SKEW_SECONDS_MAX * 1000),
        )
    return Claim(access_key, signature.encode("latin-1"), raw.strip() if amz_date is None else b"", False)


def _query_claim(given: dict[bytes, bytes], now: float) -> Claim:
    if len(given) != len(_PARAMETERS) or not given[b"AWSAccessKeyId"]:
        raise AuthError(
            AuthReason.QUERY_V2_MALFORMED, "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
        )
    expires = given[b"Expires"]
    if not expires.isdigit() or len(expires) > _EXPIRES_DIGITS_MAX:
        shown = expires.decode("latin-1")[:40]
        raise AuthError(AuthReason.QUERY_V2_MALFORMED, f"Invalid date (should be seconds since epoch): {shown}")
    if now > int(expires):
        raise AuthError(AuthReason.EXPIRED, "Request has expired", expires=iso_time(int(expires)), server_time=iso_time(now))
    access_key = given[b"AWSAccessKeyId"].decode("latin-1")
    return Claim(access_key, given[b"Signature"].strip(), expires, True)


def _moment(text: str) -> int | None:
    """Seconds since 1970 of a date as mail and HTTP write it, or of ``20260131T235959Z``; ``None`` if it is no date."""
    try:
        if _ISO_DATE(text):
            return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
        return calendar.timegm(parsedate_to_datetime(text).utctimetuple())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _payload(fields: dict[bytes, bytes]) -> tuple[PayloadMode, str]:
    """How the body is to be read. Raises UNSUPPORTED for framing that Signature Version 2 cannot prove."""
    word = fields.get(b"x-amz-content-sha256", b"").decode("latin-1")
    mode = PAYLOAD_MODES.get(word)
    if mode in (PayloadMode.UNSIGNED, PayloadMode.UNSIGNED_TRAILER):
        return mode, word
    if mode is not None or word.startswith("STREAMING-"):
        raise AuthError(AuthReason.UNSUPPORTED, f"x-amz-content-sha256 {word[:60]!r} needs Signature Version 4.")
    return (PayloadMode.HASHED, word) if _HEX64(word) else (PayloadMode.UNSIGNED, "UNSIGNED-PAYLOAD")


# what is signed --------------------------------------------------------------------------------------------------------


def _start_of(found: Claim, method: str, query: bytes, fields: dict[bytes, bytes]) -> bytes:
    """Method, Content-MD5, Content-Type, date and the x-amz-* headers: everything before the resource.

    A signed query may carry the headers that its signer had; one that is really there wins.
    """
    names = {name: value for name, value in fields.items() if name.startswith(b"x-amz-")}
    md5, kind = fields.get(b"content-md5"), fields.get(b"content-type")
    if found.presigned:
        for item in query.split(b"&"):
            name, _, value = item.partition(b"=")
            lower = name.lower()
            if lower.startswith(b"x-amz-"):
                names.setdefault(lower, unquote_to_bytes(value))
            elif lower == b"content-md5" and md5 is None:
                md5 = unquote_to_bytes(value)
            elif lower == b"content-type" and kind is None:
                kind = unquote_to_bytes(value)
    lines = [method.encode("latin-1"), (md5 or b"").strip(), (kind or b"").strip(), found.date]
    lines += [name + b":" + names[name].strip() for name in sorted(names)]
    return b"\n".join(lines) + b"\n"


def _resources(path: bytes, query: bytes, host_bucket: str, presigned: bool) -> Iterator[bytes]:
    """The ways in which clients write the resource that this request names, the documented one first.

    A signed query must have every sub-resource under its signature: only there could a stranger add one.
    """
    prefix = b"/" + host_bucket.encode("latin-1") if host_bucket else b""
    paths = dict.fromkeys((prefix + path, prefix + path_once_encoded(path)))
    if path.count(b"/") == 1 and len(path) > 1 and not prefix:
        paths[path + b"/"] = None  # the bucket, with the slash that a virtual-host address has
    known = (SUBRESOURCES,) if presigned else (SUBRESOURCES, _DOCUMENTED)
    queries = dict.fromkeys(_subresources(query, names, bare) for names in known for bare in (False, True))
    for path_form in paths:
        for query_form in queries:
            yield path_form + query_form


def _subresources(query: bytes, names: frozenset[bytes], bare: bool) -> bytes:
    """``?a&b=value`` of the query's sub-resources by name, values decoded; ``bare`` writes ``a=`` as ``a``."""
    found = []
    for item in query.split(b"&"):
        name, mark, value = item.partition(b"=")
        if name in names:
            found.append((name, mark if value or not bare else b"", unquote_to_bytes(value)))
    found.sort(key=lambda item: item[0])
    text = b"&".join([name + mark + value for name, mark, value in found])
    return b"?" + text if text else b""
