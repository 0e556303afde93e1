"""CopyObject and UploadPartCopy.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html

Invariants
* An object is not copied onto itself without a change.
* The copy of a multipart object is one object with a plain MD5 ETag; the source's checksum algorithm is kept unless another is asked.
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.limits import OBJECT_PUT_BYTES_MAX, PART_BYTES_MAX
from titans3.model.version import NULL, Part, Version
from titans3.s3 import checksum
from titans3.s3.acl import ownership_of_write
from titans3.s3.call import Call
from titans3.s3.conditions import check_copy_source, write_condition
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.headers import Pairs, kept_headers, kept_metadata, storage_class_of
from titans3.s3.multipart import part_number, upload_id_of
from titans3.s3.put import check_early, new_version
from titans3.s3.ranges import parse_copy_range
from titans3.s3.receive import commit
from titans3.s3.source import Source, copy_bytes, find_source
from titans3.s3.tags import tags_of_header
from titans3.s3.xmlout import CONTENT_TYPE, document, iso_time

_REDIRECT = "x-amz-website-redirect-location"


async def copy_object(call: Call) -> Response:
    """Copy within the server. Raises NoSuchKey, PreconditionFailed, InvalidRequest, InvalidArgument, AccessDenied."""
    fields = call.fields
    replaces = _directive(call, b"x-amz-metadata-directive")
    retags = _directive(call, b"x-amz-tagging-directive")
    storage_class = storage_class_of(fields)
    wanted = checksum.asked_algorithm(call.header(b"x-amz-checksum-algorithm"))
    condition = write_condition(fields)
    ownership = ownership_of_write(call)
    source = await find_source(call)
    version = source.version
    algorithm = wanted or (version.checksum.algorithm if version.checksum else checksum.DEFAULT_ALGORITHM)
    changes = b"x-amz-storage-class" in fields or _REDIRECT.encode("ascii") in fields
    _refuse_idle_copy(call, source, changes=replaces or bool(wanted) or changes)
    check_copy_source(fields, version)
    if version.size > OBJECT_PUT_BYTES_MAX:
        raise _too_large_source(OBJECT_PUT_BYTES_MAX)
    if condition is not None:
        await check_early(call, condition)
    headers = kept_headers(fields) if replaces else _copied_headers(fields, version)
    tags = tags_of_header(call.header(b"x-amz-tagging")) if retags else version.tags
    if tags and not retags:
        source.require("s3:GetObjectTagging")
        if call.access is not None:
            call.access.require("s3:PutObjectTagging")
    metadata = kept_metadata(fields) if replaces else version.metadata
    store, bucket, key = call.store, call.bucket, call.key
    received = await copy_bytes(
        call,
        source,
        0,
        version.size,
        algorithm=algorithm,
        open_sink=lambda length: store.sink(bucket, key, length=length, headers=headers, metadata=metadata),
    )
    asked = bool(wanted or version.checksum_kind)
    target = new_version(call, received, headers, metadata, received.checksum, storage_class, tags, ownership, asked=asked)
    done = await commit(received.sink, store.put(bucket, key, target, received.data, condition))
    answer: Pairs = [CONTENT_TYPE, *_source_header(source)]
    if not done.flags & NULL:
        answer.append((b"x-amz-version-id", done.version_id.encode("ascii")))
    body = f"<LastModified>{iso_time(done.modified_ms)}</LastModified><ETag>&quot;{done.etag_text}&quot;</ETag>"
    if done.checksum is not None:
        body += f"<ChecksumType>{checksum.type_name(done.checksum)}</ChecksumType>{checksum.element(done.checksum, 0)}"
    return Response(200, answer, document("CopyObjectResult", body))


async def upload_part_copy(call: Call) -> Response:
    """A part from an object or a range of it. Raises NoSuchUpload, InvalidRange, InvalidArgument and what CopyObject raises."""
    number = part_number(call)
    upload_id = upload_id_of(call)
    upload = await call.store.upload(call.bucket, call.key, upload_id)
    source = await find_source(call)
    check_copy_source(call.fields, source.version)
    text = call.header(b"x-amz-copy-source-range")
    start, length = parse_copy_range(text, source.version.size) if text is not None else (0, source.version.size)
    if length > PART_BYTES_MAX:
        raise _too_large_source(PART_BYTES_MAX)
    store, bucket, key = call.store, call.bucket, call.key
    received = await copy_bytes(
        call,
        source,
        start,
        length,
        algorithm=upload.checksum_algorithm or checksum.DEFAULT_ALGORITHM,
        open_sink=lambda size: store.sink(
            bucket, key, length=size, headers=upload.headers, metadata=upload.metadata, upload_id=upload_id, part=number
        ),
    )
    part = Part(number, length, received.md5, call.context.clock.wall_ms(), received.extents, received.checksum)
    done = await commit(received.sink, store.put_part(bucket, key, upload_id, part, received.data))
    body = f"<LastModified>{iso_time(done.modified_ms)}</LastModified><ETag>&quot;{done.etag.hex()}&quot;</ETag>"
    if done.checksum is not None:
        body += checksum.element(done.checksum, 0)
    return Response(200, [CONTENT_TYPE, *_source_header(source)], document("CopyPartResult", body))


def _copied_headers(fields: dict[bytes, bytes], version: Version) -> dict[str, str]:
    """The source's headers; the website redirect is never copied, but given anew."""
    headers = {name: text for name, text in version.headers.items() if name != _REDIRECT}
    given = kept_headers(fields).get(_REDIRECT)
    return headers | {_REDIRECT: given} if given else headers


def _directive(call: Call, name: bytes) -> bool:
    """Whether a directive says REPLACE. Raises InvalidArgument for another word."""
    text = call.header(name) or "COPY"
    if text not in ("COPY", "REPLACE"):
        raise invalid_argument(f"Unknown {name.decode('ascii')[6:].replace('-', ' ')}.", name.decode("ascii"), text)
    return text == "REPLACE"


def _refuse_idle_copy(call: Call, source: Source, *, changes: bool) -> None:
    same = source.bucket.bucket == call.bucket.bucket and source.key == call.key and not source.version_id
    if same and not changes:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, "
            "storage class, website redirect location or encryption attributes.",
        )


def _too_large_source(limit: int) -> S3Error:
    return S3Error(
        "InvalidRequest", f"The specified copy source is larger than the maximum allowable size for a copy source: {limit}"
    )


def _source_header(source: Source) -> Pairs:
    if source.shows_version:
        return [(b"x-amz-copy-source-version-id", source.version.version_id.encode("ascii"))]
    return []
