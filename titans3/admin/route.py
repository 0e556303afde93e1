"""Routes of the admin API: what is asked for, by whom it may be asked, what goes in and comes out.

Invariants
* A route says all that its documentation says: the OpenAPI document and docs/admin-api.md are made from it.
* A segment of a path is decoded once, after the path was split: a name may hold a slash as ``%2F``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

if TYPE_CHECKING:
    from titans3.admin.call import AdminCall

PREFIX = "/_titans3/admin/v1"
Handler = Callable[["AdminCall"], Awaitable[Any]]


class Route(msgspec.Struct, frozen=True):
    """``path`` has names in braces. ``takes`` and ``gives`` are Structs, or ``None`` for nothing; ``gives`` as ``list`` is a list of them.

    ``action`` is what policies call it; empty if the handler asks for an action of another service. ``query``: names of query parameters.
    """

    method: str
    path: str
    action: str
    handler: Handler
    summary: str
    takes: Any = None
    gives: Any = None
    many: bool = False
    status: int = 200
    query: tuple[str, ...] = ()


class Routes:
    """By method and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.all = tuple(routes)
        self._by_length: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
        for route in routes:
            segments = tuple(route.path.strip("/").split("/"))
            self._by_length.setdefault(len(segments), []).append((segments, route))

    def find(self, method: str, path: str) -> tuple[Route | None, Mapping[str, str], bool]:
        """The route and the names of its path; without one, whether another method has the path. ``path`` follows PREFIX."""
        pieces = path.strip("/").split("/")
        known = False
        for segments, route in self._by_length.get(len(pieces), ()):
            if all(segment.startswith("{") or segment == piece for segment, piece in zip(segments, pieces, strict=True)):
                known = True
                if route.method == method:
                    return route, {
                        segment[1:-1]: unquote(piece)
                        for segment, piece in zip(segments, pieces, strict=True)
                        if segment.startswith("{")
                    }, True  # fmt: skip
        return None, {}, known
