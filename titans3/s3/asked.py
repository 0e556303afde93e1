"""One action of a request on one resource, as policies see it: the condition keys of S3 and the global ones.

Invariants
* A key's values are found when a policy asks for them, and not before: a request pays for the keys its policies name.
* A key that the request does not have is absent, never empty, so that Null and IfExists mean what they say.
* Values come from what was signed or measured; a header counts as the request has it, in its form or presigned query, too.

Sources: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html#amazons3-policy-keys and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
"""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from titans3.cluster.identities import iso_seconds
from titans3.iam.arn import S3_PREFIX
from titans3.model.control import BucketRecord
from titans3.model.version import Version
from titans3.s3.tags import tags_of_header

if TYPE_CHECKING:
    from titans3.http.authentication import Verified
    from titans3.http.message import Request
    from titans3.s3.call import Call, Context

_HEADERS = "s3:x-amz-"
_CREATES = frozenset(("PutObject", "CopyObject", "CompleteMultipartUpload", "PostObject"))
_DAY = 86_400
_Found = Sequence[str] | None


class Asking(Protocol):
    """What global condition keys are drawn from."""

    @property
    def context(self) -> Context: ...
    @property
    def request(self) -> Request: ...
    @property
    def verified(self) -> Verified | None: ...


class Asked:
    """See the module. ``existing`` is the version that the request is about, once it is known; ``tags`` those the request brings."""

    __slots__ = ("action", "bucket", "call", "existing", "name", "resource", "tags", "version_id")

    def __init__(self, call: Call, action: str, bucket: BucketRecord | None, bucket_name: str, key: bytes, version_id: str) -> None:
        self.version_id = version_id
        self.call = call
        self.name = action  # as AWS spells it
        self.action = action.lower()
        self.bucket = bucket
        self.resource = resource_arn(bucket_name, key)
        self.existing: Version | None = None
        self.tags: dict[str, str] | None = None

    def values(self, key: str) -> _Found:
        """All values of a condition key (lower case)."""
        call = self.call
        found = call.identity.keys.get(key)
        if found is not None:
            return found
        everywhere = GLOBAL.get(key)
        if everywhere is not None:
            return everywhere(call)
        source = _SOURCES.get(key)
        if source is not None:
            return source(self)
        if key.startswith(_HEADERS):
            return _one(call.header(key[3:].encode("latin-1", "replace")))
        name, slash, rest = key.partition("/")
        if slash:
            if name == "s3:existingobjecttag":
                return None if self.existing is None else _tag(self.existing.tags, rest)
            if name == "s3:requestobjecttag":
                return _tag(self.request_tags(), rest)
        return None

    def value(self, key: str) -> str | None:
        """The value of a key that has exactly one."""
        found = self.values(key)
        return found[0] if found is not None and len(found) == 1 else None

    def request_tags(self) -> dict[str, str]:
        """The object tags that the request brings. Raises InvalidArgument, InvalidTag."""
        if self.tags is None:
            state = self.call.request.state
            given = None if state is None else state.get(TAGS)
            if isinstance(given, dict):
                self.tags = given
            else:
                self.tags = tags_of_header(self.call.header(b"x-amz-tagging"))
        return self.tags


TAGS = "tags"  # where ``Request.state`` holds tags that came in a body


def resource_arn(bucket_name: str, key: bytes) -> str:
    """``arn:aws:s3:::bucket/key``; of all buckets if there is no name."""
    if not bucket_name:
        return S3_PREFIX + "*"
    return f"{S3_PREFIX}{bucket_name}/{key.decode('utf-8', 'surrogateescape')}" if key else S3_PREFIX + bucket_name


def _one(text: str | None) -> _Found:
    return None if text is None else (text,)


def _tag(tags: dict[str, str], name: str) -> _Found:
    """Names of tags are compared without case, as all condition keys are."""
    return next(((value,) for key, value in tags.items() if key.lower() == name), None)


def _source_ip(call: Asking) -> _Found:
    return (call.context.proxies.client(call.request.peer, call.request.fields.get(b"x-forwarded-for")),)


