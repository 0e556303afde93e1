"""Managed policies and their versions: CreatePolicy, GetPolicy, ListPolicies, CreatePolicyVersion and so on.

Invariants
* A policy has at most five versions, one of them in force; that one goes with the policy alone.
* A policy that somebody has is not deleted: whoever attaches it touches its record, whoever deletes it has read it.
* The built-in ones can be looked at and attached, never changed.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreatePolicy.html and its siblings
"""

from __future__ import annotations

import msgspec

from titans3.cluster.directory import new_id
from titans3.cluster.transaction import Transaction
from titans3.iam.builtin import BUILTIN, PREFIX
from titans3.model.identity import FORMAT, Group, ManagedPolicy, PolicyVersion, Role, User, policy_key
from titans3.query.answer import Encoded, Moment, Tree, tag_list
from titans3.query.call import Call, Keys, resource_keys, tag_keys
from titans3.query.errors import QueryError, absent, exceeded, exists
from titans3.query.holders import HOLDERS, checked_document, name_of, no_policy
from titans3.query.parameters import ARN, DESCRIPTION, DOCUMENT, PATH, PATH_PREFIX, POLICY_NAME, VERSION_ID
from titans3.query.users import merged_tags, tag_page, without_tags

_VERSIONS_MAX = 5
_SCOPES = ("All", "AWS", "Local")
_FILTERS = ("User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy")
_USAGES = ("PermissionsPolicy", "PermissionsBoundary")
_BUILTIN_MS = 1_767_225_600_000  # 2026-01-01: when they were written
_Record = User | Group | Role


async def create_policy(call: Call) -> dict[str, Tree]:
    name = call.parameters.text("PolicyName", POLICY_NAME)
    path = call.parameters.text("Path", PATH, "/")
    document = checked_document(call.parameters.text("PolicyDocument", DOCUMENT))
    description = call.parameters.text("Description", DESCRIPTION, "")
    tags = call.parameters.tags()
    call.authorize(call.arn("policy", name, path), tag_keys(tags))
    if tags:
        call.authorize(call.arn("policy", name, path), tag_keys(tags), action="iam:TagPolicy")
    key, now = policy_key(call.account, name), call.now_ms
    versions = (PolicyVersion(1, document, now),)
    policy = ManagedPolicy(FORMAT, call.account, name, new_id("ANPA"), path, now, now, versions, 1, 1, description, tags)

    most = call.limit("iam.policies_max")

    async def create(transaction: Transaction) -> None:
        if await transaction.read(key, ManagedPolicy) is not None:
            raise exists("A policy", name)
        if len(await transaction.list(policy_key(call.account, ""), ManagedPolicy)) >= most:
            raise exceeded("PoliciesPerAccount", most)
        transaction.put(key, policy)

    await call.transact(create)
    return {"Policy": policy_tree(policy, 0, tags=True)}


async def get_policy(call: Call) -> dict[str, Tree]:
    arn = call.parameters.text("PolicyArn", ARN)
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags))
    tree = policy_tree(policy, (await _attachments(call)).get(arn, 0), tags=True)
    return {"Policy": tree | {"Description": policy.description or None}}


async def list_policies(call: Call) -> dict[str, Tree]:
    scope = call.parameters.choice("Scope", _SCOPES, "All")
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    attached = call.parameters.boolean("OnlyAttached")
    boundary = call.parameters.choice("PolicyUsageFilter", _USAGES, "") == "PermissionsBoundary"
    call.authorize(call.arn("policy", "", prefix))
    found: list[ManagedPolicy] = []
    if scope != "AWS":
        found += await call.directory.list_of(policy_key(call.account, ""), ManagedPolicy)
    if scope != "Local":
        found += [builtin(name) for name in BUILTIN]
    counts = await _attachments(call)
    shown = sorted(
        (
            policy
            for policy in found
            if policy.path.startswith(prefix) and not boundary and (not attached or counts.get(policy_arn(policy)))
        ),
        key=_order,
    )
    return call.page("Policies", shown, _order, lambda policy: policy_tree(policy, counts.get(policy_arn(policy), 0)))


async def delete_policy(call: Call) -> None:
    policy, arn = await _own(call)

    async def delete(transaction: Transaction) -> None:
        found = await _need(transaction, policy)
        if len(found.versions) > 1:
            raise QueryError(
                "DeleteConflict",
                "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. "
                "The default version is deleted with the policy.",
            )
        for holder in HOLDERS:
            for _, record in await transaction.list(holder.key(call.account, ""), holder.record):
                if arn in record.attached.managed:
                    raise QueryError("DeleteConflict", "Cannot delete a policy attached to entities.")
        transaction.delete(_key(policy))

    await call.transact(delete)


