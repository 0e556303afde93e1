"""May this caller do this? The one place where rights are decided.

Invariants
* Every operation passes here before its body is read, and again for each further resource it touches (a copy's source, each entry of
  a DeleteObjects). Deny is the default.
* An account's root on its own bucket without a policy is allowed without looking further (``is_plain``); nothing else is.
* What depends on the object as it is (its tags, its list, its owner) is decided when the version is found and before a byte of it is
  told; until then the right is pending. Whoever may not list does not learn whether a key is there.
* What is allowed on every object of a bucket whatever the request is like (``allows_all``) is found out once for a caller, an action and
  a state of the bucket's rules. It holds for objects of the bucket's owner alone, and for the right that was asked for alone.
* A bucket's policy reaches objects of other accounts only with its denies: they belong to whoever wrote them.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-s3-evaluates-access-control.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titans3.cluster.caller import Caller
from titans3.cluster.rules import PLAIN, BucketRules
from titans3.cluster.store import Store
from titans3.iam.acl import OF_BUCKET, OF_OBJECT, granted
from titans3.iam.decision import Verdict, allows_all, decide
from titans3.iam.principal import Named
from titans3.model.acl import decode_grants
from titans3.model.control import BucketRecord
from titans3.model.identity import ANONYMOUS_ACCOUNT, ANONYMOUS_CANONICAL
from titans3.model.version import ROW_FORMAT, Version
from titans3.s3.actions import ACL_HEADERS, WITH_HEADER, actions_of
from titans3.s3.asked import LOCATION, TAGS, Asked
from titans3.s3.errors import S3Error
from titans3.s3.tags import OBJECT_TAGS_MAX, tags_of_document
from titans3.s3.xmlin import parse_create_bucket

if TYPE_CHECKING:
    from titans3.s3.call import Call

_LIST = "s3:ListBucket"
_SURE_MAX = 256
# Operations that find a version first and hand it to ``Access.check``: their rights may stay pending until then.
_FINDING = frozenset((
    "GetObject", "HeadObject", "GetObjectAttributes", "GetObjectAcl", "PutObjectAcl", "GetObjectTagging", "PutObjectTagging",
    "DeleteObjectTagging",
))  # fmt: skip
# Operations that need one right and no other, when nothing in query or headers asks for more.
_ALONE = frozenset(("GetObject", "HeadObject", "PutObject", "DeleteObject"))
_REFINING = frozenset((*(header for header, _ in WITH_HEADER), *ACL_HEADERS, b"x-amz-bypass-governance-retention"))
# Operations with a small body that conditions may ask about.
_BODY_KEYS = {"PutObjectTagging": "s3:requestobjecttag", "CreateBucket": "s3:locationconstraint"}


def is_plain(caller: Caller, bucket: BucketRecord | None, store: Store) -> bool:
    """Whether nothing but ownership counts: the account itself, on what is its own and has no policy."""
    return caller.is_account_root and (bucket is None or (bucket.owner == caller.account and store.rules.find(bucket).policy is None))


def is_sure_of(call: Call, bucket: BucketRecord | None) -> bool:
    """Whether all that the call needs is allowed on every object of the bucket: then ``call.is_sure``, and nothing is asked until the
    object turns out to be absent or another account's.

    What most requests of most users come to, without the detours of ``authorize``.
    """
    operation, query = call.operation, call.query
    if operation.name not in _ALONE or bucket is None or (query and "versionId" in query):
        return False
    if not (call.is_bare or _REFINING.isdisjoint(call.fields)):
        return False
    action, rules, recent = operation.actions[0], call.store.rules.find(bucket), call.identity.recent
    if recent.rules is rules and recent.bucket == bucket.bucket and recent.action == action:
        sure = recent.sure
    else:
        sure = _is_kept(call.identity, bucket, action, rules)
    call.is_sure = sure
    return sure


def access_of(call: Call) -> Access | None:
    """What decides about rights, when it comes to that after all; ``None``: all is plainly the caller's own."""
    if call.access is None and call.is_sure:
        call.access = Access(call, call.bucket, call.bucket_name, call.key)
    return call.access