def _signed_ms(asked: Asked) -> _Found:
    verified = asked.call.verified
    if verified is None or not verified.date:
        return None
    try:
        signed = calendar.timegm(time.strptime(verified.date, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None
    return (str(max(0, asked.call.context.clock.wall_ms() - signed * 1000)),)


def _auth_type(asked: Asked) -> _Found:
    call = asked.call
    if call.identity.is_anonymous:
        return None
    if call.operation.name == "PostObject" and call.verified is None:
        return ("POST",)
    return ("REST-QUERY-STRING" if call.verified is not None and call.verified.presigned else "REST-HEADER",)


def _signature_version(asked: Asked) -> _Found:
    call = asked.call
    if call.identity.is_anonymous:
        return None
    state = call.request.state or {}
    by_version_4 = bool(call.verified.scope) if call.verified is not None else bool(state.get(FORM_VERSION_4))
    return ("AWS4-HMAC-SHA256" if by_version_4 else "AWS",)


def _remaining_days(asked: Asked) -> _Found:
    text = asked.call.header(b"x-amz-object-lock-retain-until-date")
    if text is None:
        return None
    try:
        until = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return (str(math.ceil((until.timestamp() - asked.call.context.clock.wall_ms() / 1000) / _DAY)),)


def _version_id(asked: Asked) -> _Found:
    return _one(asked.version_id or None)


def _region(call: Asking) -> _Found:
    verified = call.verified
    return _one(verified.region or None) if verified is not None else None


def _owner(asked: Asked) -> _Found:
    return None if asked.bucket is None else (asked.bucket.owner,)


def _location(asked: Asked) -> _Found:
    state = asked.call.request.state
    found = None if state is None else state.get(LOCATION)
    return (found,) if isinstance(found, str) and found else None


FORM_VERSION_4 = "form of version 4"  # there if the form's policy was signed so
LOCATION = "location"  # where ``Request.state`` holds CreateBucket's region once its body was read

# Global condition keys, which requests of other services have, too.
GLOBAL: dict[str, Callable[[Asking], _Found]] = {
    "aws:currenttime": lambda call: (iso_seconds(call.context.clock.wall_ms()),),
    "aws:epochtime": lambda call: (str(call.context.clock.wall_ms() // 1000),),
    "aws:referer": lambda call: _one(call.request.header(b"referer")),
    "aws:requestedregion": _region,
    "aws:securetransport": lambda call: ("true" if call.request.secure else "false",),
    "aws:sourceip": _source_ip,
    "aws:useragent": lambda call: _one(call.request.header(b"user-agent")),
}
_SOURCES: dict[str, Callable[[Asked], _Found]] = {
    "aws:resourceaccount": _owner,
    "s3:authtype": _auth_type,
    "s3:delimiter": lambda asked: _one(asked.call.query.get("delimiter")),
    "s3:if-match": lambda asked: _one(asked.call.header(b"if-match")),
    "s3:if-none-match": lambda asked: _one(asked.call.header(b"if-none-match")),
    "s3:locationconstraint": _location,
    "s3:max-keys": lambda asked: _one(asked.call.query.get("max-keys")),
    "s3:object-lock-legal-hold": lambda asked: _one(asked.call.header(b"x-amz-object-lock-legal-hold")),
    "s3:object-lock-mode": lambda asked: _one(asked.call.header(b"x-amz-object-lock-mode")),
    "s3:object-lock-remaining-retention-days": _remaining_days,
    "s3:object-lock-retain-until-date": lambda asked: _one(asked.call.header(b"x-amz-object-lock-retain-until-date")),
    "s3:objectcreationoperation": lambda asked: ("true" if asked.call.operation.name in _CREATES else "false",),
    "s3:prefix": lambda asked: _one(asked.call.query.get("prefix")),
    "s3:requestobjecttagkeys": lambda asked: tuple(asked.request_tags()) or None,
    "s3:resourceaccount": _owner,
    "s3:signatureage": _signed_ms,
    "s3:signatureversion": _signature_version,
    "s3:tlsversion": lambda asked: _one(asked.call.request.tls or None),
    "s3:versionid": _version_id,
}
