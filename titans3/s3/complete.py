"""CompleteMultipartUpload.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html

Invariants
* What is decided here is decided again at apply; here it gets its precise error.
* A repeat of a completed upload answers what the first one did.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

from titans3.errors import ClientError, Reason
from titans3.http.message import Response
from titans3.limits import LIST_KEYS_MAX, OBJECT_BYTES_MAX, PART_NUMBER_MAX
from titans3.model.command import CompletePart, Condition
from titans3.model.version import NULL, Checksum, Part, Upload, Version
from titans3.s3 import checksum
from titans3.s3.call import Call
from titans3.s3.conditions import write_condition
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.headers import Pairs
from titans3.s3.multipart import upload_id_of
from titans3.s3.put import check_early
from titans3.s3.receive import too_large
from titans3.s3.xmlin import PartItem, parse_complete
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_key, escape_text


async def complete_multipart_upload(call: Call) -> Response:
    """Turn parts into an object. Raises NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, MalformedXML, PreconditionFailed …"""
    upload_id = upload_id_of(call)
    condition = write_condition(call.fields)
    wanted_size = _wanted_size(call)
    data, _ = await call.read_document()
    items = parse_complete(data)
    store, bucket, key = call.store, call.bucket, call.key
    try:
        upload = await store.upload(bucket, key, upload_id)
        try:
            done = await _complete(call, upload_id, upload, items, wanted_size, condition)
        except S3Error:
            await store.upload(bucket, key, upload_id)  # its parts go with it: if it ended meanwhile, that is what happened
            raise
    except ClientError as error:
        if error.reason is not Reason.UPLOAD_ABSENT:
            raise
        earlier = await store.completed(bucket, key, upload_id)
        if earlier is None:
            raise
        done = earlier
    return _answer(call, done)


async def _complete(
    call: Call, upload_id: bytes, upload: Upload, items: list[PartItem], wanted_size: int, condition: Condition | None
) -> Version:
    """Judge the list against the stored parts and commit. Raises S3Error, ClientError."""
    if condition is not None:
        await check_early(call, condition)
    parts = _choose(items, await _all_parts(call, upload_id))
    size = sum(part.size for part in parts)
    if wanted_size not in (-1, size):
        raise S3Error(
            "InvalidRequest",
            f"The provided 'x-amz-mp-object-size' header value {wanted_size} does not match what was computed: {size}",
        )
    if size > OBJECT_BYTES_MAX:
        raise too_large(size, OBJECT_BYTES_MAX)
    return await call.store.complete_upload(
        call.bucket,
        call.key,
        upload_id,
        parts=tuple(_listed(item, part) for item, part in zip(items, parts, strict=True)),
        etag=hashlib.md5(b"".join([part.etag for part in parts]), usedforsecurity=False).digest(),
        size=wanted_size,
        checksum=_object_checksum(call, upload, items, parts),
        condition=condition,
    )


def _answer(call: Call, done: Version) -> Response:
    headers: Pairs = [CONTENT_TYPE]
    if not done.flags & NULL:
        headers.append((b"x-amz-version-id", done.version_id.encode("ascii")))
    request = call.request
    path = request.path.decode("latin-1")
    location = f"{'https' if request.secure else 'http'}://{request.host}{path}"
    body = (
        f"<Location>{escape_text(location)}</Location><Bucket>{escape_text(call.bucket_name)}</Bucket><Key>{escape_key(call.key)}</Key>"
        f"<ETag>&quot;{done.etag_text}&quot;</ETag>"
    )
    if done.checksum is not None:
        body += checksum.element(done.checksum, done.part_count)
        body += f"<ChecksumType>{checksum.type_name(done.checksum)}</ChecksumType>"
    return Response(200, headers, document("CompleteMultipartUploadResult", body))


def _wanted_size(call: Call) -> int:
    text = call.header(b"x-amz-mp-object-size")
    if text is None:
        return -1
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise invalid_argument("The value of x-amz-mp-object-size is invalid.", "x-amz-mp-object-size", text)
    return int(text)


async def _all_parts(call: Call, upload_id: bytes) -> dict[int, Part]:
    found: dict[int, Part] = {}
    after, more = 0, True
    while more and after < PART_NUMBER_MAX:
        page, more = await call.store.parts(call.bucket, call.key, upload_id, after=after, limit=LIST_KEYS_MAX)
        for part in page:
            found[part.number] = part
        if not page:
            break
        after = page[-1].number
    return found


def _choose(items: list[PartItem], stored: dict[int, Part]) -> list[Part]:
    """The stored parts in the order listed. Raises InvalidPartOrder, InvalidPart; the smallest size is apply's to judge."""
    if any(later.number <= earlier.number for earlier, later in pairwise(items)):
        raise S3Error("InvalidPartOrder")
    chosen = []
    for item in items:
        part = stored.get(item.number)
        if part is None or item.etag.strip('"').lower() != part.etag.hex():
            raise _invalid_part(item)
        for algorithm, text in item.checksums.items():
            value = checksum.decode_value(algorithm, text)
            if part.checksum is None or part.checksum.algorithm != algorithm or part.checksum.value != value:
                raise _invalid_part(item)
        chosen.append(part)
    return chosen


