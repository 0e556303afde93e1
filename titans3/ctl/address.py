"""Where something is: ``BUCKET/KEY``, ``ALIAS/BUCKET/KEY`` or ``s3://BUCKET/KEY``.

Invariants
* The first part is an alias if one of that name is known, no server was named by ``--alias``, and it does not begin with ``s3://``. A
  bucket that is named like an alias is meant by ``s3://``.
* A key is the bytes of what was typed: nothing in it is normalised.
"""

from __future__ import annotations

import os

import msgspec

from titans3.ctl import aliases
from titans3.ctl.client import Client
from titans3.ctl.session import Session
from titans3.errors import ConfigError

_SCHEME = "s3://"


class Address(msgspec.Struct, frozen=True):
    """A bucket, a key or a prefix of one server; ``bucket`` is empty for all of them."""

    client: Client
    bucket: str
    key: bytes

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.bucket}/{os.fsdecode(self.key)}" if self.key else self.bucket

    def with_key(self, key: bytes) -> Address:
        """The same bucket, another key."""
        return Address(self.client, self.bucket, key)


def is_remote(text: str, session: Session) -> bool:
    """Whether this is surely not a file: for commands that take both."""
    return text.startswith(_SCHEME) or (not session.has_alias and _is_alias(text.partition("/")[0]))


def parse(text: str, session: Session) -> Address:
    """Raises ConfigError."""
    if text.startswith(_SCHEME):
        name, rest = "", text[len(_SCHEME) :]
    else:
        first, slash, after = text.partition("/")
        name, rest = (first, after) if not session.has_alias and _is_alias(first) and (slash or first) else ("", text)
    bucket, _, key = rest.partition("/")
    return Address(session.client_of(name), bucket, os.fsencode(key))


def need_bucket(text: str, session: Session) -> Address:
    """One without a key. Raises ConfigError."""
    found = parse(text.rstrip("/"), session)
    if not found.bucket or found.key:
        raise ConfigError(f"{text} is no bucket")
    return found


def need_key(text: str, session: Session) -> Address:
    """One with a key. Raises ConfigError."""
    found = parse(text, session)
    if not found.bucket or not found.key:
        raise ConfigError(f"{text} names no object: BUCKET/KEY is needed")
    return found


def _is_alias(name: str) -> bool:
    return bool(name) and aliases.find(name) is not None
