"""GetObject and HeadObject: whole, by range, by part. Hot: guarded by ``bench/micro/s3.py``.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html

Invariants
* A checksum of the whole object is never sent with a part of it; SDKs would compare them.
* Preconditions come before ranges (RFC 9110 13.2.2).
"""

from __future__ import annotations

import msgspec

from titans3.errors import ClientError, DiskError, Reason
from titans3.http.message import BodySource, Response
from titans3.limits import PART_NUMBER_MAX, WHOLE_BYTES_MAX
from titans3.model.version import MARKER, Version
from titans3.s3 import checksum
from titans3.s3.authorization import access_of, check_foreign
from titans3.s3.call import Call
from titans3.s3.conditions import check_read, range_stands
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.headers import Pairs, http_date, object_block, object_headers
from titans3.s3.ranges import content_range, parse_range

_OVERRIDES = {
    "response-cache-control": b"cache-control",
    "response-content-disposition": b"content-disposition",
    "response-content-encoding": b"content-encoding",
    "response-content-language": b"content-language",
    "response-content-type": b"content-type",
    "response-expires": b"expires",
}

_REPLACED_MAX = 4


class Slice(msgspec.Struct, gc=False):
    """What of the object is answered. ``extra`` are headers that come with it."""

    status: int
    start: int
    length: int
    extra: Pairs


class _Begun:
    """A body whose first piece is already here."""

    __slots__ = ("_first", "_source", "length")

    def __init__(self, source: BodySource, first: bytes | memoryview | None) -> None:
        self.length = source.length
        self._source, self._first = source, first

    async def next(self) -> bytes | memoryview | None:
        first, self._first = self._first, None
        return await self._source.next() if first is None else first

    def next_nowait(self) -> bytes | memoryview | None:
        first, self._first = self._first, None
        return self._source.next_nowait() if first is None else first

    def close(self) -> None:
        self._source.close()


async def get_object(call: Call) -> Response:
    """The object's bytes. Raises NoSuchKey, NoSuchVersion, PreconditionFailed, InvalidRange, MethodNotAllowed on a marker.

    The first piece of a large body is read before the answer begins, so that what goes wrong until then has its own status; an object
    that was replaced between finding and reading it is found again.
    """
    version, data = await find_version(call, body=True)
    is_plain = call.is_bare and not call.query
    if is_plain:
        whole = _at_once(call, version, 0, version.size) if data is None else data
        if whole is not None:
            return Response(200, [], whole, block=_block(call, version))
    for _ in range(_REPLACED_MAX):
        check_read(call.fields, version)
        headers, piece = await _answer(call, version)
        if data is None and version.size == 0:
            data = b""
        if data is not None:
            if piece.length != len(data):
                data = data[piece.start : piece.start + piece.length]
            return Response(piece.status, headers, data)
        part = None if is_plain else _at_once(call, version, piece.start, piece.length)
        if part is not None:
            return Response(piece.status, headers, part)
        source = call.store.open(call.bucket, call.key, version, piece.start, piece.length)
        try:
            first = await source.next()
        except (ClientError, DiskError):
            source.close()
            before = (version.object_id, version.seq, version.version_id)
            version, data = await find_version(call, body=True)
            if before == (version.object_id, version.seq, version.version_id):
                raise
        except BaseException:
            source.close()
            raise
        else:
            return Response(piece.status, headers, _Begun(source, first))
    raise S3Error("SlowDown")


def _at_once(call: Call, version: Version, start: int, length: int) -> memoryview | None:
    """A piece that needs no waiting. What is wrong with it is told by the way that waits, which looks again for what was replaced."""
    if length > WHOLE_BYTES_MAX:
        return None
    try:
        return call.store.read_nowait(version, start, length)
    except DiskError:
        return None


async def head_object(call: Call) -> Response:
    """What GetObject would say, without the bytes."""
    version, _ = await find_version(call, body=False)
    if call.is_bare and not call.query:
        return Response(200, length=version.size, block=_block(call, version))
    check_read(call.fields, version)
    headers, piece = await _answer(call, version)
    return Response(piece.status, headers, length=piece.length)


async def find_version(call: Call, *, body: bool) -> tuple[Version, bytes | None]:
    """The version a request is about, and its body if that is small and wanted. Raises NoSuchKey, NoSuchVersion, MethodNotAllowed."""
    version_id = call.version_id() if "versionId" in call.query else ""
    try:
        found = await call.store.find(call.bucket, call.key, version_id=version_id, body=body)
    except ClientError as error:
        if error.reason in (Reason.KEY_ABSENT, Reason.VERSION_ABSENT, Reason.METHOD_ON_MARKER):
            access = access_of(call)
            if access is not None:
                access.absent()
        marker = error.fields.get("marker")
        if error.reason is Reason.KEY_ABSENT and isinstance(marker, Version):
            raise S3Error("NoSuchKey", headers=_marker_headers(marker), Key=_shown(call.key)) from error
        if error.reason is Reason.METHOD_ON_MARKER and isinstance(marker, Version):
            raise _on_marker(marker) from error
        if error.reason is Reason.KEY_ABSENT:
            raise S3Error("NoSuchKey", Key=_shown(call.key)) from error
        if error.reason is Reason.VERSION_ABSENT:
            raise S3Error("NoSuchVersion", Key=_shown(call.key), VersionId=version_id) from error
        raise
    version = found.version
    call.kept = found.kept
    if call.access is not None:
        if version.flags & MARKER:
            call.access.absent()
        else:
            call.access.check(version)
    elif version.owner != call.bucket.owner:
        check_foreign(call, version)
    if version.flags & MARKER:
        raise _on_marker(version)
    return version, found.body


