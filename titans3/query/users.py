"""Users: CreateUser, GetUser, ListUsers, UpdateUser, DeleteUser and their tags.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateUser.html and its siblings
"""

from __future__ import annotations

import msgspec

from titans3.cluster.directory import new_id
from titans3.cluster.transaction import Transaction
from titans3.model.identity import FORMAT, Credential, User, credential_key, user_key
from titans3.query.answer import Moment, Tree, tag_list
from titans3.query.call import Call, resource_keys, tag_keys
from titans3.query.errors import QueryError, absent, exceeded, exists, invalid
from titans3.query.parameters import PATH, PATH_PREFIX, USER_NAME

_TAGS_MAX = 50


async def create_user(call: Call) -> dict[str, Tree]:
    name = call.parameters.text("UserName", USER_NAME)
    path = call.parameters.text("Path", PATH, "/")
    tags = call.parameters.tags()
    refuse_boundary(call)
    call.authorize(call.arn("user", name, path), tag_keys(tags))
    if tags:
        call.authorize(call.arn("user", name, path), tag_keys(tags), action="iam:TagUser")
    key = user_key(call.account, name)
    user = User(FORMAT, call.account, name, new_id("AIDA"), path, call.now_ms, tags=tags)

    most = call.limit("iam.users_max")

    async def create(transaction: Transaction) -> None:
        if await transaction.read(key, User) is not None:
            raise exists("User", name)
        if len(await transaction.list(user_key(call.account, ""), User)) >= most:
            raise exceeded("UsersPerAccount", most)
        transaction.put(key, user)

    await call.transact(create)
    return {"User": user_tree(user, tags=True)}


async def get_user(call: Call) -> dict[str, Tree]:
    if not call.parameters.has("UserName") and call.caller.is_account_root:
        return {"User": await _root(call)}
    user = await find_user(call, own_or_named(call))
    call.authorize(_arn(user), resource_keys(user.tags))
    return {"User": user_tree(user, tags=True)}


async def list_users(call: Call) -> dict[str, Tree]:
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    call.authorize(call.arn("user", "", prefix))
    users = await call.directory.list_of(user_key(call.account, ""), User)
    return call.page("Users", [user for user in users if user.path.startswith(prefix)], lambda user: user.name.lower(), user_tree)


async def update_user(call: Call) -> None:
    old = await find_user(call, call.parameters.text("UserName", USER_NAME))
    name = call.parameters.text("NewUserName", USER_NAME, old.name)
    path = call.parameters.text("NewPath", PATH, old.path)
    call.authorize(_arn(old), resource_keys(old.tags))
    call.authorize(call.arn("user", name, path))
    key, new_key = user_key(call.account, old.name), user_key(call.account, name)

    async def update(transaction: Transaction) -> None:
        user = await transaction.need(key, User, absent("user", old.name))
        if new_key != key:
            if await transaction.read(new_key, User) is not None:
                raise exists("User", name)
            transaction.delete(key)
            for credential in await keys_of(transaction, call.account, user.name):
                found = await transaction.read(credential_key(credential.access_key), Credential)
                if found is not None:
                    transaction.put(credential_key(credential.access_key), msgspec.structs.replace(found, user=name))
        transaction.put(new_key, msgspec.structs.replace(user, name=name, path=path))

    await call.transact(update)


async def delete_user(call: Call) -> None:
    name = call.parameters.text("UserName", USER_NAME)
    user = await find_user(call, name)
    call.authorize(_arn(user), resource_keys(user.tags))
    key = user_key(call.account, name)

    async def delete(transaction: Transaction) -> None:
        user = await transaction.need(key, User, absent("user", name))
        for what, why in (
            (await keys_of(transaction, call.account, user.name), "must delete access keys first."),
            (user.attached.managed, "must detach all policies first."),
            (user.attached.inline, "must delete policies first."),
            (user.groups, "must remove users from group first."),
            (user.password, "must delete login profile first."),
        ):
            if what:
                raise QueryError("DeleteConflict", f"Cannot delete entity, {why}")
        transaction.delete(key)

    await call.transact(delete)


