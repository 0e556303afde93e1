"""Live views as streams of JSON lines: requests, log lines. An empty line says that the stream lives.

Invariant: who may watch sees requests of all accounts, so it is for the server's root account.
"""

from __future__ import annotations

import re

from titans3.admin.call import AdminCall
from titans3.admin.route import Route
from titans3.admin.server import Watcher
from titans3.http.message import Response
from titans3.query.errors import QueryError

_LEVELS = ("debug", "info", "warning", "error")
_LAST_MAX = 1000


async def trace(call: AdminCall) -> Response:
    call.authorize("server", everywhere=True)
    query = call.query
    status = query.get("status", "")
    if status and not re.fullmatch(r"[1-5]xx|[1-5][0-9]{2}", status):
        raise QueryError("ValidationError", "status is one as 404, or a class as 5xx.")
    operations = tuple(name for name in query.get("operation", "").split(",") if name)
    least, errors = _number(query.get("least_milliseconds", "0")) / 1000, query.get("errors") == "true"
    body = _watcher(call).trace(operations, status, query.get("path", ""), least, errors=errors)
    return Response(200, [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")], body)


async def logs(call: AdminCall) -> Response:
    call.authorize("server", everywhere=True)
    level = call.query.get("level", "")
    if level and level not in _LEVELS:
        raise QueryError("ValidationError", f"level is one of {', '.join(_LEVELS)}.")
    body = _watcher(call).logs(level, min(int(_number(call.query.get("last", "0"))), _LAST_MAX))
    return Response(200, [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")], body)


def _watcher(call: AdminCall) -> Watcher:
    assert call.server.watcher is not None
    return call.server.watcher


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise QueryError("ValidationError", f"{text[:20]} is no number.")
    return float(text)


ROUTES = (
    Route(
        "GET", "/trace", "titans3:Trace", trace,
        "Requests as they are answered, a JSON object a line, as the parameters say",
        query=("operation", "status", "path", "least_milliseconds", "errors"),
    ),
    Route(
        "GET", "/logs", "titans3:Logs", logs, "The workers' log lines as they come, after the `last` ones of before",
        query=("level", "last"),
    ),
)  # fmt: skip
