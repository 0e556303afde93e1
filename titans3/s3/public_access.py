"""GetPublicAccessBlock, PutPublicAccessBlock, DeletePublicAccessBlock of a bucket.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.model.configuration import PublicAccessBlock
from titans3.s3.call import Call
from titans3.s3.errors import S3Error
from titans3.s3.xmlin import parse_tree
from titans3.s3.xmlout import CONTENT_TYPE, document

_NAMES = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")  # in the order of the record


async def get_public_access_block(call: Call) -> Response:
    """The switches. Raises NoSuchPublicAccessBlockConfiguration."""
    found = await call.store.configurations.find(call.bucket, PublicAccessBlock)
    if found is None:
        raise S3Error("NoSuchPublicAccessBlockConfiguration", BucketName=call.bucket_name)
    values = (found.block_acls, found.ignore_acls, found.block_policy, found.restrict_buckets)
    body = "".join([f"<{name}>{'true' if value else 'false'}</{name}>" for name, value in zip(_NAMES, values, strict=True)])
    return Response(200, [CONTENT_TYPE], document("PublicAccessBlockConfiguration", body))


async def put_public_access_block(call: Call) -> Response:
    """Replace the switches; one that is not named is off. Raises MalformedXML."""
    found = {}
    for element in parse_tree(await call.read_proven(), "PublicAccessBlockConfiguration"):
        word = element.text.strip().lower()
        if element.name not in _NAMES or element.name in found or element.children or word not in ("true", "false"):
            raise S3Error("MalformedXML")
        found[element.name] = word == "true"
    await call.store.configurations.set(call.bucket, PublicAccessBlock(1, *(found.get(name, False) for name in _NAMES)))
    return Response(200)


async def delete_public_access_block(call: Call) -> Response:
    """Take the switches away; there need not be any."""
    await call.store.configurations.remove(call.bucket, PublicAccessBlock)
    return Response(204)
