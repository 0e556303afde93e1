"""Users as a whole, and switching them off: what IAM's API has no action for.

Invariant: a disabled user's keys and sessions are refused by every worker that can be reached when the answer is given.
"""

from __future__ import annotations

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.keys import KeyShown, keys_of_user, shown
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.cluster.transaction import Transaction
from titans3.iam.arn import user_arn
from titans3.model.identity import User, user_key
from titans3.query.errors import absent


class UserShown(msgspec.Struct):
    """``policies`` are ARNs, ``inline`` names."""

    name: str
    arn: str
    user_id: str
    path: str
    created: str
    enabled: bool
    groups: list[str]
    policies: list[str]
    inline: list[str]
    keys: list[KeyShown]
    has_password: bool
    tags: dict[str, str]


class UserState(msgspec.Struct):
    """Whether a user is let in."""

    name: str
    enabled: bool


async def get_user(call: AdminCall) -> UserShown:
    user = await _find(call)
    keys = await keys_of_user(call, user.name)
    return UserShown(
        user.name, user_arn(user.account, user.path, user.name), user.user_id, user.path, iso_seconds(user.created_ms), user.enabled,
        list(user.groups), list(user.attached.managed), sorted(user.attached.inline), [shown(call, key) for key in keys],
        bool(user.password), user.tags,
    )  # fmt: skip


async def enable_user(call: AdminCall) -> UserState:
    return await _switch(call, enabled=True)


async def disable_user(call: AdminCall) -> UserState:
    return await _switch(call, enabled=False)


async def _switch(call: AdminCall, *, enabled: bool) -> UserState:
    user = await _find(call)
    key = user_key(call.account, user.name)

    async def switch(transaction: Transaction) -> None:
        found = await transaction.need(key, User, absent("user", user.name))
        transaction.put(key, msgspec.structs.replace(found, enabled=enabled))

    await call.directory.transact(switch)
    return UserState(user.name, enabled)


async def _find(call: AdminCall) -> User:
    name = call.names["user"]
    call.authorize(f"user/{name}")
    found = await call.directory.read(user_key(call.account, name), User)
    if found is None:
        raise absent("user", name)
    return found[0]


ROUTES = (
    Route(
        "GET",
        "/users/{user}",
        "titans3:GetUser",
        get_user,
        "A user of the caller's account",
        gives=UserShown,
    ),
    Route("POST", "/users/{user}/enable", "titans3:UpdateUser", enable_user, "Let a user in again", gives=UserState),
    Route("POST", "/users/{user}/disable", "titans3:UpdateUser", disable_user, "Refuse a user's keys and sessions", gives=UserState),
)