def _is_kept(caller: Caller, bucket: BucketRecord, action: str, rules: BucketRules) -> bool:
    """Whether every object of the bucket's owner is the caller's for an action: what most decisions come to, and is kept."""
    kept = caller.sure
    found = kept.get((bucket.bucket, action))
    if found is None or found[0] is not rules:
        if len(kept) >= _SURE_MAX:
            kept.clear()
        sure = allows_all(caller.rights, action.lower(), f"{bucket.name}/", bucket.owner, rules.policy)
        found = kept[bucket.bucket, action] = (rules, sure)
    recent = caller.recent
    recent.bucket, recent.action, recent.rules, recent.sure = bucket.bucket, action, rules, found[1]
    return found[1]


async def authorize(call: Call, bucket: BucketRecord | None) -> None:
    """For what is not plain. Raises AccessDenied. ``bucket`` is ``None`` for what has none (yet)."""
    if call.identity.is_anonymous and not call.context.is_public:
        raise S3Error("AccessDenied")
    access = call.access = Access(call, bucket, call.bucket_name, call.key)
    name = call.operation.name
    if name == "DeleteObjects":
        return  # each entry is asked for by itself
    if name in _BODY_KEYS and access.asks(_BODY_KEYS[name]):
        await _read_small_body(call)
    actions = actions_of(call.operation, call.fields, call.query)
    if name in _FINDING:
        access.begin(actions)
        return
    for action in actions:
        access.require(action)


async def _read_small_body(call: Call) -> None:
    """What conditions ask of a body that is small and not an object's; its handler reads it again."""
    data = await call.read_proven()
    state = call.request.state = call.request.state or {}
    state["body"] = data
    if call.operation.name == "CreateBucket":
        state[LOCATION] = parse_create_bucket(data)[0]
    else:
        state[TAGS] = tags_of_document(data, OBJECT_TAGS_MAX)


