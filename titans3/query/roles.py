"""Roles: CreateRole, GetRole, ListRoles, UpdateRole, UpdateAssumeRolePolicy, DeleteRole and their tags.

Invariants
* Whom a trust policy names must be there when it is set, and is bound then: somebody who gets the name later is not trusted.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html and its siblings
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from titans3.cluster.directory import new_id
from titans3.cluster.identities import Identities, PrincipalAbsent
from titans3.cluster.transaction import Transaction
from titans3.iam.arn import role_arn
from titans3.iam.document import Kind, PolicyMalformed, read_policy
from titans3.model.identity import FORMAT, Role, role_key
from titans3.query.answer import Encoded, Moment, Tree, tag_list
from titans3.query.call import Call, Keys, resource_keys, tag_keys
from titans3.query.errors import QueryError, absent, exceeded, exists
from titans3.query.parameters import DESCRIPTION, DOCUMENT, PATH, PATH_PREFIX, ROLE_NAME
from titans3.query.users import merged_tags, refuse_boundary, tag_page, without_tags

_SESSION_SECONDS_MIN, _SESSION_SECONDS_MAX = 3600, 43_200


async def create_role(call: Call) -> dict[str, Tree]:
    name = call.parameters.text("RoleName", ROLE_NAME)
    path = call.parameters.text("Path", PATH, "/")
    tags = call.parameters.tags()
    refuse_boundary(call)
    call.authorize(call.arn("role", name, path), tag_keys(tags))
    if tags:
        call.authorize(call.arn("role", name, path), tag_keys(tags), action="iam:TagRole")
    trust, ids = checked_trust(call.parameters.text("AssumeRolePolicyDocument", DOCUMENT), call.identities)
    role = Role(
        FORMAT, call.account, name, new_id("AROA"), path, call.now_ms, trust, call.parameters.text("Description", DESCRIPTION, ""),
        _seconds(call, _SESSION_SECONDS_MIN), tags=tags, trust_ids=ids,
    )  # fmt: skip
    key = role_key(call.account, name)

    most = call.limit("iam.roles_max")

    async def create(transaction: Transaction) -> None:
        if await transaction.read(key, Role) is not None:
            raise exists("Role", name)
        if len(await transaction.list(role_key(call.account, ""), Role)) >= most:
            raise exceeded("RolesPerAccount", most)
        transaction.put(key, role)

    await call.transact(create)
    return {"Role": role_tree(role, tags=True)}


async def get_role(call: Call) -> dict[str, Tree]:
    role = await _named(call)
    return {"Role": role_tree(role, tags=True) | {"RoleLastUsed": {}}}


async def list_roles(call: Call) -> dict[str, Tree]:
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    call.authorize(call.arn("role", "", prefix))
    roles = await call.directory.list_of(role_key(call.account, ""), Role)
    return call.page("Roles", [role for role in roles if role.path.startswith(prefix)], lambda role: role.name.lower(), role_tree)


async def update_role(call: Call) -> dict[str, Tree]:
    description = call.parameters.text("Description", DESCRIPTION) if call.parameters.has("Description") else None
    seconds = _seconds(call, 0) if call.parameters.has("MaxSessionDuration") else None
    await _change(
        call,
        lambda role: msgspec.structs.replace(
            role,
            description=role.description if description is None else description,
            session_seconds_max=role.session_seconds_max if seconds is None else seconds,
        ),
    )
    return {}


async def update_role_description(call: Call) -> dict[str, Tree]:
    description = call.parameters.text("Description", DESCRIPTION)
    return {"Role": role_tree(await _change(call, lambda role: msgspec.structs.replace(role, description=description)))}


async def update_assume_role_policy(call: Call) -> None:
    await _named(call)
    trust, ids = checked_trust(call.parameters.text("PolicyDocument", DOCUMENT), call.identities)
    await _change(call, lambda role: msgspec.structs.replace(role, trust=trust, trust_ids=ids))


async def delete_role(call: Call) -> None:
    role = await _named(call)
    key = role_key(call.account, role.name)

    async def delete(transaction: Transaction) -> None:
        found = await transaction.need(key, Role, absent("role", role.name))
        if found.attached.managed:
            raise QueryError("DeleteConflict", "Cannot delete entity, must detach all policies first.")
        if found.attached.inline:
            raise QueryError("DeleteConflict", "Cannot delete entity, must delete policies first.")
        transaction.delete(key)

    await call.transact(delete)


async def tag_role(call: Call) -> None:
    tags = call.parameters.tags()
    await _change(call, lambda role: msgspec.structs.replace(role, tags=merged_tags(role.tags, tags)), tag_keys(tags))


async def untag_role(call: Call) -> None:
    names = call.parameters.members("TagKeys", longest=50)
    await _change(call, lambda role: msgspec.structs.replace(role, tags=without_tags(role.tags, names)), {"aws:tagkeys": tuple(names)})


async def list_role_tags(call: Call) -> dict[str, Tree]:
    return tag_page(call, (await _named(call)).tags)


async def list_instance_profiles_for_role(call: Call) -> dict[str, Tree]:
    """There are none: Terraform asks before it deletes a role."""
    await _named(call)
    return {"InstanceProfiles": [], "IsTruncated": False}


# what others need ------------------------------------------------------------------------------------------------------


def checked_trust(text: str, identities: Identities) -> tuple[str, dict[str, str]]:
    """A trust policy as it was sent, and the ids of whom it names. Raises QueryError(MalformedPolicyDocument)."""
    try:
        return text, identities.bind(read_policy(text, Kind.TRUST))
    except PolicyMalformed as error:
        raise QueryError("MalformedPolicyDocument", str(error)) from error
    except PrincipalAbsent as error:
        raise QueryError("MalformedPolicyDocument", f'Invalid principal in policy: "AWS":"{str(error)[:300]}"') from error


def role_tree(role: Role, *, tags: bool = False) -> dict[str, Tree]:
    """As answers show it."""
    return {
        "Path": role.path, "RoleName": role.name, "RoleId": role.role_id, "Arn": role_arn(role.account, role.path, role.name),
        "CreateDate": Moment(role.created_ms), "AssumeRolePolicyDocument": Encoded(role.trust),
        "Description": role.description or None, "MaxSessionDuration": role.session_seconds_max,
        "Tags": tag_list(role.tags) if tags and role.tags else None,
    }  # fmt: skip


async def _named(call: Call, keys: Keys | None = None) -> Role:
    """RoleName's. Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    name = call.parameters.text("RoleName", ROLE_NAME)
    found = await call.directory.read(role_key(call.account, name), Role)
    if found is None:
        call.authorize(call.arn("role", name), keys)
        raise absent("role", name)
    role = found[0]
    call.authorize(call.arn("role", role.name, role.path), resource_keys(role.tags) | dict(keys or {}))
    return role


async def _change(call: Call, change: Callable[[Role], Role], keys: Keys | None = None) -> Role:
    """The role as it is then."""
    name = (await _named(call, keys)).name
    key = role_key(call.account, name)

    async def work(transaction: Transaction) -> Role:
        changed = change(await transaction.need(key, Role, absent("role", name)))
        transaction.put(key, changed)
        return changed

    return await call.transact(work)


def _seconds(call: Call, default: int) -> int:
    return call.parameters.number("MaxSessionDuration", default, _SESSION_SECONDS_MIN, _SESSION_SECONDS_MAX)


ACTIONS = {
    "CreateRole": create_role,
    "DeleteRole": delete_role,
    "GetRole": get_role,
    "ListInstanceProfilesForRole": list_instance_profiles_for_role,
    "ListRoleTags": list_role_tags,
    "ListRoles": list_roles,
    "TagRole": tag_role,
    "UntagRole": untag_role,
    "UpdateAssumeRolePolicy": update_assume_role_policy,
    "UpdateRole": update_role,
    "UpdateRoleDescription": update_role_description,
}
