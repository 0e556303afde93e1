"""The door of the admin API: authenticate, route, hand to the handler, turn errors into answers.

Invariants
* Nothing but the OpenAPI document is told to whoever did not sign; a body is read when the key is known.
* What nobody foresaw is logged with the request id and answered InternalFailure. InvariantError is not caught: it stops the process.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from titans3 import __version__
from titans3.admin import accounts, audit, buckets, config, iam, keys, ring, server, simulate, users, watch
from titans3.admin.call import AdminCall
from titans3.admin.openapi import ErrorShown, Failure, document
from titans3.admin.route import PREFIX, Route, Routes
from titans3.admin.server import Server
from titans3.cluster.directory import Directory
from titans3.errors import ClientError, DiskError, InvariantError, PeerError, TitanError
from titans3.http.message import Request, Response
from titans3.query.admission import Admission
from titans3.query.door import Audit, changes
from titans3.query.errors import CLOSING, QueryError, from_titan_error
from titans3.s3.call import Context

BODY_BYTES_MAX = 256 * 1024
_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_logger = logging.getLogger("titans3.admin")
_encode = msgspec.json.Encoder().encode

ROUTES: tuple[Route, ...] = (
    *server.ROUTES, *accounts.ROUTES, *users.ROUTES, *keys.ROUTES, *iam.ROUTES, *simulate.ROUTES, *buckets.ROUTES,
    *config.ROUTES, *audit.ROUTES, *watch.ROUTES, *ring.ROUTES,
)  # fmt: skip


class AdminApi:
    """Of one worker."""

    def __init__(self, context: Context, directory: Directory, server: Server, recorder: Audit | None = None) -> None:
        """``recorder`` is told what was changed, before it is answered."""
        self._context, self._directory, self._server, self._recorder = context, directory, server, recorder
        self._routes = Routes(ROUTES)
        self.admission = Admission(context, directory.identities, ("s3", "titans3"), body_bytes_max=BODY_BYTES_MAX, seen_as="titans3")

    async def answer(self, request: Request) -> Response:
        """The answer; raises only InvariantError and what is no Exception."""
        try:
            path = request.path.decode("latin-1")
            if path == f"{PREFIX}/openapi.json" and request.method == "GET":
                return Response(200, [_JSON], _encode(document(ROUTES, __version__)))
            if not path.startswith(f"{PREFIX}/"):
                raise QueryError("NotFound", "There is no such path.")
            admitted = await self.admission.admit(request)
            if admitted.verified is None:
                raise QueryError("MissingAuthenticationToken", "The request is not signed.")
            route, names, known = self._routes.find(request.method, path.removeprefix(PREFIX))
            if route is None and known:
                raise QueryError("MethodNotAllowed", "The path has no such method.")
            if route is None:
                raise QueryError("NotFound", "There is no such path.")
            request.caller = admitted.caller
            action = f"iam:{names['action'][:100]}" if route.path == "/iam/{action}" else route.action
            request.state = {"action": action}
            query = self._query(request, route)
            call = AdminCall(
                self._context,
                self._directory,
                self._server,
                request,
                route,
                names,
                query,
                admitted.caller,
                admitted.verified,
                admitted.body,
            )
            result = await route.handler(call)
            if self._recorder is not None and (changes(names["action"]) if route.path == "/iam/{action}" else route.method != "GET"):
                await self._recorder(request, route.status, {"body": call.shown()})
            if isinstance(result, Response):
                return result
            if route.status == 204:
                return Response(204)
            return Response(route.status, [_JSON, _NO_STORE], _encode({"items": result} if route.many else result))
        except InvariantError:
            raise
        except Exception as error:  # noqa: BLE001 - the client gets an answer with the request id whatever went wrong
            return self._refuse(request, error)

    @staticmethod
    def _query(request: Request, route: Route) -> dict[str, str]:
        """Query parameters of the route. Raises QueryError for others: what is not known is not ignored."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(request.query.decode("latin-1"), keep_blank_values=True, max_num_fields=100):
            if name.startswith(("X-Amz-", "x-amz-")):
                continue
            if name not in route.query:
                raise QueryError("ValidationError", f"{name[:100]} is no parameter of this request.")
            query[name] = value
        return query

    def _refuse(self, request: Request, error: Exception) -> Response:
        converted = from_titan_error(error) if isinstance(error, TitanError) else None
        if converted is None:
            extra: dict[str, Any] = {"request_id": request.request_id}
            if isinstance(error, (DiskError, PeerError)):
                _logger.warning("request refused: %s", error, extra=extra)
            else:
                _logger.error("request failed", exc_info=error, extra=extra)
            converted = QueryError("InternalFailure", "The request failed because of an unknown error.")
        request.error = converted.code
        close = isinstance(error, ClientError) and error.reason in CLOSING
        failure = Failure(ErrorShown(converted.code, converted.message, request.request_id))
        return Response(converted.status, [_JSON], _encode(failure), close=close)
