"""Groups and who is in them.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateGroup.html and its siblings
"""

from __future__ import annotations

import msgspec

from titans3.cluster.directory import new_id
from titans3.cluster.transaction import Transaction
from titans3.model.identity import FORMAT, Group, User, group_key, user_key
from titans3.query.answer import Moment, Tree
from titans3.query.call import Call
from titans3.query.errors import QueryError, absent, exceeded, exists
from titans3.query.parameters import GROUP_NAME, PATH, PATH_PREFIX, USER_NAME
from titans3.query.users import find_user, user_tree

_GROUPS_OF_USER_MAX = 10


async def create_group(call: Call) -> dict[str, Tree]:
    name = call.parameters.text("GroupName", GROUP_NAME)
    path = call.parameters.text("Path", PATH, "/")
    call.authorize(call.arn("group", name, path))
    key = group_key(call.account, name)
    group = Group(FORMAT, call.account, name, new_id("AGPA"), path, call.now_ms)

    most = call.limit("iam.groups_max")

    async def create(transaction: Transaction) -> None:
        if await transaction.read(key, Group) is not None:
            raise exists("Group", name)
        if len(await transaction.list(group_key(call.account, ""), Group)) >= most:
            raise exceeded("GroupsPerAccount", most)
        transaction.put(key, group)

    await call.transact(create)
    return {"Group": group_tree(group)}


async def get_group(call: Call) -> dict[str, Tree]:
    group = await find_group(call)
    call.authorize(_arn(group))
    users = await call.directory.list_of(user_key(call.account, ""), User)
    members = [user for user in users if group.name.lower() in _lower(user.groups)]
    return {"Group": group_tree(group)} | call.page("Users", members, lambda user: user.name.lower(), user_tree)


async def list_groups(call: Call) -> dict[str, Tree]:
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    call.authorize(call.arn("group", "", prefix))
    groups = await call.directory.list_of(group_key(call.account, ""), Group)
    shown = [group for group in groups if group.path.startswith(prefix)]
    return call.page("Groups", shown, lambda group: group.name.lower(), group_tree)


async def list_groups_for_user(call: Call) -> dict[str, Tree]:
    name = call.parameters.text("UserName", USER_NAME)
    user = await find_user(call, name)
    call.authorize(call.arn("user", user.name, user.path))
    groups = await call.directory.list_of(group_key(call.account, ""), Group)
    shown = [group for group in groups if group.name.lower() in _lower(user.groups)]
    return call.page("Groups", shown, lambda group: group.name.lower(), group_tree)


async def update_group(call: Call) -> None:
    old = await find_group(call)
    name = call.parameters.text("NewGroupName", GROUP_NAME, old.name)
    path = call.parameters.text("NewPath", PATH, old.path)
    call.authorize(_arn(old))
    call.authorize(call.arn("group", name, path))
    key, new_key = group_key(call.account, old.name), group_key(call.account, name)

    async def update(transaction: Transaction) -> None:
        group = await transaction.need(key, Group, absent("group", old.name))
        if new_key != key:
            if await transaction.read(new_key, Group) is not None:
                raise exists("Group", name)
            transaction.delete(key)
        for listed_key, listed in await transaction.list(user_key(call.account, ""), User):
            if group.name.lower() in _lower(listed.groups):
                user = await transaction.need(listed_key, User, absent("user", listed.name))
                groups = tuple(name if one.lower() == group.name.lower() else one for one in user.groups)
                transaction.put(listed_key, msgspec.structs.replace(user, groups=groups))
        transaction.put(new_key, msgspec.structs.replace(group, name=name, path=path))

    await call.transact(update)


async def delete_group(call: Call) -> None:
    group = await find_group(call)
    call.authorize(_arn(group))
    key = group_key(call.account, group.name)

    async def delete(transaction: Transaction) -> None:
        found = await transaction.need(key, Group, absent("group", group.name))
        users = await transaction.list(user_key(call.account, ""), User)
        for what, why in (
            (any(group.name.lower() in _lower(user.groups) for _, user in users), "must remove users from group first."),
            (found.attached.managed, "must detach all policies first."),
            (found.attached.inline, "must delete policies first."),
        ):
            if what:
                raise QueryError("DeleteConflict", f"Cannot delete entity, {why}")
        transaction.delete(key)

    await call.transact(delete)


async def add_user_to_group(call: Call) -> None:
    group, user = await find_group(call), call.parameters.text("UserName", USER_NAME)
    call.authorize(_arn(group))
    key, of_user = group_key(call.account, group.name), user_key(call.account, user)

    async def add(transaction: Transaction) -> None:
        found = await transaction.need(key, Group, absent("group", group.name))
        record = await transaction.need(of_user, User, absent("user", user))
        if found.name.lower() in _lower(record.groups):
            return
        if len(record.groups) >= _GROUPS_OF_USER_MAX:
            raise exceeded("GroupsPerUser", _GROUPS_OF_USER_MAX)
        transaction.touch(key)
        transaction.put(of_user, msgspec.structs.replace(record, groups=(*record.groups, found.name)))

    await call.transact(add)


async def remove_user_from_group(call: Call) -> None:
    group, user = await find_group(call), call.parameters.text("UserName", USER_NAME)
    call.authorize(_arn(group))
    of_user = user_key(call.account, user)

    async def remove(transaction: Transaction) -> None:
        record = await transaction.need(of_user, User, absent("user", user))
        left = tuple(one for one in record.groups if one.lower() != group.name.lower())
        if len(left) == len(record.groups):
            raise QueryError("NoSuchEntity", f"The user with name {user} is not in the group with name {group.name}.")
        transaction.put(of_user, msgspec.structs.replace(record, groups=left))

    await call.transact(remove)


async def find_group(call: Call) -> Group:
    """GroupName's. Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    name = call.parameters.text("GroupName", GROUP_NAME)
    found = await call.directory.read(group_key(call.account, name), Group)
    if found is None:
        call.authorize(call.arn("group", name))
        raise absent("group", name)
    return found[0]


def group_tree(group: Group) -> dict[str, Tree]:
    """As answers show it."""
    return {
        "Path": group.path, "GroupName": group.name, "GroupId": group.group_id, "Arn": _arn(group), "CreateDate": Moment(group.created_ms),
    }  # fmt: skip


def _arn(group: Group) -> str:
    return f"arn:aws:iam::{group.account}:group{group.path}{group.name}"


def _lower(names: tuple[str, ...]) -> list[str]:
    return [name.lower() for name in names]


ACTIONS = {
    "AddUserToGroup": add_user_to_group,
    "CreateGroup": create_group,
    "DeleteGroup": delete_group,
    "GetGroup": get_group,
    "ListGroups": list_groups,
    "ListGroupsForUser": list_groups_for_user,
    "RemoveUserFromGroup": remove_user_from_group,
    "UpdateGroup": update_group,
}
