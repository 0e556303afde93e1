"""Request headers that an object keeps, headers that ask for what is not built, and the headers an object answers with. Hot.

Invariants
* A header that asks for behaviour that is not built is refused by name, never ignored.
* Header texts are Latin-1 as on the wire, so that whatever a client stored comes back byte for byte.
* ``aws-chunked`` is a transfer coding of the request and never part of the stored Content-Encoding.
"""

from __future__ import annotations

import time

from titans3.http.message import Request
from titans3.http.reply import header_block
from titans3.limits import USER_METADATA_BYTES_MAX
from titans3.model.version import NULL, STANDARD, STORAGE_CLASSES, Version
from titans3.s3.errors import S3Error, not_implemented

Pairs = list[tuple[bytes, bytes]]

# Header -> values that ask for nothing and are therefore fine.
REFUSED_HEADERS: dict[str, tuple[str, ...]] = {
    "x-amz-bucket-namespace": (),
    "x-amz-bucket-object-lock-enabled": ("false",),
    "x-amz-copy-source-server-side-encryption-customer-algorithm": (),
    "x-amz-copy-source-server-side-encryption-customer-key": (),
    "x-amz-copy-source-server-side-encryption-customer-key-md5": (),
    "x-amz-object-lock-event-hold": (),
    "x-amz-object-lock-event-hold-duration-days": (),
    "x-amz-object-lock-event-hold-duration-years": (),
    "x-amz-object-lock-legal-hold": ("off",),
    "x-amz-object-lock-mode": (),
    "x-amz-object-lock-retain-until-date": (),
    "x-amz-server-side-encryption": (),
    "x-amz-server-side-encryption-aws-kms-key-id": (),
    "x-amz-server-side-encryption-bucket-key-enabled": (),
    "x-amz-server-side-encryption-context": (),
    "x-amz-server-side-encryption-customer-algorithm": (),
    "x-amz-server-side-encryption-customer-key": (),
    "x-amz-server-side-encryption-customer-key-md5": (),
    "x-amz-write-offset-bytes": (),
    "x-minio-extract": ("false",),
}
_REFUSED = {name.encode("ascii"): frozenset(value.encode("ascii") for value in values) for name, values in REFUSED_HEADERS.items()}
_REFUSED_NAMES = frozenset(_REFUSED)

_CONTENT = (
    (b"cache-control", "cache-control"),
    (b"content-disposition", "content-disposition"),
    (b"content-encoding", "content-encoding"),
    (b"content-language", "content-language"),
    (b"content-type", "content-type"),
    (b"expires", "expires"),
    (b"x-amz-website-redirect-location", "x-amz-website-redirect-location"),
)
_CONTENT_NAMES = {text: name for name, text in _CONTENT}
_CONTENT_TEXTS = dict(_CONTENT)
_KEPT = frozenset(_CONTENT_TEXTS)
DEFAULT_TYPE = b"binary/octet-stream"
_TYPE = b"content-type"
_REDIRECT = "x-amz-website-redirect-location"
_ETAG = b"etag"
_MODIFIED = b"last-modified"
_RANGES = (b"accept-ranges", b"bytes")
_DATES_MAX = 4096
_dates: dict[int, bytes] = {}
_TYPE_LINES_MAX, _TYPE_LINE_BYTES_MAX = 256, 256
_type_lines: dict[str, bytes] = {}  # content type -> its line, checked


def refuse_unbuilt(fields: dict[bytes, bytes]) -> None:
    """Raises NotImplemented naming the first header that asks for what is not built."""
    if not fields.keys().isdisjoint(_REFUSED_NAMES):
        for name, allowed in _REFUSED.items():
            value = fields.get(name)
            if value is not None and value.strip().lower() not in allowed:
                raise not_implemented(name.decode("ascii"))


def kept_headers(fields: dict[bytes, bytes]) -> dict[str, str]:
    """The standard content headers of a PUT by lower-case name; empty ones are absent. Raises InvalidRedirectLocation."""
    kept: dict[str, str] = {}
    names = _KEPT.intersection(fields)
    for raw, name in _CONTENT if len(names) > 1 else ((raw, _CONTENT_TEXTS[raw]) for raw in names):
        value = fields.get(raw)
        if value:
            text = value.decode("latin-1")
            if name == "content-encoding" and "aws-chunked" in text.lower():
                words = [word.strip() for word in text.split(",")]
                text = ",".join([word for word in words if word and word.lower() != "aws-chunked"])
                if not text:
                    continue
            elif name == _REDIRECT and not text.startswith(("/", "http://", "https://")):
                raise S3Error("InvalidRedirectLocation")
            kept[name] = text
    return kept