class Access:
    """What a caller may do on one resource."""

    __slots__ = ("_bucket", "_bucket_name", "_call", "_key", "_pending", "_rules", "_settled", "_version_id")

    def __init__(self, call: Call, bucket: BucketRecord | None, bucket_name: str, key: bytes, *, version_id: str = "") -> None:
        self._call, self._bucket, self._bucket_name, self._key = call, bucket, bucket_name, key
        self._version_id = version_id or call.query.get("versionId", "")
        self._rules = PLAIN if bucket is None else call.store.rules.find(bucket)
        self._pending: tuple[str, ...] = ()
        self._settled = False  # all of them were allowed, whatever an object of the bucket's owner is

    def asks(self, key: str) -> bool:
        """Whether a policy that may count depends on a condition key that begins so."""
        rights = self._call.identity.rights
        policies = [*rights.policies, *(rights.session or ())]
        if self._rules.policy is not None:
            policies.append(self._rules.policy)
        return any(policy.asks(key) for policy in policies)

    # decisions -----------------------------------------------------------------------------------------------------

    def _asked(self, action: str) -> Asked:
        return Asked(self._call, action, self._bucket, self._bucket_name, self._key, self._version_id)

    def _is_sure(self, action: str, key: bytes) -> bool:
        return self._bucket is not None and key != b"" and _is_kept(self._call.identity, self._bucket, action, self._rules)

    def require(self, action: str) -> None:
        """Raises AccessDenied."""
        if self._is_sure(action, self._key):
            return
        asked = self._asked(action)
        verdict = self._judge(asked)
        if verdict is not Verdict.ALLOWED:
            raise denied(asked, verdict)

    def require_as_owner(self, action: str, owner: str) -> None:
        """On an object that is about to be written and will belong to ``owner``. Raises AccessDenied."""
        asked = self._asked(action)
        asked.existing = Version(ROW_FORMAT, 0, 0, 0, 0, b"", 0, 0, owner)
        verdict = self._judge(asked)
        if verdict is not Verdict.ALLOWED:
            raise denied(asked, verdict)

    def may(self, action: str, key: bytes, version_id: str) -> bool:
        """Whether it is allowed on a key of the bucket."""
        if self._is_sure(action, key):
            return True
        return self._judge(Asked(self._call, action, self._bucket, self._bucket_name, key, version_id)) is Verdict.ALLOWED

    def begin(self, actions: tuple[str, ...]) -> None:
        """For an operation that finds its version first: ``check`` or ``absent`` follows. Raises AccessDenied for what is certain."""
        self._pending = actions
        if all(self._is_sure(action, self._key) for action in actions):
            self._settled = True
        elif not self._asks_tags():
            settled = True
            for action in actions:
                asked = self._asked(action)
                verdict = self._judge(asked)
                if verdict is Verdict.EXPLICIT or (
                    verdict is Verdict.IMPLICIT and not (self._rules.has_acls and asked.action in OF_OBJECT)
                ):
                    raise denied(asked, verdict)
                settled = settled and verdict is Verdict.ALLOWED
            self._settled = settled

    def check(self, version: Version) -> None:
        """The pending actions, now that the version is known. Raises AccessDenied."""
        if self._settled and (not version.owner or (self._bucket is not None and version.owner == self._bucket.owner)):
            return  # nothing of the version could change what was decided
        for action in self._pending:
            asked = self._asked(action)
            asked.existing = version
            verdict = self._judge(asked)
            if verdict is not Verdict.ALLOWED:
                raise denied(asked, verdict)

    def absent(self) -> None:
        """There is no such version: raises AccessDenied for whoever may not know that."""
        asked = Asked(self._call, _LIST, self._bucket, self._bucket_name, b"", "")
        verdict = self._judge(asked)
        if verdict is not Verdict.ALLOWED:
            raise denied(asked, verdict)

    def _asks_tags(self) -> bool:
        rights = self._call.identity.rights
        policy = self._rules.policy
        return (
            (policy is not None and policy.asks_object_tags)
            or any(one.asks_object_tags for one in rights.policies)
            or any(one.asks_object_tags for one in rights.session or ())
        )

    def _judge(self, asked: Asked) -> Verdict:
        rules, bucket, rights = self._rules, self._bucket, self._call.identity.rights
        if bucket is None:
            return decide(rights, asked, rights.who.account)
        named, owner = Named.NOT, bucket.owner
        version, action = asked.existing, asked.action
        if rules.has_acls:
            ignore = rules.block.ignore_acls
            if rules.acl is not None and action in OF_BUCKET:
                named = granted(rules.acl, OF_BUCKET[action], rights.who, ignore_public=ignore)
            elif version is not None and action in OF_OBJECT:
                if version.acl:
                    named = granted(decode_grants(version.acl), OF_OBJECT[action], rights.who, ignore_public=ignore)
                owner = version.owner or owner
                if owner == ANONYMOUS_ACCOUNT and rights.who.canonical == ANONYMOUS_CANONICAL and not version.acl:
                    named = Named.ITSELF
        restricted = rules.block.restrict_buckets and rules.is_public
        if owner == bucket.owner:
            return decide(rights, asked, owner, rules.policy, granted=named, restricted=restricted)
        if rules.policy is not None and rules.policy.says(asked, rights.who).denies:
            return Verdict.EXPLICIT
        return decide(rights, asked, owner, granted=named)


def check_foreign(call: Call, version: Version) -> None:
    """A version of another account in a bucket that is plainly the caller's. Raises AccessDenied."""
    access = Access(call, call.bucket, call.bucket_name, call.key)
    access.begin(actions_of(call.operation, call.fields, call.query))
    access.check(version)


def denied(asked: Asked, verdict: Verdict) -> S3Error:
    """AccessDenied, with what was denied for whoever signed."""
    call = asked.call
    if call.identity.is_anonymous:
        return S3Error("AccessDenied")
    why = "with an explicit deny in a policy" if verdict is Verdict.EXPLICIT else f"because no policy allows the {asked.name} action"
    return S3Error(
        "AccessDenied",
        f'User: {call.identity.arn} is not authorized to perform: {asked.name} on resource: "{asked.resource[:1200]}" {why}',
    )


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
