"""GetObjectAttributes: what is known of a version, without its bytes.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectAttributes.html

Invariants
* The ETag is without quotes here. Parts are told of multipart objects only, by the numbers they were uploaded under.
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.limits import LIST_KEYS_MAX
from titans3.model.version import STORAGE_CLASSES, Part, Version
from titans3.s3 import checksum
from titans3.s3.call import Call
from titans3.s3.conditions import check_read
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.get import find_version
from titans3.s3.headers import Pairs, http_date
from titans3.s3.xmlout import CONTENT_TYPE, document

_NAMES = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")


async def get_object_attributes(call: Call) -> Response:
    """The attributes asked for. Raises InvalidArgument, InvalidRequest and what HeadObject raises."""
    asked = _asked(call)
    limit = _number(call, b"x-amz-max-parts", LIST_KEYS_MAX)
    after = _number(call, b"x-amz-part-number-marker", 0)
    version, _ = await find_version(call, body=False)
    check_read(call.fields, version)
    body = ""
    if "ETag" in asked:
        body += f"<ETag>{version.etag_text}</ETag>"
    if "Checksum" in asked and version.checksum is not None:
        body += (
            f"<Checksum>{checksum.element(version.checksum, version.part_count)}"
            f"<ChecksumType>{checksum.type_name(version.checksum)}</ChecksumType></Checksum>"
        )
    if "ObjectParts" in asked and version.part_count:
        parts = await call.store.parts_of(call.bucket, call.key, version)
        body += _parts(version, parts, after, min(limit, LIST_KEYS_MAX))
    if "StorageClass" in asked:
        body += f"<StorageClass>{STORAGE_CLASSES[version.storage_class]}</StorageClass>"
    if "ObjectSize" in asked:
        body += f"<ObjectSize>{version.size}</ObjectSize>"
    headers: Pairs = [CONTENT_TYPE, (b"last-modified", http_date(version.modified_ms))]
    if call.shows(version):
        headers.append((b"x-amz-version-id", version.version_id.encode("ascii")))
    return Response(200, headers, document("GetObjectAttributesResponse", body))


def _asked(call: Call) -> set[str]:
    text = call.header(b"x-amz-object-attributes")
    names = {name.strip() for name in (text or "").split(",")} - {""}
    if not names:
        raise S3Error(
            "InvalidRequest", "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty"
        )
    if not names <= set(_NAMES):
        raise invalid_argument("Invalid attribute name specified.", "x-amz-object-attributes", (text or "")[:200])
    return names


def _number(call: Call, name: bytes, default: int) -> int:
    text = call.header(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise invalid_argument(f"Provided {name.decode('ascii')} not an integer or within integer range", name.decode("ascii"), text[:100])
    return int(text)


def _parts(version: Version, parts: tuple[Part, ...], after: int, limit: int) -> str:
    behind = [part for part in parts if part.number > after]
    page = behind[:limit]
    body = f"<PartsCount>{version.part_count}</PartsCount><PartNumberMarker>{after}</PartNumberMarker>"
    body += f"<NextPartNumberMarker>{page[-1].number if page else 0}</NextPartNumberMarker><MaxParts>{limit}</MaxParts>"
    body += f"<IsTruncated>{'true' if len(behind) > len(page) else 'false'}</IsTruncated>"
    for part in page:
        if part.checksum is not None:
            body += f"<Part>{checksum.element(part.checksum, 0)}<PartNumber>{part.number}</PartNumber><Size>{part.size}</Size></Part>"
    return f"<ObjectParts>{body}</ObjectParts>"