def kept_of(request: Request, fields: dict[bytes, bytes]) -> dict[str, str]:
    """``kept_headers``, the same for all requests of a shape, whose headers of content do not vary."""
    shape = request.shape
    if shape is None or fields is not request.fields:
        return kept_headers(fields)
    kept = shape.kept
    if kept is None:
        kept = shape.kept = kept_headers(fields)
    return kept


def kept_metadata(fields: dict[bytes, bytes]) -> dict[str, str]:
    """User metadata without its prefix. Raises MetadataTooLarge past USER_METADATA_BYTES_MAX bytes of names and values."""
    found: dict[str, str] = {}
    size = 0
    for name, value in fields.items():
        if name.startswith(b"x-amz-meta-"):
            size += len(name) - 11 + len(value)
            found[name[11:].decode("latin-1")] = value.decode("latin-1")
    if size > USER_METADATA_BYTES_MAX:
        raise S3Error("MetadataTooLarge", Size=str(size), MaxSizeAllowed=str(USER_METADATA_BYTES_MAX))
    return found


def storage_class_of(fields: dict[bytes, bytes]) -> int:
    """x-amz-storage-class. Raises InvalidStorageClass for one that is not kept here."""
    value = fields.get(b"x-amz-storage-class")
    if value is None:
        return STANDARD
    try:
        return STORAGE_CLASSES.index(value.decode("latin-1"))
    except ValueError as error:
        raise S3Error("InvalidStorageClass", StorageClassRequested=value.decode("latin-1")[:100]) from error


def http_date(moment_ms: int) -> bytes:
    """``Sun, 06 Nov 1994 08:49:37 GMT``; texts of recent seconds are kept."""
    second = moment_ms // 1000
    text = _dates.get(second)
    if text is None:
        if len(_dates) >= _DATES_MAX:
            _dates.clear()
        text = _dates[second] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second)).encode("ascii")
    return text


def etag_header(version: Version) -> bytes:
    """Quoted."""
    return b'"%b"' % version.etag_text.encode("ascii")


def object_block(version: Version, *, shows_version: bool) -> bytes:
    """The lines of ``object_headers``. Most versions have no more than a content type, and their lines are one format."""
    stored = version.headers
    kind = stored.get("content-type", "")
    if (
        version.metadata or version.storage_class or version.tags or shows_version or not version.flags & NULL
        or len(stored) > (1 if kind else 0)
    ):
        return header_block(object_headers(version, shows_version=shows_version))
    line = _type_lines.get(kind)
    if line is None:
        line = header_block([(_TYPE, kind.encode("latin-1") or DEFAULT_TYPE)])
        if len(line) <= _TYPE_LINE_BYTES_MAX:
            if len(_type_lines) >= _TYPE_LINES_MAX:
                _type_lines.clear()
            _type_lines[kind] = line
    return b'accept-ranges: bytes\r\netag: "%b"\r\nlast-modified: %b\r\n%b' % (
        version.etag_text.encode("ascii"), http_date(version.modified_ms), line,
    )


def object_headers(version: Version, *, shows_version: bool) -> Pairs:
    """What GET and HEAD say about a version; ``shows_version`` once the bucket has known versioning."""
    stored = version.headers
    pairs: Pairs = [
        _RANGES,
        (_ETAG, etag_header(version)),
        (_MODIFIED, http_date(version.modified_ms)),
        (_TYPE, stored["content-type"].encode("latin-1") if "content-type" in stored else DEFAULT_TYPE),
    ]
    if len(stored) > ("content-type" in stored):
        pairs += [(_CONTENT_NAMES[name], value.encode("latin-1")) for name, value in stored.items() if name != "content-type"]
    for name, value in version.metadata.items():
        pairs.append((b"x-amz-meta-" + name.encode("latin-1"), value.encode("latin-1")))
    if version.storage_class:
        pairs.append((b"x-amz-storage-class", STORAGE_CLASSES[version.storage_class].encode("ascii")))
    if version.tags:
        pairs.append((b"x-amz-tagging-count", b"%d" % len(version.tags)))
    if shows_version or not version.flags & NULL:
        pairs.append((b"x-amz-version-id", version.version_id.encode("ascii")))
    return pairs
