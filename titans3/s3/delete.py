"""DeleteObject and DeleteObjects.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html

Invariants
* Deleting what is not there succeeds, unless a condition asked for it to be there.
* DeleteObjects answers per entry; its body must be proven by Content-MD5 or a checksum.
"""

from __future__ import annotations

from datetime import UTC, datetime

from titans3.errors import ClientError, Reason
from titans3.http.message import Response
from titans3.model.command import Condition, DeleteEntry
from titans3.s3.address import check_key
from titans3.s3.call import Call, checked_version_id
from titans3.s3.conditions import etag_list, http_seconds
from titans3.s3.errors import CODES, REASONS, S3Error, invalid_argument
from titans3.s3.headers import Pairs
from titans3.s3.xmlin import DeleteItem, parse_delete
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_key, escape_text

_RIGHTS = ("s3:DeleteObject", "s3:DeleteObjectVersion")
_ABSENT = frozenset((str(Reason.KEY_ABSENT), str(Reason.VERSION_ABSENT)))


async def delete_object(call: Call) -> Response:
    """Remove a key, or one version of it. Raises PreconditionFailed, and NoSuchKey when a condition asked for a missing key."""
    condition = _condition(
        call.header(b"if-match"), call.header(b"x-amz-if-match-size"), call.header(b"x-amz-if-match-last-modified-time")
    )
    entry = DeleteEntry(call.key, call.version_id(), condition)
    ((reason, version_id, is_marker),) = await call.store.delete(call.bucket, (entry,), call.identity.owns_as)
    if reason and (reason not in _ABSENT or condition is not None):
        raise ClientError(Reason(reason))
    headers: Pairs = []
    shown = entry.version_id or version_id
    if shown and (call.bucket.versioning or entry.version_id or is_marker):
        headers.append((b"x-amz-version-id", shown.encode("ascii")))
    if is_marker:
        headers.append((b"x-amz-delete-marker", b"true"))
    return Response(204, headers)


async def delete_objects(call: Call) -> Response:
    """Up to 1,000 keys. Raises MalformedXML, BadDigest, InvalidRequest without a proof of the body."""
    items, quiet = parse_delete(await call.read_proven(required=True))
    texts: list[str] = [""] * len(items)
    entries: list[DeleteEntry] = []
    places: list[int] = []
    for at, item in enumerate(items):
        try:
            entry = _entry(item)
            if call.access is not None and not call.access.may(_RIGHTS[bool(entry.version_id)], entry.key, entry.version_id):
                raise S3Error("AccessDenied")
            entries.append(entry)
            places.append(at)
        except S3Error as error:
            texts[at] = _error(item, error.code, error.message)
    if entries:
        results = await call.store.delete(call.bucket, entries, call.identity.owns_as)
        assert len(results) == len(entries)
        for at, entry, (reason, version_id, is_marker) in zip(places, entries, results, strict=True):
            if reason and (reason not in _ABSENT or entry.condition is not None):
                code = REASONS.get(Reason(reason), "InternalError")
                texts[at] = _error(items[at], code, CODES[code][1])
            elif not quiet:
                texts[at] = _deleted(items[at], version_id, is_marker)
    return Response(200, [CONTENT_TYPE], document("DeleteResult", "".join(texts)))


def _entry(item: DeleteItem) -> DeleteEntry:
    check_key(item.key)
    version_id = checked_version_id(item.version_id) if item.version_id else ""
    return DeleteEntry(item.key, version_id, _condition(item.etag, item.size, item.modified))


def _deleted(item: DeleteItem, version_id: str, is_marker: bool) -> str:
    text = f"<Deleted><Key>{escape_key(item.key)}</Key>"
    if item.version_id:
        text += f"<VersionId>{escape_text(item.version_id)}</VersionId>"
    if is_marker:
        text += f"<DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>{version_id or item.version_id}</DeleteMarkerVersionId>"
    return text + "</Deleted>"


def _error(item: DeleteItem, code: str, message: str) -> str:
    version = f"<VersionId>{escape_text(item.version_id)}</VersionId>" if item.version_id else ""
    key = escape_key(item.key)
    return f"<Error><Key>{key}</Key>{version}<Code>{code}</Code><Message>{escape_text(message)}</Message></Error>"


def _condition(etag: str | None, size: str | None, modified: str | None) -> Condition | None:
    """A delete's condition: ETag, size in bytes, time as HTTP date or ISO 8601. Raises InvalidArgument."""
    if etag is None and size is None and modified is None:
        return None
    tags = () if etag is None else etag_list(etag)
    if etag is not None and not tags:
        raise invalid_argument("The ETag is invalid.", "ETag", etag)
    length = -1
    if size is not None:
        if not size.strip().isdecimal() or len(size) > 18:
            raise invalid_argument("The size is invalid.", "Size", size)
        length = int(size)
    return Condition(if_match=tags, size=length, modified_ms=-1 if modified is None else _moment_ms(modified))


def _moment_ms(text: str) -> int:
    seconds = http_seconds(text)
    if seconds is not None:
        return seconds * 1000
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise invalid_argument("The time is invalid.", "LastModifiedTime", text) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
