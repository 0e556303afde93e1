"""What is configured on a bucket: values of the control plane's records ``/config/<bucket id>/<kind>``.

Invariants
* A value is a msgpack array, its first element the format. A kind's name is in the key, never in the value.
* What is not configured has no record: absence is the default, and means what S3 says of a bucket without it.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from titans3.model.acl import Grants

CONFIGURATION_PREFIX = "/config/"


class Configuration(msgspec.Struct, array_like=True, frozen=True):
    """One kind of configuration; ``KIND`` is the last part of its key."""

    KIND: ClassVar[str] = ""
    format: int


class BucketTags(Configuration, array_like=True, frozen=True):
    """Tags of a bucket, in the order given."""

    KIND: ClassVar[str] = "tagging"
    tags: dict[str, str]


class Ownership(Configuration, array_like=True, frozen=True):
    """``BucketOwnerEnforced``, ``BucketOwnerPreferred`` or ``ObjectWriter``."""

    KIND: ClassVar[str] = "ownership"
    ownership: str


class CorsRule(msgspec.Struct, array_like=True, frozen=True):
    """One rule; ``origins`` and ``headers`` may have one ``*`` each. ``max_age_seconds`` is -1 if not given."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_seconds: int = -1
    rule_id: str = ""


class Cors(Configuration, array_like=True, frozen=True):
    """Rules; the first that matches decides."""

    KIND: ClassVar[str] = "cors"
    rules: tuple[CorsRule, ...]


class BucketPolicy(Configuration, array_like=True, frozen=True):
    """``text`` is the document byte for byte. ``ids``: whom each ARN in it meant when it was set; the next of that name is not meant."""

    KIND: ClassVar[str] = "policy"
    text: bytes
    ids: dict[str, str] = {}


class PublicAccessBlock(Configuration, array_like=True, frozen=True):
    """The four switches."""

    KIND: ClassVar[str] = "public-access-block"
    block_acls: bool = False
    ignore_acls: bool = False
    block_policy: bool = False
    restrict_buckets: bool = False


class BucketAcl(Configuration, array_like=True, frozen=True):
    """Grants of a bucket's access control list; without one the owner has all rights."""

    KIND: ClassVar[str] = "acl"
    grants: Grants


def configuration_key(bucket: int, kind: str) -> str:
    """The record's key; ``kind`` empty gives the prefix of all of a bucket."""
    return f"{CONFIGURATION_PREFIX}{bucket:020d}/{kind}"
