"""Compiled policies: what a document says to one request. Hot: guarded by ``bench/micro/policy.py``.

Invariants
* Compiled once per version of a document; a request looks at the statements of its action alone, and of many at those that may reach
  its bucket.
* Nothing here decides between policies: that is ``decision.py``.
* A resource pattern is matched part by part: no wildcard reaches over a colon from the account into the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from titans3.iam.arn import S3_PREFIX, split_arn
from titans3.iam.conditions import Condition
from titans3.iam.document import Document, Statement
from titans3.iam.principal import Named, Principal
from titans3.iam.wildcard import Lookup, Patterns, Token, tokens

_ACTIONS_MAX = 256
_BUCKETS_MAX = 1024
_FEW = 2  # rules that are looked at without asking which bucket they are about
_OBJECT_TAG = "s3:existingobjecttag/"


class Ask(Protocol):
    """One request as policies see it."""

    @property
    def action(self) -> str:
        """Lower case, with its service."""

    @property
    def resource(self) -> str:
        """Its ARN."""

    def values(self, key: str) -> Sequence[str] | None:
        """All values of a condition key (lower case); ``None`` if the request does not have it."""

    def value(self, key: str) -> str | None:
        """The value of a key that has exactly one."""


class _Resources:
    """Patterns of ARNs."""

    __slots__ = ("_all", "_others", "_s3")

    def __init__(self, texts: Sequence[str], *, variables: bool) -> None:
        self._all = False
        in_s3: list[tuple[Token, ...]] = []
        self._others: list[tuple[Patterns, ...]] = []
        for text in texts:
            if text == "*":
                self._all = True
                continue
            parts = [tokens(part, variables=variables) for part in split_arn(text)]
            if text.startswith(S3_PREFIX):
                in_s3.append(parts[5])
            elif len(parts) == 6:
                self._others.append(tuple(Patterns([part]) for part in parts))
        self._s3 = Patterns(in_s3)

    def match(self, arn: str, lookup: Lookup) -> bool:
        if self._all:
            return True
        if arn.startswith(S3_PREFIX) and self._s3.match(arn[len(S3_PREFIX) :], lookup):
            return True
        if not self._others:
            return False
        pieces = split_arn(arn)
        return len(pieces) == 6 and any(
            all(part.match(piece, lookup) for part, piece in zip(parts, pieces, strict=True)) for parts in self._others
        )


    def reaches(self, bucket: str) -> bool:
        """Whether a bucket or something in it may match. ARNs with wildcards before the name (``arn:aws:s3:*:*:b``) are not looked into."""
        return self._all or bool(self._others) or self._s3.reaches(f"{bucket}/")


class Rule:
    """A compiled statement."""

    __slots__ = ("_actions", "_conditions", "_not_resources", "_resources", "statement")

    def __init__(self, statement: Statement, *, variables: bool) -> None:
        self.statement = statement
        self._actions = Patterns([tokens(text.lower(), variables=False) for text in statement.actions])
        self._resources = _Resources(statement.resources, variables=variables) if statement.resources else None
        self._not_resources = statement.not_resources
        self._conditions: tuple[Condition, ...] = statement.conditions

    def has_action(self, action: str) -> bool:
        """Whether it is about an action (lower case)."""
        return self._actions.match(action, _nothing) is not self.statement.not_actions

    def may_reach(self, bucket: str) -> bool:
        """False if it is surely not about a bucket or anything in it."""
        return self._resources is None or self._not_resources or self._resources.reaches(bucket)

    def has_resource(self, ask: Ask) -> bool:
        """Whether it is about the request's resource."""
        return self._resources is None or self._resources.match(ask.resource, ask.value) is not self._not_resources

    def failed(self, ask: Ask) -> Condition | None:
        """The first condition that does not hold."""
        for condition in self._conditions:
            if not condition.holds(ask.values, ask.value):
                return condition
        return None

    def names(self, who: Principal) -> Named:
        """Whether it is about who asks; an identity's policy always is."""
        principals = self.statement.principals
        return Named.ITSELF if principals is None else principals.names(who)

    def applies(self, ask: Ask) -> bool:
        """Resource and conditions; the action is known to fit."""
        if self._resources is not None and self._resources.match(ask.resource, ask.value) is self._not_resources:
            return False
        return not self._conditions or self.failed(ask) is None


class Says(msgspec.Struct, frozen=True):
    """What a policy says: ``denies`` wins; ``allows`` is how the best allowing statement names who asks."""

    denies: bool
    allows: Named


_SILENT = Says(False, Named.NOT)
_DENIES = Says(True, Named.NOT)
_ALLOWS = {named: Says(False, named) for named in Named if named}


class Policy:
    """A compiled document. ``name`` is for explanations."""

    __slots__ = ("_by_action", "_by_bucket", "asks_object_tags", "document", "name", "rules")

    def __init__(self, document: Document, name: str = "") -> None:
        self.document, self.name = document, name
        self.rules = tuple(Rule(statement, variables=document.variables) for statement in document.statements)
        self._by_action: dict[str, tuple[tuple[Rule, ...], tuple[Rule, ...]]] = {}
        self._by_bucket: dict[tuple[str, str], tuple[tuple[Rule, ...], tuple[Rule, ...]]] | None = {} if len(self.rules) > _FEW else None
        # Whether a decision may need the tags of the object as it is.
        self.asks_object_tags = any(statement.asks(_OBJECT_TAG) for statement in document.statements)

    def _of(self, action: str) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        rules = [rule for rule in self.rules if rule.has_action(action)]
        found = (
            tuple(rule for rule in rules if not rule.statement.allows),
            tuple(rule for rule in rules if rule.statement.allows),
        )
        if len(self._by_action) >= _ACTIONS_MAX:
            self._by_action.clear()
        self._by_action[action] = found
        return found

    def _of_bucket(self, action: str, resource: str) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        """Of many rules those that may reach the bucket of a resource."""
        found = self._by_action.get(action) or self._of(action)
        if self._by_bucket is None or not resource.startswith(S3_PREFIX):
            return found
        bucket = resource[len(S3_PREFIX) :].partition("/")[0]
        kept = self._by_bucket.get((action, bucket))
        if kept is None:
            denying, allowing = found
            kept = tuple(rule for rule in denying if rule.may_reach(bucket)), tuple(rule for rule in allowing if rule.may_reach(bucket))
            if len(self._by_bucket) >= _BUCKETS_MAX:
                self._by_bucket.clear()
            self._by_bucket[action, bucket] = kept
        return kept

    def says(self, ask: Ask, who: Principal) -> Says:
        """To this request."""
        action = ask.action
        if self._by_bucket is None:
            denying, allowing = self._by_action.get(action) or self._of(action)
        else:
            denying, allowing = self._of_bucket(action, ask.resource)
        for rule in denying:
            if rule.names(who) and rule.applies(ask):
                return _DENIES
        best = Named.NOT
        for rule in allowing:
            named = rule.names(who)
            if named > best and rule.applies(ask):
                best = named
                if best is Named.ITSELF:
                    break
        return _ALLOWS[best] if best else _SILENT


def _nothing(name: str) -> None:
    """No variable stands in an action."""
