"""Whose fault is it: the four families of exceptions, and the reasons a client can cause.

Invariants
* A low floor raises ``ClientError`` with a :class:`Reason`; it never names an S3 error code. The one table that maps a
  reason to code, status and message is ``titans3/s3/errors.py``.
* ``PeerError`` and ``DiskError`` are operating faults: the caller retries, degrades or repairs.
* ``InvariantError`` is our own bug: it is logged and the process stops. Nobody catches it to go on.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a request cannot be done. Values are stable: they cross process borders inside replies."""

    BUCKET_ABSENT = "bucket_absent"
    BUCKET_EXISTS = "bucket_exists"
    BUCKET_OWNED = "bucket_owned"
    BUCKET_NOT_EMPTY = "bucket_not_empty"
    BUCKET_BUSY = "bucket_busy"  # sealed: a DeleteBucket is under way and may still fail
    BUCKET_NAME = "bucket_name"
    SHARD_ABSENT = "shard_absent"  # NoShardCfg: the leader must Ensure and try again
    KEY_ABSENT = "key_absent"
    KEY_TOO_LONG = "key_too_long"
    KEY_NOT_UTF8 = "key_not_utf8"
    VERSION_ABSENT = "version_absent"
    METHOD_ON_MARKER = "method_on_marker"
    PRECONDITION = "precondition"
    NOT_MODIFIED = "not_modified"
    CONFLICT = "conflict"
    UPLOAD_ABSENT = "upload_absent"
    PART_INVALID = "part_invalid"
    PART_ORDER = "part_order"
    PART_TOO_SMALL = "part_too_small"
    PART_NUMBER = "part_number"
    RANGE = "range"
    TOO_LARGE = "too_large"
    DIGEST = "digest"
    SLOW_DOWN = "slow_down"
    VOLUME_FULL = "volume_full"
    UNAVAILABLE = "unavailable"  # the owner is not there or its volume is Damaged
    UNKNOWN_OUTCOME = "unknown_outcome"
    BODY_DAMAGED = "body_damaged"
    FENCED = "fenced"  # a data id at or below a sweep watermark
    LOCKED = "locked"
    QUOTA = "quota"
    BODY_SHORT = "body_short"  # the body ended before its announced length
    BODY_SLOW = "body_slow"  # no byte of the body arrived within the progress timeout
    BODY_FRAMING = "body_framing"  # broken chunked transfer coding or aws-chunked framing
    BODY_SHA256 = "body_sha256"  # the payload's SHA-256 is not the signed one
    CHUNK_SIGNATURE = "chunk_signature"
    TRAILER = "trailer"  # trailing headers malformed, missing or with a wrong signature
    FORM_MALFORMED = "form_malformed"  # no well-formed multipart/form-data
    FORM_FIELDS = "form_fields"  # too many or too large fields before the file
    FORM_FILES = "form_files"  # more than one file
    ACCESS_REFUSED = "access_refused"  # the key is known, and may not be used: the message says why
    TOKEN_INVALID = "token_invalid"  # a session token that was not sealed here, or for another key
    TOKEN_EXPIRED = "token_expired"
    NAME_EXISTS = "name_exists"  # an account, user, group, role or policy of that name is there
    DECODED_LENGTH = "decoded_length"  # x-amz-decoded-content-length absent, malformed or not what came


class TitanError(Exception):
    """Root of everything raised on purpose."""


class ClientError(TitanError):
    """The request cannot be done as asked; ``fields`` are for the error table's message."""

    def __init__(self, reason: Reason, message: str = "", **fields: object) -> None:
        super().__init__(message or str(reason))
        self.reason = reason
        self.message = message
        self.fields = fields


class PeerError(TitanError):
    """A sibling or peer did not answer, or answered nonsense; retry, or degrade."""


class DiskError(TitanError):
    """A disk refused: I/O error, failed fsync, corruption. The volume's state says what follows."""


class VolumeFull(DiskError):
    """The volume is below its reserve; writes are refused, reads and deletes go on."""


class VolumeBusy(DiskError):
    """Another process holds the volume's lock."""


class ConfigError(TitanError):
    """Configuration an operator must mend; the text names the key and suggests."""


class FormatError(TitanError):
    """Bytes on disk are of a newer format, or not ours at all."""


class InvariantError(TitanError):
    """Our bug. Log it, stop the process, let the supervisor start a fresh one."""
