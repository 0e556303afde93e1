"""PutObject. Hot: guarded by ``bench/micro/s3.py``.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
"""

from __future__ import annotations

from titans3.errors import ClientError, Reason
from titans3.http.message import Response
from titans3.limits import OBJECT_PUT_BYTES_MAX
from titans3.model.command import Condition
from titans3.model.version import NULL, ROW_FORMAT, STANDARD, UNASKED_KIND, Checksum, Version
from titans3.s3 import checksum
from titans3.s3.acl import ownership_of_write
from titans3.s3.call import Call
from titans3.s3.checksum import DEFAULT_ALGORITHM
from titans3.s3.conditions import judge_write, write_condition
from titans3.s3.errors import S3Error
from titans3.s3.headers import etag_header, kept_metadata, kept_of, storage_class_of
from titans3.s3.receive import OpenSink, Proof, Received, commit, judge_small, proof_of, receive
from titans3.s3.tags import tags_of_header

_PLAIN_PROOF = Proof(algorithm=DEFAULT_ALGORITHM)
_NOTHING: dict[str, str] = {}


async def put_object(call: Call) -> Response:
    """Store an object. Raises BadDigest, InvalidDigest, EntityTooLarge, PreconditionFailed, NoSuchKey, MetadataTooLarge …"""
    fields = call.fields
    require_length(fields)
    headers = kept_of(call.request, fields)
    ownership = ownership_of_write(call)
    proof, metadata, storage_class, tags, condition = _PLAIN_PROOF, _NOTHING, STANDARD, _NOTHING, None
    if not call.is_bare:
        proof = proof_of(fields, algorithm=DEFAULT_ALGORITHM)
        metadata = kept_metadata(fields)
        storage_class = storage_class_of(fields)
        tags = tags_of_header(call.header(b"x-amz-tagging")) if b"x-amz-tagging" in fields else {}
        condition = write_condition(fields)
    if condition is not None:
        await check_early(call, condition)
    store, bucket, key = call.store, call.bucket, call.key
    payload, small = call.payload(), store.small_body_bytes
    length = payload.length
    if length is not None and length <= small:
        received = judge_small(await payload.read_all(small), payload, proof)
    else:
        received = await receive(
            payload, proof, small=small, limit=OBJECT_PUT_BYTES_MAX, open_sink=_sink(call, headers, metadata), hashing=call.context.hashing
        )
    asked = proof.claim is not None
    version = new_version(call, received, headers, metadata, received.checksum, storage_class, tags, ownership, asked=asked)
    step = store.put(bucket, key, version, received.data, condition)
    done = await (step if received.sink is None else commit(received.sink, step))
    block = b"etag: %b\r\n" % etag_header(done)
    if done.checksum is not None:
        block += checksum.header_lines(done.checksum, 0)
    if not done.flags & NULL:
        block += b"x-amz-version-id: %b\r\n" % done.version_id.encode("ascii")
    return Response(200, block=block)


def _sink(call: Call, headers: dict[str, str], metadata: dict[str, str]) -> OpenSink:
    store, bucket, key = call.store, call.bucket, call.key
    return lambda length: store.sink(bucket, key, length=length, headers=headers, metadata=metadata)


def require_length(fields: dict[bytes, bytes]) -> None:
    """Raises MissingContentLength for a PUT that says nothing about its body."""
    if b"content-length" not in fields and b"transfer-encoding" not in fields:
        raise S3Error("MissingContentLength")


def new_version(
    call: Call,
    received: Received,
    headers: dict[str, str],
    metadata: dict[str, str],
    stored: Checksum | None,
    storage_class: int,
    tags: dict[str, str],
    ownership: tuple[str, bytes],
    *,
    asked: bool,
) -> Version:
    """The version to propose; the store adds time and nonce, apply seq, object id and the null flag. ``ownership``: owner and grants.

    ``asked``: whether the client gave the checksum or wants one, so that listings tell it.
    """
    return Version(
        ROW_FORMAT,
        0,
        0,
        0,
        received.size,
        received.md5,
        0,
        0,
        owner=ownership[0],
        extents=received.extents,
        headers=headers,
        metadata=metadata,
        checksum=stored,
        storage_class=storage_class,
        tags=tags,
        acl=ownership[1],
        checksum_kind=0 if asked else UNASKED_KIND,
    )


async def check_early(call: Call, condition: Condition) -> None:
    """The write condition before the body is read; apply decides it again. Raises PreconditionFailed, NoSuchKey."""
    judge_write(condition, await newest(call))


async def newest(call: Call) -> Version | None:
    """The newest version of the call's key, a marker too; ``None`` if there is none."""
    try:
        found = await call.store.find(call.bucket, call.key)
    except ClientError as error:
        if error.reason is not Reason.KEY_ABSENT:
            raise
        return None
    return found.version
