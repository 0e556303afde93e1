"""CreateMultipartUpload, UploadPart, AbortMultipartUpload, ListParts, ListMultipartUploads.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPart.html and its neighbours

Invariants
* Every part has a checksum: the client's, or one computed here, of the upload's algorithm or the default one.
* An upload id is 32 hex digits; anything else is an upload that does not exist.
"""

from __future__ import annotations

from titans3.errors import ClientError, Reason
from titans3.http.message import Response
from titans3.limits import LIST_KEYS_MAX, PART_BYTES_MAX, PART_NUMBER_MAX
from titans3.model.version import Part, Upload
from titans3.s3 import checksum
from titans3.s3.acl import ownership_of_write
from titans3.s3.call import Call
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.headers import Pairs, kept_headers, kept_metadata, storage_class_of
from titans3.s3.put import require_length
from titans3.s3.query import count_of, wants_url
from titans3.s3.receive import commit, proof_of, receive
from titans3.s3.tags import tags_of_header
from titans3.s3.xmlout import (
    CONTENT_TYPE,
    common_prefixes,
    document,
    escape_key,
    escape_text,
    iso_time,
    key_texts,
    owner_element,
    quote_key,
)

_UPLOAD_ID_BYTES = 16


async def create_multipart_upload(call: Call) -> Response:
    """Start an upload. Raises InvalidRequest for a checksum type that its algorithm does not have."""
    algorithm = checksum.asked_algorithm(call.header(b"x-amz-checksum-algorithm"))
    composite = checksum.asked_type(call.header(b"x-amz-checksum-type"), algorithm)
    owner, acl = ownership_of_write(call)
    caller = call.identity
    upload_id = await call.store.create_upload(
        call.bucket,
        call.key,
        owner=owner,
        headers=kept_headers(call.fields),
        metadata=kept_metadata(call.fields),
        checksum_algorithm=algorithm,
        checksum_composite=composite,
        storage_class=storage_class_of(call.fields),
        tags=tags_of_header(call.header(b"x-amz-tagging")),
        acl=acl,
        initiator="" if caller.is_account_root and owner == caller.account else caller.arn,
    )
    headers: Pairs = [CONTENT_TYPE]
    if algorithm:
        kind = checksum.COMPOSITE if composite else checksum.FULL_OBJECT
        headers += [(b"x-amz-checksum-algorithm", algorithm.upper().encode("ascii")), (b"x-amz-checksum-type", kind.encode("ascii"))]
    body = f"<Bucket>{escape_text(call.bucket_name)}</Bucket><Key>{escape_key(call.key)}</Key><UploadId>{upload_id.hex()}</UploadId>"
    return Response(200, headers, document("InitiateMultipartUploadResult", body))


async def upload_part(call: Call) -> Response:
    """Store a part; a part of the same number is replaced. Raises NoSuchUpload, BadDigest, EntityTooLarge, InvalidArgument."""
    number = part_number(call)
    upload_id = upload_id_of(call)
    require_length(call.fields)
    proof = proof_of(call.fields)
    store, bucket, key = call.store, call.bucket, call.key
    upload = await store.upload(bucket, key, upload_id)
    wanted = upload.checksum_algorithm
    if wanted and proof.algorithm and proof.algorithm != wanted:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {wanted}, actual checksum Type: {proof.algorithm}",
        )
    proof.algorithm = proof.algorithm or wanted or checksum.DEFAULT_ALGORITHM
    received = await receive(
        call.payload(),
        proof,
        small=store.small_body_bytes,
        limit=PART_BYTES_MAX,
        open_sink=lambda length: store.sink(
            bucket, key, length=length, headers=upload.headers, metadata=upload.metadata, upload_id=upload_id, part=number
        ),
        hashing=call.context.hashing,
    )
    now = call.context.clock.wall_ms()
    part = Part(number, received.size, received.md5, now, received.extents, received.checksum)
    done = await commit(received.sink, store.put_part(bucket, key, upload_id, part, received.data))
    headers: Pairs = [(b"etag", b'"%b"' % done.etag.hex().encode("ascii"))]
    if done.checksum is not None and proof.claim is not None:
        headers += checksum.header_pairs(done.checksum, 0, with_type=False)
    return Response(200, headers)


async def abort_multipart_upload(call: Call) -> Response:
    """Drop an upload. Raises NoSuchUpload."""
    await call.store.abort_upload(call.bucket, call.key, upload_id_of(call))
    return Response(204)


