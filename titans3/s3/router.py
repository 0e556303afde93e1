"""Method, kind and query to an operation, from the generated table. Hot for objects without sub-resource.

Invariants
* Unknown query names (``x-id`` and the like) are ignored as AWS does; two sub-resources at once are refused.
* A known sub-resource under a method that it does not have is 405, never another operation.
* WriteGetObjectResponse has a path of its own, which no bucket can have: its name has capitals.
"""

from __future__ import annotations

from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.operation import BUCKET, OBJECT, SERVICE, Operation
from titans3.s3.operations import OPERATIONS

# Not in the model, but on the wire.
POST_OBJECT = Operation("PostObject", "POST", BUCKET, "", "", (), (), ("s3:PutObject",), 204, "core")

_ROUTES: dict[tuple[str, str, str], list[Operation]] = {}
for _operation in OPERATIONS.values():
    if not _operation.alias_of and _operation.name != "WriteGetObjectResponse":
        _ROUTES.setdefault((_operation.method, _operation.kind, _operation.resource), []).append(_operation)
for _candidates in _ROUTES.values():
    _candidates.sort(key=lambda item: -len(item.query) - len(item.headers) - len(item.value))
_ROUTES[("POST", BUCKET, "")] = [POST_OBJECT]

_RESOURCES = {
    kind: frozenset(item.resource for item in OPERATIONS.values() if item.kind == kind and item.resource)
    for kind in (SERVICE, BUCKET, OBJECT)
}
_PLAIN = {(method, kind): found[-1] for (method, kind, resource), found in _ROUTES.items() if not resource}
# Where a resource of the query decides alone.
_ALONE = {
    name: found[0]
    for name, found in _ROUTES.items()
    if name[2] and len(found) == 1 and not (found[0].value or found[0].query or found[0].headers)
}
_COPY_OBJECT = OPERATIONS["CopyObject"]
_PUT_OBJECT = OPERATIONS["PutObject"]
_LAMBDA = OPERATIONS["WriteGetObjectResponse"]
LAMBDA_PATH = b"/WriteGetObjectResponse"


def route(method: str, kind: str, query: dict[str, str], fields: dict[bytes, bytes]) -> Operation:
    """The operation. Raises MethodNotAllowed, InvalidArgument."""
    if query:
        found = _RESOURCES[kind].intersection(query)
        if found:
            return _route_resource(method, kind, found, query, fields)
    operation = _PLAIN.get((method, kind))
    if operation is None:
        if kind == SERVICE and method == "POST" and b"x-amz-request-route" in fields:
            return _LAMBDA
        raise S3Error("MethodNotAllowed", Method=method, ResourceType=kind.upper())
    if operation is _PUT_OBJECT:
        if b"x-amz-copy-source" in fields:
            return _COPY_OBJECT
        if query and "partNumber" in query:
            raise invalid_argument("This operation does not accept partNumber without uploadId.", "partNumber", query["partNumber"])
    return operation


def _route_resource(
    method: str, kind: str, found: frozenset[str], query: dict[str, str], fields: dict[bytes, bytes]
) -> Operation:
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise S3Error("InvalidArgument", f"Conflicting query string parameters: {names}", ArgumentName="ResourceType", ArgumentValue=names)
    (resource,) = found
    alone = _ALONE.get((method, kind, resource))
    if alone is not None:
        return alone
    candidates = _ROUTES.get(("GET" if method == "HEAD" else method, kind, resource))
    if candidates is None or method == "HEAD":
        raise S3Error("MethodNotAllowed", Method=method, ResourceType=resource.upper())
    for operation in candidates:
        if (
            (not operation.value or query[resource] == operation.value)
            and all(name in query for name in operation.query)
            and all(name.encode("ascii") in fields for name in operation.headers)
        ):
            return operation
    last = candidates[-1]
    if last.query:
        raise invalid_argument(f"Missing {last.query[0]} query parameter", last.query[0], "")
    raise invalid_argument(f"Invalid {resource} query parameter", resource, query[resource])
