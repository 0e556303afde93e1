"""IAM over JSON: every action of IAM's query API with its parameters as an object.

Invariant: the handlers, rights and limits are those of the query API; nothing is decided here.
"""

from __future__ import annotations

from typing import Any

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.query.answer import plain
from titans3.query.door import ACTIONS
from titans3.query.errors import QueryError
from titans3.query.parameters import Parameters


async def iam(call: AdminCall) -> dict[str, Any]:
    action = call.names["action"]
    handler = ACTIONS["iam"].get(action)
    if handler is None:
        raise QueryError("InvalidAction", f"IAM has no action {action[:100]} here.")
    if call.caller.token and not call.caller.rights.who.role:
        raise QueryError("InvalidClientTokenId", "The security token included in the request is invalid")
    result = await handler(call.as_query("iam", action, Parameters.of_tree(call.tree())))
    return dict(plain(result or {}))


ROUTES = (
    Route(
        "POST", "/iam/{action}", "", iam, "Any action of IAM's query API, its parameters as a JSON object",
        takes=dict[str, Any], gives=dict[str, Any],
    ),
)  # fmt: skip
