"""Which cross-origin requests a bucket allows, and what its answers say about it. Pure.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html; the Fetch standard's CORS protocol

Invariants
* The first rule that matches origin, method and all requested headers decides.
* An origin is compared as it is written, a header name without case; one ``*`` in a pattern stands for any text.
* A rule for every origin (``*``) is answered with ``*`` and without credentials; any other with the origin that asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from titans3.model.configuration import Cors, CorsRule
from titans3.s3.headers import Pairs

METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")
_VARY = (b"vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method")


def matching_rule(cors: Cors, origin: str, method: str, headers: Sequence[str] = ()) -> CorsRule | None:
    """The first rule that allows it; ``headers`` are the names a browser wants to send."""
    wanted = [name.lower() for name in headers]
    for rule in cors.rules:
        if method in rule.methods and any(_matches(pattern, origin) for pattern in rule.origins):
            allowed = [pattern.lower() for pattern in rule.headers]
            if all(any(_matches(pattern, name) for pattern in allowed) for name in wanted):
                return rule
    return None


def _matches(pattern: str, text: str) -> bool:
    before, mark, after = pattern.partition("*")
    if not mark:
        return pattern == text
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def header_names(text: str) -> tuple[str, ...]:
    """Names of an Access-Control-Request-Headers."""
    return tuple(name for name in (word.strip() for word in text.split(",")) if name)


def cors_headers(rule: CorsRule, origin: str, headers: Sequence[str] = ()) -> Pairs:
    """What the answer to an allowed request carries; ``headers`` are the allowed ones that a preflight asked for."""
    is_public = "*" in rule.origins
    pairs: Pairs = [(b"access-control-allow-origin", b"*" if is_public else origin.encode("latin-1"))]
    if headers:
        pairs.append((b"access-control-allow-headers", ", ".join(name.lower() for name in headers).encode("latin-1")))
    pairs.append((b"access-control-allow-methods", ", ".join(rule.methods).encode("ascii")))
    if rule.exposed:
        pairs.append((b"access-control-expose-headers", ", ".join(rule.exposed).encode("latin-1")))
    if rule.max_age_seconds >= 0:
        pairs.append((b"access-control-max-age", b"%d" % rule.max_age_seconds))
    if not is_public:
        pairs.append((b"access-control-allow-credentials", b"true"))
    pairs.append(_VARY)
    return pairs
