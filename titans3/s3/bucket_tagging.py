"""GetBucketTagging, PutBucketTagging, DeleteBucketTagging.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketTagging.html
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.model.configuration import BucketTags
from titans3.s3.call import Call
from titans3.s3.errors import S3Error
from titans3.s3.tags import BUCKET_TAGS_MAX, tagging_document, tags_of_document
from titans3.s3.xmlout import CONTENT_TYPE


async def get_bucket_tagging(call: Call) -> Response:
    """The tags. Raises NoSuchTagSet."""
    found = await call.store.configurations.find(call.bucket, BucketTags)
    if found is None:
        raise S3Error("NoSuchTagSet", BucketName=call.bucket_name)
    return Response(200, [CONTENT_TYPE], tagging_document(found.tags))


async def put_bucket_tagging(call: Call) -> Response:
    """Replace the tags; an empty set takes them away. Raises MalformedXML, InvalidTag."""
    tags = tags_of_document(await call.read_proven(required=True), BUCKET_TAGS_MAX)
    if tags:
        await call.store.configurations.set(call.bucket, BucketTags(1, tags))
    else:
        await call.store.configurations.remove(call.bucket, BucketTags)
    return Response(204)


async def delete_bucket_tagging(call: Call) -> Response:
    """Take the tags away; there need not be any."""
    await call.store.configurations.remove(call.bucket, BucketTags)
    return Response(204)
