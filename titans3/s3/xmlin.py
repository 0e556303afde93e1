"""XML bodies of clients: parsed without entities, DTDs or network, bounded in size and shape.

Invariants
* A document with a DTD is refused: no entity of it is ever expanded.
* Elements are found by local name, in S3's namespace or in none; what is unknown is refused where ignoring it would lose a wish.
* Everything wrong raises S3Error(MalformedXML); bodies are bounded by BODY_XML_BYTES_MAX before they come here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from lxml import etree

from titans3.limits import BODY_XML_BYTES_MAX, DELETE_OBJECTS_MAX, PART_NUMBER_MAX
from titans3.s3.checksum import ALGORITHMS
from titans3.s3.errors import S3Error, not_implemented
from titans3.s3.xmlout import NAMESPACE

_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"&<>")
_SPACES = (b"", f' xmlns="{NAMESPACE}"'.encode("ascii"))
_QUIETS = {b"": False, b"<Quiet>true</Quiet>": True, b"<Quiet>false</Quiet>": False}
_BETWEEN_KEYS = b"</Key></Object><Object><Key>"
_KEY_TAGS = ("Key", f"{{{NAMESPACE}}}Key")
_DEPTH_MAX = 16


class DeleteItem(msgspec.Struct, frozen=True):
    """One ``Object`` of a Delete document; ``None`` where the element was absent. Key as UTF-8."""

    key: bytes
    version_id: str | None = None
    etag: str | None = None
    modified: str | None = None
    size: str | None = None


class PartItem(msgspec.Struct, frozen=True):
    """One ``Part`` of a CompleteMultipartUpload document; ``checksums`` by lower-case algorithm, base64 text."""

    number: int
    etag: str
    checksums: dict[str, str]


class Element(msgspec.Struct, frozen=True):
    """An element of a configuration: ``text`` if it has no children."""

    name: str
    text: str
    children: tuple[Element, ...]

    def names(self) -> set[str]:
        """Names of its children."""
        return {child.name for child in self.children}

    def all(self, name: str) -> list[Element]:
        """Its children of a name."""
        return [child for child in self.children if child.name == name]

    def texts(self, name: str) -> tuple[str, ...]:
        """Texts of its children of a name, without space around them. Raises MalformedXML for one that is not a text."""
        found = self.all(name)
        if any(child.children for child in found):
            raise S3Error("MalformedXML")
        return tuple(child.text.strip() for child in found)


def parse_tree(data: bytes, name: str) -> tuple[Element, ...]:
    """What the root element ``name`` holds. Raises MalformedXML, also for more than _DEPTH_MAX levels."""
    return tuple(_tree(child, _DEPTH_MAX) for child in parse_root(data, name))


def _tree(element: Any, depth: int) -> Element:
    if not depth:
        raise S3Error("MalformedXML")
    children = tuple(_tree(child, depth - 1) for child in element)
    return Element(_local(element), "" if children else element.text or "", children)


def parse_root(data: bytes, name: str) -> Any:
    """The root element, checked for its name. Raises MalformedXML."""
    assert len(data) <= BODY_XML_BYTES_MAX
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise S3Error("MalformedXML") from error
    if root.getroottree().docinfo.doctype or _local(root) != name:
        raise S3Error("MalformedXML")
    return root


def plain_delete(data: bytes) -> tuple[list[DeleteItem], bool] | None:
    """``parse_delete`` of a document as most clients write it: keys of plain ASCII, nothing beside them, no space between, ``Quiet`` first
    or last. ``None`` for any other. A dozen passes over the bytes, whatever they are.
    """
    first = data.find(b"<Object><Key>")
    last = data.rfind(b"</Key></Object>")
    if first < 0 or last < 0 or not data.startswith(b"<Delete") or not data.endswith(b"</Delete>"):
        return None
    space, mark, before = data[7:first].partition(b">")
    after = data[last + 15 : -9]
    if not mark or space not in _SPACES or before not in _QUIETS or after not in _QUIETS or (before and after):
        return None
    keys = data[first + 13 : last].split(_BETWEEN_KEYS)
    if b"" in keys or len(keys) > DELETE_OBJECTS_MAX or b"".join(keys).translate(None, _PLAIN):
        return None
    return [DeleteItem(key) for key in keys], _QUIETS[before or after]


def parse_delete(data: bytes) -> tuple[list[DeleteItem], bool]:
    """Items of a Delete document and whether it is quiet. Raises MalformedXML for none or more than 1,000."""
    plain = plain_delete(data)
    if plain is not None:
        return plain
    items: list[DeleteItem] = []
    quiet = False
    for element in parse_root(data, "Delete"):
        name = _local(element)
        if name == "Quiet":
            quiet = _boolean(_text(element))
        elif name == "Object":
            if len(items) == DELETE_OBJECTS_MAX:
                raise S3Error("MalformedXML")
            items.append(_delete_item(element))
        else:
            raise S3Error("MalformedXML")
    if not items:
        raise S3Error("MalformedXML")
    return items, quiet


def _delete_item(element: Any) -> DeleteItem:
    if len(element) == 1:  # a key alone, as nearly always
        child = element[0]
        if child.tag in _KEY_TAGS and len(child) == 0 and child.text:
            return DeleteItem(child.text.encode("utf-8"))
    found: dict[str, str] = {}
    for child in element:
        name = _local(child)
        if name in found:
            raise S3Error("MalformedXML")
        found[name] = _text(child)
    if not found.get("Key") or found.keys() - {"Key", "VersionId", "ETag", "LastModifiedTime", "Size"}:
        raise S3Error("MalformedXML")
    return DeleteItem(
        found["Key"].encode("utf-8"), found.get("VersionId"), found.get("ETag"), found.get("LastModifiedTime"), found.get("Size")
    )


def parse_complete(data: bytes) -> list[PartItem]:
    """Parts in the order given. Raises MalformedXML for an empty list or a part without number or ETag."""
    items: list[PartItem] = []
    for element in parse_root(data, "CompleteMultipartUpload"):
        if _local(element) != "Part" or len(items) == PART_NUMBER_MAX:
            raise S3Error("MalformedXML")
        number = etag = None
        checksums: dict[str, str] = {}
        for child in element:
            name = _local(child)
            if name == "PartNumber":
                number = _text(child).strip()
            elif name == "ETag":
                etag = _text(child).strip()
            elif name.startswith("Checksum") and name[8:].lower() in ALGORITHMS:
                checksums[name[8:].lower()] = _text(child).strip()
            else:
                raise S3Error("MalformedXML")
        if number is None or etag is None or not number.isascii() or not number.isdecimal() or len(number) > 9:
            raise S3Error("MalformedXML")
        items.append(PartItem(int(number), etag, checksums))
    if not items:
        raise S3Error("MalformedXML")
    return items


def parse_create_bucket(data: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The LocationConstraint, empty if none, and tags as given. Bucket types are answered 501: they would be lost."""
    if not data.strip():
        return "", []
    region = ""
    tags: list[tuple[str, str]] = []
    for element in parse_root(data, "CreateBucketConfiguration"):
        name = _local(element)
        if name == "LocationConstraint":
            region = _text(element).strip()
        elif name == "Tags":
            tags = _tag_pairs(element)
        elif name in ("Location", "Bucket"):
            if len(element):
                raise not_implemented(f"CreateBucketConfiguration.{name}")
        else:
            raise S3Error("MalformedXML")
    return region, tags


