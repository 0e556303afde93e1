"""XML answers from templates. Hot: a listing of 1,000 keys must take well under a millisecond (``bench/micro/s3.py``).

Invariants
* Every text of a client goes through ``escape_text`` or ``quote_key``. Control characters, which XML 1.0 forbids, become numeric
  entities as S3 writes them; a client that wants to parse them asks for ``encoding-type=url``.
* Batches are checked in one pass over their joined bytes; only a batch with something to escape pays per key.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from urllib.parse import quote_from_bytes

from titans3.model.version import CHECKSUM_ALGORITHMS, COMPOSITE_KIND

HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
CONTENT_TYPE = (b"content-type", b"application/xml")

# What a listing tells of a version's checksum, by its ``checksum_kind``.
CHECKSUM_ELEMENTS = {0: ""} | {
    place + kind: f"<ChecksumAlgorithm>{name.upper()}</ChecksumAlgorithm><ChecksumType>{text}</ChecksumType>"
    for place, name in enumerate(CHECKSUM_ALGORITHMS, 1)
    for kind, text in ((0, "FULL_OBJECT"), (COMPOSITE_KIND, "COMPOSITE"))
}

_UNSAFE = re.compile("[&<>\"'\x00-\x1f\ufffe\uffff\ud800-\udfff]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}
_SEPARATOR = b"\xff"  # in no UTF-8
# Bytes that are certain to need no escaping.
_TEXT_SAFE = bytes(value for value in range(0x20, 0x100) if value not in b"&<>\"'")
_QUOTE_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-_.~" + _SEPARATOR
_QUOTE_KEPT = "/-_.~"
_QUOTED = tuple(b"%%%02X" % value for value in range(256))
_REPLACED_MAX = 24  # different bytes: with more, of another script, each key by itself is as fast
_MILLISECONDS = tuple(f"{value:03d}Z" for value in range(1000))
_SECONDS = tuple(f"{value:02d}." for value in range(60))


def _entity(match: re.Match[str]) -> str:
    char = match[0]
    return _ENTITIES.get(char) or f"&#x{ord(char):X};"


_ESCAPED = tuple(_UNSAFE.sub(_entity, chr(value)).encode() for value in range(128))


def escape_text(text: str) -> str:
    """Text for an element; control characters as numeric entities."""
    return _UNSAFE.sub(_entity, text)


def escape_key(key: bytes) -> str:
    """A key's UTF-8 bytes for an element."""
    return _UNSAFE.sub(_entity, key.decode("utf-8", "replace"))


def quote_key(key: bytes) -> str:
    """encoding-type=url: everything but unreserved characters and ``/`` as ``%XX``."""
    return quote_from_bytes(key, safe=_QUOTE_KEPT)


def key_texts(keys: Sequence[bytes], *, url: bool) -> list[str]:
    """Many keys as element text: all of them at once, a pass for each different byte that must be written otherwise."""
    joined = _SEPARATOR.join(keys)
    unsafe = set(joined.translate(None, _QUOTE_SAFE if url else _TEXT_SAFE))
    if unsafe:
        if len(unsafe) > _REPLACED_MAX:
            return [quote_key(key) for key in keys] if url else [escape_key(key) for key in keys]
        escapes = _QUOTED if url else _ESCAPED
        first = b"%" if url else b"&"  # what the others are written with
        joined = joined.replace(first, escapes[first[0]])
        for value in unsafe.difference(first):
            joined = joined.replace(bytes((value,)), escapes[value])
    if not url and b"\xef\xbf" in joined:  # U+FFFE and U+FFFF, maybe
        return [escape_key(key) for key in keys]
    return joined.replace(_SEPARATOR, b"\n").decode().split("\n") if keys else []


@functools.lru_cache(maxsize=4096)
def _minute(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:", time.gmtime(number * 60))


class Seconds(dict[int, str]):
    """Texts of seconds, with the point behind them; objects written together share theirs."""

    def __missing__(self, second: int) -> str:
        text = self[second] = _minute(second // 60) + _SECONDS[second % 60]
        return text


def iso_time(moment_ms: int) -> str:
    """``2026-01-31T23:59:59.123Z``."""
    return iso_times((moment_ms,))[0]


def iso_times(moments_ms: Sequence[int], known: Seconds | None = None) -> list[str]:
    """Many times; ``known``: what more of them share."""
    seconds = Seconds() if known is None else known
    return [seconds[moment // 1000] + _MILLISECONDS[moment % 1000] for moment in moments_ms]


def owner_element(owner: tuple[str, str], name: str = "Owner") -> str:
    """Owner or Initiator: its id and its display name."""
    return f"<{name}><ID>{escape_text(owner[0])}</ID><DisplayName>{escape_text(owner[1])}</DisplayName></{name}>"


def common_prefixes(prefixes: Sequence[bytes], *, url: bool) -> list[str]:
    """The ``CommonPrefixes`` elements of a listing."""
    return [f"<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>" for text in key_texts(prefixes, url=url)]


def document(root: str, *body: str, then: Sequence[bytes] = ()) -> bytes:
    """A whole answer: declaration, root element in S3's namespace, and what is in it, joined once; ``then`` comes behind ``body``."""
    start = "".join((f'{HEADER}<{root} xmlns="{NAMESPACE}">', *body)).encode()
    return b"".join((start, *then, f"</{root}>".encode()))
