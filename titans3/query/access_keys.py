"""Access keys: CreateAccessKey, ListAccessKeys, UpdateAccessKey, DeleteAccessKey, GetAccessKeyLastUsed.

A user has at most two, so that one can be replaced while the other works.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateAccessKey.html and its siblings
"""

from __future__ import annotations

import msgspec

from titans3.cluster.transaction import Transaction
from titans3.model.identity import (
    ACTIVE,
    INACTIVE,
    ROOT_SETTING,
    Account,
    Credential,
    LastUsed,
    User,
    account_key,
    credential_key,
    last_used_key,
    user_key,
)
from titans3.query.answer import Moment, Tree
from titans3.query.call import Call
from titans3.query.errors import QueryError, absent, exceeded
from titans3.query.parameters import ACCESS_KEY, USER_NAME
from titans3.query.users import find_user, keys_of


async def create_access_key(call: Call) -> dict[str, Tree]:
    name = await _holder(call)
    found: list[tuple[Credential, str]] = []

    most = call.limit("iam.access_keys_max")

    async def create(transaction: Transaction) -> None:
        user_id = await _touch(transaction, call.account, name)
        keys = [key for key in await keys_of(transaction, call.account, name) if not key.is_service_account]
        if len(keys) >= most:
            raise exceeded("AccessKeysPerUser", most)
        credential, secret = call.directory.new_credential(call.account, name, user_id=user_id)
        transaction.create(credential_key(credential.access_key), credential)
        found[:] = [(credential, secret)]

    await call.transact(create)
    credential, secret = found[0]
    return {"AccessKey": _tree(credential, name) | {"SecretAccessKey": secret}}


async def list_access_keys(call: Call) -> dict[str, Tree]:
    name = await _holder(call)
    keys = await call.transact(lambda transaction: keys_of(transaction, call.account, name))
    shown = sorted((key for key in keys if not key.is_service_account), key=lambda key: key.access_key)
    return {"UserName": name} | call.page("AccessKeyMetadata", shown, lambda key: key.access_key, lambda key: _tree(key, name))


async def update_access_key(call: Call) -> None:
    name = await _holder(call)
    enabled = call.parameters.choice("Status", (ACTIVE, INACTIVE)) == ACTIVE
    key = credential_key(call.parameters.text("AccessKeyId", ACCESS_KEY))

    async def update(transaction: Transaction) -> None:
        credential = await _own(transaction, call, key, name)
        transaction.put(key, msgspec.structs.replace(credential, enabled=enabled))

    await call.transact(update)


async def delete_access_key(call: Call) -> None:
    name = await _holder(call)
    key = credential_key(call.parameters.text("AccessKeyId", ACCESS_KEY))

    async def delete(transaction: Transaction) -> None:
        credential = await _own(transaction, call, key, name)
        transaction.delete(key)
        transaction.delete(last_used_key(credential.access_key))

    await call.transact(delete)


async def get_access_key_last_used(call: Call) -> dict[str, Tree]:
    access_key = call.parameters.text("AccessKeyId", ACCESS_KEY)
    found = await call.directory.read(credential_key(access_key), Credential)
    if found is None or found[0].account != call.account:
        call.authorize(call.arn("user", "*"))
        raise absent("Access Key", access_key)
    name = found[0].user
    call.authorize(await _resource(call, name))
    used = await call.directory.read(last_used_key(access_key), LastUsed)
    last: dict[str, Tree] = {"ServiceName": "N/A", "Region": "N/A"}
    if used is not None:
        last = {"LastUsedDate": Moment(used[0].used_ms), "ServiceName": used[0].service, "Region": used[0].region}
    return {"UserName": name, "AccessKeyLastUsed": last}


async def _holder(call: Call) -> str:
    """Whose keys: UserName's, or the caller's own (empty: the account's root). Raises QueryError."""
    if call.parameters.has("UserName"):
        name = call.parameters.text("UserName", USER_NAME)
    else:
        name = call.caller.user
        if not name and not call.caller.rights.who.is_root:
            raise QueryError("ValidationError", "Must specify userName when calling with non-User credentials")
    call.authorize(await _resource(call, name))
    return (await find_user(call, name)).name if name else ""


async def _resource(call: Call, name: str) -> str:
    if not name:
        return f"arn:aws:iam::{call.account}:root"
    found = await call.directory.read(user_key(call.account, name), User)
    return call.arn("user", name) if found is None else call.arn("user", found[0].name, found[0].path)


async def _touch(transaction: Transaction, account: str, name: str) -> str:
    """Keep whose key it is as it is; the user's id."""
    if not name:
        await transaction.need(account_key(account), Account, absent("account", account))
        transaction.touch(account_key(account))
        return ""
    user = await transaction.need(user_key(account, name), User, absent("user", name))
    transaction.touch(user_key(account, name))
    return user.user_id


async def _own(transaction: Transaction, call: Call, key: str, name: str) -> Credential:
    """A key of the user that may be changed. Raises QueryError(NoSuchEntity, UnmodifiableEntity)."""
    access_key = key.rpartition("/")[2]
    credential = await transaction.need(key, Credential, absent("Access Key", access_key))
    if credential.account != call.account or credential.user.lower() != name.lower():
        raise absent("Access Key", access_key)
    if await transaction.read_text(ROOT_SETTING) == access_key:
        raise QueryError(
            "UnmodifiableEntity", "The key of the server's root is set where the server is started: titans3 credentials reset"
        )
    return credential


def _tree(credential: Credential, name: str) -> dict[str, Tree]:
    return {
        "UserName": name, "AccessKeyId": credential.access_key, "Status": ACTIVE if credential.enabled else INACTIVE,
        "CreateDate": Moment(credential.created_ms),
    }  # fmt: skip


ACTIONS = {
    "CreateAccessKey": create_access_key,
    "DeleteAccessKey": delete_access_key,
    "GetAccessKeyLastUsed": get_access_key_last_used,
    "ListAccessKeys": list_access_keys,
    "UpdateAccessKey": update_access_key,
}
