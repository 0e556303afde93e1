"""Changes of accounts, users, groups, roles, policies and keys: records of the control plane, each change one ``cas``.

Invariants
* What a change depends on is among its expectations: nobody is put into a group that is going, no name is given twice.
* Ids and secrets are drawn here; a secret leaves this module once, to whoever made the key, and is stored sealed.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from titans3.clock import Clock
from titans3.cluster.control.interface import Conflict, ControlPlane, Op
from titans3.cluster.identities import Identities
from titans3.cluster.settings import Settings
from titans3.cluster.transaction import Transaction, transact
from titans3.errors import ClientError, Reason
from titans3.model.control import Rec
from titans3.model.identity import (
    CREDENTIAL_FORMAT,
    FORMAT,
    ROOT_ACCOUNT,
    ROOT_ACCOUNT_NAME,
    ROOT_SETTING,
    Account,
    Credential,
    account_key,
    credential_key,
)

_TRIES = 30
_ID_LETTERS = string.ascii_uppercase + string.digits
_KEY_LETTERS = string.ascii_uppercase + "234567"
_SECRET_LETTERS = string.ascii_letters + string.digits + "+/"
_encode = msgspec.msgpack.Encoder().encode
R = TypeVar("R")


def new_id(prefix: str) -> str:
    """``AIDA…``: 21 characters that are never given again."""
    return prefix + "".join(secrets.choice(_ID_LETTERS) for _ in range(21 - len(prefix)))


def new_access_key(prefix: str = "AKIA") -> str:
    """20 characters."""
    return prefix + "".join(secrets.choice(_KEY_LETTERS) for _ in range(16))


def new_secret() -> str:
    """40 characters."""
    return "".join(secrets.choice(_SECRET_LETTERS) for _ in range(40))


class Directory:
    """Of one worker. ``records`` are read linearizably, so that a change sees what it changes."""

    def __init__(self, control: ControlPlane, identities: Identities, settings: Settings, clock: Clock) -> None:
        self._control, self._clock = control, clock
        self.identities, self.settings = identities, settings

    # records -------------------------------------------------------------------------------------------------------

    async def read(self, key: str, kind: type[R]) -> tuple[R, int] | None:
        """A record and the revision that wrote it."""
        rec = await self._control.get(key)
        return None if rec is None else (msgspec.msgpack.decode(rec.value, type=kind), rec.rev)

    async def list_of(self, prefix: str, kind: type[R]) -> list[R]:
        """Records by prefix, in the order of their keys."""
        records, _ = await self._control.list(prefix)
        return [msgspec.msgpack.decode(rec.value, type=kind) for rec in records]

    def transact(self, attempt: Callable[[Transaction], Awaitable[R]]) -> Awaitable[R]:
        """See ``transaction.transact``."""
        return transact(self._control, attempt)

    def now_ms(self) -> int:
        """Wall time."""
        return self._clock.wall_ms()

    # accounts ------------------------------------------------------------------------------------------------------

    async def create_account(self, name: str, email: str = "") -> tuple[Account, str, str]:
        """The account, its root's access key and secret. Raises ClientError(NAME_EXISTS) for a name or mail address that is taken."""
        for _ in range(_TRIES):
            account = Account(
                FORMAT, "".join(secrets.choice(string.digits) for _ in range(12)), secrets.token_hex(32), name, email, self.now_ms()
            )
            if account.account == ROOT_ACCOUNT:
                continue
            credential, secret = self.new_credential(account.account)
            ops: list[Op] = [
                (account_key(account.account), _encode(account)), (_name_key(name), account.account.encode()),
                (credential_key(credential.access_key), _encode(credential)),
            ]  # fmt: skip
            if email:
                ops.append((_email_key(email), account.account.encode()))
            try:
                await self._control.cas(ops, {key: 0 for key, _ in ops})
            except Conflict as conflict:
                if conflict.key in (_name_key(name), _email_key(email)):
                    raise ClientError(Reason.NAME_EXISTS, "name" if conflict.key == _name_key(name) else "mail address") from conflict
                continue
            return account, credential.access_key, secret
        raise ClientError(Reason.CONFLICT, "no account number was free")

    async def accounts(self) -> list[Account]:
        """All, by number."""
        return await self.list_of("/accounts/", Account)

    async def find_account(self, text: str) -> Account | None:
        """By number, or by name."""
        rec = await self._control.get(_name_key(text))
        found = await self.read(account_key(text if rec is None else rec.value.decode()), Account)
        return None if found is None else found[0]

    async def remove_account(self, account: Account) -> None:
        """The account with all its users, groups, roles, policies and keys; its buckets are looked for by the caller."""
        number = account.account
        for _ in range(_TRIES):
            ops: list[Op] = [(account_key(number), None), (_name_key(account.name), None)]
            if account.email:
                ops.append((_email_key(account.email), None))
            expect: dict[str, int] = {}
            for prefix in ("users", "groups", "roles", "policies", "oidc"):
                records, _ = await self._control.list(f"/{prefix}/{number}/")
                ops += [(rec.key, None) for rec in records]
                expect |= {rec.key: rec.rev for rec in records}
            for rec in await self._credentials(number):
                ops += [(rec.key, None), (f"/last_used/{rec.key.rpartition('/')[2]}", None)]
                expect[rec.key] = rec.rev
            try:
                await self._control.cas(ops, expect)
            except Conflict:
                continue
            return
        raise ClientError(Reason.CONFLICT, "the account is changed by too many at once")

    async def _credentials(self, account: str) -> list[Rec]:
        records, _ = await self._control.list("/credentials/")
        return [rec for rec in records if msgspec.msgpack.decode(rec.value, type=Credential).account == account]

    async def ensure_root(self, access_key: str, secret: str) -> None:
        """The root account and the keys that this start was given; the root keys of earlier starts no longer work."""
        setting = ROOT_SETTING
        for _ in range(_TRIES):
            old, account = await self._control.get(setting), await self._control.get(account_key(ROOT_ACCOUNT))
            record = await self.read(credential_key(access_key), Credential)
            old_key = "" if old is None else old.value.decode()
            ops: list[Op] = []
            expect = {setting: 0 if old is None else old.rev, credential_key(access_key): 0 if record is None else record[1]}
            if account is None:
                made = Account(FORMAT, ROOT_ACCOUNT, secrets.token_hex(32), ROOT_ACCOUNT_NAME, "", self.now_ms())
                ops += [(account_key(ROOT_ACCOUNT), _encode(made)), (_name_key(ROOT_ACCOUNT_NAME), ROOT_ACCOUNT.encode())]
                expect[account_key(ROOT_ACCOUNT)] = 0
            if old_key != access_key or record is None or not self._is(record[0], secret):
                credential = Credential(
                    CREDENTIAL_FORMAT, access_key, self.identities.seal_secret(access_key, secret), ROOT_ACCOUNT, created_ms=self.now_ms()
                )
                ops += [(credential_key(access_key), _encode(credential)), (setting, access_key.encode())]
                if old_key and old_key != access_key:
                    ops.append((credential_key(old_key), None))
            if not ops:
                return
            try:
                await self._control.cas(ops, expect)
            except Conflict:
                continue
            return
        raise ClientError(Reason.CONFLICT, "the root credential could not be stored")

    def _is(self, credential: Credential, secret: str) -> bool:
        if credential.format != CREDENTIAL_FORMAT or credential.account != ROOT_ACCOUNT or credential.user or not credential.enabled:
            return False
        caller = self.identities.secret_of(credential)
        return caller is not None and secrets.compare_digest(caller, secret)

    # keys ----------------------------------------------------------------------------------------------------------

    def new_credential(self, account: str, user: str = "", **more: object) -> tuple[Credential, str]:
        """A key that is not stored yet, and its secret."""
        access_key, secret = new_access_key(), new_secret()
        sealed = self.identities.seal_secret(access_key, secret)
        return Credential(CREDENTIAL_FORMAT, access_key, sealed, account, user, self.now_ms(), **more), secret  # type: ignore[arg-type]


def _name_key(name: str) -> str:
    return f"/account_names/{name.lower()}"


def _email_key(email: str) -> str:
    return f"/account_emails/{email.lower()}"
