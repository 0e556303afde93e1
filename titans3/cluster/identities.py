"""Accounts and keys as one worker knows them: from an access key or a session token to a caller. Hot: one look-up per request.

Invariants
* Everything comes from the worker's whole copy of the control plane; an unknown key costs a look-up, never a question to anybody.
* A change is in force on every worker that can be reached when its answer is given; a worker that cannot reach the control plane for
  STALE_SECONDS_MAX lets nobody in but the server's root.
* A session is proven by its token alone: who sealed it said who assumed what until when. What the role or user may do, and whether it
  still is, is looked up at every change like for a lasting key.
"""

from __future__ import annotations

import logging
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import TypeVar

import msgspec

from titans3.clock import Clock
from titans3.cluster.caller import Caller, Keys
from titans3.cluster.control.cache import ControlCache
from titans3.crypto.root_key import RootKey, SealBroken
from titans3.errors import ClientError, Reason
from titans3.iam.arn import role_arn, root_arn, session_arn, user_arn
from titans3.iam.builtin import BUILTIN, PREFIX
from titans3.iam.decision import Identity
from titans3.iam.document import Document, PolicyMalformed
from titans3.iam.policy import Policy
from titans3.iam.principal import Principal
from titans3.model.control import Event, Rec
from titans3.model.identity import (
    ANONYMOUS_ACCOUNT,
    ANONYMOUS_CANONICAL,
    CREDENTIAL_FORMAT,
    ROOT_ACCOUNT,
    Account,
    Attached,
    Credential,
    Group,
    ManagedPolicy,
    Role,
    User,
    account_key,
    credential_key,
    group_key,
    policy_key,
    role_key,
    user_key,
)

CREDENTIALS = "credentials"  # what the root key's purposes are called
SESSIONS = "sessions"
SESSION_FORMAT = 1
_CALLERS_MAX = 10_000
_SESSIONS_MAX = 4096
_POLICIES_MAX = 4096
_OF_IDENTITY = ("/accounts/", "/users/", "/groups/", "/roles/", "/policies/", "/credentials/")
_logger = logging.getLogger("titans3.identity")
_credential = msgspec.msgpack.Decoder(Credential).decode
_encode = msgspec.msgpack.Encoder().encode
R = TypeVar("R")


class PrincipalAbsent(Exception):
    """A policy names somebody who is not there; the argument is who."""


class Session(msgspec.Struct, array_like=True, frozen=True):
    """What a session token seals. ``role`` and ``role_id``: the role that was assumed; else ``user`` (empty: the account's root).

    ``policies`` are documents, ``managed`` ARNs: together what the session is limited to, if there are any. ``keys`` are condition keys
    of a web identity.
    """

    format: int
    access_key: str
    secret: str
    account: str
    name: str
    issued_ms: int
    expires_ms: int
    user: str = ""
    user_id: str = ""
    role: str = ""
    role_id: str = ""
    policies: tuple[str, ...] = ()
    managed: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    keys: dict[str, tuple[str, ...]] = {}
    is_limited: bool = False
    transitive: tuple[str, ...] = ()  # tags that the sessions it makes have, too


