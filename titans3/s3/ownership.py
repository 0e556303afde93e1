"""GetBucketOwnershipControls, PutBucketOwnershipControls, DeleteBucketOwnershipControls.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html
"""

from __future__ import annotations

from titans3.cluster.rules import ENFORCED, PREFERRED, WRITER
from titans3.http.message import Response
from titans3.model.configuration import BucketAcl, Ownership
from titans3.s3.call import Call
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.xmlin import parse_tree
from titans3.s3.xmlout import CONTENT_TYPE, document

_WORDS = (ENFORCED, PREFERRED, WRITER)


async def get_bucket_ownership_controls(call: Call) -> Response:
    """The rule. Raises OwnershipControlsNotFoundError."""
    found = await call.store.configurations.find(call.bucket, Ownership)
    if found is None:
        raise S3Error("OwnershipControlsNotFoundError", BucketName=call.bucket_name)
    rule = f"<Rule><ObjectOwnership>{found.ownership}</ObjectOwnership></Rule>"
    return Response(200, [CONTENT_TYPE], document("OwnershipControls", rule))


async def put_bucket_ownership_controls(call: Call) -> Response:
    """Replace the rule. Raises MalformedXML, InvalidBucketAclWithObjectOwnership while the bucket's list grants others anything."""
    rules = parse_tree(await call.read_proven(), "OwnershipControls")
    if len(rules) != 1 or rules[0].name != "Rule" or rules[0].names() != {"ObjectOwnership"}:
        raise S3Error("MalformedXML")
    words = rules[0].texts("ObjectOwnership")
    if len(words) != 1 or words[0] not in _WORDS:
        raise S3Error("MalformedXML")
    if words[0] == ENFORCED and await call.store.configurations.find(call.bucket, BucketAcl) is not None:
        raise S3Error("InvalidBucketAclWithObjectOwnership", BucketName=call.bucket_name)
    await call.store.configurations.set(call.bucket, Ownership(1, words[0]))
    return Response(200)


async def delete_bucket_ownership_controls(call: Call) -> Response:
    """Take the rule away; there need not be one."""
    await call.store.configurations.remove(call.bucket, Ownership)
    return Response(204)


def ownership_of(text: str) -> Ownership:
    """Of x-amz-object-ownership. Raises InvalidArgument."""
    if text not in _WORDS:
        raise invalid_argument("Invalid x-amz-object-ownership header", "x-amz-object-ownership", text)
    return Ownership(1, text)
