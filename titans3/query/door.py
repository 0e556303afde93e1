"""The door of IAM and STS: authenticate, read the form, find the action, turn errors into answers.

Invariants
* Who asks is proven before an action is looked at (``admission``). A stranger without a key gets ANONYMOUS_BODY_BYTES_MAX read, because a
  web identity signs nothing and its action stands in the body.
* What nobody foresaw is logged with the request id and answered InternalFailure. InvariantError is not caught: it stops the process.

Sources: https://docs.aws.amazon.com/IAM/latest/APIReference/CommonParameters.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from titans3.cluster.directory import Directory
from titans3.errors import ClientError, DiskError, InvariantError, PeerError, TitanError
from titans3.http.message import Request, Response
from titans3.query import (
    access_keys,
    account,
    groups,
    holders,
    passwords,
    policies,
    providers,
    roles,
    simulate,
    sts,
    users,
)
from titans3.query.admission import Admission
from titans3.query.answer import Tree, failure, success
from titans3.query.call import Call
from titans3.query.errors import CLOSING, QueryError, from_titan_error
from titans3.query.parameters import Parameters
from titans3.s3.call import Context
from titans3.tasks import to_the_end

BODY_BYTES_MAX = 192 * 1024
ANONYMOUS_BODY_BYTES_MAX = 32 * 1024
_VERSIONS = {"iam": "2010-05-08", "sts": "2011-06-15"}
# What a session of GetSessionToken may do: of IAM nothing, of STS this.
_OF_SESSIONS = frozenset(("AssumeRole", "GetCallerIdentity"))
_logger = logging.getLogger("titans3.query")

Action = Callable[[Call], Awaitable[Mapping[str, Tree] | None]]
ACTIONS: dict[str, dict[str, Action]] = {
    "iam": {
        **access_keys.ACTIONS, **account.ACTIONS, **groups.ACTIONS, **holders.ACTIONS, **passwords.ACTIONS, **policies.ACTIONS,
        **providers.ACTIONS, **roles.ACTIONS, **simulate.ACTIONS, **users.ACTIONS,
    },
    "sts": {**sts.ACTIONS},
}  # fmt: skip


# What was done by a request, with its status: a record of it is kept before the answer.
Audit = Callable[[Request, int, dict[str, Any]], Awaitable[None]]
_READS = ("Get", "List", "Simulate", "Generate")


def changes(action: str) -> bool:
    """Whether an action of IAM or STS changes anything, or hands out credentials."""
    return not action.startswith(_READS) or action == "GetSessionToken"


class QueryApi:
    """Of one worker."""

    def __init__(self, context: Context, directory: Directory, audit: Audit | None = None) -> None:
        """``audit`` is told what was changed, before it is answered."""
        self._context, self._directory, self._audit = context, directory, audit
        self.admission = Admission(
            context, directory.identities, tuple(_VERSIONS), body_bytes_max=BODY_BYTES_MAX, strangers_bytes_max=ANONYMOUS_BODY_BYTES_MAX
        )

    async def answer(self, request: Request) -> Response:
        """The answer; raises only InvariantError and what is no Exception."""
        service = "sts"
        try:
            admitted = await self.admission.admit(request)
            caller, verified = admitted.caller, admitted.verified
            request.caller = caller
            parameters = Parameters(_joined(request.query, admitted.body))
            if verified is not None:
                service = verified.service
            action = parameters.text("Action")
            request.state = {"action": f"{service}:{action[:100]}"}
            if verified is None and action not in sts.ANONYMOUS:
                raise QueryError("MissingAuthenticationToken", "Request is missing Authentication Token")
            handler = ACTIONS[service].get(action)
            version = parameters.text("Version", default=_VERSIONS[service])
            if handler is None or version != _VERSIONS[service]:
                raise QueryError("InvalidAction", f"Could not find operation {action[:100]} for version {version[:20]}")
            if caller.token and not caller.rights.who.role and (service != "sts" or action not in _OF_SESSIONS | {"GetSessionToken"}):
                raise QueryError("InvalidClientTokenId", "The security token included in the request is invalid")
            call = Call(self._context, self._directory, request, service, action, parameters, caller, verified)
            result = await (to_the_end(self._change(handler, call)) if changes(action) else handler(call))
            return success(service, action, result, request.request_id)
        except InvariantError:
            raise
        except TitanError as error:
            return self._refuse(service, request, error)
        except Exception as error:  # noqa: BLE001 - the client gets an answer with the request id whatever went wrong
            return self._refuse(service, request, error)

    async def _change(self, handler: Action, call: Call) -> Mapping[str, Tree] | None:
        """What is changed is in the audit trail, also when a client that asked by GET goes away in the middle."""
        result = await handler(call)
        if self._audit is not None:
            await self._audit(call.request, 200, {"parameters": call.parameters.shown()})
        return result

    def _refuse(self, service: str, request: Request, error: Exception) -> Response:
        converted = from_titan_error(error) if isinstance(error, TitanError) else None
        if converted is None:
            extra = {"request_id": request.request_id}
            if isinstance(error, (DiskError, PeerError)):
                _logger.warning("request refused: %s", error, extra=extra)
            else:
                _logger.error("request failed", exc_info=error, extra=extra)
            converted = QueryError("InternalFailure", "The request processing has failed because of an unknown error.")
        request.error = converted.code
        close = isinstance(error, ClientError) and error.reason in CLOSING
        return failure(service, converted, request.request_id, close=close)


def _joined(query: bytes, body: bytes) -> bytes:
    """Parameters of both places, without those of the signature."""
    kept = [item for item in query.split(b"&") if item and not item.lower().startswith((b"x-amz-", b"%78-amz-"))]
    return b"&".join((*kept, body) if body else kept)
