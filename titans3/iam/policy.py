"""Compiled policies: what a document says to one request. Hot: guarded by ``bench/micro/policy.py``.

Invariants
* Compiled once per version of a document, or per action of it that is asked for; a request looks at the statements of its action alone,
  and of many at those that are about names which begin as its own.
* Nothing here decides between policies: that is ``decision.py``.
* A resource pattern is matched part by part: no wildcard reaches over a colon from the account into the name.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from titans3.iam.arn import S3_PREFIX, split_arn
from titans3.iam.conditions import Condition
from titans3.iam.document import Document, Kind, Statement, read_policy
from titans3.iam.principal import Named, Principal
from titans3.iam.wildcard import Lookup, Patterns, Token, tokens

_ACTIONS_MAX = 256
_NAME_AT = len(S3_PREFIX)
_FEW = 2  # rules that are looked at without asking what they are about
_SPECIAL = re.compile(r"[*?]|\$\{")  # where a pattern is no literal any more
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


class Rule(msgspec.Struct, gc=False):
    """A compiled statement. Its resources are compiled when one that begins as they do is first asked for: most never are.

    Thousands of them wait for requests that they are about; the garbage collector need not look at each (``gc=False``: it refers to
    nothing that refers back).
    """

    statement: Statement
    _has_variables: bool
    _actions: Patterns
    _resources: _Resources | None = None

    def _compiled(self) -> _Resources:
        found = self._resources = _Resources(self.statement.resources, variables=self._has_variables)
        return found

    def has_action(self, action: str) -> bool:
        """Whether it is about an action (lower case)."""
        return self._actions.match(action, _nothing) is not self.statement.not_actions

    def beginnings(self) -> list[str] | None:
        """What names in S3 begin with that it may be about, one for each resource; ``None`` if they may be anything.

        ARNs with wildcards before the name (``arn:aws:s3:*:*:b``) are not looked into.
        """
        found = []
        for text in self.statement.resources:
            if not text.startswith(S3_PREFIX):
                return None
            found.append(_SPECIAL.split(text[_NAME_AT:], maxsplit=1)[0])
        return found if found and not self.statement.not_resources else None

    def may_reach(self, folder: str) -> bool:
        """False if it is surely about no name in S3 that begins with ``folder``."""
        texts = self.beginnings()
        return texts is None or any(text.startswith(folder) or folder.startswith(text) for text in texts)

    def always_applies(self, folder: str) -> bool:
        """Whether it is about every name in S3 that begins with ``folder``, whatever the request is like.

        False if that takes a longer look.
        """
        if self.statement.conditions or self.statement.not_resources or self.statement.principals is not None:
            return False
        return any(
            text == "*" or (text.startswith(S3_PREFIX) and text.endswith("*") and folder.startswith(text[_NAME_AT:-1]))
            for text in self.statement.resources
        )

    def has_resource(self, ask: Ask) -> bool:
        """Whether it is about the request's resource."""
        if not self.statement.resources:
            return True
        return (self._resources or self._compiled()).match(ask.resource, ask.value) is not self.statement.not_resources

    def failed(self, ask: Ask) -> Condition | None:
        """The first condition that does not hold."""
        for condition in self.statement.conditions:
            if not condition.holds(ask.values, ask.value):
                return condition
        return None

    def names(self, who: Principal) -> Named:
        """Whether it is about who asks; an identity's policy always is."""
        principals = self.statement.principals
        return Named.ITSELF if principals is None else principals.names(who)

    def applies(self, ask: Ask) -> bool:
        """Resource and conditions; the action is known to fit."""
        if not self.has_resource(ask):
            return False
        return not self.statement.conditions or self.failed(ask) is None


class Says(msgspec.Struct, frozen=True):
    """What a policy says: ``denies`` wins; ``allows`` is how the best allowing statement names who asks."""

    denies: bool
    allows: Named


_SILENT = Says(False, Named.NOT)
_DENIES = Says(True, Named.NOT)
_ALLOWS = {named: Says(False, named) for named in Named if named}


_Pair = tuple[tuple[Rule, ...], tuple[Rule, ...]]


