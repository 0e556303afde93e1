"""Access keys with what IAM's API does not know: expiry, service accounts with session policies, rotation with an overlap.

Invariants
* A secret is in the answer that makes the key, and in no other.
* A key never allows more than its user may; a caller that a session policy limits makes no keys.
* The key of the server's root is changed where the server is started, not here.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.cluster.identities import iso_seconds
from titans3.cluster.transaction import Transaction
from titans3.iam.document import Kind, PolicyMalformed, read_policy
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
from titans3.query.errors import QueryError, absent, exceeded
from titans3.query.users import keys_of

_POLICY_CHARACTERS_MAX = 4096
_NAME_MAX = 128
_EXPIRES_SECONDS_MAX = 10 * 366 * 86_400
_OVERLAP_SECONDS = 3600
_EXPIRED = "Expired"


class KeyShown(msgspec.Struct):
    """``user`` is empty for a key of the account's root. ``status``: Active, Inactive, Expired. Times are empty where there is none."""

    access_key: str
    user: str
    enabled: bool
    status: str
    created: str
    expires: str
    last_used: str
    last_service: str
    name: str
    is_service_account: bool
    has_policy: bool


class KeyInfo(KeyShown):
    """``policy``: what a service account is limited to, ``null`` if its user's policies are all."""

    policy: dict[str, Any] | None


class KeyMade(KeyShown):
    """With its secret, this once."""

    secret_key: str


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """``user``: whose; the caller's own if it is not given. ``policy`` and ``name`` are for service accounts."""

    user: str | None = None
    name: str = ""
    policy: dict[str, Any] | None = None
    expires_seconds: int = 0
    service_account: bool = False


class KeyChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is not given stays. ``expires_seconds`` counts from now, 0 is never."""

    enabled: bool | None = None
    name: str | None = None
    policy: dict[str, Any] | None = None
    expires_seconds: int | None = None


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old key still works."""

    overlap_seconds: int = _OVERLAP_SECONDS


async def list_keys(call: AdminCall) -> list[KeyShown]:
    if call.query.get("all") == "true":
        call.authorize("key/*")
        keys = [key for key in await call.directory.list_of(credential_key(""), Credential) if key.account == call.account]
    else:
        user = call.query.get("user", call.caller.user)
        call.authorize(f"user/{user}")
        keys = await keys_of_user(call, user)
    return [shown(call, key) for key in keys]


async def create_key(call: AdminCall) -> KeyMade:
    asked = call.body(NewKey)
    user = call.caller.user if asked.user is None else asked.user
    call.authorize(f"user/{user}")
    _refuse_limited(call)
    policy = _checked_policy(asked.policy)
    if (policy or asked.name) and not asked.service_account:
        raise QueryError("InvalidInput", "name and policy are for service accounts.")
    name, expires = _checked_name(asked.name), _expiry(call, asked.expires_seconds)
    credential, secret = await _create(
        call, user, expires_ms=expires, session_policy=policy, name=name, is_service_account=asked.service_account
    )
    return KeyMade(**msgspec.structs.asdict(shown(call, credential)), secret_key=secret)


async def get_key(call: AdminCall) -> KeyInfo:
    credential = await _find(call)
    policy = json.loads(credential.session_policy) if credential.session_policy else None
    return KeyInfo(**msgspec.structs.asdict(shown(call, credential)), policy=policy)


async def update_key(call: AdminCall) -> KeyShown:
    asked = call.body(KeyChange)
    credential = await _find(call)
    policy = None if asked.policy is None else _checked_policy(asked.policy)
    if asked.policy is not None or asked.expires_seconds is not None or asked.enabled:
        _refuse_limited(call)
    if (asked.policy is not None or asked.name is not None) and not credential.is_service_account:
        raise QueryError("InvalidInput", "name and policy are for service accounts.")
    changes: dict[str, Any] = {}
    if asked.enabled is not None:
        changes["enabled"] = asked.enabled
    if asked.name is not None:
        changes["name"] = _checked_name(asked.name)
    if policy is not None:
        changes["session_policy"] = policy
    if asked.expires_seconds is not None:
        changes["expires_ms"] = _expiry(call, asked.expires_seconds)
    key = credential_key(credential.access_key)

    async def update(transaction: Transaction) -> Credential:
        await _refuse_root(transaction, credential.access_key)
        found = await transaction.need(key, Credential, absent("Access Key", credential.access_key))
        changed = msgspec.structs.replace(found, **changes)
        transaction.put(key, changed)
        return changed

    return shown(call, await call.directory.transact(update))


async def delete_key(call: AdminCall) -> None:
    credential = await _find(call)
    key = credential_key(credential.access_key)

    async def delete(transaction: Transaction) -> None:
        await _refuse_root(transaction, credential.access_key)
        await transaction.need(key, Credential, absent("Access Key", credential.access_key))
        transaction.delete(key)
        transaction.delete(last_used_key(credential.access_key))

    await call.directory.transact(delete)


async def rotate_key(call: AdminCall) -> KeyMade:
    """A new key like the old one, which ends after the overlap."""
    asked = call.body(Rotation)
    old = await _find(call)
    _refuse_limited(call)
    if not 0 <= asked.overlap_seconds <= _EXPIRES_SECONDS_MAX:
        raise QueryError("ValidationError", f"overlap_seconds: 0 to {_EXPIRES_SECONDS_MAX}.")
    until = call.now_ms + asked.overlap_seconds * 1000
    credential, secret = await _create(
        call, old.user, ending=old.access_key, ending_ms=until, session_policy=old.session_policy, name=old.name,
        is_service_account=old.is_service_account,
    )  # fmt: skip
    return KeyMade(**msgspec.structs.asdict(shown(call, credential)), secret_key=secret)


