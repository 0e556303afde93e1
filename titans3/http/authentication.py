"""What authentication says about a request: a :class:`Verified`, or an :class:`AuthError` with its reason.

Invariants
* An ``AuthError`` never carries a secret or an expected signature; ``fields`` hold what S3's error body shows to the client.
* ``Verified`` is only made after the signature matched. It holds the signing key that the chunk signatures of the body need.
"""

from __future__ import annotations

from enum import Enum, StrEnum

import msgspec

from titans3.errors import TitanError
from titans3.http.canonical import SigningKey


class AuthReason(StrEnum):
    """Why a signature is refused. ``fields`` by reason are named beside each."""

    ACCESS_KEY_UNKNOWN = "access_key_unknown"  # access_key
    SIGNATURE_MISMATCH = "signature_mismatch"  # access_key, signature, string_to_sign, canonical_request
    SKEW = "skew"  # request_time, server_time (ISO 8601), max_allowed_skew_ms
    EXPIRED = "expired"  # expires (ISO 8601), server_time, x_amz_expires
    NOT_YET_VALID = "not_yet_valid"  # presigned with a date in the future
    HEADER_MALFORMED = "header_malformed"  # Authorization header: AuthorizationHeaderMalformed 400
    QUERY_MALFORMED = "query_malformed"  # presign parameters: AuthorizationQueryParametersError 400
    HEADER_MISSING = "header_missing"  # header: x-amz-content-sha256
    DATE_MISSING = "date_missing"  # no usable date: AccessDenied 403
    CONTENT_SHA256_INVALID = "content_sha256_invalid"  # neither a hash nor a known word
    HEADERS_NOT_SIGNED = "headers_not_signed"  # headers: names that had to be signed
    REGION = "region"  # region: the expected one; AuthorizationHeaderMalformed 400
    SEVERAL = "several"  # header and query authentication together
    SIGV2 = "sigv2"  # recognised; sigv2.py judges it if it is switched on
    HEADER_V2_MALFORMED = "header_v2_malformed"  # argument_name, argument_value: InvalidArgument 400
    QUERY_V2_MALFORMED = "query_v2_malformed"  # AWSAccessKeyId, Expires, Signature: AccessDenied 403
    SCHEME = "scheme"  # no mechanism of S3, argument_name, argument_value: InvalidArgument 400
    UNSUPPORTED = "unsupported"  # ECDSA, unknown STREAMING-*


class AuthError(TitanError):
    """Authentication failed. ``message`` may be shown to the client."""

    def __init__(self, reason: AuthReason, message: str, **fields: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = fields


class PayloadMode(Enum):
    """How the body is covered by the signature."""

    HASHED = 1  # hex SHA-256 of the whole body
    UNSIGNED = 2
    SIGNED_CHUNKS = 3  # STREAMING-AWS4-HMAC-SHA256-PAYLOAD
    SIGNED_CHUNKS_TRAILER = 4  # STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER
    UNSIGNED_TRAILER = 5  # STREAMING-UNSIGNED-PAYLOAD-TRAILER


PAYLOAD_MODES: dict[str, PayloadMode] = {
    "UNSIGNED-PAYLOAD": PayloadMode.UNSIGNED,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": PayloadMode.SIGNED_CHUNKS,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": PayloadMode.SIGNED_CHUNKS_TRAILER,
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": PayloadMode.UNSIGNED_TRAILER,
}


class Verified(msgspec.Struct, frozen=True, gc=False):
    """A request whose signature matched. ``payload_hash`` is lower-case hex, or the word of x-amz-content-sha256."""

    access_key: str
    region: str
    service: str
    date: str  # 20260131T235959Z
    scope: str  # 20260131/us-east-1/s3/aws4_request
    signature: str  # the seed of chunk signatures
    signing_key: SigningKey
    payload: PayloadMode
    payload_hash: str
    presigned: bool
    signed_headers: tuple[str, ...]
