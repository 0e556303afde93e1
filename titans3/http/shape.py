"""Heads that differ from an earlier one only in what differs between any two requests of a client: parsed by comparing. Pure. Hot.

A client sends the same header lines with every request but for the request line, the date, the signature and perhaps length and hashes
of the body; clients of other users differ in who signs. A ``Shape`` is such a head that was parsed in full, cut at these values. A head
of the same length whose other bytes are the same gets the verdict of the full parser, because the values that differ are of the same
length and of harmless characters alone.

Invariants
* What does not match byte for byte, has an unusual character in its target, or another length of a value, goes to the full parser.
* A shape is made only of a head that the full parser accepted; ``is_bare``: none of its headers asks for anything beyond the operation.
* Lengths of bodies vary after a head of the same length differed in something; a client whose bodies are all alike pays nothing for it.
* The number of shapes is bounded; one is made when a head of its length and beginning comes for the second time. A client whose heads go on
  differing gets no more of them.

Guarded by ``bench/micro/connection.py``.
"""

from __future__ import annotations

from titans3.limits import TARGET_BYTES_MAX

SHAPES_MAX = 256
_MISSES_MAX = 8
_END = b" HTTP/1.1"
_PLAIN = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"/-._~%!$&'()*+,;=:@?"
_WIDE = _PLAIN + b" "
# Headers whose value differs between requests, and its length (0: as it comes).
_VARYING = (
    (b"authorization", 0), (b"x-amz-security-token", 0), (b"x-amz-date", 16), (b"x-amz-content-sha256", 64), (b"amz-sdk-invocation-id", 36),
    (b"content-md5", 24), (b"x-amz-checksum-crc32", 8), (b"x-amz-checksum-crc32c", 8), (b"x-amz-checksum-crc64nvme", 12),
    (b"x-amz-checksum-sha1", 28), (b"x-amz-checksum-sha256", 44),
)  # fmt: skip
_LENGTHS = (b"content-length", b"x-amz-decoded-content-length")
_LENGTH_DIGITS_MAX = 12  # a number of so many digits is below CONTENT_LENGTH_MAX
_AUTHORIZATION = b"authorization"
# Headers that say who asks, when and with how many bytes, or nothing that the server goes by.
_BARE = frozenset((
    b"host", b"user-agent", b"authorization", b"x-amz-date", b"date", b"x-amz-content-sha256", b"content-length", b"content-type",
    b"content-encoding", b"x-amz-decoded-content-length", b"accept", b"accept-encoding", b"connection", b"amz-sdk-invocation-id",
    b"amz-sdk-request", b"x-amz-user-agent", b"x-amz-security-token", b"expect", b"transfer-encoding",
))  # fmt: skip


class Shape:
    """One head, cut at what varies. ``signed_by``: the set of signed names in which all that has to be signed was found. ``sizes``: whether
    its content length varies, so that ``content_length`` is that of the first. ``told``: what a log says of values that do not vary;
    ``kept``: what an object keeps of them.
    """

    __slots__ = (
        "chunked", "constants", "content_length", "expect", "fields", "host", "is_bare", "keep_alive", "kept", "method", "misses",
        "signed_by", "sizes", "start", "told", "variables",
    )  # fmt: skip

    def __init__(
        self, rest: bytes, method: str, fields: dict[bytes, bytes], *, content_length: int | None, chunked: bool, keep_alive: bool,
        expect: bool, sizes: bool = False,
    ) -> None:  # fmt: skip
        """``rest``: the head from the end of its request line on. Raises ValueError if its values cannot be found again."""
        self.method, self.start = method, method.encode("ascii") + b" "
        self.fields = fields.copy()
        self.content_length, self.chunked, self.keep_alive, self.expect = content_length, chunked, keep_alive, expect
        self.is_bare = _BARE.issuperset(fields)
        self.host = fields.get(b"host", b"").decode("latin-1")
        self.signed_by: object = None
        self.told: tuple[str, str, bool] | None = None
        self.kept: dict[str, str] | None = None
        self.misses = 0
        found = sorted(_variables(rest, fields, lengths=sizes))
        self.variables = [(name, start, end) for start, end, name in found]
        self.sizes = any(name == _LENGTHS[0] for name, _, _ in self.variables)
        self.constants: list[tuple[int, int, bytes]] = []
        at = 0
        for start, end, _ in found:
            self.constants.append((at, start, rest[at:start]))
            at = end
        self.constants.append((at, len(rest), rest[at:]))

    def match(self, rest: bytes) -> dict[bytes, bytes] | None:
        """The header fields of a head of this shape; ``None`` if it is of another. ``rest`` is as long as this one's."""
        for start, end, constant in self.constants:
            if rest[start:end] != constant:
                return None
        fields = self.fields.copy()
        for name, start, end in self.variables:
            value = rest[start:end]
            if not (value.isalnum() or _is_harmless(value)):
                return None
            fields[name] = value
        return fields


