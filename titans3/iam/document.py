"""Policy documents: JSON in, statements out.

Invariants
* What is not understood is refused when it is written, never skipped when it is evaluated: an unknown element, a repeated key, an
  operator that does not exist, an action that no service has.
* A document that was accepted once stays readable: evaluation parses with the same code, and a rule that comes later refuses new
  documents alone (``strict``).

Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html
"""

from __future__ import annotations

import json
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from titans3.iam.actions import BUCKET, OBJECT, S3_ACTIONS
from titans3.iam.arn import split_arn
from titans3.iam.conditions import Condition, ConditionMalformed
from titans3.iam.principal import PrincipalMalformed, Principals, read_principals
from titans3.iam.wildcard import Glob, VariableMalformed, tokens

VERSION = "2012-10-17"
_VERSIONS = (VERSION, "2008-10-17")
_STATEMENTS_MAX = 1000
_DEPTH_MAX = 20
_SHORT = 200  # characters of a condition that is kept to be shared
_ELEMENTS = frozenset(("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"))
_TOP = frozenset(("Version", "Id", "Statement"))
_SERVICES = frozenset(("s3", "iam", "sts", "titans3", "kms", "s3express"))


class Kind(StrEnum):
    """Where a document is attached: that decides which elements it needs."""

    IDENTITY = "identity"
    BUCKET = "bucket"
    TRUST = "trust"


class PolicyMalformed(ValueError):
    """A document that is refused, with what to tell its author."""


class Statement(msgspec.Struct, frozen=True, gc=False):
    """As written; lists even where one text stood. ``principals`` is ``None`` where the document has none."""

    sid: str
    allows: bool
    actions: tuple[str, ...]
    not_actions: bool
    resources: tuple[str, ...]
    not_resources: bool
    principals: Principals | None
    conditions: tuple[Condition, ...]

    def asks(self, key: str) -> bool:
        """Whether it depends on a condition key that begins so (lower case), as a condition or as a variable."""
        texts = (*self.resources, *(value for condition in self.conditions for value in condition.values))
        return any(condition.key.startswith(key) for condition in self.conditions) or any("${" + key in text.lower() for text in texts)


class Document(msgspec.Struct, frozen=True):
    """A policy. ``variables``: its version has them."""

    version: str
    id: str
    statements: tuple[Statement, ...]

    @property
    def variables(self) -> bool:
        """Whether ``${…}`` means something in it."""
        return self.version == VERSION


def read_policy(text: str | bytes, kind: Kind, *, bucket: str = "", strict: bool = True) -> Document:
    """A document. ``bucket``: the name that every resource of a bucket policy must be of. Raises PolicyMalformed."""
    tree = _json(text)
    if not isinstance(tree, dict):
        raise PolicyMalformed("Policies must be valid JSON and the first byte must be '{'")
    for name in tree:
        if name not in _TOP:
            raise PolicyMalformed(f"Unknown field {name[:100]}")
    version = tree.get("Version", _VERSIONS[1])
    if version not in _VERSIONS:
        raise PolicyMalformed("The policy must contain a valid version string")
    if not isinstance(tree.get("Id", ""), str):
        raise PolicyMalformed("Id must be a text")
    listed = tree.get("Statement")
    if listed is None:
        raise PolicyMalformed("Missing required field Statement")
    if isinstance(listed, dict):
        listed = [listed]
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise PolicyMalformed("Statement must be an object or a list of objects")
    if not listed:
        raise PolicyMalformed("Missing required field Statement")
    if len(listed) > _STATEMENTS_MAX:
        raise PolicyMalformed(f"More than {_STATEMENTS_MAX} statements")
    statements = tuple(_statement(item, kind, version == VERSION, bucket, strict) for item in listed)
    named = [statement.sid for statement in statements if statement.sid]
    if len(set(named)) < len(named):
        raise PolicyMalformed("Statement IDs (SID) in a single policy must be unique.")
    return Document(version, tree.get("Id", ""), statements)