async def create_policy_version(call: Call) -> dict[str, Tree]:
    policy, _ = await _own(call)
    document = checked_document(call.parameters.text("PolicyDocument", DOCUMENT))
    in_force = call.parameters.boolean("SetAsDefault")
    now = call.now_ms

    async def create(transaction: Transaction) -> dict[str, Tree]:
        found = await _need(transaction, policy)
        if len(found.versions) >= _VERSIONS_MAX:
            raise QueryError(
                "LimitExceeded",
                f"A managed policy can have up to {_VERSIONS_MAX} versions. "
                "Before you create a new version, you must delete an existing version.",
            )
        version = PolicyVersion(found.last + 1, document, now)
        default = version.number if in_force else found.default
        changed = msgspec.structs.replace(
            found, versions=(*found.versions, version), last=version.number, default=default, updated_ms=now
        )
        transaction.put(_key(policy), changed)
        return {"PolicyVersion": _version_tree(changed, version)}

    return await call.transact(create)


async def get_policy_version(call: Call) -> dict[str, Tree]:
    arn = call.parameters.text("PolicyArn", ARN)
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags))
    version = _version(call, policy)
    return {"PolicyVersion": {"Document": Encoded(version.document)} | _version_tree(policy, version)}


async def list_policy_versions(call: Call) -> dict[str, Tree]:
    arn = call.parameters.text("PolicyArn", ARN)
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags))
    newest = sorted(policy.versions, key=_newest_first)
    return call.page("Versions", newest, _newest_first, lambda version: _version_tree(policy, version))


async def set_default_policy_version(call: Call) -> None:
    policy, _ = await _own(call)
    number = _version(call, policy).number

    async def change(transaction: Transaction) -> None:
        found = await _need(transaction, policy)
        _need_version(found, number)
        transaction.put(_key(policy), msgspec.structs.replace(found, default=number, updated_ms=call.now_ms))

    await call.transact(change)


async def delete_policy_version(call: Call) -> None:
    policy, _ = await _own(call)
    number = _version(call, policy).number

    async def delete(transaction: Transaction) -> None:
        found = await _need(transaction, policy)
        _need_version(found, number)
        if number == found.default:
            raise QueryError("DeleteConflict", "Cannot delete the default version of a policy.")
        left = tuple(version for version in found.versions if version.number != number)
        transaction.put(_key(policy), msgspec.structs.replace(found, versions=left, updated_ms=call.now_ms))

    await call.transact(delete)


async def list_entities_for_policy(call: Call) -> dict[str, Tree]:
    arn = call.parameters.text("PolicyArn", ARN)
    kind = call.parameters.choice("EntityFilter", _FILTERS, "")
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    boundary = call.parameters.choice("PolicyUsageFilter", _USAGES, "") == "PermissionsBoundary"
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags))
    found: list[tuple[str, _Record]] = []
    for holder in HOLDERS:
        if boundary or kind not in ("", holder.name):
            continue
        records = await call.directory.list_of(holder.key(call.account, ""), holder.record)
        found += [(holder.name, record) for record in records if arn in record.attached.managed and record.path.startswith(prefix)]
    found.sort(key=_entity)
    shown, more = call.cut(found, _entity)
    lists: dict[str, Tree] = {
        f"Policy{plural}": [_entity_tree(name, record) for name, record in shown if name == kind]
        for kind, plural in (("Group", "Groups"), ("User", "Users"), ("Role", "Roles"))
    }
    return lists | more


async def tag_policy(call: Call) -> None:
    tags = call.parameters.tags()
    policy, _ = await _own(call, tag_keys(tags))

    async def tag(transaction: Transaction) -> None:
        found = await _need(transaction, policy)
        transaction.put(_key(policy), msgspec.structs.replace(found, tags=merged_tags(found.tags, tags)))

    await call.transact(tag)


async def untag_policy(call: Call) -> None:
    names = call.parameters.members("TagKeys", longest=50)
    policy, _ = await _own(call, {"aws:tagkeys": tuple(names)})

    async def untag(transaction: Transaction) -> None:
        found = await _need(transaction, policy)
        transaction.put(_key(policy), msgspec.structs.replace(found, tags=without_tags(found.tags, names)))

    await call.transact(untag)


async def list_policy_tags(call: Call) -> dict[str, Tree]:
    arn = call.parameters.text("PolicyArn", ARN)
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags))
    return tag_page(call, policy.tags)


# what others need ------------------------------------------------------------------------------------------------------


