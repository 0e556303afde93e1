"""The ``Contents`` elements of listings. Hot: guarded by ``bench/gate`` (``list``).

Invariants
* They are made by blocks: what is made of a block is still in the processor's cache when the next step looks at it, and its memory is
  used again.
* What stands in an element behind the key follows from the head of the row (``Listed``), and is kept by the bytes that hold the head: a
  change of an object is another row, so what is kept is never old. What an account is called may change: its element is put in each time.
* Kept is what is told for the second time, a block at a time: listing a large bucket once puts nothing out. What was not told for the
  longest goes first, and there are never more than twice ``kept_max`` and a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from titans3.limits import LISTED_KEPT_MAX
from titans3.model.version import STORAGE_CLASSES, decode_rows
from titans3.s3.xmlout import CHECKSUM_ELEMENTS, Seconds, iso_times, key_texts

_BLOCK = 128
_HEAD_BYTES = 128  # of a row: hold all fields of ``Listed``, the account last but for two small ones
_ENDS = tuple(f"<StorageClass>{name}</StorageClass></Contents>" for name in STORAGE_CLASSES)

Tail = tuple[str, str, str]  # behind the key: up to the size, the owner's account, from the storage class on


class _Owners(dict[str, str]):
    """Elements of the accounts of a page."""

    def __init__(self, element: Callable[[str], str]) -> None:
        self._element = element

    def __missing__(self, account: str) -> str:
        text = self[account] = self._element(account)
        return text


def _no_owner(account: str) -> str:
    return ""


class Contents:
    """Of one worker."""

    __slots__ = ("_kept_max", "_old", "_told", "_told_max", "_young")

    def __init__(self, kept_max: int = LISTED_KEPT_MAX) -> None:
        self._kept_max, self._told_max = kept_max, 2 * kept_max // _BLOCK
        self._young: dict[bytes, Tail] = {}
        self._old: dict[bytes, Tail] = {}
        self._told: set[bytes] = set()  # how blocks began that were told and not kept

    def elements(self, items: Sequence[tuple[bytes, bytes]], *, url: bool, owner: Callable[[str], str] | None) -> list[str]:
        """Of keys with their rows as stored, some in each text; ``owner`` makes the element of an account."""
        owners, seconds = _Owners(owner or _no_owner), Seconds()
        if len(self._young) > self._kept_max:
            self._old, self._young = self._young, {}
        return [self._block(items[at : at + _BLOCK], owners, seconds, url=url) for at in range(0, len(items), _BLOCK)]

    def _block(self, items: Sequence[tuple[bytes, bytes]], owners: _Owners, seconds: Seconds, *, url: bool) -> str:
        texts = key_texts([key for key, _ in items], url=url)
        keeps = self._is_for_keeping(items[0][1][:_HEAD_BYTES])
        tails = self._tails(items, seconds) if keeps else _made([row for _, row in items], seconds)
        return "".join([
            f"<Contents><Key>{text}{start}{owners[account]}{end}" for text, (start, account, end) in zip(texts, tails, strict=True)
        ])  # fmt: skip

    def _is_for_keeping(self, first: bytes) -> bool:
        """Whether a block that begins so is kept, or was told before."""
        told = self._told
        if first in self._young or first in self._old or first in told:
            return True
        if len(told) >= self._told_max:
            told.clear()
        told.add(first)
        return False

    def _tails(self, items: Sequence[tuple[bytes, bytes]], seconds: Seconds) -> list[Tail]:
        """What is kept, and from now on the others, too."""
        young, old = self._young, self._old
        heads = [row[:_HEAD_BYTES] for _, row in items]
        tails = list(map(young.get, heads))
        if None in tails:
            missing = []
            for at, tail in enumerate(tails):
                if tail is None:
                    head = heads[at]
                    tails[at] = known = old.get(head)
                    if known is None:
                        missing.append(at)
                    else:
                        young[head] = known
            for at, tail in zip(missing, _made([items[at][1] for at in missing], seconds), strict=True):
                tails[at] = young[heads[at]] = tail
        return cast(list[Tail], tails)


def _made(rows: Sequence[bytes], seconds: Seconds) -> list[Tail]:
    """Tails of rows."""
    versions = decode_rows(rows)
    times = iso_times([version.modified_ms for version in versions], seconds)
    return [
        (
            f"</Key><LastModified>{when}</LastModified>"
            f"<ETag>&quot;{version.etag.hex()}{f'-{version.part_count}' if version.part_count else ''}&quot;</ETag>"
            f"{CHECKSUM_ELEMENTS[version.checksum_kind]}<Size>{version.size}</Size>", version.owner, _ENDS[version.storage_class],
        )
        for when, version in zip(times, versions, strict=True)
    ]  # fmt: skip