async def list_parts(call: Call) -> Response:
    """Parts by number. Raises NoSuchUpload, InvalidArgument."""
    query = call.query
    upload_id = upload_id_of(call)
    limit = count_of(query, "max-parts", LIST_KEYS_MAX, LIST_KEYS_MAX)
    after = count_of(query, "part-number-marker", 0, 0x7FFF_FFFF)
    upload = await call.store.upload(call.bucket, call.key, upload_id)
    parts, truncated = await call.store.parts(call.bucket, call.key, upload_id, after=after, limit=limit) if limit else ([], False)
    body = [
        f"<Bucket>{escape_text(call.bucket_name)}</Bucket><Key>{escape_key(call.key)}</Key><UploadId>{upload_id.hex()}</UploadId>",
        _initiator(call, upload),
        call.object_owner(upload.owner),
        f"<StorageClass>STANDARD</StorageClass><PartNumberMarker>{after}</PartNumberMarker>",
        f"<NextPartNumberMarker>{parts[-1].number if parts else 0}</NextPartNumberMarker>",
        f"<MaxParts>{limit}</MaxParts><IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
        _checksum_elements(upload),
    ]
    for part in parts:
        value = checksum.element(part.checksum, 0) if part.checksum is not None else ""
        body.append(
            f"<Part><PartNumber>{part.number}</PartNumber><LastModified>{iso_time(part.modified_ms)}</LastModified>"
            f"<ETag>&quot;{part.etag.hex()}&quot;</ETag><Size>{part.size}</Size>{value}</Part>"
        )
    return Response(200, [CONTENT_TYPE], document("ListPartsResult", "".join(body)))


async def list_multipart_uploads(call: Call) -> Response:
    """Open uploads by key, then by when they began. Raises InvalidArgument."""
    query = call.query
    limit = count_of(query, "max-uploads", LIST_KEYS_MAX, LIST_KEYS_MAX)
    url = wants_url(query)
    prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
    key_marker, upload_marker = query.get("key-marker", ""), query.get("upload-id-marker", "")
    if not key_marker:
        upload_marker = ""  # alone it is ignored, as S3 does
    page = None
    if limit:
        page = await call.store.list_uploads(
            call.bucket,
            prefix=prefix,
            delimiter=delimiter,
            after_key=key_marker.encode(),
            after_upload=_marker_bytes(upload_marker),
            limit=limit,
        )
    show = quote_key if url else escape_key
    truncated = page is not None and page.truncated
    body = [
        f"<Bucket>{escape_text(call.bucket_name)}</Bucket><KeyMarker>{show(key_marker.encode())}</KeyMarker>",
        f"<UploadIdMarker>{escape_text(upload_marker)}</UploadIdMarker>",
    ]
    if page is not None and truncated:
        body.append(f"<NextKeyMarker>{show(page.after_key)}</NextKeyMarker><NextUploadIdMarker>{page.after_upload.hex()}</NextUploadIdMarker>")
    body.append(f"<Prefix>{show(prefix)}</Prefix>")
    if delimiter:
        body.append(f"<Delimiter>{show(delimiter)}</Delimiter>")
    if url:
        body.append("<EncodingType>url</EncodingType>")
    body.append(f"<MaxUploads>{limit}</MaxUploads><IsTruncated>{'true' if truncated else 'false'}</IsTruncated>")
    if page is not None:
        texts = key_texts([item.key for item in page.uploads], url=url)
        for text, item in zip(texts, page.uploads, strict=True):
            body.append(
                f"<Upload><Key>{text}</Key><UploadId>{item.upload_id.hex()}</UploadId>{_initiator(call, item.upload)}"
                f"{call.object_owner(item.upload.owner)}<StorageClass>STANDARD</StorageClass>"
                f"<Initiated>{iso_time(item.upload.initiated_ms)}</Initiated>{_checksum_elements(item.upload)}</Upload>"
            )
        body += common_prefixes(page.prefixes, url=url)
    return Response(200, [CONTENT_TYPE], document("ListMultipartUploadsResult", "".join(body)))


def _initiator(call: Call, upload: Upload) -> str:
    """Who started it: an account by its canonical id, a user or session by its ARN."""
    arn = upload.initiator
    if not arn or arn.endswith(":root"):
        return call.owner_element(arn.split(":")[4] if arn else upload.owner or call.bucket.owner, "Initiator")
    return owner_element((arn, arn.rpartition("/")[2]), "Initiator")


def part_number(call: Call) -> int:
    """``partNumber`` of the query. Raises InvalidArgument."""
    text = call.query["partNumber"]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0
    if not 1 <= number <= PART_NUMBER_MAX:
        raise invalid_argument(f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive", "partNumber", text)
    return number


def upload_id_of(call: Call) -> bytes:
    """``uploadId`` of the query. Raises NoSuchUpload for what cannot be one."""
    text = call.query["uploadId"]
    try:
        upload_id = bytes.fromhex(text) if len(text) == 2 * _UPLOAD_ID_BYTES else b""
    except ValueError:
        upload_id = b""
    if len(upload_id) != _UPLOAD_ID_BYTES:
        raise ClientError(Reason.UPLOAD_ABSENT)
    return upload_id


def _marker_bytes(text: str) -> bytes:
    if not text:
        return b""
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise invalid_argument("Invalid uploadId marker", "upload-id-marker", text) from error


def _checksum_elements(upload: Upload) -> str:
    if not upload.checksum_algorithm:
        return ""
    kind = checksum.COMPOSITE if upload.checksum_composite else checksum.FULL_OBJECT
    return f"<ChecksumAlgorithm>{upload.checksum_algorithm.upper()}</ChecksumAlgorithm><ChecksumType>{kind}</ChecksumType>"
