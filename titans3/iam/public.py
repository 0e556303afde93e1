"""Whether a bucket policy is public: what GetBucketPolicyStatus tells and public access block acts on.

Invariants
* A statement is public if it allows everybody and no condition of it pins who or from where to fixed values.
* In doubt it is public: an operator that is negated, IfExists, a wildcard or a variable pins nothing.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html#access-control-block-public-access-policy-status
"""

from __future__ import annotations

from titans3.iam.conditions import Condition, network
from titans3.iam.document import Document, Statement

_PINNING = frozenset((
    "aws:sourceip", "aws:vpcsourceip", "aws:sourcearn", "aws:sourcevpc", "aws:sourcevpce", "aws:sourceowner", "aws:sourceaccount",
    "aws:userid", "aws:username", "aws:principalarn", "aws:principalaccount", "aws:principalorgid", "aws:principalorgpaths",
    "aws:sourceorgid", "aws:sourceorgpaths", "s3:x-amz-server-side-encryption-aws-kms-key-id", "s3:dataaccesspointarn",
    "s3:dataaccesspointaccount",
))  # fmt: skip
_OPERATORS = frozenset(("stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike", "ipaddress"))
_IPV4_PREFIX_MIN, _IPV6_PREFIX_MIN = 8, 32  # wider ranges count as everywhere


def is_public(document: Document) -> bool:
    """Whether one of its statements is."""
    return any(_is_open(statement) for statement in document.statements)


def _is_open(statement: Statement) -> bool:
    principals = statement.principals
    if not statement.allows or principals is None or not principals.everybody:
        return False
    return not any(_pins(condition) for condition in statement.conditions)


def _pins(condition: Condition) -> bool:
    name = condition.operator.lower()
    qualifier, colon, rest = name.partition(":")
    if colon:
        if qualifier != "foranyvalue":
            return False
        name = rest
    if condition.key not in _PINNING or name not in _OPERATORS:
        return False
    return all(_is_fixed(condition.key, name, value) for value in condition.values)


def _is_fixed(key: str, operator: str, value: str) -> bool:
    if "${" in value:
        return False
    if operator == "ipaddress":
        found = network(value)
        return found is not None and found.prefixlen >= (_IPV4_PREFIX_MIN if found.version == 4 else _IPV6_PREFIX_MIN)
    if operator in ("stringlike", "arnequals", "arnlike"):
        if key == "aws:userid" and value.endswith(":*"):
            value = value[:-2]
        if key in ("aws:sourcearn", "aws:principalarn", "s3:dataaccesspointarn"):
            parts = value.split(":", 5)
            return len(parts) == 6 and bool(parts[4]) and "*" not in parts[4] and "?" not in parts[4]  # the account is fixed
        return "*" not in value and "?" not in value
    return True
