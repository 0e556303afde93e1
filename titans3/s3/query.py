"""The query of a request as names and values.

Invariants
* ``key=`` and ``key`` are the same; ``+`` is a space, as in forms; the first of repeated names counts.
* A value that is no UTF-8 is refused: prefixes and markers are parts of keys.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from titans3.s3.errors import S3Error, invalid_argument


def parse_query(raw: bytes) -> dict[str, str]:
    """Decoded names and values. Raises InvalidURI for bytes that are no UTF-8."""
    found: dict[str, str] = {}
    try:
        if not (b"&" in raw or b"%" in raw or b"+" in raw):  # one word, as ``delete=``
            word, _, rest = raw.partition(b"=")
            return {word.decode("utf-8"): rest.decode("utf-8")} if raw else found
        for item in raw.split(b"&"):
            if item:
                name, _, value = item.partition(b"=")
                found.setdefault(_decoded(name), _decoded(value))
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI") from error
    return found


def _decoded(raw: bytes) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    return (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")


def count_of(query: dict[str, str], name: str, default: int, limit: int, *, lowest: int = 0) -> int:
    """A number of the query, at most ``limit`` (a larger one is lowered). Raises InvalidArgument."""
    text = query.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or int(text) > 0x7FFF_FFFF or int(text) < lowest:
        raise invalid_argument(f"Provided {name} not an integer or within integer range", name, text)
    return min(int(text), limit)


def wants_url(query: dict[str, str]) -> bool:
    """Whether encoding-type=url was asked. Raises InvalidArgument for another word."""
    text = query.get("encoding-type")
    if not text:
        return False
    if text.lower() != "url":
        raise invalid_argument("Invalid Encoding Method specified in Request", "encoding-type", text)
    return True
