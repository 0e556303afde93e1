"""Preconditions of reads and writes.

Sources: RFC 9110 section 13; https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html

Invariants
* Pure. For reads, If-Match decides over If-Unmodified-Since, and If-None-Match over If-Modified-Since (RFC 9110 13.2.2).
* For writes the answer here only saves work: the same condition is decided again when the command is applied.
* ETags are compared with or without quotes, case-insensitively in their hex digits; a weak one never matches If-Match.
"""

from __future__ import annotations

import calendar
from email.utils import parsedate_tz

from titans3.model.command import Condition
from titans3.model.version import MARKER, Version
from titans3.s3.errors import S3Error, not_implemented
from titans3.s3.headers import Pairs, etag_header, http_date

_READ_HEADERS = frozenset((b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"))


def etag_list(text: str) -> tuple[str, ...]:
    """ETags of a header without quotes; a weak one keeps its ``W/``."""
    found = []
    for word in text.split(","):
        word = word.strip()
        weak = word.startswith("W/")
        bare = word[2:].strip() if weak else word
        if len(bare) >= 2 and bare[0] == bare[-1] == '"':
            bare = bare[1:-1]
        if bare:
            found.append("W/" + bare.lower() if weak else bare.lower())
    return tuple(found)


def http_seconds(text: str | None) -> int | None:
    """Seconds since 1970 of an HTTP date; ``None`` if it is none, which means the condition is ignored (RFC 9110 13.1.3)."""
    if not text:
        return None
    parsed = parsedate_tz(text)
    if parsed is None:
        return None
    try:
        return calendar.timegm((*parsed[:6], 0, 0, 0)) - (parsed[9] or 0)
    except (ValueError, OverflowError):
        return None


def check_read(fields: dict[bytes, bytes], version: Version) -> None:
    """Raises PreconditionFailed or NotModified (with ETag and Last-Modified)."""
    if fields.keys().isdisjoint(_READ_HEADERS):
        return
    judge_read(
        version,
        match=_text(fields, b"if-match"),
        none_match=_text(fields, b"if-none-match"),
        modified=_text(fields, b"if-modified-since"),
        unmodified=_text(fields, b"if-unmodified-since"),
    )


def check_copy_source(fields: dict[bytes, bytes], version: Version) -> None:
    """x-amz-copy-source-if-*: everything that does not hold is 412."""
    try:
        judge_read(
            version,
            match=_text(fields, b"x-amz-copy-source-if-match"),
            none_match=_text(fields, b"x-amz-copy-source-if-none-match"),
            modified=_text(fields, b"x-amz-copy-source-if-modified-since"),
            unmodified=_text(fields, b"x-amz-copy-source-if-unmodified-since"),
            prefix="x-amz-copy-source-",
        )
    except S3Error as error:
        if error.code == "NotModified":
            raise S3Error("PreconditionFailed", Condition="x-amz-copy-source-If-None-Match") from error
        raise


def judge_read(
    version: Version,
    *,
    match: str | None,
    none_match: str | None,
    modified: str | None,
    unmodified: str | None,
    prefix: str = "",
) -> None:
    """Raises PreconditionFailed, NotModified."""
    etag = version.etag_text
    second = version.modified_ms // 1000
    if match is not None:
        wanted = etag_list(match)
        if "*" not in wanted and etag not in wanted:
            raise S3Error("PreconditionFailed", Condition=prefix + "If-Match")
    elif (limit := http_seconds(unmodified)) is not None and second > limit:
        raise S3Error("PreconditionFailed", Condition=prefix + "If-Unmodified-Since")
    if none_match is not None:
        unwanted = etag_list(none_match)
        if "*" in unwanted or etag in unwanted or "W/" + etag in unwanted:
            raise not_modified(version)
    elif (limit := http_seconds(modified)) is not None and second <= limit:
        raise not_modified(version)


def not_modified(version: Version) -> S3Error:
    """304 with the headers RFC 9110 15.4.5 asks for."""
    headers: Pairs = [(b"etag", etag_header(version)), (b"last-modified", http_date(version.modified_ms))]
    for name in ("cache-control", "expires"):
        if name in version.headers:
            headers.append((name.encode("ascii"), version.headers[name].encode("latin-1")))
    return S3Error("NotModified", headers=headers)


def range_stands(fields: dict[bytes, bytes], version: Version) -> bool:
    """If-Range: whether the range is to be honoured (RFC 9110 13.1.5: strong comparison, exact date)."""
    text = _text(fields, b"if-range")
    if text is None:
        return True
    moment = http_seconds(text) if not text.lstrip().startswith(('"', "W/")) else None
    if moment is not None:
        return moment == version.modified_ms // 1000
    return etag_list(text) == (version.etag_text,)


def write_condition(fields: dict[bytes, bytes]) -> Condition | None:
    """The condition of PutObject, CopyObject and CompleteMultipartUpload. Raises NotImplemented for the date forms."""
    match, none_match = fields.get(b"if-match"), fields.get(b"if-none-match")
    for name in (b"if-modified-since", b"if-unmodified-since"):
        if name in fields:
            raise not_implemented(name.decode("ascii"))
    if match is None and none_match is None:
        return None
    return Condition(
        if_match=() if match is None else _write_tags(match, "If-Match"),
        if_none_match=() if none_match is None else tuple(tag.removeprefix("W/") for tag in _write_tags(none_match, "If-None-Match")),
    )


def _write_tags(raw: bytes, name: str) -> tuple[str, ...]:
    tags = etag_list(raw.decode("latin-1"))
    if not tags:
        raise S3Error("InvalidArgument", f"The value of {name} is invalid.", ArgumentName=name, ArgumentValue=raw.decode("latin-1")[:100])
    return tags


def judge_write(condition: Condition, current: Version | None) -> None:
    """The early answer for a write; ``None`` or a marker counts as missing. Raises NoSuchKey, PreconditionFailed."""
    missing = current is None or bool(current.flags & MARKER)
    if missing:
        if condition.if_match:
            raise S3Error("NoSuchKey")
        return
    assert current is not None
    etag = current.etag_text
    if condition.if_match and "*" not in condition.if_match and etag not in condition.if_match:
        raise S3Error("PreconditionFailed", Condition="If-Match")
    if condition.if_none_match and ("*" in condition.if_none_match or etag in condition.if_none_match):
        raise S3Error("PreconditionFailed", Condition="If-None-Match")


def _text(fields: dict[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")