# parts -----------------------------------------------------------------------------------------------------------------


async def _create(call: AdminCall, user: str, *, ending: str = "", ending_ms: int = 0, **more: Any) -> tuple[Credential, str]:
    """A stored key of ``user`` (empty: the account's root) and its secret; ``ending``: one that is to end. Raises QueryError."""

    async def create(transaction: Transaction) -> tuple[Credential, str]:
        user_id, name = "", ""
        if user:
            record = await transaction.need(user_key(call.account, user), User, absent("user", user))
            transaction.touch(user_key(call.account, user))
            user_id, name = record.user_id, record.name
        else:
            await transaction.need(account_key(call.account), Account, absent("account", call.account))
            transaction.touch(account_key(call.account))
        if ending:
            await _refuse_root(transaction, ending)
            found = await transaction.need(credential_key(ending), Credential, absent("Access Key", ending))
            until = min(found.expires_ms or ending_ms, ending_ms)
            transaction.put(credential_key(ending), msgspec.structs.replace(found, expires_ms=until))
        counted = 0
        for key in await keys_of(transaction, call.account, name):
            if key.expires_ms and key.expires_ms <= call.now_ms and key.access_key != ending:
                transaction.delete(credential_key(key.access_key))  # it ended; nobody needs its record any more
                transaction.delete(last_used_key(key.access_key))
            elif key.is_service_account is more["is_service_account"]:
                counted += 1
        most = call.server.settings.number("iam.service_accounts_max" if more["is_service_account"] else "iam.access_keys_max")
        if counted >= most:
            raise exceeded("ServiceAccountsPerUser" if more["is_service_account"] else "AccessKeysPerUser", most)
        credential, secret = call.directory.new_credential(call.account, name, user_id=user_id, **more)
        transaction.create(credential_key(credential.access_key), credential)
        return credential, secret

    return await call.directory.transact(create)


async def keys_of_user(call: AdminCall, user: str) -> list[Credential]:
    """All of them, oldest first. Raises QueryError(NoSuchEntity)."""
    if user and await call.directory.read(user_key(call.account, user), User) is None:
        raise absent("user", user)
    return await call.directory.transact(lambda transaction: keys_of(transaction, call.account, user))


def shown(call: AdminCall, key: Credential) -> KeyShown:
    """As answers show it."""
    expired = bool(key.expires_ms) and key.expires_ms <= call.now_ms
    used = call.identities.record(last_used_key(key.access_key), LastUsed)
    return KeyShown(
        key.access_key, key.user, key.enabled, _EXPIRED if expired else ACTIVE if key.enabled else INACTIVE, iso_seconds(key.created_ms),
        iso_seconds(key.expires_ms) if key.expires_ms else "", "" if used is None else iso_seconds(used.used_ms),
        "" if used is None else used.service, key.name, key.is_service_account, bool(key.session_policy),
    )  # fmt: skip


async def _find(call: AdminCall) -> Credential:
    """Of the caller's account. Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    access_key = call.names["access_key"]
    found = await call.directory.read(credential_key(access_key), Credential)
    if found is None or found[0].account != call.account:
        call.authorize(f"key/{access_key}")
        raise absent("Access Key", access_key)
    call.authorize(f"user/{found[0].user}")
    return found[0]


async def _refuse_root(transaction: Transaction, access_key: str) -> None:
    if await transaction.read_text(ROOT_SETTING) == access_key:
        raise QueryError(
            "UnmodifiableEntity", "The key of the server's root is set where the server is started: titans3 credentials reset"
        )


def _refuse_limited(call: AdminCall) -> None:
    if call.caller.rights.session is not None:
        raise QueryError("AccessDenied", "Who is limited by a session policy makes no keys.")


def _checked_policy(policy: dict[str, Any] | None) -> str:
    if not policy:
        return ""
    text = json.dumps(policy, ensure_ascii=False)
    try:
        read_policy(text, Kind.IDENTITY)
    except PolicyMalformed as error:
        raise QueryError("MalformedPolicyDocument", str(error)) from error
    if len(text) > _POLICY_CHARACTERS_MAX:
        raise QueryError("LimitExceeded", f"A session policy has at most {_POLICY_CHARACTERS_MAX} characters.")
    return text


def _checked_name(name: str) -> str:
    if len(name) > _NAME_MAX or not name.isprintable():
        raise QueryError("ValidationError", f"name: at most {_NAME_MAX} printable characters.")
    return name


def _expiry(call: AdminCall, seconds: int) -> int:
    if not 0 <= seconds <= _EXPIRES_SECONDS_MAX:
        raise QueryError("ValidationError", f"expires_seconds: 0 to {_EXPIRES_SECONDS_MAX}.")
    return call.now_ms + seconds * 1000 if seconds else 0


ROUTES = (
    Route(
        "GET", "/keys", "titans3:ListKeys", list_keys, "Keys of the caller, of `user`, or with `all=true` of the account",
        gives=KeyShown, many=True, query=("user", "all"),
    ),
    Route("POST", "/keys", "titans3:CreateKey", create_key, "A new access key or service account", NewKey, KeyMade, status=201),
    Route("GET", "/keys/{access_key}", "titans3:GetKey", get_key, "A key", gives=KeyInfo),
    Route("POST", "/keys/{access_key}", "titans3:UpdateKey", update_key, "Change a key", KeyChange, KeyShown),
    Route("DELETE", "/keys/{access_key}", "titans3:DeleteKey", delete_key, "Remove a key", status=204),
    Route(
        "POST", "/keys/{access_key}/rotate", "titans3:RotateKey", rotate_key, "A new key in place of one that ends after an overlap",
        Rotation, KeyMade, status=201,
    ),
)  # fmt: skip
