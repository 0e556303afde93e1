"""One call of the admin API: what its handler is given.

Invariants
* A handler runs for a caller whose signature was verified. It asks ``authorize`` before it tells or changes anything, unless its route
  has no action of its own.
* What concerns the whole server is asked by principals of the server's root account alone, whatever other accounts' policies say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from titans3.cluster.caller import Caller
from titans3.cluster.directory import Directory
from titans3.cluster.identities import Identities
from titans3.http.authentication import Verified
from titans3.http.message import Request
from titans3.iam.decision import Verdict, decide
from titans3.model.identity import ROOT_ACCOUNT
from titans3.query.call import Asked, Call, Keys, denied
from titans3.query.errors import QueryError
from titans3.query.parameters import Parameters
from titans3.s3.call import Context

if TYPE_CHECKING:
    from titans3.admin.route import Route
    from titans3.admin.server import Server

T = TypeVar("T")
ARN_PREFIX = "arn:aws:titans3:::"
_SECRET = re.compile("(?i)password|secret|token")
_SHOWN_MAX, _SHOWN_ITEMS_MAX = 4096, 200


class AdminCall:
    """See the module. ``names``: of the path; ``query``: parameters."""

    __slots__ = ("_body", "caller", "context", "directory", "names", "query", "request", "route", "server", "verified")

    def __init__(
        self, context: Context, directory: Directory, server: Server, request: Request, route: Route, names: Mapping[str, str],
        query: Mapping[str, str], caller: Caller, verified: Verified, body: bytes,
    ) -> None:  # fmt: skip
        self.context, self.directory, self.server, self.request, self.route = context, directory, server, request, route
        self.names, self.query, self.caller, self.verified, self._body = names, query, caller, verified, body

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

    def authorize(self, resource: str, *, everywhere: bool = False, keys: Keys | None = None) -> None:
        """May the caller do what the route is for on ``resource`` (``user/alice``)? ``everywhere``: it concerns the whole server.

        Raises QueryError(AccessDenied).
        """
        action = self.route.action
        asked = Asked(self.as_query(), action, ARN_PREFIX + resource, keys or {})
        verdict = decide(self.caller.rights, asked, self.account)
        if verdict is not Verdict.ALLOWED:
            raise denied(asked, verdict)
        if everywhere and self.account != ROOT_ACCOUNT:
            raise QueryError("AccessDenied", f"{action} is for the server's root account.")

    def as_query(self, service: str = "titans3", action: str = "", parameters: Parameters | None = None) -> Call:
        """The same caller as IAM's handlers know it."""
        return Call(
            self.context, self.directory, self.request, service, action or self.route.action, parameters or Parameters(b""), self.caller,
            self.verified,
        )  # fmt: skip

    def body(self, kind: type[T]) -> T:
        """What was sent. Raises QueryError(MalformedInput) naming the field."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise QueryError("MalformedInput", str(error)) from error

    def shown(self) -> Any:
        """What was sent, for the audit trail: secrets are hidden, long texts cut."""
        return shown_tree(msgspec.json.decode(self._body)) if self._body else None

    def tree(self) -> dict[str, Any]:
        """What was sent, an object of whatever. Raises QueryError(MalformedInput)."""
        found = self.body(dict[str, Any])
        return found


def shown_tree(tree: Any) -> Any:
    """JSON for the audit trail."""
    if isinstance(tree, dict):
        return {name[:200]: "..." if _SECRET.search(name) else shown_tree(value) for name, value in list(tree.items())[:_SHOWN_ITEMS_MAX]}
    if isinstance(tree, list):
        return [shown_tree(value) for value in tree[:_SHOWN_ITEMS_MAX]]
    return tree[:_SHOWN_MAX] if isinstance(tree, str) else tree
