"""GetBucketVersioning, PutBucketVersioning, ListObjectVersions.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectVersions.html and its neighbours

Invariants
* Versions of a key are told newest first; keys in the order of their bytes; a common prefix counts like a version.
* A truncated page carries NextKeyMarker, and NextVersionIdMarker if it ended with a version.
"""

from __future__ import annotations

from collections.abc import Callable

from titans3.cluster.store import VersionPage
from titans3.http.message import Response
from titans3.limits import LIST_KEYS_MAX
from titans3.model.version import MARKER, STORAGE_CLASSES, Version
from titans3.s3.bucket import region_header
from titans3.s3.call import Call, checked_version_id
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.query import count_of, wants_url
from titans3.s3.xmlin import parse_versioning
from titans3.s3.xmlout import (
    CHECKSUM_ELEMENTS,
    CONTENT_TYPE,
    common_prefixes,
    document,
    escape_key,
    escape_text,
    iso_times,
    key_texts,
    quote_key,
)

_EMPTY = VersionPage([], [], False, (b"", ""))
_STATUS = {1: "<Status>Enabled</Status>", 2: "<Status>Suspended</Status>"}
_STATES = {"Enabled": 1, "Suspended": 2}


async def get_bucket_versioning(call: Call) -> Response:
    """The versioning state; an empty document for a bucket that never had it."""
    return Response(200, [CONTENT_TYPE], document("VersioningConfiguration", _STATUS.get(call.bucket.versioning, "")))


async def put_bucket_versioning(call: Call) -> Response:
    """Enable or suspend. Raises MalformedXML, IllegalVersioningConfigurationException, NotImplemented for MFA delete."""
    status, mfa_delete = parse_versioning(await call.read_proven())
    if mfa_delete == "Enabled" or b"x-amz-mfa" in call.fields:
        raise S3Error("NotImplemented", Header="x-amz-mfa")
    if mfa_delete not in ("", "Disabled"):
        raise S3Error("MalformedXML")
    if not status:
        raise S3Error("IllegalVersioningConfigurationException")
    if status not in _STATES:
        raise S3Error("MalformedXML")
    await call.store.set_versioning(call.bucket_name, _STATES[status])
    return Response(200)


async def list_object_versions(call: Call) -> Response:
    """A page of versions and delete markers. Raises InvalidArgument."""
    query = call.query
    limit, url = count_of(query, "max-keys", LIST_KEYS_MAX, LIST_KEYS_MAX), wants_url(query)
    prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
    key_marker, version_marker = query.get("key-marker", ""), query.get("version-id-marker")
    if version_marker and not key_marker:
        raise invalid_argument("A version-id marker cannot be specified without a key marker.", "version-id-marker", version_marker)
    if version_marker == "" and "version-id-marker" in query and key_marker:
        raise invalid_argument("A version-id marker cannot be empty.", "version-id-marker", "")
    page = _EMPTY
    if limit:
        page = await call.store.list_versions(
            call.bucket, prefix=prefix, delimiter=delimiter, after_key=key_marker.encode(),
            after_version=checked_version_id(version_marker) if version_marker else "", limit=limit,
        )  # fmt: skip
    show = quote_key if url else escape_key
    head = [
        f"<Name>{escape_text(call.bucket_name)}</Name><Prefix>{show(prefix)}</Prefix><KeyMarker>{show(key_marker.encode())}</KeyMarker>"
        f"<VersionIdMarker>{escape_text(version_marker or '')}</VersionIdMarker>"
    ]
    if page.truncated:
        key, version_id = page.last
        head.append(f"<NextKeyMarker>{show(key)}</NextKeyMarker>")
        if version_id:
            head.append(f"<NextVersionIdMarker>{version_id}</NextVersionIdMarker>")
    head.append(f"<MaxKeys>{limit}</MaxKeys>")
    if delimiter:
        head.append(f"<Delimiter>{show(delimiter)}</Delimiter>")
    if url:
        head.append("<EncodingType>url</EncodingType>")
    head.append(f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>")
    head.append(_items(page, call.object_owner, url=url))
    if page.prefixes:
        head += common_prefixes(page.prefixes, url=url)
    return Response(200, [CONTENT_TYPE, region_header(call)], document("ListVersionsResult", *head))


def _items(page: VersionPage, owner: Callable[[str], str], *, url: bool) -> str:
    texts = key_texts([key for key, _, _ in page.items], url=url)
    times = iso_times([version.modified_ms for _, version, _ in page.items])
    return "".join([
        _item(text, when, version, owner(version.owner), newest=newest)
        for text, when, (_, version, newest) in zip(texts, times, page.items, strict=True)
    ])  # fmt: skip


def _item(key: str, when: str, version: Version, owner: str, *, newest: bool) -> str:
    common = (
        f"<Key>{key}</Key><VersionId>{version.version_id}</VersionId><IsLatest>{'true' if newest else 'false'}</IsLatest>"
        f"<LastModified>{when}</LastModified>"
    )
    if version.flags & MARKER:
        return f"<DeleteMarker>{common}{owner}</DeleteMarker>"
    return (
        f"<Version>{common}<ETag>&quot;{version.etag_text}&quot;</ETag>{CHECKSUM_ELEMENTS[version.checksum_kind]}<Size>{version.size}</Size>"
        f"<StorageClass>{STORAGE_CLASSES[version.storage_class]}</StorageClass>{owner}</Version>"
    )
