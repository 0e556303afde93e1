"""Access control lists: GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl, and what writes say about the list and owner of an object.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html and .../about-object-ownership.html

Invariants
* A list names accounts that exist and groups of S3; whatever else is refused when it is set.
* Where the bucket's owner owns everything there are no lists: one that says more than that is refused, and none counts.
* A write that lets others than the object's and the bucket's owner in needs the right to set lists, too.
"""

from __future__ import annotations

from titans3.cluster.rules import PREFERRED, BucketRules
from titans3.http.message import Response
from titans3.iam.acl import CANNED, canned, is_public, owned_by, stays_between
from titans3.model.acl import (
    CANONICAL,
    GRANTS_MAX,
    GROUP,
    GROUPS,
    PERMISSIONS,
    Grant,
    Grants,
    decode_grants,
    encode_grants,
)
from titans3.model.configuration import BucketAcl
from titans3.model.version import Version
from titans3.s3.actions import ACL_HEADERS
from titans3.s3.call import Call
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.get import find_version
from titans3.s3.headers import Pairs
from titans3.s3.xmlin import Element, parse_tree
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_text, owner_element

_BUCKET_OWNER_FULL = "bucket-owner-full-control"
_GRANT_HEADERS = (
    (b"x-amz-grant-full-control", "FULL_CONTROL"),
    (b"x-amz-grant-read", "READ"),
    (b"x-amz-grant-read-acp", "READ_ACP"),
    (b"x-amz-grant-write", "WRITE"),
    (b"x-amz-grant-write-acp", "WRITE_ACP"),
)
_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


# handlers --------------------------------------------------------------------------------------------------------------


async def get_bucket_acl(call: Call) -> Response:
    """The owner and the grants."""
    found = await call.store.configurations.find(call.bucket, BucketAcl)
    owner = call.store.identities.owner(call.bucket.owner)
    rules = call.store.rules.find(call.bucket)
    return _answer(call, owner, (owned_by(owner[0]),) if found is None or not rules.has_acls else found.grants)


async def put_bucket_acl(call: Call) -> Response:
    """Replace the grants. Raises AccessControlListNotSupported, AccessDenied, MalformedACLError, InvalidArgument."""
    rules = call.store.rules.find(call.bucket)
    owner = call.store.identities.owner(call.bucket.owner)[0]
    grants = _given(call, owner, "") or await _grants_of_body(call, owner)
    if not rules.has_acls:
        if grants != (owned_by(owner),):
            raise S3Error("AccessControlListNotSupported")
        return Response(200)
    _refuse_public(rules, grants)
    if grants == (owned_by(owner),):
        await call.store.configurations.remove(call.bucket, BucketAcl)
    else:
        await call.store.configurations.set(call.bucket, BucketAcl(1, grants))
    return Response(200)


async def get_object_acl(call: Call) -> Response:
    """The owner and the grants of a version. Raises NoSuchKey, NoSuchVersion, MethodNotAllowed on a marker."""
    version, _ = await find_version(call, body=False)
    owner = call.store.identities.owner(_owner_of(call, version))
    has_acl = bool(version.acl) and call.store.rules.find(call.bucket).has_acls
    answer = _answer(call, owner, decode_grants(version.acl) if has_acl else (owned_by(owner[0]),))
    answer.headers += _version_header(call, version)
    return answer


async def put_object_acl(call: Call) -> Response:
    """Replace the grants of a version. Raises what GetObjectAcl and PutBucketAcl raise."""
    rules = call.store.rules.find(call.bucket)
    version, _ = await find_version(call, body=False)
    account = _owner_of(call, version)
    owner = call.store.identities.owner(account)[0]
    bucket_owner = call.store.identities.owner(call.bucket.owner)[0]
    grants = _given(call, owner, bucket_owner) or await _grants_of_body(call, owner)
    if not rules.has_acls:
        if not _is_owners_alone(grants, bucket_owner):
            raise S3Error("AccessControlListNotSupported")
        return Response(200, _version_header(call, version))
    _refuse_public(rules, grants)
    done = await call.store.set_acl(call.bucket, call.key, call.version_id() if "versionId" in call.query else "", _kept(grants, owner))
    return Response(200, _version_header(call, done))