def _json(text: str | bytes) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, PolicyMalformed):
            raise
        raise PolicyMalformed("Policies must be valid JSON and the first byte must be '{'") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise PolicyMalformed("A key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise PolicyMalformed(f"{name} is no JSON")


def _statement(item: dict[str, Any], kind: Kind, variables: bool, bucket: str, strict: bool) -> Statement:
    for name in item:
        if name not in _ELEMENTS:
            raise PolicyMalformed(f"Unknown field {name[:100]}")
    sid = item.get("Sid", "")
    if not isinstance(sid, str):
        raise PolicyMalformed("Sid must be a text")
    if strict and kind is Kind.IDENTITY and not all(char.isascii() and char.isalnum() for char in sid):
        raise PolicyMalformed(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*"
        )
    effect = item.get("Effect")
    if effect is None:
        raise PolicyMalformed("Missing required field Effect")
    if effect not in ("Allow", "Deny"):
        raise PolicyMalformed(f"Invalid effect: {str(effect)[:100]}")
    principals = _principals(item, kind, allows=effect == "Allow")
    actions, not_actions = _either(item, "Action", required=True)
    resources, not_resources = _either(item, "Resource", required=kind is not Kind.TRUST)
    if kind is Kind.TRUST and resources:
        raise PolicyMalformed("Has prohibited field Resource")
    if strict:
        levels = _check_actions(actions, kind)
        _check_resources(resources, kind, bucket, variables)
        if kind is Kind.BUCKET and not not_actions and not not_resources:
            _check_levels(levels, resources, bucket)
    conditions = _conditions(item.get("Condition", {}), variables)
    return Statement(sid, effect == "Allow", actions, not_actions, resources, not_resources, principals, conditions)


def _principals(item: dict[str, Any], kind: Kind, *, allows: bool) -> Principals | None:
    given = [name for name in ("Principal", "NotPrincipal") if name in item]
    if kind is Kind.IDENTITY:
        if given:
            raise PolicyMalformed(f"Policy document should not specify a principal. Has prohibited field {given[0]}")
        return None
    if not given:
        raise PolicyMalformed("Missing required field Principal")
    if len(given) > 1:
        raise PolicyMalformed("Principal and NotPrincipal exclude each other")
    negated = given[0] == "NotPrincipal"
    if negated and (allows or kind is Kind.TRUST):
        raise PolicyMalformed("Allow with NotPrincipal is not allowed." if allows else "Has prohibited field NotPrincipal")
    try:
        return read_principals(item[given[0]], negated=negated)
    except PrincipalMalformed as error:
        raise PolicyMalformed(f"Invalid principal in policy{': ' if str(error) else ''}{error}") from error


def _either(item: dict[str, Any], name: str, *, required: bool) -> tuple[tuple[str, ...], bool]:
    """The element or its negation: its texts, and whether it is negated."""
    given = [word for word in (name, f"Not{name}") if word in item]
    if len(given) > 1:
        raise PolicyMalformed(f"{name} and Not{name} exclude each other")
    if not given:
        if required:
            raise PolicyMalformed(f"Missing required field {name}")
        return (), False
    texts = _texts(item[given[0]])
    if not texts:
        raise PolicyMalformed(
            f"Policy has invalid {name.lower()}" if texts is None else f"Missing required field {name} cannot be empty!"
        )
    return _shared(tuple(texts)) if name == "Action" else tuple(texts), given[0] != name


@lru_cache(maxsize=4096)
def _shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for equal ones: a thousand policies name the same few actions."""
    return texts


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    return None


def _check_actions(actions: tuple[str, ...], kind: Kind) -> dict[str, int]:
    """On what each action works. Raises PolicyMalformed for one that nothing has."""
    levels = {}
    for text in actions:
        lower = text.lower()
        service, colon, name = lower.partition(":")
        if lower == "*":
            levels[text] = BUCKET | OBJECT
            continue
        if not colon or not name or service not in _SERVICES or (kind is Kind.BUCKET and service != "s3"):
            raise PolicyMalformed("Policy has invalid action")
        if service != "s3":
            levels[text] = BUCKET | OBJECT
            continue
        glob = Glob(tokens(lower, variables=False))
        found = 0
        for action, level in S3_ACTIONS.items():
            if glob.matches(action):
                found |= level
        if not found and kind is Kind.BUCKET:
            raise PolicyMalformed("Policy has invalid action")
        levels[text] = found
    return levels


def _check_resources(resources: tuple[str, ...], kind: Kind, bucket: str, variables: bool) -> None:
    for text in resources:
        try:
            tokens(text, variables=variables)
        except VariableMalformed as error:
            raise PolicyMalformed(f"Policy has invalid resource: {text[:200]}") from error
        if text == "*" and kind is Kind.IDENTITY:
            continue
        parts = split_arn(text)
        if kind is Kind.BUCKET:
            if parts[:5] != ["arn", "aws", "s3", "", ""] or not _is_of(parts[5], bucket):
                raise PolicyMalformed("Policy has invalid resource")
        elif len(parts) < 6 or parts[0] != "arn" or not parts[5]:
            raise PolicyMalformed(f'Resource {text[:200]} must be in ARN format or "*".')


def _is_of(tail: str, bucket: str) -> bool:
    """Whether a resource can be in the bucket. Wildcards may stand in its name: they cannot reach another one."""
    name, slash, _ = tail.partition("/")
    if name == bucket:
        return True
    glob = Glob(tokens(name, variables=False))
    if slash:
        return glob.matches(bucket)
    return glob.matches(bucket) or ("*" in name and glob.matches(f"{bucket}/"))


def _check_levels(levels: dict[str, int], resources: tuple[str, ...], bucket: str) -> None:
    """Every action must have something to work on."""
    kinds = 0
    for text in resources:
        tail = split_arn(text)[5]
        name, slash, _ = tail.partition("/")
        if slash:
            kinds |= OBJECT
        else:
            kinds |= BUCKET
            if "*" in name:
                kinds |= OBJECT
    for level in levels.values():
        if not level & kinds:
            raise PolicyMalformed("Action does not apply to any resource(s) in statement")


def _conditions(tree: Any, variables: bool) -> tuple[Condition, ...]:
    if not isinstance(tree, dict):
        raise PolicyMalformed("Condition must be an object")
    found = []
    for operator, keys in tree.items():
        if not isinstance(keys, dict):
            raise PolicyMalformed(f"Condition {operator[:100]} must be an object")
        for key, values in keys.items():
            texts = _condition_values(values)
            if not key or texts is None:
                raise PolicyMalformed(f"Invalid value in Condition {operator[:100]} {key[:100]}")
            try:
                found.append(_condition(operator, key, tuple(texts), variables))
            except ConditionMalformed as error:
                raise PolicyMalformed(str(error)[:300]) from error
    return tuple(found)


def _condition(operator: str, key: str, values: tuple[str, ...], variables: bool) -> Condition:
    """The same object for equal short ones. Raises ConditionMalformed."""
    if sum(map(len, values), len(operator) + len(key)) > _SHORT:
        return Condition(operator, key, values, variables=variables)
    return _short_condition(operator, key, values, variables)


@lru_cache(maxsize=1024)
def _short_condition(operator: str, key: str, values: tuple[str, ...], variables: bool) -> Condition:
    return Condition(operator, key, values, variables=variables)


def _condition_values(value: Any) -> list[str] | None:
    listed = value if isinstance(value, list) else [value]
    texts = []
    for item in listed:
        if isinstance(item, bool):
            texts.append("true" if item else "false")
        elif isinstance(item, (int, float)):
            texts.append(str(item))
        elif isinstance(item, str):
            texts.append(item)
        else:
            return None
    return texts or None