async def tag_user(call: Call) -> None:
    tags = call.parameters.tags()
    user = await find_user(call, call.parameters.text("UserName", USER_NAME))
    call.authorize(_arn(user), resource_keys(user.tags) | tag_keys(tags))
    key = user_key(call.account, user.name)

    async def tag(transaction: Transaction) -> None:
        found = await transaction.need(key, User, absent("user", user.name))
        transaction.put(key, msgspec.structs.replace(found, tags=merged_tags(found.tags, tags)))

    await call.transact(tag)


async def untag_user(call: Call) -> None:
    names = call.parameters.members("TagKeys", longest=_TAGS_MAX)
    user = await find_user(call, call.parameters.text("UserName", USER_NAME))
    call.authorize(_arn(user), resource_keys(user.tags) | {"aws:tagkeys": tuple(names)})
    key = user_key(call.account, user.name)

    async def untag(transaction: Transaction) -> None:
        found = await transaction.need(key, User, absent("user", user.name))
        transaction.put(key, msgspec.structs.replace(found, tags=without_tags(found.tags, names)))

    await call.transact(untag)


async def list_user_tags(call: Call) -> dict[str, Tree]:
    user = await find_user(call, call.parameters.text("UserName", USER_NAME))
    call.authorize(_arn(user), resource_keys(user.tags))
    return tag_page(call, user.tags)


# what others need ------------------------------------------------------------------------------------------------------


async def find_user(call: Call, name: str) -> User:
    """Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    found = await call.directory.read(user_key(call.account, name), User)
    if found is None:
        call.authorize(call.arn("user", name))
        raise absent("user", name)
    return found[0]


def own_or_named(call: Call) -> str:
    """UserName, or the caller's own. Raises QueryError(ValidationError)."""
    if call.parameters.has("UserName"):
        return call.parameters.text("UserName", USER_NAME)
    if not call.caller.user:
        raise invalid("Must specify userName when calling with non-User credentials")
    return call.caller.user


async def keys_of(transaction: Transaction, account: str, user: str) -> list[Credential]:
    """All keys of a user (empty: of the account's root), oldest first."""
    found = [
        credential
        for _, credential in await transaction.list(credential_key(""), Credential)
        if credential.account == account and credential.user.lower() == user.lower()
    ]
    return sorted(found, key=lambda credential: (credential.created_ms, credential.access_key))


def user_tree(user: User, *, tags: bool = False) -> dict[str, Tree]:
    """As answers show it."""
    tree: dict[str, Tree] = {
        "Path": user.path, "UserName": user.name, "UserId": user.user_id, "Arn": _arn(user), "CreateDate": Moment(user.created_ms),
    }  # fmt: skip
    if tags and user.tags:
        tree["Tags"] = tag_list(user.tags)
    return tree


def refuse_boundary(call: Call) -> None:
    """Raises QueryError(InvalidInput) for what would be ignored otherwise."""
    if call.parameters.has("PermissionsBoundary"):
        raise QueryError("InvalidInput", "Permissions boundaries are not supported.")


def merged_tags(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Raises QueryError(LimitExceeded)."""
    given = {name.lower() for name in new}
    tags = {name: value for name, value in old.items() if name.lower() not in given} | new
    if len(tags) > _TAGS_MAX:
        raise exceeded("TagsPerResource", _TAGS_MAX)
    return tags


def without_tags(old: dict[str, str], names: list[str]) -> dict[str, str]:
    """Names are compared without case."""
    gone = {name.lower() for name in names}
    return {name: value for name, value in old.items() if name.lower() not in gone}


def tag_page(call: Call, tags: dict[str, str]) -> dict[str, Tree]:
    """Of a ListUserTags or its like."""
    return call.page("Tags", sorted(tags.items()), lambda item: item[0], lambda item: {"Key": item[0], "Value": item[1]})


def _arn(user: User) -> str:
    return f"arn:aws:iam::{user.account}:user{user.path}{user.name}"


async def _root(call: Call) -> dict[str, Tree]:
    account = call.identities.account(call.account)
    assert account is not None
    return {
        "Path": "/", "UserName": account.name, "UserId": call.account, "Arn": call.caller.arn, "CreateDate": Moment(account.created_ms),
    }  # fmt: skip


ACTIONS = {
    "CreateUser": create_user,
    "DeleteUser": delete_user,
    "GetUser": get_user,
    "ListUserTags": list_user_tags,
    "ListUsers": list_users,
    "TagUser": tag_user,
    "UntagUser": untag_user,
    "UpdateUser": update_user,
}
