"""Console passwords: CreateLoginProfile, GetLoginProfile, UpdateLoginProfile, DeleteLoginProfile, ChangePassword.

Invariants
* A password is stored as its Argon2id hash (RFC 9106) and shown nowhere.
* Hashing runs in a thread, HASHES_MAX at once: each takes 64 MiB for a moment.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateLoginProfile.html and its siblings
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from titans3.cluster.transaction import Transaction
from titans3.model.identity import User, user_key
from titans3.query.answer import Moment, Tree
from titans3.query.call import Call, resource_keys
from titans3.query.errors import QueryError, absent, exists
from titans3.query.parameters import PASSWORD
from titans3.query.users import find_user, own_or_named

HASHES_MAX = 2
_hasher = PasswordHasher()  # argon2-cffi's defaults are RFC 9106's second choice: 64 MiB, three passes
_running: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
R = TypeVar("R")


async def create_login_profile(call: Call) -> dict[str, Tree]:
    user = await _user(call)
    made = await _hashed(_password(call, "Password"))
    reset = call.parameters.boolean("PasswordResetRequired")

    def change(found: User) -> User:
        if found.password:
            raise exists("Login Profile for User", found.name)
        return msgspec.structs.replace(found, password=made, password_ms=call.now_ms, must_change_password=reset)

    return {"LoginProfile": _tree(await _change(call, user.name, change))}


async def get_login_profile(call: Call) -> dict[str, Tree]:
    user = await _user(call)
    if not user.password:
        raise absent("Login Profile for User", user.name)
    return {"LoginProfile": _tree(user)}


async def update_login_profile(call: Call) -> None:
    user = await _user(call)
    made = await _hashed(_password(call, "Password")) if call.parameters.has("Password") else ""
    has_reset = call.parameters.has("PasswordResetRequired")
    reset = call.parameters.boolean("PasswordResetRequired")

    def change(found: User) -> User:
        if not found.password:
            raise absent("Login Profile for User", found.name)
        return msgspec.structs.replace(
            found, password=made or found.password, must_change_password=reset if has_reset else found.must_change_password
        )

    await _change(call, user.name, change)


async def delete_login_profile(call: Call) -> None:
    user = await _user(call)

    def change(found: User) -> User:
        if not found.password:
            raise absent("Login Profile for User", found.name)
        return msgspec.structs.replace(found, password="", password_ms=0, must_change_password=False)

    await _change(call, user.name, change)


async def change_password(call: Call) -> None:
    """The caller's own."""
    if not call.caller.user:
        raise QueryError("InvalidInput", "Only a user has a password to change.")
    user = await find_user(call, call.caller.user)
    call.authorize(call.arn("user", user.name, user.path), resource_keys(user.tags))
    old, new = call.parameters.text("OldPassword", PASSWORD), _password(call, "NewPassword")
    if not user.password or not await is_password(user.password, old):
        raise QueryError("AccessDenied", "The old password was incorrect.")
    made = await _hashed(new)

    def change(found: User) -> User:
        if found.password != user.password:
            raise QueryError("ConcurrentModification", "The password was changed at the same time.")
        return msgspec.structs.replace(found, password=made, must_change_password=False)

    await _change(call, user.name, change)


async def is_password(made: str, password: str) -> bool:
    """Whether ``password`` is the one that a hash was made of."""
    try:
        return await _apart(lambda: _hasher.verify(made, password))
    except (VerificationError, InvalidHashError):
        return False


async def _hashed(password: str) -> str:
    return await _apart(lambda: _hasher.hash(password))


async def _apart(work: Callable[[], R]) -> R:
    loop = asyncio.get_running_loop()
    async with _running.setdefault(loop, asyncio.Semaphore(HASHES_MAX)):
        return await loop.run_in_executor(None, work)


def _password(call: Call, name: str) -> str:
    """Raises QueryError without telling the password."""
    if not call.parameters.has(name):
        raise QueryError("ValidationError", f"{name} is missing")
    try:
        return call.parameters.text(name, PASSWORD)
    except QueryError as error:
        raise QueryError("PasswordPolicyViolation", "A password has 8 to 128 characters.") from error


async def _user(call: Call) -> User:
    user = await find_user(call, own_or_named(call))
    call.authorize(call.arn("user", user.name, user.path), resource_keys(user.tags))
    return user


async def _change(call: Call, name: str, change: Callable[[User], User]) -> User:
    key = user_key(call.account, name)

    async def work(transaction: Transaction) -> User:
        changed = change(await transaction.need(key, User, absent("user", name)))
        transaction.put(key, changed)
        return changed

    return await call.transact(work)


def _tree(user: User) -> dict[str, Tree]:
    return {"UserName": user.name, "CreateDate": Moment(user.password_ms), "PasswordResetRequired": user.must_change_password}


ACTIONS = {
    "ChangePassword": change_password,
    "CreateLoginProfile": create_login_profile,
    "DeleteLoginProfile": delete_login_profile,
    "GetLoginProfile": get_login_profile,
    "UpdateLoginProfile": update_login_profile,
}
