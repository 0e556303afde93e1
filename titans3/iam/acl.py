"""Access control lists: what they grant, and the canned ones.

Invariants
* A list only ever grants. Whom it names by account is granted as that account: its own policies still decide about its users.
* A group grant that public access block ignores is as if it were not there.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html
"""

from __future__ import annotations

from titans3.iam.principal import Named, Principal
from titans3.model.acl import (
    ALL_USERS,
    AUTHENTICATED_USERS,
    CANONICAL,
    FULL_CONTROL,
    GROUP,
    LOG_DELIVERY,
    READ,
    READ_ACP,
    WRITE,
    WRITE_ACP,
    Grant,
    Grants,
)

PRIVATE = "private"
# The account that EC2 reads bundles with; S3 grants it READ by this canned list.
_EC2 = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"
CANNED = frozenset((
    PRIVATE, "public-read", "public-read-write", "aws-exec-read", "authenticated-read", "bucket-owner-read",
    "bucket-owner-full-control", "log-delivery-write",
))  # fmt: skip
_TO_GROUPS: dict[str, tuple[Grant, ...]] = {
    PRIVATE: (),
    "public-read": (Grant(GROUP, ALL_USERS, READ),),
    "public-read-write": (Grant(GROUP, ALL_USERS, READ), Grant(GROUP, ALL_USERS, WRITE)),
    "authenticated-read": (Grant(GROUP, AUTHENTICATED_USERS, READ),),
    "log-delivery-write": (Grant(GROUP, LOG_DELIVERY, WRITE), Grant(GROUP, LOG_DELIVERY, READ_ACP)),
    "aws-exec-read": (Grant(CANONICAL, _EC2, READ),),
}
_TO_BUCKET_OWNER = {"bucket-owner-read": READ, "bucket-owner-full-control": FULL_CONTROL}

# The permission that lets an action on a bucket's list, and on an object's.
OF_BUCKET = {
    "s3:listbucket": READ, "s3:listbucketversions": READ, "s3:listbucketmultipartuploads": READ, "s3:putobject": WRITE,
    "s3:deleteobject": WRITE, "s3:abortmultipartupload": WRITE, "s3:listmultipartuploadparts": WRITE, "s3:getbucketacl": READ_ACP,
    "s3:putbucketacl": WRITE_ACP,
}  # fmt: skip
OF_OBJECT = {
    "s3:getobject": READ, "s3:getobjectversion": READ, "s3:getobjectacl": READ_ACP, "s3:getobjectversionacl": READ_ACP,
    "s3:putobjectacl": WRITE_ACP, "s3:putobjectversionacl": WRITE_ACP, "s3:getobjectattributes": READ,
    "s3:getobjectversionattributes": READ,
}  # fmt: skip


def owned_by(canonical: str) -> Grant:
    """What every list that S3 makes begins with."""
    return Grant(CANONICAL, canonical, FULL_CONTROL)


def canned(name: str, owner: str, bucket_owner: str = "") -> Grants:
    """A canned list. ``bucket_owner`` is empty for a bucket's own, where what names the bucket's owner says nothing. KeyError: no such."""
    if name in _TO_BUCKET_OWNER:
        if not bucket_owner or bucket_owner == owner:
            return (owned_by(owner),)
        return (owned_by(owner), Grant(CANONICAL, bucket_owner, _TO_BUCKET_OWNER[name]))
    return (owned_by(owner), *_TO_GROUPS[name])


def granted(grants: Grants, permission: str, who: Principal, *, ignore_public: bool = False) -> Named:
    """How a list names who asks for a permission."""
    best = Named.NOT
    for grant in grants:
        if grant.permission not in (permission, FULL_CONTROL):
            continue
        if grant.kind == CANONICAL:
            if who.canonical and grant.grantee == who.canonical:
                best = max(best, Named.ITSELF if who.is_root else Named.AS_ACCOUNT)
        elif not ignore_public and (grant.grantee == ALL_USERS or (grant.grantee == AUTHENTICATED_USERS and who.account)):
            best = max(best, Named.BY_ROLE if who.role else Named.ITSELF)
    return best


def is_public(grants: Grants) -> bool:
    """Whether it grants anything to everybody, or to everybody with any account."""
    return any(grant.kind == GROUP and grant.grantee in (ALL_USERS, AUTHENTICATED_USERS) for grant in grants)


def stays_between(grants: Grants, canonicals: frozenset[str]) -> bool:
    """Whether nobody but these is granted anything."""
    return all(grant.kind == CANONICAL and grant.grantee in canonicals for grant in grants)
