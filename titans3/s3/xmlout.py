"""XML answers from templates. Hot: a listing of 1,000 keys must take well under a millisecond (``bench/micro/s3.py``).

Invariants
* Every text of a client goes through ``escape_text`` or ``quote_key``. Control characters, which XML 1.0 forbids, become numeric
  entities as S3 writes them; a client that wants to parse them asks for ``encoding-type=url``.
* Batches are checked in one pass over their joined bytes; only a batch with something to escape pays per key.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote_from_bytes

from titans3.model.version import CHECKSUM_ALGORITHMS, COMPOSITE_KIND, STORAGE_CLASSES, Listed

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
# Bytes that are certain to need no escaping; 0xEF starts U+FFFE and U+FFFF and is left to the slow path.
_TEXT_SAFE = bytes(value for value in range(0x20, 0x100) if value not in b"&<>\"'\xef")
_QUOTE_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-_.~"
_QUOTE_KEPT = "/-_.~"
_MILLISECONDS = tuple(f".{value:03d}Z" for value in range(1000))


def _entity(match: re.Match[str]) -> str:
    char = match[0]
    return _ENTITIES.get(char) or f"&#x{ord(char):X};"


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
    """Many keys as element text, in one check when nothing needs escaping."""
    joined = b"".join(keys)
    if not joined.translate(None, _QUOTE_SAFE if url else _TEXT_SAFE):
        return [key.decode() for key in keys]
    one: Callable[[bytes], str] = quote_key if url else escape_key
    return [one(key) for key in keys]


def iso_time(moment_ms: int) -> str:
    """``2026-01-31T23:59:59.123Z``."""
    second, part = divmod(moment_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + _MILLISECONDS[part]


def iso_times(moments_ms: Sequence[int]) -> list[str]:
    """Many times; objects written together share their second."""
    seconds: dict[int, str] = {}
    out = []
    for moment in moments_ms:
        second = moment // 1000
        text = seconds.get(second)
        if text is None:
            text = seconds[second] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        out.append(text + _MILLISECONDS[moment % 1000])
    return out


def owner_element(owner: tuple[str, str], name: str = "Owner") -> str:
    """Owner or Initiator: its id and its display name."""
    return f"<{name}><ID>{escape_text(owner[0])}</ID><DisplayName>{escape_text(owner[1])}</DisplayName></{name}>"


def contents(items: Sequence[tuple[bytes, Listed]], *, url: bool, owner: Callable[[str], str] | None) -> list[str]:
    """The ``Contents`` elements of a listing; ``owner`` makes the element of an account."""
    texts = key_texts([key for key, _ in items], url=url)
    times = iso_times([item.modified_ms for _, item in items])
    owners: dict[str, str] = {}
    out = []
    for text, when, (_, item) in zip(texts, times, items, strict=True):
        parts = item.part_count
        etag = f"{item.etag.hex()}-{parts}" if parts else item.etag.hex()
        who = ""
        if owner is not None:
            who = owners.get(item.owner, "")
            if not who:
                who = owners[item.owner] = owner(item.owner)
        out.append(
            f"<Contents><Key>{text}</Key><LastModified>{when}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
            f"{CHECKSUM_ELEMENTS[item.checksum_kind]}<Size>{item.size}</Size>{who}"
            f"<StorageClass>{STORAGE_CLASSES[item.storage_class]}</StorageClass></Contents>"
        )
    return out


def common_prefixes(prefixes: Sequence[bytes], *, url: bool) -> list[str]:
    """The ``CommonPrefixes`` elements of a listing."""
    return [f"<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>" for text in key_texts(prefixes, url=url)]


def document(root: str, body: str) -> bytes:
    """A whole answer: declaration, root element in S3's namespace, and what is in it."""
    return f'{HEADER}<{root} xmlns="{NAMESPACE}">{body}</{root}>'.encode()