def _owner_of(call: Call, version: Version) -> str:
    rules = call.store.rules.find(call.bucket)
    return (version.owner if rules.has_acls else "") or call.bucket.owner


def _version_header(call: Call, version: Version) -> Pairs:
    return [(b"x-amz-version-id", version.version_id.encode("ascii"))] if call.shows(version) else []


def _answer(call: Call, owner: tuple[str, str], grants: Grants) -> Response:
    shown = "".join([_grant_element(call, grant) for grant in grants])
    body = f"{owner_element(owner)}<AccessControlList>{shown}</AccessControlList>"
    return Response(200, [CONTENT_TYPE], document("AccessControlPolicy", body))


def _grant_element(call: Call, grant: Grant) -> str:
    if grant.kind == GROUP:
        grantee = f'<Grantee {_XSI} xsi:type="Group"><URI>{escape_text(grant.grantee)}</URI></Grantee>'
    else:
        account = call.store.identities.by_canonical(grant.grantee)
        name = "" if account is None else f"<DisplayName>{escape_text(account.name)}</DisplayName>"
        grantee = f'<Grantee {_XSI} xsi:type="CanonicalUser"><ID>{escape_text(grant.grantee)}</ID>{name}</Grantee>'
    return f"<Grant>{grantee}<Permission>{grant.permission}</Permission></Grant>"


# writes ----------------------------------------------------------------------------------------------------------------


def ownership_of_write(call: Call) -> tuple[str, bytes]:
    """Owner (account) and encoded grants of an object that a request writes. Raises what PutObjectAcl raises of headers, AccessDenied."""
    fields, bucket = call.fields, call.bucket
    rules = call.store.rules.find(bucket)
    account = call.identity.owns_as
    if fields.keys().isdisjoint(ACL_HEADERS):
        return (account if rules.has_acls else bucket.owner), b""
    identities = call.store.identities
    bucket_owner = identities.owner(bucket.owner)[0]
    if rules.ownership == PREFERRED and fields.get(b"x-amz-acl") == _BUCKET_OWNER_FULL.encode("ascii"):
        account = bucket.owner
    owner = identities.owner(account)[0]
    grants = _given(call, owner, bucket_owner)
    assert grants is not None
    if not rules.has_acls:
        if fields.get(b"x-amz-acl") != _BUCKET_OWNER_FULL.encode("ascii") and not _is_owners_alone(grants[1:], bucket_owner):
            raise S3Error("AccessControlListNotSupported")
        return bucket.owner, b""
    _refuse_public(rules, grants)
    if call.access is not None and not stays_between(grants, frozenset((owner, bucket_owner))):
        call.access.require_as_owner("s3:PutObjectAcl", account)
    return account, _kept(grants, owner)


def acl_of_new_bucket(call: Call, owner: str) -> Grants | None:
    """The grants that CreateBucket asks for; ``None`` for the private ones. Raises InvalidArgument."""
    grants = _given(call, owner, "")
    return None if grants is None or grants == (owned_by(owner),) else grants


def _kept(grants: Grants, owner: str) -> bytes:
    return b"" if grants == (owned_by(owner),) else encode_grants(grants)


def _is_owners_alone(grants: Grants, bucket_owner: str) -> bool:
    return bool(grants) and all(grant == owned_by(bucket_owner) for grant in grants)


def _refuse_public(rules: BucketRules, grants: Grants) -> None:
    if rules.block.block_acls and is_public(grants):
        raise S3Error("AccessDenied", "Public access control lists are blocked by the bucket's PublicAccessBlock configuration")


# what is given ---------------------------------------------------------------------------------------------------------


