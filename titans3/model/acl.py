"""Access control lists as they are stored: on a bucket (a configuration) and on a version (``Version.acl``).

Invariants
* The owner is not in the list's format: it is the bucket's or the version's own field. No list at all means: full control for the owner.
* A grantee is an account's canonical id or one of S3's groups, never a mail address: addresses are resolved when a list is set.
"""

from __future__ import annotations

import msgspec

CANONICAL = 0
GROUP = 1

READ, WRITE, READ_ACP, WRITE_ACP, FULL_CONTROL = "READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"
PERMISSIONS = (FULL_CONTROL, READ, WRITE, READ_ACP, WRITE_ACP)
ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED_USERS = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOG_DELIVERY = "http://acs.amazonaws.com/groups/s3/LogDelivery"
GROUPS = (ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY)
GRANTS_MAX = 100


class Grant(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``kind`` says what ``grantee`` is: a canonical id or the URI of a group."""

    kind: int
    grantee: str
    permission: str


Grants = tuple[Grant, ...]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Grants).decode


def encode_grants(grants: Grants) -> bytes:
    """As a version has them; never empty, not even for an empty list."""
    return _encode(grants)


def decode_grants(data: bytes) -> Grants:
    """What ``encode_grants`` made."""
    return _decode(data)
