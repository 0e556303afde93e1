"""The policy document of a form: what its signer allows.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html

Invariants
* Pure: time is a number handed in; fields are texts by lower-case name, with ``${filename}`` filled in and ``bucket`` set to the real one.
* ``expiration`` and ``conditions`` are spelled exactly so; field names in conditions are case-insensitive, their values are not.
* Every field stands under a condition, but for those of the signature, the policy itself, the file, and ``x-ignore-…``.
* A document that is not understood is refused, never half obeyed.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from datetime import datetime
from typing import Any

import msgspec

from titans3.s3.errors import S3Error

_FREE = frozenset(("x-amz-signature", "signature", "awsaccesskeyid", "policy", "file"))
_ESCAPES = re.compile(rb"\\(.)", re.DOTALL).sub
_OWN_ESCAPES = {b"$": b"$", b"v": b"\\u000b"}  # which AWS documents and JSON does not know
_LENGTH_DIGITS_MAX = 18


class Condition(msgspec.Struct, frozen=True):
    """``operator`` is eq or starts-with, ``field`` a lower-case name; ``shown`` is the condition for people."""

    operator: str
    field: str
    value: str
    shown: str


class Policy(msgspec.Struct, frozen=True):
    """A document that was understood. Lengths are bytes of the file; ``most`` is -1 without a limit."""

    expires: float
    conditions: tuple[Condition, ...]
    least: int = 0
    most: int = -1


def parse_policy(encoded: bytes) -> Policy:
    """From the base64 text of the field. Raises InvalidPolicyDocument."""
    try:
        text = b64decode(b"".join(encoded.split()), validate=True)
    except ValueError as error:
        raise _invalid("Invalid Policy: Invalid base64 encoding.") from error
    if b"\\$" in text or b"\\v" in text:
        text = _ESCAPES(lambda match: _OWN_ESCAPES.get(match[1], match[0]), text)
    try:
        document: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid("Invalid Policy: Invalid JSON.") from error
    if not isinstance(document, dict):
        raise _invalid("Invalid Policy: Invalid JSON.")
    if "expiration" not in document:
        raise _invalid("Invalid Policy: Policy missing expiration.")
    expires = _moment(document["expiration"])
    if "conditions" not in document:
        raise _invalid("Invalid Policy: Policy missing conditions.")
    if not isinstance(document["conditions"], list):
        raise _invalid("Invalid Policy: Invalid conditions: a list is expected.")
    conditions: list[Condition] = []
    least, most = 0, -1
    for item in document["conditions"]:
        if isinstance(item, list) and item and isinstance(item[0], str) and item[0].lower() == "content-length-range":
            low, high = _range(item)
            least, most = max(least, low), high if most < 0 else min(most, high)
        else:
            conditions.append(_condition(item))
    return Policy(expires, tuple(conditions), least, most)


def check_policy(policy: Policy, fields: dict[str, str], now: float) -> None:
    """Raises AccessDenied when the policy has expired, a condition fails, or a field stands under none."""
    if now >= policy.expires:
        raise _denied("Policy expired.")
    for condition in policy.conditions:
        if not _holds(condition, fields.get(condition.field, "")):
            raise _denied(f"Policy Condition failed: {condition.shown}")
    covered = {condition.field for condition in policy.conditions}
    extra = [name for name in fields if name not in _FREE and name not in covered and not name.startswith("x-ignore-")]
    if extra:
        raise _denied(f"Extra input fields: {', '.join(sorted(extra))[:500]}")


def _holds(condition: Condition, value: str) -> bool:
    if condition.operator == "eq":
        return value == condition.value
    if condition.field == "content-type" and "," in value:  # a list, each item of which must begin so
        return all(item.strip().startswith(condition.value) for item in value.split(","))
    return value.startswith(condition.value)


def _moment(text: object) -> float:
    """Seconds since 1970 of ``2026-01-31T12:00:00.000Z``."""
    if isinstance(text, str):
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return moment.timestamp()
        except (ValueError, OverflowError):
            pass  # refused below, as a text without a zone is
    raise _invalid(f"Invalid Policy: Invalid 'expiration' value: '{str(text)[:60]}'")


def _range(item: list[Any]) -> tuple[int, int]:
    """Both bounds of ``["content-length-range", 1, 10]``; they count in."""
    if len(item) == 3:
        found = [_length(value) for value in item[1:]]
        if min(found) >= 0:
            return found[0], found[1]
    raise _invalid("Invalid Policy: Invalid content-length-range: two whole numbers are expected.")


def _length(value: object) -> int:
    """A whole number, or its digits as text; -1 for anything else."""
    if isinstance(value, bool):
        return -1
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _LENGTH_DIGITS_MAX else -1


def _condition(item: object) -> Condition:
    """``{"acl": "private"}``, ``["eq", "$key", "a"]``, ``["starts-with", "$key", "a/"]``."""
    if isinstance(item, dict):
        if len(item) != 1:
            raise _invalid("Invalid Policy: Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
        (name, value), *_ = item.items()
        if not isinstance(value, str):
            raise _invalid("Invalid Policy: Invalid Simple-Condition: value must be a string.")
        return Condition("eq", name.lower(), value, json.dumps(["eq", "$" + name, value]))
    if not isinstance(item, list) or not item or not all(isinstance(value, str) for value in item):
        raise _invalid("Invalid Policy: Invalid Condition: a list of texts or an object is expected.")
    operator = item[0].lower()
    if operator not in ("eq", "starts-with"):
        raise _invalid(f"Invalid Policy: Invalid Condition: unknown operation '{item[0][:40]}'.")
    if len(item) != 3 or len(item[1]) < 2 or not item[1].startswith("$"):
        raise _invalid(f"Invalid Policy: Invalid Condition: {operator} expects a field as $name and a value.")
    return Condition(operator, item[1][1:].lower(), item[2], json.dumps(item))


def _invalid(message: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", message)


def _denied(message: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {message}")
