"""What a bucket's configurations say about rights, compiled: policy, access control list, ownership, public access block. Hot.

Invariants
* Made once per state of the records and worker; a request that finds ``PLAIN`` has nothing but the bucket's owner to look at.
* A name in a policy that belongs to somebody else by now names nobody.
"""

from __future__ import annotations

import logging

import msgspec

from titans3.cluster.configurations import Configurations
from titans3.cluster.identities import Identities
from titans3.errors import ClientError, Reason
from titans3.iam.document import Document, Kind, PolicyMalformed, read_policy
from titans3.iam.policy import Policy
from titans3.iam.public import is_public
from titans3.model.acl import Grants
from titans3.model.configuration import CONFIGURATION_PREFIX, BucketAcl, BucketPolicy, Ownership, PublicAccessBlock
from titans3.model.control import BucketRecord, Event

ENFORCED, PREFERRED, WRITER = "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"
_BUCKETS_MAX = 10_000
_NO_BLOCK = PublicAccessBlock(1)
_logger = logging.getLogger("titans3.identity")


class BucketRules(msgspec.Struct, frozen=True, gc=False):
    """``acl`` is ``None`` for the private one. ``is_public``: the policy is."""

    policy: Policy | None = None
    is_public: bool = False
    acl: Grants | None = None
    ownership: str = WRITER
    block: PublicAccessBlock = _NO_BLOCK

    @property
    def has_acls(self) -> bool:
        """Whether access control lists count."""
        return self.ownership != ENFORCED


PLAIN = BucketRules()


class Rules:
    """Of all buckets, as one worker knows them. ``default_ownership`` is that of a bucket where none is set."""

    def __init__(self, configurations: Configurations, identities: Identities, *, default_ownership: str = WRITER) -> None:
        self._configurations, self._identities = configurations, identities
        self.default_ownership = default_ownership
        self._plain = PLAIN if default_ownership == WRITER else BucketRules(ownership=default_ownership)
        self._rules: dict[int, BucketRules] = {}
        configurations.on_change.append(self._changed)
        identities.on_change.append(self._rules.clear)

    def _changed(self, event: Event) -> None:
        self._rules.pop(int(event.key[len(CONFIGURATION_PREFIX) :].partition("/")[0]), None)

    def find(self, bucket: BucketRecord) -> BucketRules:
        """The rules of a bucket. Raises ClientError(UNAVAILABLE) for a policy that is not readable."""
        rules = self._rules.get(bucket.bucket)
        if rules is None:
            if len(self._rules) >= _BUCKETS_MAX:
                self._rules.clear()
            rules = self._rules[bucket.bucket] = self._make(bucket)
        return rules

    def _make(self, bucket: BucketRecord) -> BucketRules:
        find = self._configurations.find_nowait
        policy, acl, ownership, block = (
            find(bucket, BucketPolicy), find(bucket, BucketAcl), find(bucket, Ownership), find(bucket, PublicAccessBlock),
        )  # fmt: skip
        if policy is None and acl is None and ownership is None and block is None:
            return self._plain
        compiled, public = None, False
        if policy is not None:
            document = self._read(bucket, policy)
            compiled, public = Policy(self._identities.bound(document, policy.ids), "bucket policy"), is_public(document)
        return BucketRules(
            compiled, public, None if acl is None else acl.grants, self._plain.ownership if ownership is None else ownership.ownership,
            _NO_BLOCK if block is None else block,
        )  # fmt: skip

    @staticmethod
    def _read(bucket: BucketRecord, policy: BucketPolicy) -> Document:
        try:
            return read_policy(policy.text, Kind.BUCKET, bucket=bucket.name, strict=False)
        except PolicyMalformed as error:
            _logger.error("the policy of bucket %s is not readable: %s", bucket.name, error)
            raise ClientError(Reason.UNAVAILABLE, "the bucket's policy is not readable") from error
