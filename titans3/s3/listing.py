"""ListObjects and ListObjectsV2. Hot: guarded by ``bench/micro/s3.py``.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html

Invariants
* Order is that of the keys' bytes; keys and common prefixes count alike against max-keys; a page never ends inside a group.
* A truncated page always carries the place to go on: NextContinuationToken, or NextMarker with a delimiter.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from titans3.cluster.store import Page
from titans3.http.message import Response
from titans3.limits import LIST_KEYS_MAX
from titans3.s3.bucket import region_header
from titans3.s3.call import Call
from titans3.s3.contents import Form
from titans3.s3.errors import invalid_argument
from titans3.s3.query import count_of, wants_url
from titans3.s3.xmlout import CONTENT_TYPE, common_prefixes, document, escape_key, escape_text, quote_key

_EMPTY = Page([], [], False, b"")
_TOKEN_FORMAT = b"\x01"


async def list_objects(call: Call) -> Response:
    """Version 1: marker, NextMarker only with a delimiter, owners always. Raises InvalidArgument."""
    query = call.query
    limit, url, prefix, delimiter = _common(query)
    marker = query.get("marker", "").encode()
    page = await _page(call, prefix, delimiter, marker, limit)
    show = _shower(url)
    head = [f"<Name>{escape_text(call.bucket_name)}</Name><Prefix>{show(prefix)}</Prefix><Marker>{show(marker)}</Marker>"]
    if page.truncated and delimiter:
        head.append(f"<NextMarker>{show(_last(page))}</NextMarker>")
    head.append(_tail_of_head(limit, delimiter, url, page.truncated))
    return _answer(call, head, page, url=url, owner=True)


async def list_objects_v2(call: Call) -> Response:
    """Version 2: continuation token, start-after, KeyCount, owners on request. Raises InvalidArgument."""
    query = call.query
    limit, url, prefix, delimiter = _common(query)
    token, start_after = query.get("continuation-token"), query.get("start-after")
    after = _decode_token(token) if token else (start_after or "").encode()
    page = await _page(call, prefix, delimiter, after, limit)
    show = _shower(url)
    head = [f"<Name>{escape_text(call.bucket_name)}</Name><Prefix>{show(prefix)}</Prefix>"]
    if token is not None:
        head.append(f"<ContinuationToken>{escape_text(token)}</ContinuationToken>")
    if start_after is not None:
        head.append(f"<StartAfter>{show(start_after.encode())}</StartAfter>")
    if page.truncated:
        head.append(f"<NextContinuationToken>{_encode_token(page.after)}</NextContinuationToken>")
    head.append(f"<KeyCount>{len(page.keys) + len(page.prefixes)}</KeyCount>")
    head.append(_tail_of_head(limit, delimiter, url, page.truncated))
    return _answer(call, head, page, url=url, owner=query.get("fetch-owner", "").lower() == "true")


def _common(query: dict[str, str]) -> tuple[int, bool, bytes, bytes]:
    limit = count_of(query, "max-keys", LIST_KEYS_MAX, LIST_KEYS_MAX)
    return limit, wants_url(query), query.get("prefix", "").encode(), query.get("delimiter", "").encode()


async def _page(call: Call, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
    if limit == 0:
        return _EMPTY
    return await call.store.list_objects(call.bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit)


def _last(page: Page) -> bytes:
    """The last key or common prefix of a page: the marker of the next one."""
    key = page.keys[-1][0] if page.keys else b""
    return max(key, page.prefixes[-1]) if page.prefixes else key


def _shower(url: bool) -> Callable[[bytes], str]:
    return quote_key if url else escape_key


def _tail_of_head(limit: int, delimiter: bytes, url: bool, truncated: bool) -> str:
    parts = [f"<MaxKeys>{limit}</MaxKeys>"]
    if delimiter:
        parts.append(f"<Delimiter>{_shower(url)(delimiter)}</Delimiter>")
    if url:
        parts.append("<EncodingType>url</EncodingType>")
    parts.append(f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>")
    return "".join(parts)


def _answer(call: Call, head: list[str], page: Page, *, url: bool, owner: bool) -> Response:
    body: list[bytes] = []
    if page.keys:
        form = Form(url, call.owners_of_objects() if owner else ())
        body = call.context.contents.elements(page.keys, form, call.object_owner)
    if page.prefixes:
        body += [text.encode() for text in common_prefixes(page.prefixes, url=url)]
    return Response(200, [CONTENT_TYPE, region_header(call)], document("ListBucketResult", *head, then=body))


def _encode_token(after: bytes) -> str:
    return urlsafe_b64encode(_TOKEN_FORMAT + after).decode("ascii")


def _decode_token(text: str) -> bytes:
    """Where a page starts. Raises InvalidArgument."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii"))
        if raw[:1] != _TOKEN_FORMAT:
            raise ValueError(text)
    except ValueError as error:
        raise invalid_argument("The continuation token provided is incorrect", "continuation-token", text) from error
    return raw[1:]
