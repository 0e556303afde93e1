"""ListBuckets.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListBuckets.html
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

from titans3.http.message import Response
from titans3.model.control import CREATING, BucketRecord
from titans3.s3.call import Call
from titans3.s3.errors import invalid_argument
from titans3.s3.query import count_of
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_text, iso_time

_BUCKETS_MAX = 10_000


async def list_buckets(call: Call) -> Response:
    """The account's buckets in order of name; paged only when max-buckets is given. Raises InvalidArgument."""
    query = call.query
    limit = count_of(query, "max-buckets", _BUCKETS_MAX, _BUCKETS_MAX + 1, lowest=1)
    if limit > _BUCKETS_MAX:
        raise invalid_argument(f"max-buckets is at most {_BUCKETS_MAX}", "max-buckets", query["max-buckets"])
    paged = bool(query.get("max-buckets"))
    prefix = query.get("prefix", "")
    region = query.get("bucket-region", "")
    after = _decode_token(query.get("continuation-token", ""))
    found = [record for record in await call.store.buckets() if _belongs(call, record)]
    found = [
        record
        for record in sorted(found, key=lambda record: record.name)
        if record.name > after and record.name.startswith(prefix) and (not region or record.region == region)
    ]
    more = paged and len(found) > limit
    if paged:
        found = found[:limit]
    body = [call.owner_element(call.identity.account), "<Buckets>"]
    for record in found:
        place = f"<BucketRegion>{escape_text(record.region)}</BucketRegion>" if paged or region or prefix else ""
        created = iso_time(record.created_ms)
        body.append(f"<Bucket><Name>{escape_text(record.name)}</Name><CreationDate>{created}</CreationDate>{place}</Bucket>")
    body.append("</Buckets>")
    if prefix:
        body.append(f"<Prefix>{escape_text(prefix)}</Prefix>")
    if more:
        body.append(f"<ContinuationToken>{_encode_token(found[-1].name)}</ContinuationToken>")
    return Response(200, [CONTENT_TYPE], document("ListAllMyBucketsResult", "".join(body)))


def _belongs(call: Call, record: BucketRecord) -> bool:
    return record.state != CREATING and record.owner == call.identity.account


def _encode_token(name: str) -> str:
    return urlsafe_b64encode(b"\x01" + name.encode()).decode("ascii")


def _decode_token(text: str) -> str:
    if not text:
        return ""
    try:
        raw = urlsafe_b64decode(text.encode("ascii"))
        if raw[:1] != b"\x01":
            raise ValueError(text)
        return raw[1:].decode()
    except ValueError as error:
        raise invalid_argument("The continuation token provided is incorrect", "continuation-token", text) from error
