"""Why a decision is what it is: each statement of each policy, with what fits and what does not.

Invariant: what is said here comes from the same compiled rules that ``decision.py`` asks, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from titans3.iam.policy import Ask, Policy, Rule
from titans3.iam.principal import Principal


class Imagined:
    """A request that nobody made. ``keys``: its condition keys (lower case)."""

    __slots__ = ("_keys", "action", "name", "resource")

    def __init__(self, action: str, resource: str, keys: dict[str, tuple[str, ...]]) -> None:
        self.name, self.action, self.resource, self._keys = action, action.lower(), resource, keys

    def values(self, key: str) -> Sequence[str] | None:
        """All values of a condition key."""
        return self._keys.get(key)

    def value(self, key: str) -> str | None:
        """The value of a key that has exactly one."""
        found = self._keys.get(key)
        return found[0] if found is not None and len(found) == 1 else None


class Explained(msgspec.Struct, frozen=True):
    """A statement and one request. ``statement`` counts from 1; ``why`` is the first thing that does not fit, empty if all does."""

    policy: str
    statement: int
    sid: str
    effect: str
    applies: bool
    why: str


def explain(policy: Policy, ask: Ask, who: Principal) -> list[Explained]:
    """All statements of a policy, in its order."""
    found = []
    for number, rule in enumerate(policy.rules, 1):
        why = _why(rule, ask, who)
        effect = "Allow" if rule.statement.allows else "Deny"
        found.append(Explained(policy.name, number, rule.statement.sid, effect, not why, why))
    return found


def _why(rule: Rule, ask: Ask, who: Principal) -> str:
    if not rule.has_action(ask.action):
        return "the action is excepted" if rule.statement.not_actions else "the action is another"
    if not rule.names(who):
        return "the principal is another"
    if not rule.has_resource(ask):
        return "the resource is excepted" if rule.statement.not_resources else "the resource is another"
    failed = rule.failed(ask)
    if failed is None:
        return ""
    values = ask.values(failed.key)
    has = "the request does not have it" if values is None else f"the request has {', '.join(values)}"
    return f"{failed.operator} {failed.key} wants {', '.join(failed.values)}: {has}"


def condition_keys(policies: Iterable[Policy], action: str = "") -> list[str]:
    """The condition keys that policies ask for, of statements about ``action`` (lower case) if one is given."""
    return sorted({
        condition.key
        for policy in policies
        for rule in policy.rules
        if not action or rule.has_action(action)
        for condition in rule.statement.conditions
    })  # fmt: skip