def parse_tagging(data: bytes) -> list[tuple[str, str]]:
    """(key, value) of a Tagging document, as given. Raises MalformedXML."""
    sets = list(parse_root(data, "Tagging"))
    if len(sets) != 1 or _local(sets[0]) != "TagSet":
        raise S3Error("MalformedXML")
    return _tag_pairs(sets[0])


def _tag_pairs(tags: Any) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for element in tags:
        found = {_local(child): _text(child) for child in element}
        if _local(element) != "Tag" or found.keys() != {"Key", "Value"} or len(element) != 2:
            raise S3Error("MalformedXML")
        pairs.append((found["Key"], found["Value"]))
    return pairs


def parse_versioning(data: bytes) -> tuple[str, str]:
    """(Status, MfaDelete) of a VersioningConfiguration, empty if absent. Raises MalformedXML."""
    found = {"Status": "", "MfaDelete": ""}
    for element in parse_root(data, "VersioningConfiguration"):
        name = _local(element)
        if found.get(name) != "":
            raise S3Error("MalformedXML")
        found[name] = _text(element).strip()
    return found["Status"], found["MfaDelete"]


def _local(element: Any) -> str:
    """Local name in S3's namespace or none; an entity reference or foreign namespace is refused."""
    tag = element.tag
    if not isinstance(tag, str):
        raise S3Error("MalformedXML")
    space, mark, name = tag.rpartition("}")
    if mark and space != "{" + NAMESPACE:
        raise S3Error("MalformedXML")
    return name


def _text(element: Any) -> str:
    if len(element):
        raise S3Error("MalformedXML")
    return element.text or ""


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "false", ""):
        raise S3Error("MalformedXML")
    return word == "true"
