"""Which rights a request asks for: its operation's, refined by what it brings.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html

Invariants
* What an option changes beyond the operation itself asks for the right of the operation that sets it alone: tags, lists, ownership.
* A version that is named asks for the right on versions.
"""

from __future__ import annotations

from titans3.s3.operation import Operation

_OF_VERSION = {
    "s3:DeleteObject": "s3:DeleteObjectVersion",
    "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
    "s3:GetObject": "s3:GetObjectVersion",
    "s3:GetObjectAcl": "s3:GetObjectVersionAcl",
    "s3:GetObjectAttributes": "s3:GetObjectVersionAttributes",
    "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
    "s3:GetObjectTorrent": "s3:GetObjectVersionTorrent",
    "s3:PutObjectAcl": "s3:PutObjectVersionAcl",
    "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
}
_WRITES = frozenset(("PutObject", "CopyObject", "CreateMultipartUpload", "PostObject"))
WITH_HEADER = (
    (b"x-amz-tagging", "s3:PutObjectTagging"),
    (b"x-amz-object-lock-mode", "s3:PutObjectRetention"),
    (b"x-amz-object-lock-retain-until-date", "s3:PutObjectRetention"),
    (b"x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
)
ACL_HEADERS = (
    b"x-amz-acl", b"x-amz-grant-full-control", b"x-amz-grant-read", b"x-amz-grant-read-acp", b"x-amz-grant-write",
    b"x-amz-grant-write-acp",
)  # fmt: skip


def of_version(action: str) -> str:
    """The right on a version that is named."""
    return _OF_VERSION.get(action, action)


def actions_of(operation: Operation, fields: dict[bytes, bytes], query: dict[str, str]) -> tuple[str, ...]:
    """All rights a request needs, but that for its list: whether it needs one depends on whom the list names (``s3/acl``)."""
    actions = operation.actions
    if query.get("versionId"):
        actions = tuple(of_version(action) for action in actions)
    name = operation.name
    if name in _WRITES:
        more = [action for header, action in WITH_HEADER if header in fields and action not in actions]
        actions = (*actions, *dict.fromkeys(more))
    elif name == "CreateBucket":
        if any(header in fields for header in ACL_HEADERS):
            actions = (*actions, "s3:PutBucketAcl")
        if b"x-amz-object-ownership" in fields:
            actions = (*actions, "s3:PutBucketOwnershipControls")
    elif name == "DeleteObject" and fields.get(b"x-amz-bypass-governance-retention", b"").lower() == b"true":
        actions = (*actions, "s3:BypassGovernanceRetention")
    return actions
