"""Who asks, and whom a resource's policy names.

Invariants
* A principal is named exactly or as everybody: wildcards inside a name are refused.
* An account's name stands for everybody in it, but only as far as the account's own policies say so (``AS_ACCOUNT``).

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any

import msgspec

from titans3.iam.arn import root_arn, split_arn

_ACCOUNT = re.compile(r"[0-9]{12}")
_CANONICAL = re.compile(r"[0-9a-f]{64}")
_NAMES = re.compile(r"(user|role|federated-user|assumed-role)/[\x21-\x7e]+")


class PrincipalMalformed(ValueError):
    """Nobody can be meant by this."""


class Named(IntEnum):
    """How a policy names who asks."""

    NOT = 0
    AS_ACCOUNT = 1  # by the account: what the account's own policies allow goes
    BY_ROLE = 2  # a session by its role or as everybody: its session policy still limits it
    ITSELF = 3  # by name, or as everybody


class Principal(msgspec.Struct, frozen=True):
    """Who asks. ``account`` is empty for nobody in particular (anonymous).

    ``arn`` is its name, ``role`` that of the role whose session it is. ``is_root``: the account itself. ``federated``: who vouches for it.
    """

    account: str = ""
    canonical: str = ""
    arn: str = ""
    role: str = ""
    is_root: bool = False
    federated: str = ""


class Principals(msgspec.Struct, frozen=True):
    """A Principal element, or with ``negated`` a NotPrincipal."""

    everybody: bool
    accounts: frozenset[str]
    arns: frozenset[str]
    canonicals: frozenset[str]
    federated: frozenset[str]
    services: frozenset[str]
    negated: bool = False

    def names(self, who: Principal) -> Named:
        """Whether the statement is about ``who``."""
        found = self._names(who)
        if not self.negated:
            return found
        return Named.NOT if found >= Named.BY_ROLE else Named.ITSELF  # an account excepts its root, not its users

    def _names(self, who: Principal) -> Named:
        if who.arn in self.arns:
            return Named.ITSELF
        if self.everybody or (who.role and who.role in self.arns):
            return Named.BY_ROLE if who.role else Named.ITSELF
        if who.federated and who.federated in self.federated:
            return Named.ITSELF
        if not who.account:
            return Named.NOT
        if who.account in self.accounts or who.canonical in self.canonicals:
            return Named.ITSELF if who.is_root else Named.AS_ACCOUNT
        return Named.NOT


def read_principals(tree: Any, *, negated: bool) -> Principals:
    """A Principal or NotPrincipal element. Raises PrincipalMalformed."""
    everybody = False
    accounts: set[str] = set()
    arns: set[str] = set()
    others: dict[str, set[str]] = {"CanonicalUser": set(), "Federated": set(), "Service": set()}
    if tree == "*":
        tree = {"AWS": "*"}
    if not isinstance(tree, dict) or not tree:
        raise PrincipalMalformed
    for kind, given in tree.items():
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise PrincipalMalformed
        if kind == "AWS":
            for text in texts:
                if text == "*":
                    everybody = True
                elif _ACCOUNT.fullmatch(text):
                    accounts.add(text)
                else:
                    _read_arn(text, accounts, arns)
        elif kind in others:
            if kind == "CanonicalUser" and not all(_CANONICAL.fullmatch(text) for text in texts):
                raise PrincipalMalformed
            others[kind].update(texts)
        else:
            raise PrincipalMalformed(kind[:100])
    canonicals, federated, services = map(frozenset, others.values())
    return Principals(everybody, frozenset(accounts), frozenset(arns), canonicals, federated, services, negated)


def _read_arn(text: str, accounts: set[str], arns: set[str]) -> None:
    parts = split_arn(text)
    if len(parts) != 6 or parts[:2] != ["arn", "aws"] or parts[2] not in ("iam", "sts") or parts[3] or not _ACCOUNT.fullmatch(parts[4]):
        raise PrincipalMalformed
    if text == root_arn(parts[4]):
        accounts.add(parts[4])
    elif _NAMES.fullmatch(parts[5]) and "*" not in parts[5] and "?" not in parts[5]:
        arns.add(text)
    else:
        raise PrincipalMalformed
