"""Records of accounts, users, groups, roles, policies and their keys in the control plane.

Keys (text): ``/accounts/<account>`` Account · ``/account_names/<name>``, ``/account_emails/<mail address>``,
``/account_aliases/<alias>`` account (text) ·
``/users/<account>/<name>`` User · ``/groups/<account>/<name>`` Group · ``/roles/<account>/<name>`` Role ·
``/policies/<account>/<name>`` ManagedPolicy · ``/credentials/<access key>`` Credential · ``/last_used/<access key>`` LastUsed ·
``/oidc/<account>/<url>`` OidcProvider. Names in keys are in lower case: no two differ in case alone. Values are msgpack arrays,
first element the format; fields are only ever appended.

Invariants
* A user, group, role or policy has an id that is never given again: a rule that was bound to one does not fit the next of that name.
* A secret is in a record sealed under the root key, for that record alone.
"""

from __future__ import annotations

import msgspec

FORMAT = 1
CREDENTIAL_FORMAT = 2  # 1 had the secret in the clear
ROOT_ACCOUNT = "000000000000"
ROOT_ACCOUNT_NAME = "root"
ROOT_SETTING = "/settings/root"  # the access key of the server's root (text)
# S3's name for whoever wrote an object without an account.
ANONYMOUS_CANONICAL = "65a011a29cdf8ec533ec3d1ccaae921c"
ANONYMOUS_ACCOUNT = "anonymous"

ACTIVE, INACTIVE = "Active", "Inactive"


class Account(msgspec.Struct, array_like=True, frozen=True):
    """``account`` is 12 digits, ``canonical`` 64 hex digits."""

    format: int
    account: str
    canonical: str
    name: str
    email: str
    created_ms: int
    enabled: bool = True
    alias: str = ""


class Attached(msgspec.Struct, array_like=True, frozen=True):
    """What rules somebody has: ARNs of managed policies, and documents of its own by name."""

    managed: tuple[str, ...] = ()
    inline: dict[str, str] = {}


class User(msgspec.Struct, array_like=True, frozen=True):
    """``groups`` are names as groups have them. ``password`` is an Argon2id hash, empty without console access."""

    format: int
    account: str
    name: str
    user_id: str
    path: str
    created_ms: int
    attached: Attached = Attached()
    groups: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    enabled: bool = True
    password: str = ""
    password_ms: int = 0
    must_change_password: bool = False


class Group(msgspec.Struct, array_like=True, frozen=True):
    """A group of users; its members say so themselves."""

    format: int
    account: str
    name: str
    group_id: str
    path: str
    created_ms: int
    attached: Attached = Attached()


class Role(msgspec.Struct, array_like=True, frozen=True):
    """``trust`` is the document that says who may assume it."""

    format: int
    account: str
    name: str
    role_id: str
    path: str
    created_ms: int
    trust: str
    description: str = ""
    session_seconds_max: int = 3600
    attached: Attached = Attached()
    tags: dict[str, str] = {}
    trust_ids: dict[str, str] = {}  # whom the document names, by ARN: the next of that name is not trusted


class PolicyVersion(msgspec.Struct, array_like=True, frozen=True):
    """``number`` 3 is called v3."""

    number: int
    document: str
    created_ms: int


class ManagedPolicy(msgspec.Struct, array_like=True, frozen=True):
    """A policy with a name; ``default`` is the number of the version in force."""

    format: int
    account: str
    name: str
    policy_id: str
    path: str
    created_ms: int
    updated_ms: int
    versions: tuple[PolicyVersion, ...]
    default: int
    last: int
    description: str = ""
    tags: dict[str, str] = {}


class Credential(msgspec.Struct, array_like=True, frozen=True):
    """An access key; format 2. ``user`` is empty for the account's root; ``sealed`` is the secret.

    ``session_policy`` limits a service account's key further than its user's rules; ``expires_ms`` 0 is never.
    """

    format: int
    access_key: str
    sealed: bytes
    account: str
    user: str = ""
    created_ms: int = 0
    enabled: bool = True
    expires_ms: int = 0
    session_policy: str = ""
    name: str = ""
    is_service_account: bool = False
    user_id: str = ""  # the next user of that name does not get the key


class LastUsed(msgspec.Struct, array_like=True, frozen=True):
    """When a key was last used, to a quarter of an hour."""

    format: int
    used_ms: int
    service: str = "s3"
    region: str = "us-east-1"


class OidcProvider(msgspec.Struct, array_like=True, frozen=True):
    """An issuer of web identities that an account's roles may trust. ``url`` is without its scheme."""

    format: int
    account: str
    url: str
    clients: tuple[str, ...]
    thumbprints: tuple[str, ...]
    created_ms: int
    tags: dict[str, str] = {}
    scheme: str = "https"


def account_key(account: str) -> str:
    """Of an account."""
    return f"/accounts/{account}"


def user_key(account: str, name: str) -> str:
    """Of a user; ``name`` empty gives the prefix of all."""
    return f"/users/{account}/{name.lower()}"


def group_key(account: str, name: str) -> str:
    """Of a group."""
    return f"/groups/{account}/{name.lower()}"


def role_key(account: str, name: str) -> str:
    """Of a role."""
    return f"/roles/{account}/{name.lower()}"


def policy_key(account: str, name: str) -> str:
    """Of a managed policy."""
    return f"/policies/{account}/{name.lower()}"


def credential_key(access_key: str) -> str:
    """Of an access key."""
    return f"/credentials/{access_key}"


def last_used_key(access_key: str) -> str:
    """Of when it was last used."""
    return f"/last_used/{access_key}"


def oidc_key(account: str, url: str) -> str:
    """Of an issuer; ``url`` without its scheme."""
    return f"/oidc/{account}/{url.lower()}"


def alias_key(alias: str) -> str:
    """Of the account (text) that has an alias."""
    return f"/account_aliases/{alias}"
