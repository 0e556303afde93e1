"""S3's additional checksums: algorithms, values as text, streaming digests, and the checksum of a multipart object.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html

Invariants
* Values are big-endian bytes in memory and base64 on the wire; a composite value has ``-N`` behind it.
* FULL_OBJECT exists for CRCs alone, because only they combine from parts; CRC64NVME has no COMPOSITE; hashes have no FULL_OBJECT.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import xxhash
from awscrt import checksums as crt

from titans3.model.version import Checksum
from titans3.s3.errors import S3Error, invalid_argument

COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"
DEFAULT_ALGORITHM = "crc64nvme"  # what an object gets when its client asked for none


class StreamingDigest(Protocol):
    """What hashlib objects have."""

    def update(self, data: Any, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC of awscrt as a digest."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, function: Callable[[Any, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: Any, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


_CRCS: dict[str, tuple[Callable[..., int], int]] = {"crc32": (crt.crc32, 4), "crc32c": (crt.crc32c, 4), "crc64nvme": (crt.crc64nvme, 8)}
_FACTORIES: dict[str, Callable[[], StreamingDigest]] = {
    "crc32": lambda: _Crc(*_CRCS["crc32"]),
    "crc32c": lambda: _Crc(*_CRCS["crc32c"]),
    "crc64nvme": lambda: _Crc(*_CRCS["crc64nvme"]),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "xxhash64": xxhash.xxh64,
    "xxhash3": xxhash.xxh3_64,
    "xxhash128": xxhash.xxh3_128,
}
_COMBINE: dict[str, Callable[[int, int, int], int]] = {
    "crc32": crt.combine_crc32,
    "crc32c": crt.combine_crc32c,
    "crc64nvme": crt.combine_crc64nvme,
}
ALGORITHMS: dict[str, int] = {name: len(factory().digest()) for name, factory in _FACTORIES.items()}
HEADERS: dict[bytes, str] = {f"x-amz-checksum-{name}".encode("ascii"): name for name in ALGORITHMS}
_HEADER_OF = {name: header for header, name in HEADERS.items()}
_FULL_OBJECT_HEADER = (b"x-amz-checksum-type", FULL_OBJECT.encode("ascii"))
_COMPOSITE_HEADER = (b"x-amz-checksum-type", COMPOSITE.encode("ascii"))
_LINES = {
    (name, composite): b"%b: %%b\r\n%b: %b\r\n" % (header, *(_COMPOSITE_HEADER if composite else _FULL_OBJECT_HEADER))
    for name, header in _HEADER_OF.items() for composite in (False, True)
}  # fmt: skip
_NOT_VALUES = frozenset((b"x-amz-checksum-mode", b"x-amz-checksum-algorithm", b"x-amz-checksum-type"))


def new_digest(algorithm: str) -> StreamingDigest:
    """A fresh digest of a known algorithm."""
    return _FACTORIES[algorithm]()


def digest_of(algorithm: str, data: bytes) -> bytes:
    """The value of a whole body."""
    crc = _CRCS.get(algorithm)
    if crc is not None:  # what nearly every small body has: no object for it
        function, size = crc
        return function(data).to_bytes(size, "big")
    digest = _FACTORIES[algorithm]()
    digest.update(data)
    return digest.digest()


def decode_value(algorithm: str, text: str) -> bytes | None:
    """Bytes of a base64 value of this algorithm; ``None`` if it cannot be one."""
    try:
        value = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if len(value) == ALGORITHMS[algorithm] else None


def value_text(checksum: Checksum, parts: int) -> str:
    """Base64 as S3 shows it; ``parts`` is N of a composite one."""
    return _value(checksum, parts).decode("ascii")


def _value(checksum: Checksum, parts: int) -> bytes:
    text = binascii.b2a_base64(checksum.value, newline=False)
    return b"%b-%d" % (text, parts) if checksum.composite else text


def type_name(checksum: Checksum) -> str:
    """COMPOSITE or FULL_OBJECT."""
    return COMPOSITE if checksum.composite else FULL_OBJECT


def element(checksum: Checksum, parts: int) -> str:
    """``<ChecksumCRC32>…</ChecksumCRC32>``."""
    name = f"Checksum{checksum.algorithm.upper()}"
    return f"<{name}>{value_text(checksum, parts)}</{name}>"


def header_pairs(checksum: Checksum, parts: int, *, with_type: bool = True) -> list[tuple[bytes, bytes]]:
    """The value's header, and its type's."""
    pair = (_HEADER_OF[checksum.algorithm], _value(checksum, parts))
    if not with_type:
        return [pair]
    return [pair, _COMPOSITE_HEADER if checksum.composite else _FULL_OBJECT_HEADER]


def header_lines(checksum: Checksum, parts: int) -> bytes:
    """``header_pairs`` as lines of a head."""
    return _LINES[checksum.algorithm, checksum.composite] % _value(checksum, parts)


def asked_algorithm(text: str | None, name: str = "x-amz-checksum-algorithm") -> str:
    """Lower-case algorithm of a header, empty if absent. Raises InvalidRequest for an unknown one."""
    if not text:
        return ""
    algorithm = text.lower()
    if algorithm not in ALGORITHMS:
        raise S3Error("InvalidRequest", f"Checksum algorithm provided is unsupported. The value of {name} must be one of {_names()}.")
    return algorithm


def _names() -> str:
    return ", ".join(name.upper() for name in ALGORITHMS)


def asked_type(text: str | None, algorithm: str) -> bool:
    """Whether an upload's checksum is composite. Raises InvalidRequest for a type the algorithm does not have."""
    if text and text.upper() not in (COMPOSITE, FULL_OBJECT):
        raise invalid_argument("Value for x-amz-checksum-type header is invalid.", "x-amz-checksum-type", text)
    if not algorithm:
        if text:
            raise S3Error("InvalidRequest", "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
        return False
    composite = text.upper() == COMPOSITE if text else algorithm != "crc64nvme"
    if (composite and algorithm == "crc64nvme") or (not composite and algorithm not in _COMBINE):
        kind = COMPOSITE if composite else FULL_OBJECT
        raise S3Error("InvalidRequest", f"The {kind} checksum type cannot be used with the {algorithm} checksum algorithm.")
    return composite


class Claim:
    """The checksum a client promised: in a header, or in a trailer that comes after the body (``value`` is ``None`` until then)."""

    __slots__ = ("algorithm", "value")

    def __init__(self, algorithm: str, value: bytes | None) -> None:
        self.algorithm = algorithm
        self.value = value


def claimed(fields: dict[bytes, bytes]) -> Claim | None:
    """What the head promises. Raises InvalidRequest for several or malformed ones, for an unknown x-amz-checksum-*, and BadDigest for
    one that is not what x-amz-sdk-checksum-algorithm names.
    """
    found: Claim | None = None
    for name in fields if b"x-amz-checksum-" in b" ".join(fields) else ():
        if name.startswith(b"x-amz-checksum-") and name not in _NOT_VALUES:
            algorithm = HEADERS.get(name)
            if algorithm is None:
                raise S3Error("InvalidRequest", f"The header {name.decode('latin-1')[:60]} is not a known checksum.")
            if found is not None:
                raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
            value = decode_value(algorithm, fields[name].decode("latin-1").strip())
            if value is None:
                raise S3Error("InvalidRequest", f"Value for {name.decode('ascii')} header is invalid.")
            found = Claim(algorithm, value)
    trailer = fields.get(b"x-amz-trailer")
    if trailer:
        names = [name.strip().lower() for name in trailer.split(b",") if name.strip()]
        for name in names:
            if name not in HEADERS:
                raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
            if found is not None:
                raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
            found = Claim(HEADERS[name], None)
    named = fields.get(b"x-amz-sdk-checksum-algorithm")
    if named is not None:
        _check_named(named.decode("latin-1"), found)
    return found


def _check_named(text: str, claim: Claim | None) -> None:
    """What an SDK says it computed must be what it sent. Raises InvalidRequest, BadDigest."""
    algorithm = asked_algorithm(text, "x-amz-sdk-checksum-algorithm")
    if claim is None:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        )
    if claim.algorithm != algorithm:
        raise bad_digest(algorithm)