class _Table:
    """Rules of one action, those that deny and those that allow, found by what the names that they are about begin with.

    Of all beginnings, sorted, those that a name begins with are one that stands right before the name in that order, or one that this one
    begins with, or one that that one begins with, and so on.
    """

    __slots__ = ("_all", "_parents", "_rules", "_texts")

    def __init__(self, rules: Sequence[Rule]) -> None:
        anywhere: list[int] = []
        by_text: dict[str, list[int]] = {}
        for place, rule in enumerate(rules):
            texts = None if len(rules) <= _FEW else rule.beginnings()
            if texts is None:
                anywhere.append(place)
            for text in texts or ():
                by_text.setdefault(text, []).append(place)
        self._texts = sorted(by_text)
        self._parents: list[int] = []
        self._rules: list[_Pair] = []
        places: list[list[int]] = []
        for at, text in enumerate(self._texts):
            parent = at - 1
            while parent >= 0 and not text.startswith(self._texts[parent]):
                parent = self._parents[parent]
            self._parents.append(parent)
            places.append(by_text[text] + (places[parent] if parent >= 0 else anywhere))
            self._rules.append(_pair(rules, places[at]))
        self._rules.append(_pair(rules, anywhere))  # at -1
        self._all = _pair(rules, range(len(rules)))

    def find(self, resource: str) -> _Pair:
        """All rules that may be about a resource, and some that are not."""
        texts = self._texts
        if not texts:
            return self._all
        if not resource.startswith(S3_PREFIX):
            return self._all
        name = resource[_NAME_AT:]
        at = bisect_right(texts, name) - 1
        while at >= 0 and not name.startswith(texts[at]):
            at = self._parents[at]
        return self._rules[at]


def _pair(rules: Sequence[Rule], places: Iterable[int]) -> _Pair:
    chosen = [rules[place] for place in sorted(set(places))]
    return tuple(rule for rule in chosen if not rule.statement.allows), tuple(rule for rule in chosen if rule.statement.allows)


class Policy:
    """A compiled document. ``name`` is for explanations.

    ``of_text`` keeps the text instead, and of its statements those alone that are about actions which somebody asked for: of a thousand
    large policies the rest would lie between what every request needs, and fill the processor's caches and tables of pages with gaps.
    """

    __slots__ = ("_asks", "_by_action", "_rules", "_text", "asks_object_tags", "name")

    def __init__(self, document: Document, name: str = "") -> None:
        self._take(name, "", _rules_of(document))

    @classmethod
    def of_text(cls, text: str, name: str = "") -> Policy:
        """Of an identity's policy that was accepted once. Raises PolicyMalformed."""
        self = cls.__new__(cls)
        self._take(name, text, None)
        return self

    def _take(self, name: str, text: str, rules: tuple[Rule, ...] | None) -> None:
        self.name, self._text, self._rules = name, text, rules
        self._by_action: dict[str, _Table] = {}
        self._asks: dict[str, bool] = {}
        self.asks_object_tags = self.asks(_OBJECT_TAG)  # whether a decision may need the tags of the object as it is

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All of them, in the document's order; made anew if its text is what is kept."""
        return _rules_of_text(self._text) if self._rules is None else self._rules

    def asks(self, key: str) -> bool:
        """Whether it depends on a condition key that begins so (lower case)."""
        found = self._asks.get(key)
        if found is None:
            found = self._asks[key] = any(rule.statement.asks(key) for rule in self.rules)
        return found

    def _of(self, action: str) -> _Table:
        if len(self._by_action) >= _ACTIONS_MAX:
            self._by_action.clear()
        found = self._by_action[action] = _Table([rule for rule in self.rules if rule.has_action(action)])
        return found

    def always(self, action: str, folder: str) -> tuple[bool, bool]:
        """About requests for an action (lower case) on names that begin with ``folder``, whatever else they are like: whether it may deny
        one, and whether it allows all of them, unless it denies them as well.
        """
        about = [rule for rule in self.rules if rule.has_action(action)]
        return (
            any(not rule.statement.allows and rule.may_reach(folder) for rule in about),
            any(rule.statement.allows and rule.always_applies(folder) for rule in about),
        )

    def says(self, ask: Ask, who: Principal) -> Says:
        """To this request."""
        action = ask.action
        denying, allowing = (self._by_action.get(action) or self._of(action)).find(ask.resource)
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


def _rules_of(document: Document) -> tuple[Rule, ...]:
    return tuple([Rule(statement, document.variables, _action_patterns(statement.actions)) for statement in document.statements])


@lru_cache(maxsize=16)
def _rules_of_text(text: str) -> tuple[Rule, ...]:
    """Who was just asked about one of its actions is asked about another."""
    return _rules_of(read_policy(text, Kind.IDENTITY, strict=False))


@lru_cache(maxsize=4096)
def _action_patterns(actions: tuple[str, ...]) -> Patterns:
    """Statements have few sets of actions between them."""
    return Patterns([tokens(text.lower(), variables=False) for text in actions])


def _nothing(name: str) -> None:
    """No variable stands in an action."""
