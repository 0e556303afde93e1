"""Rows, records and commands as plain values for people and programs: names for fields, digests for what must not be seen.

Invariants
* No secret is shown, whatever its record's age: sealed texts, password hashes and values this build cannot read become length and digest.
* A key of an object is text; bytes in it that are no UTF-8 are ``\\xNN``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from titans3.model.command import Cas, Command
from titans3.model.control import BucketRecord
from titans3.model.identity import (
    CREDENTIAL_FORMAT,
    Account,
    Credential,
    Group,
    LastUsed,
    ManagedPolicy,
    OidcProvider,
    Role,
    User,
)

_SHORT = 32  # bytes that are shown as hex; more become a digest
_RECORDS: dict[str, type[msgspec.Struct]] = {
    "buckets": BucketRecord, "accounts": Account, "users": User, "groups": Group, "roles": Role, "policies": ManagedPolicy,
    "credentials": Credential, "last_used": LastUsed, "oidc": OidcProvider,
}  # fmt: skip
_TEXTS = frozenset(("ids", "feature_level", "settings", "account_names", "account_emails", "account_aliases"))


def masked(data: bytes) -> dict[str, object]:
    """Length and SHA-256 in place of bytes."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def named(value: Any) -> Any:
    """Structs as dictionaries by field, short bytes as hex, long ones as length and digest."""
    if isinstance(value, msgspec.Struct):
        return {
            name: _key(item) if name == "key" and isinstance(item, bytes) else named(item)
            for name in value.__struct_fields__
            for item in (getattr(value, name),)
        }
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return data.hex() if len(data) <= _SHORT else masked(data)
    if isinstance(value, dict):
        return {str(named(key)): named(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [named(item) for item in value]
    return value


def _key(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def shown_command(command: Command) -> dict[str, Any]:
    """A command by its fields; what a ``Cas`` writes as ``shown_record`` shows it."""
    if isinstance(command, Cas):
        told = named(msgspec.structs.replace(command, ops=()))
        told["ops"] = [{"key": key, "value": None if value is None else shown_record(key, value)} for key, value in command.ops]
    else:
        told = named(command)
    return {"name": type(command).__name__, **told}


def shown_record(key: str, value: bytes) -> Any:
    """The value of a control-plane record without its secrets."""
    kind = key[1:].partition("/")[0]
    if kind in _TEXTS:
        return value.decode("utf-8", "backslashreplace")
    known = _RECORDS.get(kind)
    if known is None:
        return masked(value)
    try:
        if kind == "credentials" and msgspec.msgpack.decode(value)[0] != CREDENTIAL_FORMAT:
            return masked(value)  # an older one had the secret in the clear
        record = msgspec.msgpack.decode(value, type=known)
    except (msgspec.MsgspecError, TypeError, IndexError):
        return masked(value)
    told = named(record)
    if isinstance(record, Credential):
        told["sealed"] = masked(record.sealed)
    elif isinstance(record, User):
        told["password"] = "set" if record.password else ""
    return told
