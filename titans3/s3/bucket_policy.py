"""GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketPolicy.html

Invariants
* A policy comes back byte for byte as it was set.
* Whom it names must be there when it is set, and is bound then: somebody who gets the name later is not meant.
"""

from __future__ import annotations

from titans3.cluster.identities import PrincipalAbsent
from titans3.http.message import Response
from titans3.iam.acl import is_public as is_public_list
from titans3.iam.document import Kind, PolicyMalformed, read_policy
from titans3.iam.public import is_public
from titans3.model.configuration import BucketPolicy
from titans3.s3.call import Call
from titans3.s3.errors import S3Error
from titans3.s3.xmlout import CONTENT_TYPE, document

_BYTES_MAX = 20 * 1024
_JSON = (b"content-type", b"application/json")


async def get_bucket_policy(call: Call) -> Response:
    """The document. Raises NoSuchBucketPolicy, MethodNotAllowed."""
    _refuse_foreign(call)
    found = await call.store.configurations.find(call.bucket, BucketPolicy)
    if found is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=call.bucket_name)
    return Response(200, [_JSON], found.text)


async def put_bucket_policy(call: Call) -> Response:
    """Replace the document. Raises MalformedPolicy, AccessDenied (public policies are blocked), MethodNotAllowed."""
    _refuse_foreign(call)
    data = await call.read_proven()
    if len(data) > _BYTES_MAX:
        raise S3Error("MalformedPolicy", f"Policies must be at most {_BYTES_MAX} bytes")
    try:
        policy = read_policy(data, Kind.BUCKET, bucket=call.bucket_name)
    except PolicyMalformed as error:
        raise S3Error("MalformedPolicy", str(error)) from error
    try:
        ids = call.store.identities.bind(policy)
    except PrincipalAbsent as error:
        raise S3Error("MalformedPolicy", "Invalid principal in policy", Detail=str(error)[:300]) from error
    if call.store.rules.find(call.bucket).block.block_policy and is_public(policy):
        raise S3Error("AccessDenied", "Public policies are blocked by the bucket's PublicAccessBlock configuration")
    await call.store.configurations.set(call.bucket, BucketPolicy(1, data, ids))
    return Response(204)


async def delete_bucket_policy(call: Call) -> Response:
    """Take the policy away; there need not be one. Raises MethodNotAllowed."""
    _refuse_foreign(call)
    await call.store.configurations.remove(call.bucket, BucketPolicy)
    return Response(204)


async def get_bucket_policy_status(call: Call) -> Response:
    """Whether policy or access control list let everybody in."""
    rules = call.store.rules.find(call.bucket)
    public = rules.is_public and not rules.block.restrict_buckets
    if rules.has_acls and rules.acl is not None and not rules.block.ignore_acls:
        public = public or is_public_list(rules.acl)
    return Response(200, [CONTENT_TYPE], document("PolicyStatus", f"<IsPublic>{'true' if public else 'false'}</IsPublic>"))


def _refuse_foreign(call: Call) -> None:
    """Only the owner's account has to do with a bucket's policy, whoever else is allowed to. Raises MethodNotAllowed."""
    if call.identity.account != call.bucket.owner:
        raise S3Error("MethodNotAllowed", Method=call.request.method, ResourceType="BUCKETPOLICY")