def _is_harmless(value: bytes) -> bool:
    """Whether the full parser would take it as it is: visible characters, spaces only inside."""
    return value.isalnum() or not (value.translate(None, _WIDE) or value[:1] == b" " or value[-1:] == b" ")


def _variables(rest: bytes, fields: dict[bytes, bytes], *, lengths: bool) -> list[tuple[int, int, bytes]]:
    """(start, end, name) of what varies. Raises ValueError."""
    lowered = rest.lower()
    found = []
    for name, size in _VARYING:
        value = fields.get(name)
        if value and (not size or len(value) == size) and _is_harmless(value):
            found.append((*_value_at(rest, lowered, name, value), name))
    for name in _LENGTHS if lengths else ():
        value = fields.get(name)
        if value and value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX:
            found.append((*_value_at(rest, lowered, name, value), name))
    return found


def _value_at(rest: bytes, lowered: bytes, name: bytes, value: bytes) -> tuple[int, int]:
    line = b"\r\n" + name + b":"
    if lowered.count(line) != 1:
        raise ValueError(name)
    start = lowered.index(line) + len(line)
    end = rest.index(b"\r\n", start)
    start = end - len(value)
    if rest[start:end] != value:
        raise ValueError(name)
    return start, end


class Shapes:
    """Those that a worker has seen."""

    __slots__ = ("_kept", "_seen")

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], Shape] = {}
        self._seen: set[tuple[int, bytes]] = set()  # once: making a shape costs twice what parsing does

    def find(self, data: bytes, line_end: int) -> tuple[Shape, bytes, dict[bytes, bytes]] | None:
        """Shape, target and fields of a head that is like one before."""
        shape = self._kept.get((len(data) - line_end, data[:3] + data[line_end : line_end + 40]))
        if shape is None or data[line_end - 9 : line_end] != _END or not data.startswith(shape.start):
            return None
        target = data[len(shape.start) : line_end - 9]
        if target[:1] != b"/" or target.translate(None, _PLAIN) or len(target) > TARGET_BYTES_MAX:
            return None
        fields = shape.match(data[line_end:])
        if fields is None:
            shape.misses += 1
            return None
        return shape, target, fields

    def keep(
        self, data: bytes, line_end: int, method: str, fields: dict[bytes, bytes], *, content_length: int | None, chunked: bool,
        keep_alive: bool, expect: bool,
    ) -> Shape | None:  # fmt: skip
        """Remember a head that was parsed in full; ``None`` for one that is not worth it."""
        if not fields.get(_AUTHORIZATION, b"").startswith(b"AWS4-") or data[line_end - 9 : line_end] != _END:
            return None
        name = (len(data) - line_end, data[:3] + data[line_end : line_end + 40])
        before = self._kept.get(name)
        if before is None and name not in self._seen:
            if len(self._seen) >= SHAPES_MAX:
                self._seen.clear()
            self._seen.add(name)
            return None
        if before is not None and before.misses > _MISSES_MAX:
            return None
        try:
            shape = Shape(
                data[line_end:],
                method,
                fields,
                content_length=content_length,
                chunked=chunked,
                keep_alive=keep_alive,
                expect=expect,
                sizes=before is not None,
            )
        except ValueError:
            return None
        if before is not None:
            shape.misses = before.misses
        if len(self._kept) >= SHAPES_MAX:
            self._kept.clear()
        self._kept[name] = shape
        return shape
