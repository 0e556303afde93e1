"""Why somebody may do something, or may not: each statement of each policy that counts.

Invariants
* The decision is made by the evaluator that decides about requests, with the bucket's policy and public access block as they are.
* Access control lists of objects, and conditions about what is not given, are not imagined: what they would ask is in ``missing_context``.
"""

from __future__ import annotations

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.caller import Keys
from titans3.cluster.rules import PLAIN
from titans3.iam.acl import OF_BUCKET, granted
from titans3.iam.arn import S3_PREFIX, role_arn, root_arn, session_arn, split_arn, user_arn
from titans3.iam.decision import Identity, decide
from titans3.iam.explain import Explained, Imagined, condition_keys, explain
from titans3.iam.policy import Policy
from titans3.iam.principal import Named, Principal
from titans3.model.control import BucketRecord
from titans3.model.identity import Credential, Role, User, credential_key
from titans3.query.errors import QueryError, absent


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """``principal``: a user's name, ``role/NAME``, an access key, an ARN, or ``anonymous``. ``resource``: ``bucket/key`` or an ARN.

    ``context``: condition keys of the request, each with its values.
    """

    principal: str
    action: str
    resource: str
    context: dict[str, list[str]] = {}


class Answer(msgspec.Struct):
    """``decision``: allowed, implicitDeny, explicitDeny. ``statements``: all that were looked at, in the order of the policies."""

    principal: str
    action: str
    resource: str
    decision: str
    statements: list[Explained]
    missing_context: list[str]


async def simulate(call: AdminCall) -> Answer:
    asked = call.body(Question)
    call.authorize(f"principal/{asked.principal}")
    if ":" not in asked.action:
        raise QueryError("ValidationError", "action: its service is missing, as in s3:GetObject.")
    arn = asked.resource if asked.resource.startswith("arn:") else S3_PREFIX + asked.resource
    identity, keys = _principal(call, asked.principal)
    keys = keys | {name.lower(): tuple(values) for name, values in asked.context.items()}
    ask = Imagined(asked.action, arn, keys)
    bucket = _bucket(call, arn)
    rules = PLAIN if bucket is None else call.context.store.rules.find(bucket)
    named = Named.NOT
    if bucket is not None and rules.has_acls and rules.acl is not None and ask.action in OF_BUCKET:
        named = granted(rules.acl, OF_BUCKET[ask.action], identity.who, ignore_public=rules.block.ignore_acls)
    owner = identity.who.account if bucket is None else bucket.owner
    restricted = rules.block.restrict_buckets and rules.is_public
    verdict = decide(identity, ask, owner, rules.policy, granted=named, restricted=restricted)
    policies: list[Policy] = [*identity.policies, *(identity.session or ())]
    if rules.policy is not None:
        policies.append(rules.policy)
    statements = [step for policy in policies for step in explain(policy, ask, identity.who)]
    missing = [key for key in condition_keys(policies, ask.action) if ask.values(key) is None]
    return Answer(asked.principal, asked.action, arn, str(verdict), statements, missing)


def _bucket(call: AdminCall, arn: str) -> BucketRecord | None:
    if not arn.startswith(S3_PREFIX):
        return None
    bucket = call.server.cache.buckets.get(arn[len(S3_PREFIX) :].partition("/")[0])
    if bucket is not None and bucket.owner != call.account:
        # another account's policy is not shown here, only that it is another's
        raise QueryError("AccessDenied", f"The bucket {bucket.name} is of another account.")
    return bucket


def _principal(call: AdminCall, text: str) -> tuple[Identity, Keys]:
    """Who is meant, and the condition keys that follow from who it is. Raises QueryError(NoSuchEntity)."""
    identities, account = call.identities, call.account
    if text == "anonymous":
        return Identity(Principal()), {"aws:principaltype": ("Anonymous",), "aws:userid": ("anonymous",)}
    if text in ("root", root_arn(account)):
        return Identity(Principal(account, call.caller.canonical, root_arn(account), is_root=True)), {}
    record = identities.record(credential_key(text), Credential)
    if record is not None and record.account == account:
        caller = identities.find(text)
        if caller is None:
            raise absent("Access Key", text)
        return caller.rights, dict(caller.keys)
    parts = split_arn(text)
    kind, _, rest = (parts[5] if len(parts) == 6 and parts[4] == account else text).partition("/")
    if kind == "role" and rest:
        role = identities.role(account, rest.rpartition("/")[2])
        if role is None:
            raise absent("role", rest)
        return _role(call, role)
    user = identities.user(account, rest.rpartition("/")[2] if kind == "user" and rest else text)
    if user is None:
        raise absent("user", text)
    return _user(call, user)


def _user(call: AdminCall, user: User) -> tuple[Identity, Keys]:
    identities = call.identities
    policies = identities.policies_of(user.account, user.attached)
    for name in user.groups:
        group = identities.group(user.account, name)
        if group is not None:
            policies += identities.policies_of(user.account, group.attached)
    arn = user_arn(user.account, user.path, user.name)
    keys: Keys = {
        "aws:username": (user.name,), "aws:userid": (user.user_id,), "aws:principalarn": (arn,), "aws:principalaccount": (user.account,),
        "aws:principaltype": ("User",), **{f"aws:principaltag/{tag.lower()}": (value,) for tag, value in user.tags.items()},
    }  # fmt: skip
    return Identity(Principal(user.account, call.caller.canonical, arn), policies), keys


def _role(call: AdminCall, role: Role) -> tuple[Identity, Keys]:
    arn = role_arn(role.account, role.path, role.name)
    who = Principal(role.account, call.caller.canonical, session_arn(role.account, role.name, "simulation"), arn)
    keys: Keys = {"aws:principalarn": (arn,), "aws:principalaccount": (role.account,), "aws:principaltype": ("AssumedRole",)}
    return Identity(who, call.identities.policies_of(role.account, role.attached)), keys


ROUTES = (
    Route(
        "POST", "/simulate", "titans3:SimulatePolicy", simulate, "Whether somebody may do something, statement by statement",
        Question, Answer,
    ),
)  # fmt: skip