class Identities:
    """Of one worker."""

    def __init__(self, cache: ControlCache, root_key: RootKey, clock: Clock) -> None:
        self._cache, self._root_key, self._clock = cache, root_key, clock
        self._callers: dict[str, Caller] = {}
        self._sessions: dict[str, Caller] = {}
        self._policies: dict[str, Policy] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._canonicals: dict[str, Account] = {}
        self.seen: dict[str, str] = {}  # access keys that asked since somebody last looked, and which service
        self.on_change: list[Callable[[], None]] = []
        cache.on_change.append(self._changed)

    def _changed(self, event: Event) -> None:
        if event.key.startswith(_OF_IDENTITY):
            self._callers.clear()
            self._sessions.clear()
            self._owners.clear()
            self._canonicals.clear()
            for callback in self.on_change:
                callback()

    def note(self, caller: Caller, service: str) -> None:
        """Its key was used for a service (``s3``, ``iam``, ``sts``)."""
        recent, seen = caller.recent, self.seen
        if recent.seen is not seen or recent.service != service:
            recent.seen, recent.service = seen, service
            seen[caller.access_key] = service

    # callers -------------------------------------------------------------------------------------------------------

    def find(self, access_key: str) -> Caller | None:
        """The caller of a lasting key; ``None`` if it is not known. Raises ClientError: ACCESS_REFUSED, SLOW_DOWN."""
        caller = self._callers.get(access_key)
        if caller is None:
            caller = self._make(access_key)
            if caller is None:
                return None
            if len(self._callers) >= _CALLERS_MAX:
                self._callers.clear()
            self._callers[access_key] = caller
        if self._cache.is_stale and not (caller.is_account_root and caller.account == ROOT_ACCOUNT):
            raise ClientError(Reason.SLOW_DOWN, "this worker does not reach the control plane")
        if caller.expires_ms and caller.expires_ms <= self._clock.wall_ms():
            raise ClientError(Reason.ACCESS_REFUSED, "The access key is expired.")
        return caller

    def find_session(self, access_key: str, token: str) -> Caller:
        """The caller of a session token. Raises ClientError: TOKEN_INVALID, TOKEN_EXPIRED, ACCESS_REFUSED, SLOW_DOWN."""
        caller = self._sessions.get(token)
        if caller is None:
            caller = self._make_session(token)
            if len(self._sessions) >= _SESSIONS_MAX:
                self._sessions.clear()
            self._sessions[token] = caller
        if self._cache.is_stale:
            raise ClientError(Reason.SLOW_DOWN, "this worker does not reach the control plane")
        if caller.access_key != access_key:
            raise ClientError(Reason.TOKEN_INVALID)
        if caller.expires_ms <= self._clock.wall_ms():
            raise ClientError(Reason.TOKEN_EXPIRED)
        return caller

    def _make(self, access_key: str) -> Caller | None:
        rec = self._cache.records.get(credential_key(access_key))
        if rec is None:
            return None
        credential = _credential(rec.value)
        if credential.format != CREDENTIAL_FORMAT:
            return None  # of an older build; the root's is made anew at start
        if not credential.enabled:
            raise ClientError(Reason.ACCESS_REFUSED, "The access key is disabled.")
        account = self._account_in_force(credential.account)
        secret = self.secret_of(credential)
        if secret is None:
            _logger.error("the secret of access key %s does not open under this root key", access_key)
            raise ClientError(Reason.UNAVAILABLE, "the secret does not open under this root key")
        limits = (self._compiled(credential.session_policy, access_key),) if credential.session_policy else None
        if not credential.user:
            return self._root(account, access_key, secret, limits, credential.expires_ms)
        user = self._user_in_force(account.account, credential.user)
        if credential.user_id and credential.user_id != user.user_id:
            raise ClientError(Reason.ACCESS_REFUSED, "The user of the access key is gone.")
        return self._user(account, user, access_key, secret, limits, credential.expires_ms)

    def secret_of(self, credential: Credential) -> str | None:
        """Its secret; ``None`` if it does not open under this root key."""
        try:
            return self._root_key.open(CREDENTIALS, credential.access_key.encode(), credential.sealed).decode()
        except SealBroken:
            return None

    def _root(
        self, account: Account, access_key: str, secret: str, limits: tuple[Policy, ...] | None, expires_ms: int, token: str = "",
        more: Keys | None = None,
    ) -> Caller:  # fmt: skip
        arn = root_arn(account.account)
        who = Principal(account.account, account.canonical, arn, is_root=True)
        keys = _keys(account.account, arn, "Account", account.account) | (more or {})
        return Caller(
            account.account,
            access_key,
            secret,
            account.canonical,
            account.name,
            Identity(who, (), limits),
            keys,
            user_id=account.account,
            expires_ms=expires_ms,
            is_account_root=limits is None,
            token=token,
        )

    def _user(
        self, account: Account, user: User, access_key: str, secret: str, limits: tuple[Policy, ...] | None, expires_ms: int,
        token: str = "", more: Keys | None = None,
    ) -> Caller:  # fmt: skip
        arn = user_arn(account.account, user.path, user.name)
        policies = self.policies_of(account.account, user.attached)
        for name in user.groups:
            group = self.group(account.account, name)
            if group is not None:
                policies += self.policies_of(account.account, group.attached)
        keys = _keys(account.account, arn, "User", user.user_id) | {"aws:username": (user.name,)} | _tag_keys(user.tags) | (more or {})
        who = Principal(account.account, account.canonical, arn)
        return Caller(
            account.account,
            access_key,
            secret,
            account.canonical,
            account.name,
            Identity(who, policies, limits),
            keys,
            user_id=user.user_id,
            user=user.name,
            expires_ms=expires_ms,
            token=token,
        )

    def _make_session(self, token: str) -> Caller:
        session = self.open_session(token)
        account = self._account_in_force(session.account)
        limits: tuple[Policy, ...] | None = None
        if session.is_limited:
            managed = [found for arn in session.managed if (found := self.managed(session.account, arn)) is not None]
            limits = (*(self._compiled(text, "session policy") for text in session.policies), *managed)
        more = {"aws:tokenissuetime": (iso_seconds(session.issued_ms),), **session.keys}
        if not session.role:
            more["aws:multifactorauthpresent"] = ("false",)
            if not session.user:
                return self._root(account, session.access_key, session.secret, limits, session.expires_ms, token, more)
            user = self._user_in_force(session.account, session.user)
            if user.user_id != session.user_id:
                raise ClientError(Reason.TOKEN_INVALID)
            return self._user(account, user, session.access_key, session.secret, limits, session.expires_ms, token, more)
        role = self.role(session.account, session.role)
        if role is None or role.role_id != session.role_id:
            raise ClientError(Reason.TOKEN_INVALID)
        arn = session_arn(account.account, role.name, session.name)
        of_role = role_arn(account.account, role.path, role.name)
        user_id = f"{role.role_id}:{session.name}"
        keys = (
            _keys(account.account, of_role, "AssumedRole", user_id) | _tag_keys(role.tags | session.tags) | more
        )  # aws:PrincipalArn of a session is its role's
        who = Principal(account.account, account.canonical, arn, of_role)
        return Caller(
            account.account,
            session.access_key,
            session.secret,
            account.canonical,
            account.name,
            Identity(who, self.policies_of(account.account, role.attached), limits),
            keys,
            user_id=user_id,
            expires_ms=session.expires_ms,
            token=token,
        )

    def open_session(self, token: str) -> Session:
        """What a token seals. Raises ClientError(TOKEN_INVALID)."""
        try:
            data = self._root_key.open(SESSIONS, b"", _unbase64(token))
            return msgspec.msgpack.decode(data, type=Session)
        except (SealBroken, ValueError, msgspec.MsgspecError) as error:
            raise ClientError(Reason.TOKEN_INVALID) from error

    def seal_session(self, session: Session) -> str:
        """The session's token."""
        return _base64(self._root_key.seal(SESSIONS, b"", _encode(session)))

    def seal_secret(self, access_key: str, secret: str) -> bytes:
        """As a Credential has it."""
        return self._root_key.seal(CREDENTIALS, access_key.encode(), secret.encode())

    def _account_in_force(self, account: str) -> Account:
        found = self.account(account)
        if found is None or not found.enabled:
            raise ClientError(Reason.ACCESS_REFUSED, "The account is disabled.")
        return found

    def _user_in_force(self, account: str, name: str) -> User:
        user = self.user(account, name)
        if user is None or not user.enabled:
            raise ClientError(Reason.ACCESS_REFUSED, "The user is disabled.")
        return user

    # records -------------------------------------------------------------------------------------------------------

    def record(self, key: str, kind: type[R]) -> R | None:
        """A record of this worker's copy."""
        rec = self._cache.records.get(key)
        return None if rec is None else msgspec.msgpack.decode(rec.value, type=kind)

    def stored(self, key: str) -> Rec | None:
        """A record as it is stored, with its revision."""
        return self._cache.records.get(key)

    def account(self, account: str) -> Account | None:
        """By its number."""
        return self.record(account_key(account), Account)

    def user(self, account: str, name: str) -> User | None:
        """By name."""
        return self.record(user_key(account, name), User)

    def group(self, account: str, name: str) -> Group | None:
        """By name."""
        return self.record(group_key(account, name), Group)

    def role(self, account: str, name: str) -> Role | None:
        """By name."""
        return self.record(role_key(account, name), Role)

    def principal_id(self, arn: str) -> str | None:
        """The id behind a user's or role's ARN, an assumed role's being its role's; ``None`` if nobody has that name."""
        parts = arn.split(":", 5)
        if len(parts) != 6:
            return None
        kind, _, rest = parts[5].partition("/")
        path, _, name = rest.rpartition("/")
        path = f"/{path}/" if path else "/"
        if kind == "user":
            user = self.user(parts[4], name)
            return user.user_id if user is not None and user.path == path and user.name == name else None
        if kind == "role":
            role = self.role(parts[4], name)
            return role.role_id if role is not None and role.path == path and role.name == name else None
        if kind == "assumed-role":
            role = self.role(parts[4], rest.partition("/")[0])
            return None if role is None else role.role_id
        return None

    def bind(self, document: Document) -> dict[str, str]:
        """ARN to id of everybody whom a policy names. Raises PrincipalAbsent for somebody who is not there."""
        ids: dict[str, str] = {}
        for statement in document.statements:
            principals = statement.principals
            if principals is None:
                continue
            for arn in principals.arns:
                principal = self.principal_id(arn)
                if principal is None:
                    raise PrincipalAbsent(arn)
                ids[arn] = principal
            for account in principals.accounts:
                if self.account(account) is None:
                    raise PrincipalAbsent(account)
            for canonical in principals.canonicals:
                if self.by_canonical(canonical) is None:
                    raise PrincipalAbsent(canonical)
        return ids

    def bound(self, document: Document, ids: dict[str, str]) -> Document:
        """The document without the names that mean somebody else by now."""
        gone = frozenset(arn for arn, principal in ids.items() if self.principal_id(arn) != principal)
        if not gone:
            return document
        statements = []
        for statement in document.statements:
            principals = statement.principals
            if principals is not None and principals.arns & gone:
                principals = msgspec.structs.replace(principals, arns=principals.arns - gone)
                statement = msgspec.structs.replace(statement, principals=principals)
            statements.append(statement)
        return msgspec.structs.replace(document, statements=tuple(statements))

    def owner(self, account: str) -> tuple[str, str]:
        """Canonical id and display name of an account, as Owner elements have them."""
        found = self._owners.get(account)
        if found is None:
            record = self.account(account)
            if record is not None:
                found = (record.canonical, record.name)
            elif account == ANONYMOUS_ACCOUNT:
                found = (ANONYMOUS_CANONICAL, "")
            else:
                found = (account, account)  # an account that is gone
            self._owners[account] = found
        return found

    def by_canonical(self, canonical: str) -> Account | None:
        """The account of a canonical id."""
        if not self._canonicals:
            for key, rec in self._cache.records.items():
                if key.startswith("/accounts/"):
                    account = msgspec.msgpack.decode(rec.value, type=Account)
                    self._canonicals[account.canonical] = account
        return self._canonicals.get(canonical)

    def by_email(self, email: str) -> Account | None:
        """The account of a mail address, whatever its case."""
        rec = self._cache.records.get(f"/account_emails/{email.lower()}")
        return None if rec is None else self.account(rec.value.decode())

    # policies ------------------------------------------------------------------------------------------------------

    def policies_of(self, account: str, attached: Attached) -> tuple[Policy, ...]:
        """Compiled: managed ones, then those of its own. One that is gone is left out."""
        managed = [found for arn in attached.managed if (found := self.managed(account, arn)) is not None]
        return (*managed, *(self._compiled(text, name) for name, text in attached.inline.items()))

    def managed(self, account: str, arn: str) -> Policy | None:
        """A managed policy that an account may use."""
        text = self.managed_document(account, arn)
        return None if text is None else self._compiled(text, arn)

    def managed_document(self, account: str, arn: str) -> str | None:
        """Its document in force."""
        if arn.startswith(PREFIX):
            builtin = BUILTIN.get(arn[len(PREFIX) :])
            return None if builtin is None else builtin[1]
        start = f"arn:aws:iam::{account}:policy/"
        if not arn.startswith(start):
            return None
        record = self.record(policy_key(account, arn.rpartition("/")[2]), ManagedPolicy)
        if record is None or f"{start[:-1]}{record.path}{record.name}" != arn:
            return None
        return next(version.document for version in record.versions if version.number == record.default)

    def _compiled(self, text: str, name: str) -> Policy:
        policy = self._policies.get(text)
        if policy is None:
            try:
                policy = Policy.of_text(text, name)
            except PolicyMalformed as error:
                _logger.error("policy %s is not readable: %s", name, error)
                raise ClientError(Reason.UNAVAILABLE, "a policy is not readable") from error
            if len(self._policies) >= _POLICIES_MAX:
                self._policies.clear()
            self._policies[text] = policy
        return policy


def _keys(account: str, arn: str, kind: str, user_id: str) -> Keys:
    return {
        "aws:principalaccount": (account,), "aws:principalarn": (arn,), "aws:principaltype": (kind,), "aws:userid": (user_id,),
        "aws:principalisawsservice": ("false",),
    }  # fmt: skip


def _tag_keys(tags: dict[str, str]) -> Keys:
    return {f"aws:principaltag/{name.lower()}": (value,) for name, value in tags.items()}


def iso_seconds(moment_ms: int) -> str:
    """``2026-01-31T23:59:59Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_ms // 1000))


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _unbase64(text: str) -> bytes:
    return b64decode(text.encode("ascii", "strict"), validate=True)