def _block(call: Call, version: Version) -> bytes:
    """The headers of a whole answer, made once for a version that is kept."""
    kept, shows = call.kept, call.bucket.versioning != 0
    if kept is not None and kept.head is not None and kept.head[0] is shows:
        return kept.head[1]
    block = object_block(version, shows_version=shows)
    if kept is not None:
        kept.head = shows, block
    return block


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _marker_headers(marker: Version) -> Pairs:
    return [(b"x-amz-delete-marker", b"true"), (b"x-amz-version-id", marker.version_id.encode("ascii"))]


def _on_marker(marker: Version) -> S3Error:
    extra = [(b"last-modified", http_date(marker.modified_ms)), (b"allow", b"DELETE")]
    return S3Error("MethodNotAllowed", headers=_marker_headers(marker) + extra, Method="GET", ResourceType="DeleteMarker")


async def _answer(call: Call, version: Version) -> tuple[Pairs, Slice]:
    """The headers, and what is to be sent."""
    headers = object_headers(version, shows_version=call.bucket.versioning != 0)
    query, fields = call.query, call.fields
    piece = Slice(200, 0, version.size, [])
    text = fields.get(b"range")
    if query and "partNumber" in query:
        if text is not None:
            raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        piece = await _part(call, version, query["partNumber"])
    elif text is not None and range_stands(fields, version):
        found = parse_range(text.decode("latin-1"), version.size)
        if found is not None:
            start, length = found
            piece = Slice(206, start, length, [(b"content-range", content_range(start, length, version.size))])
    if piece.status == 200 and version.checksum is not None and wants_checksum(call):
        headers += checksum.header_pairs(version.checksum, version.part_count)
    headers += piece.extra
    if query:
        _override(call, headers)
    return headers, piece


def wants_checksum(call: Call) -> bool:
    """x-amz-checksum-mode, whatever its case."""
    value = call.fields.get(b"x-amz-checksum-mode")
    return value is not None and value.strip().lower() == b"enabled"


async def _part(call: Call, version: Version, text: str) -> Slice:
    """The part of that place, from 1 to x-amz-mp-parts-count, whatever number it was uploaded under: downloads count so. Part 1 of a plain
    object is the object. Raises InvalidArgument, InvalidPartNumber.
    """
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0
    if not 1 <= number <= PART_NUMBER_MAX:
        raise invalid_argument(f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive", "partNumber", text)
    if not version.part_count:
        if number > 1:
            raise S3Error("InvalidPartNumber", ActualPartCount="1", PartNumberRequested=text)
        if version.size == 0:
            return Slice(200, 0, 0, [])
        return Slice(206, 0, version.size, [(b"content-range", content_range(0, version.size, version.size))])
    if number > version.part_count:
        raise S3Error("InvalidPartNumber", ActualPartCount=str(version.part_count), PartNumberRequested=text)
    parts = await call.store.parts_of(call.bucket, call.key, version)
    part = parts[number - 1]
    start = sum([earlier.size for earlier in parts[: number - 1]])
    extra: Pairs = [(b"x-amz-mp-parts-count", b"%d" % version.part_count)]
    if part.size:
        extra.append((b"content-range", content_range(start, part.size, version.size)))
    if part.checksum is not None and not part.checksum.composite and wants_checksum(call):
        extra += checksum.header_pairs(part.checksum, 0, with_type=version.checksum is None)
        if version.checksum is not None:
            extra.append((b"x-amz-checksum-type", checksum.type_name(version.checksum).encode("ascii")))
    return Slice(206, start, part.size, extra)


def _override(call: Call, headers: Pairs) -> None:
    """response-content-type and its like; only in signed requests. Raises InvalidRequest, InvalidArgument."""
    for name, raw in _OVERRIDES.items():
        value = call.query.get(name)
        if value is None:
            continue
        if call.identity.is_anonymous:
            raise S3Error("InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests.")
        encoded = value.encode("utf-8")
        if any(byte < 0x20 or byte == 0x7F for byte in encoded):
            raise invalid_argument(f"{name} is not a valid header value", name, value)
        headers[:] = [pair for pair in headers if pair[0] != raw]
        headers.append((raw, encoded))