def complete_claim(claim: Claim, trailers: dict[str, str]) -> None:
    """Fill in the value from the trailer. Raises MalformedTrailerError, InvalidRequest."""
    if claim.value is not None:
        return
    name = f"x-amz-checksum-{claim.algorithm}"
    text = trailers.get(name)
    if text is None:
        raise S3Error("MalformedTrailerError")
    claim.value = decode_value(claim.algorithm, text.strip())
    if claim.value is None:
        raise S3Error("InvalidRequest", f"Value for {name} trailing header is invalid.")


def bad_digest(algorithm: str) -> S3Error:
    """BadDigest naming the algorithm."""
    return S3Error("BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum.")


def combine(algorithm: str, composite: bool, parts: Sequence[tuple[bytes, int]]) -> Checksum:
    """The checksum of a multipart object from its parts' (value, length): combined CRC, or the checksum of checksums."""
    assert parts
    if composite:
        digest = new_digest(algorithm)
        digest.update(b"".join([value for value, _ in parts]))
        return Checksum(algorithm, digest.digest(), True)
    join = _COMBINE[algorithm]
    total = int.from_bytes(parts[0][0], "big")
    for value, length in parts[1:]:
        total = join(total, int.from_bytes(value, "big"), length)
    return Checksum(algorithm, total.to_bytes(ALGORITHMS[algorithm], "big"))
