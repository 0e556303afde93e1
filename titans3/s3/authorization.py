"""May this identity do this? The one place where rights are decided.

Invariants
* Every operation passes here before its body is read, and again for each further resource it touches (a copy's source).
* Deny is the default: an anonymous request may do nothing, an account what is its own, the root account everything.
"""

from __future__ import annotations

from titans3.model.control import BucketRecord
from titans3.s3.call import Identity
from titans3.s3.errors import S3Error

_OWN_ACCOUNT = frozenset(("s3:ListAllMyBuckets", "s3:CreateBucket"))


def authorize(identity: Identity, actions: tuple[str, ...], bucket: BucketRecord | None, key: bytes) -> None:
    """Raises AccessDenied. ``bucket`` is ``None`` for what has none (yet); ``key`` is empty for the bucket itself."""
    if identity.is_root:
        return
    if not identity.is_anonymous:
        if bucket is not None and bucket.owner == identity.account:
            return
        if bucket is None and _OWN_ACCOUNT.issuperset(actions):
            return
    raise S3Error("AccessDenied")


def check_owner(expected: bytes, bucket: BucketRecord) -> None:
    """x-amz-expected-bucket-owner and its like. Raises AccessDenied for another owner, InvalidBucketOwnerAWSAccountID for no account."""
    text = expected.decode("latin-1")
    if len(text) != 12 or not text.isdecimal():
        raise S3Error(
            "InvalidBucketOwnerAWSAccountID",
            f"The value of the expected bucket owner parameter must be an AWS Account ID... [{text[:100]}]",
        )
    if text != bucket.owner:
        raise S3Error("AccessDenied")