async def find_policy(call: Call, arn: str) -> ManagedPolicy:
    """Of the account, or built in. Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    if arn.startswith(PREFIX) and arn[len(PREFIX) :] in BUILTIN:
        return builtin(arn[len(PREFIX) :])
    found = await call.directory.read(policy_key(call.account, name_of(arn)), ManagedPolicy)
    if found is None or policy_arn(found[0]) != arn:
        call.authorize(arn)
        raise no_policy(arn)
    return found[0]


def builtin(name: str) -> ManagedPolicy:
    """A built-in policy as a record."""
    description, document = BUILTIN[name]
    version = PolicyVersion(1, document, _BUILTIN_MS)
    # An id as AWS's look, from the name: it is the same everywhere.
    made = "ANPA" + "".join(char for char in name.upper() if char.isalnum()).ljust(17, "0")[:17]
    return ManagedPolicy(FORMAT, "aws", name, made, "/", _BUILTIN_MS, _BUILTIN_MS, (version,), 1, 1, description)


def policy_arn(policy: ManagedPolicy) -> str:
    """Its name in the world."""
    return f"arn:aws:iam::{policy.account}:policy{policy.path}{policy.name}"


def policy_tree(policy: ManagedPolicy, attachments: int, *, tags: bool = False) -> dict[str, Tree]:
    """As answers show it."""
    return {
        "PolicyName": policy.name, "PolicyId": policy.policy_id, "Arn": policy_arn(policy), "Path": policy.path,
        "DefaultVersionId": f"v{policy.default}", "AttachmentCount": attachments, "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": True, "CreateDate": Moment(policy.created_ms), "UpdateDate": Moment(policy.updated_ms),
        "Tags": tag_list(policy.tags) if tags and policy.tags else None,
    }  # fmt: skip


async def _attachments(call: Call) -> dict[str, int]:
    """How many have each policy."""
    counts: dict[str, int] = {}
    for holder in HOLDERS:
        for record in await call.directory.list_of(holder.key(call.account, ""), holder.record):
            for arn in record.attached.managed:
                counts[arn] = counts.get(arn, 0) + 1
    return counts


async def _own(call: Call, keys: Keys | None = None) -> tuple[ManagedPolicy, str]:
    """The policy of PolicyArn, which the caller may change; with its ARN. Raises QueryError."""
    arn = call.parameters.text("PolicyArn", ARN)
    policy = await find_policy(call, arn)
    call.authorize(arn, resource_keys(policy.tags) | dict(keys or {}))
    if arn.startswith(PREFIX):
        raise QueryError("InvalidInput", f"{arn} is built in and cannot be changed.")
    return policy, arn


def _key(policy: ManagedPolicy) -> str:
    return policy_key(policy.account, policy.name)


async def _need(transaction: Transaction, policy: ManagedPolicy) -> ManagedPolicy:
    return await transaction.need(_key(policy), ManagedPolicy, absent("policy", policy.name))


def _version(call: Call, policy: ManagedPolicy) -> PolicyVersion:
    """Of VersionId. Raises QueryError(NoSuchEntity)."""
    return _need_version(policy, int(call.parameters.text("VersionId", VERSION_ID)[1:]))


def _need_version(policy: ManagedPolicy, number: int) -> PolicyVersion:
    for version in policy.versions:
        if version.number == number:
            return version
    raise QueryError("NoSuchEntity", f"Policy {policy_arn(policy)} version v{number} does not exist or is not attachable.")


def _version_tree(policy: ManagedPolicy, version: PolicyVersion) -> dict[str, Tree]:
    return {
        "VersionId": f"v{version.number}", "IsDefaultVersion": version.number == policy.default, "CreateDate": Moment(version.created_ms),
    }  # fmt: skip


def _order(policy: ManagedPolicy) -> str:
    return f"{policy.name.lower()} {policy.account}"


def _newest_first(version: PolicyVersion) -> str:
    return f"{10**9 - version.number:010d}"


def _entity(item: tuple[str, _Record]) -> str:
    return f"{item[0]} {item[1].name.lower()}"


def _entity_tree(kind: str, record: _Record) -> dict[str, Tree]:
    made = record.user_id if isinstance(record, User) else record.group_id if isinstance(record, Group) else record.role_id
    return {f"{kind}Name": record.name, f"{kind}Id": made}


ACTIONS = {
    "CreatePolicy": create_policy,
    "CreatePolicyVersion": create_policy_version,
    "DeletePolicy": delete_policy,
    "DeletePolicyVersion": delete_policy_version,
    "GetPolicy": get_policy,
    "GetPolicyVersion": get_policy_version,
    "ListEntitiesForPolicy": list_entities_for_policy,
    "ListPolicies": list_policies,
    "ListPolicyTags": list_policy_tags,
    "ListPolicyVersions": list_policy_versions,
    "SetDefaultPolicyVersion": set_default_policy_version,
    "TagPolicy": tag_policy,
    "UntagPolicy": untag_policy,
}
