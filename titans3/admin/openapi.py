"""The OpenAPI document of the admin API and its page, made from the routes."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec

from titans3.admin.route import PREFIX, Route

_ERRORS = {
    "400": "What was sent is not what is asked for", "403": "Not signed, not known, or not allowed", "404": "Not there",
    "409": "It is there already, is in use, or a limit is reached", "503": "Try again: a part of the server is not there",
}  # fmt: skip


_HEAD = """# Admin API

JSON under `{prefix}` on the S3 port, signed with AWS Signature Version 4 (service `s3` or `titans3`, body signed). This page and the
OpenAPI document, which the server gives at `{prefix}/openapi.json`, are made from the routes (`python tools/admin_api.py`).

Errors are `{{"error": {{"code", "message", "request_id"}}}}`; lists are `{{"items": […]}}`. Times are ISO 8601, sizes bytes. What concerns
the whole server is for principals of the server's root account; the rest is about the caller's own account."""


class ErrorShown(msgspec.Struct):
    """``code`` is for programs, ``message`` for people; ``request_id`` is in the server's log."""

    code: str
    message: str
    request_id: str


class Failure(msgspec.Struct):
    """Every error."""

    error: ErrorShown


def document(routes: tuple[Route, ...], version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = [kind for route in routes for kind in (route.takes, route.gives) if isinstance(kind, type)]
    unique = list(dict.fromkeys([*kinds, Failure]))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route, by_kind, by_kind[Failure])
    return {
        "openapi": "3.1.0",
        "info": {"title": "TitanS3 admin API", "version": f"v1 ({version})", "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{"sigv4": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "sigv4": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "AWS Signature Version 4 of service s3 or titans3, the body's SHA-256 signed.",
                },
            },
        },
    }  # fmt: skip


def _operation(route: Route, by_kind: dict[Any, Any], failure: Any) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
    answer: dict[str, Any] = {"description": route.summary}
    schema = _schema(route.gives, by_kind)
    if route.many:
        schema = {"type": "object", "properties": {"items": {"type": "array", "items": schema}}, "required": ["items"]}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    made: dict[str, Any] = {
        "operationId": route.handler.__name__, "summary": route.summary,
        "description": f"Needs `{route.action}`." if route.action else "Needs what the action is called at AWS, as `iam:ListUsers`.",
        "parameters": parameters,
        "responses": {
            str(route.status): answer,
            **{
                status: {"description": text, "content": {"application/json": {"schema": failure}}} for status, text in _ERRORS.items()
            },
        },
    }  # fmt: skip
    taken = _schema(route.takes, by_kind)
    if taken is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": taken}}}
    return made


def _schema(kind: Any, by_kind: dict[Any, Any]) -> Any:
    if kind is None:
        return None
    return by_kind[kind] if isinstance(kind, type) else {"type": "object"}


def page(routes: tuple[Route, ...]) -> str:
    """docs/admin-api.md."""
    lines = [_HEAD.format(prefix=PREFIX), "", "| request | needs | takes | gives | what |", "|---|---|---|---|---|"]
    lines += [
        f"| `{route.method} {route.path}` | {f'`{route.action}`' if route.action else 'the IAM action'} | {_name(route.takes)} | "
        f"{_name(route.gives)}{' list' if route.many else ''} | {route.summary} |"
        for route in routes
    ]
    kinds: dict[Any, None] = {}
    for route in routes:
        for kind in (route.takes, route.gives):
            _collect(kind, kinds)
    for kind in kinds:
        words = " ".join((kind.__doc__ or "").replace("``", "`").split())
        lines += ["", f"### {kind.__name__}", "", words, "", "| field | type | default |", "|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            default = "" if field.required else f"`{_default(field)}`"
            lines.append(f"| `{field.name}` | {_type(field.type)} | {default} |")
    return "\n".join(lines) + "\n"


def _collect(kind: Any, kinds: dict[Any, None]) -> None:
    """Structs, and those in their fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in kinds:
            kinds[kind] = None
            for field in msgspec.structs.fields(kind):
                _collect(field.type, kinds)
    else:
        for part in get_args(kind):
            _collect(part, kinds)


def _name(kind: Any) -> str:
    if kind is None:
        return ""
    return f"[{kind.__name__}](#{kind.__name__.lower()})" if hasattr(kind, "__struct_fields__") else "object"


def _type(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text).replace("|", "or").replace("NoneType", "null").replace("None", "null")


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(value).decode()
