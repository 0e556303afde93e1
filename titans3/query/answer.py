"""Answers of IAM and STS: a tree of dictionaries and lists as XML.

Invariants
* ``None`` is left out, an empty list is an empty element; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union
from urllib.parse import quote

from titans3.cluster.identities import iso_seconds
from titans3.http.message import Response
from titans3.query.errors import QueryError
from titans3.s3.xmlout import HEADER, escape_text

Tree = Union[str, int, bool, None, "Moment", "Entry", Mapping[str, "Tree"], Sequence["Tree"]]

NAMESPACES = {"iam": "https://iam.amazonaws.com/doc/2010-05-08/", "sts": "https://sts.amazonaws.com/doc/2011-06-15/"}
_CONTENT_TYPE = (b"content-type", b"text/xml")


class Encoded(str):
    """A document that XML answers show percent-encoded."""

    __slots__ = ()


class Entry:
    """One of a map: an ``entry`` with key and value."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value


class Moment(int):
    """Milliseconds since 1970 that are shown as a time."""


def success(service: str, action: str, result: Mapping[str, Tree] | None, request_id: str) -> Response:
    """``result`` is ``None`` for an action without one."""
    parts = [f'{HEADER}<{action}Response xmlns="{NAMESPACES[service]}">']
    if result is not None:
        _element(parts, f"{action}Result", result)
    parts.append(f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>\n")
    return Response(200, [_CONTENT_TYPE], "".join(parts).encode())


def failure(service: str, error: QueryError, request_id: str, *, close: bool = False) -> Response:
    """The error's document."""
    kind = "Sender" if error.status < 500 else "Receiver"
    text = (
        f'{HEADER}<ErrorResponse xmlns="{NAMESPACES[service]}"><Error><Type>{kind}</Type><Code>{error.code}</Code>'
        f"<Message>{escape_text(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>\n"
    )
    return Response(error.status, [_CONTENT_TYPE], text.encode(), close=close)


def plain(tree: Tree) -> Any:
    """The same tree for JSON."""
    if isinstance(tree, Moment):
        return iso_seconds(tree)
    if isinstance(tree, str):
        return str(tree)
    if tree is None or isinstance(tree, (int, bool)):
        return tree
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, Entry):
        return {tree.name: tree.value}
    items = [plain(item) for item in tree]
    if tree and isinstance(tree[0], Entry):
        return {name: value for item in items for name, value in item.items()}
    return items


def tag_list(tags: Mapping[str, str]) -> list[Tree]:
    """As Tags elements have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _element(parts: list[str], name: str, tree: Tree) -> None:
    if tree is None:
        return
    if tree == {} or (isinstance(tree, (list, tuple)) and not tree):
        parts.append(f"<{name}/>")
        return
    parts.append(f"<{name}>")
    if isinstance(tree, Encoded):
        parts.append(quote(tree, safe=""))
    elif isinstance(tree, str):
        parts.append(escape_text(tree))
    elif isinstance(tree, Moment):
        parts.append(iso_seconds(tree))
    elif tree is True or tree is False:
        parts.append("true" if tree else "false")
    elif isinstance(tree, int):
        parts.append(str(tree))
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            _element(parts, key, value)
    elif isinstance(tree, Entry):
        parts.append(f"<key>{escape_text(tree.name)}</key><value>{tree.value}</value>")
    else:
        for item in tree:
            _element(parts, "entry" if isinstance(item, Entry) else "member", item)
    parts.append(f"</{name}>")
