"""One action of IAM or STS: what its handler is given.

Invariants
* A handler runs for a caller whose signature was verified, or for nobody where the action allows that. It asks ``authorize`` before
  it tells or changes anything.
* Everything is of the caller's account.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from titans3.cluster.caller import Caller
from titans3.cluster.directory import Directory
from titans3.cluster.identities import Identities
from titans3.cluster.transaction import Transaction
from titans3.http.authentication import Verified
from titans3.http.message import Request
from titans3.iam.decision import Verdict, decide
from titans3.query.answer import Tree
from titans3.query.errors import QueryError, invalid
from titans3.query.parameters import Parameters
from titans3.s3.asked import GLOBAL
from titans3.s3.call import Context

Keys = Mapping[str, Sequence[str]]
_ITEMS = 100
_ITEMS_MAX = 1000
T = TypeVar("T")
R = TypeVar("R")


class Call:
    """See the module."""

    __slots__ = ("action", "caller", "context", "directory", "parameters", "request", "service", "verified")

    def __init__(
        self,
        context: Context,
        directory: Directory,
        request: Request,
        service: str,
        action: str,
        parameters: Parameters,
        caller: Caller,
        verified: Verified | None,
    ) -> None:
        self.context, self.directory, self.request = context, directory, request
        self.service, self.action, self.parameters, self.caller, self.verified = service, action, parameters, caller, verified

    @property
    def account(self) -> str:
        """The caller's."""
        return self.caller.account

    @property
    def identities(self) -> Identities:
        """Of this worker."""
        return self.directory.identities

    @property
    def now_ms(self) -> int:
        """Wall time."""
        return self.context.clock.wall_ms()

    def limit(self, name: str) -> int:
        """A cluster key that bounds how many there may be."""
        return self.directory.settings.number(name)

    def transact(self, attempt: Callable[[Transaction], Awaitable[R]]) -> Awaitable[R]:
        """Several records as one change."""
        return self.directory.transact(attempt)

    def arn(self, kind: str, name: str, path: str = "/") -> str:
        """Of something in the account; ``kind``: ``user``, ``group``, ``role``, ``policy``."""
        return f"arn:aws:iam::{self.account}:{kind}{path}{name}"

    def authorize(self, resource: str, keys: Keys | None = None, *, action: str = "") -> None:
        """May the caller do this on ``resource``? Raises QueryError(AccessDenied). ``keys``: condition keys of the request, lower case."""
        asked = Asked(self, action or f"{self.service}:{self.action}", resource, keys or {})
        verdict = decide(self.caller.rights, asked, self.account)
        if verdict is not Verdict.ALLOWED:
            raise denied(asked, verdict)

    def cut(self, items: Sequence[T], key: Callable[[T], str]) -> tuple[Sequence[T], dict[str, Tree]]:
        """``items``, sorted by ``key``, from Marker on and at most MaxItems; and what the answer says of more.

        Raises QueryError(ValidationError).
        """
        most = self.parameters.number("MaxItems", _ITEMS, 1, _ITEMS_MAX)
        names = [key(item) for item in items]
        start = 0
        if self.parameters.has("Marker"):
            try:
                marker = b64decode(self.parameters.text("Marker").encode("ascii"), b"-_", validate=True).decode()
            except (Base64Error, ValueError) as error:
                raise invalid("Invalid Marker.") from error
            start = bisect_right(names, marker)
        rest = len(items) > start + most
        return items[start : start + most], {
            "IsTruncated": rest,
            "Marker": urlsafe_b64encode(names[start + most - 1].encode()).decode() if rest else None,
        }

    def page(self, field: str, items: Sequence[T], key: Callable[[T], str], show: Callable[[T], Tree]) -> dict[str, Tree]:
        """One list of an answer. Raises QueryError(ValidationError)."""
        shown, more = self.cut(items, key)
        return {field: [show(item) for item in shown]} | more


class Asked:
    """One action on one resource, as policies see it."""

    __slots__ = ("_call", "_keys", "action", "name", "resource")

    def __init__(self, call: Call, action: str, resource: str, keys: Keys) -> None:
        self._call, self._keys = call, keys
        self.name, self.action, self.resource = action, action.lower(), resource

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self._call.caller

    def values(self, key: str) -> Sequence[str] | None:
        """All values of a condition key (lower case)."""
        found = self._keys.get(key) or self._call.caller.keys.get(key)
        if found is not None:
            return found
        everywhere = GLOBAL.get(key)
        return None if everywhere is None else everywhere(self._call)

    def value(self, key: str) -> str | None:
        """The value of a key that has exactly one."""
        found = self.values(key)
        return found[0] if found is not None and len(found) == 1 else None


def denied(asked: Asked, verdict: Verdict) -> QueryError:
    """AccessDenied, as AWS words it."""
    why = (
        "with an explicit deny in an identity-based policy"
        if verdict is Verdict.EXPLICIT
        else f"because no identity-based policy allows the {asked.name} action"
    )
    return QueryError(
        "AccessDenied", f"User: {asked.caller.arn} is not authorized to perform: {asked.name} on resource: {asked.resource} {why}"
    )


def tag_keys(tags: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """The condition keys of tags that a request brings."""
    keys: dict[str, Sequence[str]] = {f"aws:requesttag/{name.lower()}": (value,) for name, value in tags.items()}
    if tags:
        keys["aws:tagkeys"] = tuple(tags)
    return keys


def resource_keys(tags: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """The condition keys of tags that a user or role has."""
    return {f"{prefix}:resourcetag/{name.lower()}": (value,) for name, value in tags.items() for prefix in ("aws", "iam")}