def _invalid_part(item: PartItem) -> S3Error:
    return S3Error("InvalidPart", PartNumber=str(item.number), ETag=item.etag[:100])


def _listed(item: PartItem, part: Part) -> CompletePart:
    return CompletePart(item.number, part.etag, part.checksum if item.checksums else None)


def _object_checksum(call: Call, upload: Upload, items: list[PartItem], parts: list[Part]) -> Checksum | None:
    """The object's checksum, compared with the one the client gave. Raises InvalidRequest, BadDigest (of another type too)."""
    algorithm, composite = upload.checksum_algorithm, upload.checksum_composite
    given = [(name, call.fields[raw]) for raw, name in checksum.HEADERS.items() if raw in call.fields]
    if len(given) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
    _check_type(call, algorithm, composite)
    if not algorithm:
        if not given:
            if any(part.checksum is None or part.checksum.algorithm != checksum.DEFAULT_ALGORITHM for part in parts):
                return None  # parts that came with checksums of their own
            given_none = [(part.checksum.value, part.size) for part in parts if part.checksum is not None]
            return checksum.combine(checksum.DEFAULT_ALGORITHM, False, given_none)
        algorithm = given[0][0]
        composite = False
        if algorithm not in ("crc32", "crc32c", "crc64nvme"):
            raise S3Error("InvalidRequest", f"The upload was not created with the {algorithm} checksum algorithm.")
    elif composite:
        for item in items:
            if algorithm not in item.checksums:
                raise S3Error(
                    "InvalidRequest",
                    f"The upload was created using a {algorithm} checksum. The complete request must include the checksum for each part. "
                    f"It was missing for part {item.number} in the request.",
                )
    values = []
    for part in parts:
        if part.checksum is None or part.checksum.algorithm != algorithm:
            raise S3Error("InvalidRequest", f"Part {part.number} has no {algorithm} checksum.")
        values.append((part.checksum.value, part.size))
    whole = checksum.combine(algorithm, composite, values)
    if given:
        name, raw = given[0]
        if name != algorithm:
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: {algorithm}, actual checksum Type: {name}",
            )
        text = raw.decode("latin-1").strip()
        full = checksum.value_text(whole, len(parts))
        if text not in (full, full.partition("-")[0]):
            raise checksum.bad_digest(algorithm)
    return whole


def _check_type(call: Call, algorithm: str, composite: bool) -> None:
    text = call.header(b"x-amz-checksum-type")
    if text is None:
        return
    kind = checksum.COMPOSITE if composite else checksum.FULL_OBJECT
    if text.upper() not in (checksum.COMPOSITE, checksum.FULL_OBJECT):
        raise invalid_argument("Value for x-amz-checksum-type header is invalid.", "x-amz-checksum-type", text)
    if algorithm and text.upper() != kind:
        raise S3Error("BadDigest", f"The upload was created with the {kind} checksum type; the request says {text.upper()}.")