def _given(call: Call, owner: str, bucket_owner: str) -> Grants | None:
    """The grants of x-amz-acl or the x-amz-grant-… headers; ``None`` without them. Raises InvalidArgument, InvalidRequest."""
    fields = call.fields
    listed = [(header, permission) for header, permission in _GRANT_HEADERS if header in fields]
    name = call.header(b"x-amz-acl")
    if name is not None:
        if listed:
            raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
        if name not in CANNED:
            raise invalid_argument("", "x-amz-acl", name)
        return canned(name, owner, bucket_owner)
    if not listed:
        return None
    grants: list[Grant] = []
    for header, permission in listed:
        items = fields[header].decode("latin-1").split(",")
        grants += [_header_grant(call, item.strip(), permission, header.decode("ascii")) for item in items]
    if len(grants) > GRANTS_MAX:
        raise S3Error("InvalidRequest", f"The request contained more than {GRANTS_MAX} grants")
    return tuple(grants)


def _header_grant(call: Call, item: str, permission: str, header: str) -> Grant:
    kind, equals, value = item.partition("=")
    value = value.strip().strip('"')
    kind = kind.strip().lower()
    if not equals or not value or kind not in ("id", "uri", "emailaddress"):
        raise invalid_argument("Argument format not recognized", header, item[:200])
    return _grant(call, kind, value, permission)


def _grant(call: Call, kind: str, value: str, permission: str) -> Grant:
    """A grant whose grantee exists. Raises InvalidArgument, UnresolvableGrantByEmailAddress."""
    identities = call.store.identities
    if kind == "uri":
        if value not in GROUPS:
            raise invalid_argument("Invalid group uri", "uri", value[:200])
        return Grant(GROUP, value, permission)
    if kind == "emailaddress":
        account = identities.by_email(value)
        if account is None:
            raise S3Error("UnresolvableGrantByEmailAddress")
        return Grant(CANONICAL, account.canonical, permission)
    if identities.by_canonical(value) is None:
        raise invalid_argument("Invalid id", "CanonicalUser/ID", value[:200])
    return Grant(CANONICAL, value, permission)


async def _grants_of_body(call: Call, owner: str) -> Grants:
    """An AccessControlPolicy. Raises MalformedACLError, MissingSecurityHeader for nothing at all, AccessDenied for another owner."""
    data = await call.read_proven()
    if not data.strip():
        raise S3Error("MissingSecurityHeader", MissingHeaderName="x-amz-acl")
    elements = parse_tree(data, "AccessControlPolicy")
    found = {element.name: element for element in elements}
    if len(found) < len(elements) or not found.keys() <= {"Owner", "AccessControlList"} or "AccessControlList" not in found:
        raise S3Error("MalformedACLError")
    if "Owner" not in found or found["Owner"].names() - {"ID", "DisplayName"}:
        raise S3Error("MalformedACLError")
    if found["Owner"].texts("ID") != (owner,):
        raise S3Error("AccessDenied")
    listed = found["AccessControlList"].children
    if len(listed) > GRANTS_MAX:
        raise S3Error("MalformedACLError")
    return tuple(_body_grant(call, element) for element in listed)


def _body_grant(call: Call, element: Element) -> Grant:
    if element.name != "Grant" or element.names() != {"Grantee", "Permission"} or len(element.children) != 2:
        raise S3Error("MalformedACLError")
    (grantee,), (permission,) = element.all("Grantee"), element.texts("Permission")
    kinds = [(name, word) for name, word in (("ID", "id"), ("URI", "uri"), ("EmailAddress", "emailaddress")) if name in grantee.names()]
    if permission not in PERMISSIONS or len(kinds) != 1 or grantee.names() - {"ID", "URI", "EmailAddress", "DisplayName"}:
        raise S3Error("MalformedACLError")
    name, word = kinds[0]
    values = grantee.texts(name)
    if len(values) != 1 or not values[0]:
        raise S3Error("MalformedACLError")
    return _grant(call, word, values[0], permission)
