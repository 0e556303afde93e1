"""Tags: from a header, from a document, and back. For objects and buckets.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html

Invariants
* Keys are 1 to 128 characters and not repeated, values up to 256; letters, numbers, spaces and ``+ - = . _ : / @`` (of any script).
* Keys that begin with ``aws:`` are not for users. Order is kept as given.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.xmlin import parse_tagging
from titans3.s3.xmlout import document, escape_text

OBJECT_TAGS_MAX = 10
BUCKET_TAGS_MAX = 50
_KEY_CHARS_MAX = 128
_VALUE_CHARS_MAX = 256
_ALLOWED = re.compile(r"[\w .:/=+\-@\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]*\Z").match
_HEADER_FORM = (
    "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."
)


def tags_of_header(text: str | None) -> dict[str, str]:
    """x-amz-tagging: ``key=value&key2=value2``, URL-encoded. Raises InvalidArgument, InvalidTag."""
    if not text:
        return {}
    pairs: list[tuple[str, str]] = []
    for item in text.split("&"):
        if not item:
            continue
        name, _, value = item.partition("=")
        try:
            pairs.append((_decoded(name), _decoded(value)))
        except ValueError as error:
            raise invalid_argument(_HEADER_FORM, "x-amz-tagging", text[:500]) from error
    if len({name for name, _ in pairs}) < len(pairs):
        raise invalid_argument(_HEADER_FORM, "x-amz-tagging", text[:500])
    return checked_tags(pairs, OBJECT_TAGS_MAX)


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode("utf-8")


def tags_of_document(data: bytes, limit: int) -> dict[str, str]:
    """A Tagging document. Raises MalformedXML, InvalidTag."""
    return checked_tags(parse_tagging(data), limit)


def checked_tags(pairs: list[tuple[str, str]], limit: int) -> dict[str, str]:
    """Pairs as tags. Raises InvalidTag, BadRequest when there are too many."""
    tags: dict[str, str] = {}
    if len(pairs) > limit:
        raise S3Error("InvalidTag", f"{'Object' if limit == OBJECT_TAGS_MAX else 'Bucket'} tags cannot be greater than {limit}")
    for key, value in pairs:
        if not 1 <= len(key) <= _KEY_CHARS_MAX or not _ALLOWED(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=key[:_VALUE_CHARS_MAX])
        if len(value) > _VALUE_CHARS_MAX or not _ALLOWED(value):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", TagKey=key, TagValue=value[: 2 * _VALUE_CHARS_MAX])
        if key.startswith("aws:"):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester", TagKey=key)
        if key in tags:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key", TagKey=key)
        tags[key] = value
    return tags


def tagging_document(tags: dict[str, str]) -> bytes:
    """What GetObjectTagging and GetBucketTagging answer."""
    items = "".join([f"<Tag><Key>{escape_text(key)}</Key><Value>{escape_text(value)}</Value></Tag>" for key, value in tags.items()])
    return document("Tagging", f"<TagSet>{items}</TagSet>")
