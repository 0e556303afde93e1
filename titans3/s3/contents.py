"""The ``Contents`` elements of listings. Hot: guarded by ``bench/gate`` (``list``).

Invariants
* They are made by blocks: what is made of a block is still in the processor's cache when the next step looks at it, and its memory is
  used again.
* An element follows from its key, its row and the ``Form`` of the listing, and is kept by them: a change of an object is another row, so
  what is kept is never old. A row says where it ends, so row and key as one are those of one object alone. What an account is called is
  no part of them: ``forget`` when that may have changed.
* Kept is what is told for the second time, a block at a time: listing a large bucket once puts nothing out. What was not told for the
  longest goes first, and there are never more than twice ``kept_max`` and a page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import add
from typing import cast

import msgspec

from titans3.limits import LISTED_KEPT_MAX, LISTED_KEPT_MEMORY
from titans3.model.version import STORAGE_CLASSES, decode_rows
from titans3.s3.xmlout import CHECKSUM_ELEMENTS, Seconds, iso_times, key_texts

_BLOCK = 128
_ENDS = tuple(f"<StorageClass>{name}</StorageClass></Contents>" for name in STORAGE_CLASSES)


class Form(msgspec.Struct, frozen=True):
    """What elements depend on beside their object. ``url``: how keys are written.

    ``owners``: empty if owners are not told; otherwise what they depend on, but for what accounts are called.
    """

    url: bool
    owners: tuple[str, bool] | tuple[()] = ()


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

    __slots__ = ("_count", "_kept_max", "_old", "_told", "_told_max", "_young")

    def __init__(self, kept_max: int | None = None) -> None:
        """``kept_max``: keys; as many as suit the memory of this machine if it is not told."""
        if kept_max is None:
            kept_max = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // LISTED_KEPT_MEMORY, LISTED_KEPT_MAX)
        self._kept_max, self._told_max = kept_max, 2 * kept_max // _BLOCK
        self.forget()

    def forget(self) -> None:
        """Accounts may have other names."""
        self._young: dict[Form, dict[bytes, bytes]] = {}
        self._old: dict[Form, dict[bytes, bytes]] = {}
        self._count = 0  # of the young
        self._told: set[tuple[Form, bytes]] = set()  # how blocks began that were told and not kept

    def elements(self, items: Sequence[tuple[bytes, bytes]], form: Form, owner: Callable[[str], str]) -> list[bytes]:
        """Of keys with their rows as stored, one or more in each piece; ``owner`` makes the element of its account."""
        if self._count > self._kept_max:
            self._old, self._young, self._count = self._young, {}, 0
        owners, seconds = _Owners(owner if form.owners else _no_owner), Seconds()
        found: list[bytes] = []
        for at in range(0, len(items), _BLOCK):
            names, rows = zip(*items[at : at + _BLOCK], strict=True)
            if self._is_for_keeping(form, rows[0] + names[0]):
                found += self._kept(names, rows, form, owners, seconds)
            else:
                found.append("".join(_made(names, rows, form, owners, seconds)).encode())
        return found

    def _is_for_keeping(self, form: Form, first: bytes) -> bool:
        """Whether a block that begins so is kept, or was told before."""
        told = self._told
        if first in self._young.get(form, ()) or first in self._old.get(form, ()) or (form, first) in told:
            return True
        if len(told) >= self._told_max:
            told.clear()
        told.add((form, first))
        return False

    def _kept(self, names: Sequence[bytes], rows: Sequence[bytes], form: Form, owners: _Owners, seconds: Seconds) -> list[bytes]:
        """What is kept, and from now on the others, too."""
        wholes = list(map(add, rows, names))
        young = self._young.get(form)
        if young is None:
            young = self._young[form] = {}
        found = list(map(young.get, wholes))
        if None in found:
            old, before, missing = self._old.get(form, {}), len(young), []
            for at, element in enumerate(found):
                if element is None:
                    whole = wholes[at]
                    found[at] = known = old.get(whole)
                    if known is None:
                        missing.append(at)
                    else:
                        young[whole] = known
            if missing:
                made = _made([names[at] for at in missing], [rows[at] for at in missing], form, owners, seconds)
                for at, text in zip(missing, made, strict=True):
                    found[at] = young[wholes[at]] = text.encode()
            self._count += len(young) - before
        return cast(list[bytes], found)


def _made(names: Sequence[bytes], rows: Sequence[bytes], form: Form, owners: _Owners, seconds: Seconds) -> list[str]:
    """Elements of keys and rows."""
    versions = decode_rows(rows)
    times = iso_times([version.modified_ms for version in versions], seconds)
    return [
        f"<Contents><Key>{text}</Key><LastModified>{when}</LastModified>"
        f"<ETag>&quot;{version.etag.hex()}{f'-{version.part_count}' if version.part_count else ''}&quot;</ETag>"
        f"{CHECKSUM_ELEMENTS[version.checksum_kind]}<Size>{version.size}</Size>{owners[version.owner]}{_ENDS[version.storage_class]}"
        for text, when, version in zip(key_texts(names, url=form.url), times, versions, strict=True)
    ]
