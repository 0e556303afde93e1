"""Which bucket and key a request means: virtual host or path, and the key as the percent-decoded raw path. Hot.

Invariants
* Nothing is normalised: ``//``, ``.``, ``..``, ``%2F`` and a trailing slash belong to the key; ``+`` in a path is a plus.
* ``/B`` and ``/B/`` are the same bucket; an empty key means the bucket.
* A key is valid UTF-8 of at most KEY_BYTES_MAX bytes, or the request is refused before anything else looks at it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from titans3.limits import KEY_BYTES_MAX
from titans3.s3.errors import S3Error

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


class Domains:
    """The configured virtual-host domains, lower case, without port."""

    __slots__ = ("_suffixes", "active")

    def __init__(self, domains: tuple[str, ...]) -> None:
        self._suffixes = tuple("." + domain.lower().strip(".") for domain in domains)
        self.active = bool(domains)

    def bucket_of(self, host: str) -> str:
        """The bucket in front of a configured domain, empty for path style."""
        name = host.lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name if ":" in name else name
        name = name.rstrip(".")
        for suffix in self._suffixes:
            if name.endswith(suffix):
                return name[: -len(suffix)]
        return ""


def split_path(path: bytes, host_bucket: str) -> tuple[str, bytes]:
    """(bucket, key) of a raw path. Raises InvalidURI for a bad escape or no UTF-8, KeyTooLongError."""
    if path[:1] != b"/":
        raise S3Error("InvalidURI")
    if host_bucket:
        bucket, raw = host_bucket, path[1:]
    else:
        name, _, raw = path[1:].partition(b"/")
        bucket = (unquote_to_bytes(name) if b"%" in name else name).decode("latin-1")
    return bucket, decode_key(raw)


def decode_key(raw: bytes) -> bytes:
    """A key from the raw path. Raises InvalidURI, KeyTooLongError."""
    key = raw
    if b"%" in raw:
        if _BAD_ESCAPE(raw):
            raise S3Error("InvalidURI")
        key = unquote_to_bytes(raw)
    check_key(key)
    return key


def check_key(key: bytes) -> None:
    """Length and encoding. Raises InvalidURI, KeyTooLongError."""
    if len(key) > KEY_BYTES_MAX:
        raise S3Error("KeyTooLongError", Size=str(len(key)), MaxSizeAllowed=str(KEY_BYTES_MAX))
    if not key.isascii():
        try:
            key.decode("utf-8")
        except UnicodeDecodeError as error:
            raise S3Error("InvalidURI") from error
