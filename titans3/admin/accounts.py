"""Accounts: each owns buckets and users of its own, and is isolated from the others.

Invariants
* The server's root account is neither disabled nor removed.
* An account that owns a bucket is not removed. Whoever makes a bucket meanwhile leaves it to an account that is gone: the server's root
  account can delete it.
"""

from __future__ import annotations

import re

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.cluster.transaction import Transaction
from titans3.errors import ClientError, Reason
from titans3.model.identity import ROOT_ACCOUNT, Account, User, account_key, user_key
from titans3.query.errors import QueryError, absent

_NAME = re.compile(r"[\w.@+=,-]([\w .@+=,-]{0,62}[\w.@+=,-])?")
_EMAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+")
_NUMBER = re.compile(r"[0-9]{12}")
_EMAIL_MAX = 254


class NewAccount(msgspec.Struct, forbid_unknown_fields=True):
    """``name`` is shown as the owner of buckets and objects; ``email`` can stand in access control lists."""

    name: str
    email: str = ""


class AccountShown(msgspec.Struct, omit_defaults=True):
    """``buckets`` and ``users``: how many it has."""

    account_id: str
    canonical_id: str
    display_name: str
    email: str
    alias: str
    created: str
    enabled: bool
    buckets: int
    users: int


class AccountMade(msgspec.Struct):
    """A new account with the keys of its root; the secret is shown this once."""

    account_id: str
    canonical_id: str
    display_name: str
    email: str
    created: str
    access_key: str
    secret_key: str


async def create_account(call: AdminCall) -> AccountMade:
    asked = call.body(NewAccount)
    call.authorize(f"account/{asked.name}", everywhere=True)
    if not _NAME.fullmatch(asked.name) or _NUMBER.fullmatch(asked.name):
        raise QueryError("ValidationError", "name: 1 to 64 letters, digits, spaces inside and _.@+=,- and not twelve digits.")
    if asked.email and (len(asked.email) > _EMAIL_MAX or not _EMAIL.fullmatch(asked.email)):
        raise QueryError("ValidationError", "email: no mail address.")
    try:
        account, access_key, secret = await call.directory.create_account(asked.name, asked.email)
    except ClientError as error:
        if error.reason is not Reason.NAME_EXISTS:
            raise
        raise QueryError("EntityAlreadyExists", f"An account with this {error.message} already exists.") from error
    return AccountMade(
        account.account, account.canonical, account.name, account.email, iso_seconds(account.created_ms), access_key, secret
    )


async def list_accounts(call: AdminCall) -> list[AccountShown]:
    call.authorize("account/*", everywhere=True)
    return [await _shown(call, account) for account in await call.directory.accounts()]


async def get_account(call: AdminCall) -> AccountShown:
    return await _shown(call, await _find(call))


async def enable_account(call: AdminCall) -> AccountShown:
    return await _switch(call, enabled=True)


async def disable_account(call: AdminCall) -> AccountShown:
    return await _switch(call, enabled=False)


async def delete_account(call: AdminCall) -> None:
    account = await _find(call)
    if account.account == ROOT_ACCOUNT:
        raise QueryError("UnmodifiableEntity", "The server's root account stays.")
    owned = call.server.buckets_of(account.account)
    if owned:
        raise QueryError("AccountNotEmpty", f"The account owns {len(owned)} buckets, among them {owned[0].name}.")
    await call.directory.remove_account(account)


async def _switch(call: AdminCall, *, enabled: bool) -> AccountShown:
    account = await _find(call)
    if account.account == ROOT_ACCOUNT and not enabled:
        raise QueryError("UnmodifiableEntity", "The server's root account stays enabled.")
    key = account_key(account.account)

    async def switch(transaction: Transaction) -> Account:
        found = msgspec.structs.replace(await transaction.need(key, Account, absent("account", account.name)), enabled=enabled)
        transaction.put(key, found)
        return found

    return await _shown(call, await call.directory.transact(switch))


async def _find(call: AdminCall) -> Account:
    text = call.names["account"]
    call.authorize(f"account/{text}", everywhere=True)
    account = await call.directory.find_account(text)
    if account is None:
        raise absent("account", text)
    return account


async def _shown(call: AdminCall, account: Account) -> AccountShown:
    users = await call.directory.list_of(user_key(account.account, ""), User)
    return AccountShown(
        account.account, account.canonical, account.name, account.email, account.alias, iso_seconds(account.created_ms), account.enabled,
        len(call.server.buckets_of(account.account)), len(users),
    )  # fmt: skip


ROUTES = (
    Route("GET", "/accounts", "titans3:ListAccounts", list_accounts, "All accounts", gives=AccountShown, many=True),
    Route(
        "POST", "/accounts", "titans3:CreateAccount", create_account, "A new account with root keys", NewAccount, AccountMade, status=201
    ),
    Route("GET", "/accounts/{account}", "titans3:GetAccount", get_account, "An account by number or name", gives=AccountShown),
    Route("DELETE", "/accounts/{account}", "titans3:DeleteAccount", delete_account, "Remove an account that owns no bucket", status=204),
    Route("POST", "/accounts/{account}/enable", "titans3:UpdateAccount", enable_account, "Let its keys in again", gives=AccountShown),
    Route("POST", "/accounts/{account}/disable", "titans3:UpdateAccount", disable_account, "Refuse all of its keys", gives=AccountShown),
)
