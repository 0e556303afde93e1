"""The source of CopyObject and UploadPartCopy: found, allowed, and its bytes moved inside the server.

Invariants
* x-amz-copy-source is decoded exactly once; a leading slash is optional; ``+`` stays a plus.
* The reader of the source needs the right to read it, whoever owns the target.
* Bytes are copied, never shared: a data id belongs to one version or part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

import msgspec

from titans3.cluster.store import BodySink
from titans3.errors import ClientError, Reason
from titans3.http.hashing import BodyHashing
from titans3.http.message import BodySource
from titans3.limits import MIB
from titans3.model.control import BucketRecord
from titans3.model.version import MARKER, Checksum, Version
from titans3.s3 import checksum
from titans3.s3.actions import of_version
from titans3.s3.address import check_key
from titans3.s3.authorization import Access, check_owner, is_plain
from titans3.s3.call import Call, checked_version_id
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.receive import BodyDigests, OpenSink, Received, pump

_VERSION = re.compile(rb"\?versionId=").search
_READ = ("s3:GetObject",)
_READ_VERSION = ("s3:GetObjectVersion",)


class Source(msgspec.Struct, frozen=True):
    """A version to copy from, and its body if it was small."""

    bucket: BucketRecord
    key: bytes
    version_id: str
    version: Version
    body: bytes | None
    access: Access | None = None

    def require(self, action: str) -> None:
        """A further right on it. Raises AccessDenied."""
        if self.access is not None:
            self.access.require(of_version(action) if self.version_id else action)

    @property
    def shows_version(self) -> bool:
        return self.bucket.versioning != 0


def parse_source(raw: bytes) -> tuple[str, bytes, str]:
    """(bucket, key, version id or empty) of x-amz-copy-source. Raises InvalidArgument."""
    found = _VERSION(raw)
    path, version_id = (raw[: found.start()], raw[found.end() :].decode("latin-1")) if found else (raw, "")
    decoded = unquote_to_bytes(path).removeprefix(b"/")
    bucket, _, key = decoded.partition(b"/")
    if not bucket or not key or bucket.startswith(b"arn:"):
        raise invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            "x-amz-copy-source",
            raw.decode("latin-1"),
        )
    check_key(key)
    return bucket.decode("latin-1"), key, checked_version_id(version_id) if found else ""


async def find_source(call: Call) -> Source:
    """The version named by x-amz-copy-source. Raises NoSuchBucket, NoSuchKey, NoSuchVersion, AccessDenied, InvalidRequest."""
    name, key, version_id = parse_source(call.fields[b"x-amz-copy-source"])
    bucket = call.store.bucket_nowait(name) or await call.store.bucket(name)
    access = None
    if not is_plain(call.identity, bucket, call.store):
        access = Access(call, bucket, name, key, version_id=version_id)
        access.begin(_READ_VERSION if version_id else _READ)
    expected = call.fields.get(b"x-amz-source-expected-bucket-owner")
    if expected is not None:
        check_owner(expected, bucket)
    try:
        found = await call.store.find(bucket, key, version_id=version_id, body=True)
    except ClientError as error:
        if access is not None and error.reason in (Reason.METHOD_ON_MARKER, Reason.KEY_ABSENT, Reason.VERSION_ABSENT):
            access.absent()
        if error.reason is Reason.METHOD_ON_MARKER:
            raise _on_marker() from error
        if error.reason is Reason.KEY_ABSENT:
            raise S3Error("NoSuchKey", Key=key.decode("utf-8", "replace")) from error
        raise
    if access is None and found.version.owner != bucket.owner:
        access = Access(call, bucket, name, key, version_id=version_id)
        access.begin(_READ_VERSION if version_id else _READ)
    if found.version.flags & MARKER:
        if access is not None:
            access.absent()
        raise _on_marker()
    if access is not None:
        access.check(found.version)
    return Source(bucket, key, version_id, found.version, found.body, access)


def _on_marker() -> S3Error:
    return S3Error(
        "InvalidRequest", "The source of a copy request may not specifically refer to a delete marker by version id."
    )


async def copy_bytes(
    call: Call, source: Source, start: int, length: int, *, algorithm: str, open_sink: OpenSink
) -> Received:
    """Bytes of the source as if they had been sent; the source was verified as it was read."""
    small = length <= call.store.small_body_bytes
    if source.body is not None and small:
        return _received(source.body[start : start + length], algorithm)
    reader = call.store.open(source.bucket, source.key, source.version, start, length)
    try:
        if small:
            pieces = [bytes(piece) async for piece in _pieces(reader)]
            return _received(b"".join(pieces), algorithm)
        return await _through_sink(reader, length, algorithm, await open_sink(length), call.context.hashing)
    finally:
        reader.close()


async def _pieces(reader: BodySource) -> AsyncIterator[bytes | memoryview]:
    while (piece := await reader.next()) is not None:
        yield piece


def _received(data: bytes, algorithm: str) -> Received:
    stored = None
    if algorithm:
        digest = checksum.new_digest(algorithm)
        digest.update(data)
        stored = Checksum(algorithm, digest.digest())
    return Received(len(data), hashlib.md5(data, usedforsecurity=False).digest(), data, (), stored)


async def _through_sink(reader: BodySource, length: int, algorithm: str, sink: BodySink, hashing: BodyHashing) -> Received:
    digests = BodyDigests(hashing.batches_for(length), algorithm)
    rest: list[memoryview] = []

    async def take() -> memoryview | None:
        if rest:
            return rest.pop(0)
        piece = await reader.next()
        if piece is None:
            return None
        view = memoryview(piece)
        rest.extend(view[at : at + MIB] for at in range(MIB, len(view), MIB))
        return view[:MIB]

    try:
        size = await pump(take, lambda piece: None, sink, digests, b"", length)
        if size != length:
            raise ClientError(Reason.BODY_DAMAGED, "the source ended early")
        md5 = digests.md5()
        extents = await sink.finish(md5)
    except BaseException:
        sink.abandon()
        raise
    stored = Checksum(algorithm, digests.checksum()) if algorithm else None
    return Received(length, md5, b"", extents, stored, sink)
