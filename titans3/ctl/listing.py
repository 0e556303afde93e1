"""Listings of a server, page by page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import msgspec

from titans3.ctl.address import Address


class Item(msgspec.Struct, frozen=True):
    """An object, a version, a delete marker, or a common prefix (then the rest is empty)."""

    key: bytes
    size: int = 0
    etag: str = ""
    modified: str = ""
    storage_class: str = ""
    version_id: str = ""
    is_latest: bool = True
    is_marker: bool = False
    is_prefix: bool = False


def objects(address: Address, *, recursive: bool) -> Iterator[Item]:
    """Objects whose key begins with the address's; not ``recursive``: up to the next slash."""
    query = {"list-type": "2", "prefix": address.key.decode("utf-8", "surrogateescape"), "encoding-type": "url"}
    if not recursive:
        query["delimiter"] = "/"
    while True:
        root = address.client.s3("GET", address.bucket, query=query).xml
        found = [_object(element) for element in root.findall("Contents")]
        found += [Item(_key(element, "Prefix"), is_prefix=True) for element in root.findall("CommonPrefixes")]
        yield from sorted(found, key=lambda item: item.key)
        if root.findtext("IsTruncated") != "true":
            return
        query["continuation-token"] = root.findtext("NextContinuationToken") or ""


def versions(address: Address, *, recursive: bool) -> Iterator[Item]:
    """Versions and delete markers, by key, newest first."""
    query = {"versions": "", "prefix": address.key.decode("utf-8", "surrogateescape"), "encoding-type": "url"}
    if not recursive:
        query["delimiter"] = "/"
    while True:
        root = address.client.s3("GET", address.bucket, query=query).xml
        for element in root:
            if element.tag in ("Version", "DeleteMarker"):
                yield _object(element)
            elif element.tag == "CommonPrefixes":
                yield Item(_key(element, "Prefix"), is_prefix=True)
        if root.findtext("IsTruncated") != "true":
            return
        query["key-marker"] = unquote_to_bytes(root.findtext("NextKeyMarker") or "").decode("utf-8", "surrogateescape")
        query["version-id-marker"] = root.findtext("NextVersionIdMarker") or ""


def _object(element: ET.Element) -> Item:
    return Item(
        _key(element, "Key"), int(element.findtext("Size") or 0), (element.findtext("ETag") or "").strip('"'),
        element.findtext("LastModified") or "", element.findtext("StorageClass") or "", element.findtext("VersionId") or "",
        element.findtext("IsLatest") != "false", element.tag == "DeleteMarker",
    )  # fmt: skip


def _key(element: ET.Element, name: str) -> bytes:
    return unquote_to_bytes((element.findtext(name) or "").replace("+", "%20"))
