"""One structure of a segment, field by field, with every checksum that guards it: for who looks at damage.

Invariants
* What does not hold is shown as it lies there, and says so; a field is never guessed.
* Neither a body nor a value of the control plane is shown: lengths and digests stand for them (``shown``).
* Reads only.
"""

from __future__ import annotations

import os

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.engine import batch, extent, record, segment
from titans3.engine.bodies import name_of
from titans3.engine.compaction import records_of
from titans3.engine.datawalk import walk_extents
from titans3.engine.extent import Granules
from titans3.engine.files import Files, read_at
from titans3.engine.recovery import read_header
from titans3.jobs.shown import named, shown_command
from titans3.limits import BLOCK_BYTES, MIB
from titans3.model.command import decode_command

RECORD_KINDS = {1: "entry", 2: "hard state", 3: "truncate", 4: "snapshot mark", 5: "segment start"}
_SEGMENT = ("magic", "format", "kind", "checksum type", "flags", "volume", "number", "salt", "epoch", "capacity", "created ms")
_BATCH = ("magic", "format", "flags", "epoch", "batch", "length", "records", "digests", "reserved", "previous segment", "own offset")
_RECORD = (
    "checksum", "kind", "body checksum type", "flags", "group", "index", "term", "previous term", "command length", "body length",
    "body checksum", "data id", "own offset",
)  # fmt: skip
_EXTENT = (
    "magic", "format", "kind", "checksum type", "granted", "data id", "group", "piece", "policy", "bucket", "write id", "ordinal", "part",
    "key length", "offset in object", "upload id", "created ms", "header bytes", "blob length", "own offset",
)  # fmt: skip
_TRAILER = ("magic", "granule bytes", "data length", "granules", "blob length", "flags", "reserved", "root checksum", "data id")


class Check(msgspec.Struct, frozen=True):
    """A checksum or a rule: what is stored and what it should be; hex, or numbers as text."""

    name: str
    stored: str
    computed: str

    @property
    def holds(self) -> bool:
        """Whether they are the same."""
        return self.stored == self.computed


class Piece(msgspec.Struct):
    """A structure at ``offset`` of a segment. ``body``: (offset, length) of the bytes it carries, for who saves them."""

    kind: str
    path: str
    offset: int
    fields: dict[str, object] = {}
    checks: list[Check] = []
    body: tuple[int, int] | None = None

    @property
    def holds(self) -> bool:
        """Whether every checksum is right."""
        return all(check.holds for check in self.checks)


def _hex(value: int) -> str:
    return f"{value:016x}"


def _text(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode() if value.isascii() and len(value) in (4, 8) and value.isalnum() else value.hex()
    return value


def dissect_segment(files: Files, path: str) -> Piece:
    """The header block of a segment file. Raises OSError."""
    fd = files.open(path, os.O_RDONLY)
    try:
        block = bytes(read_at(files, fd, BLOCK_BYTES, 0))
        size = files.size(fd)
    finally:
        files.close(fd)
    piece = Piece("segment", path, 0)
    if len(block) < BLOCK_BYTES:
        piece.checks = [Check("length of the header block", str(len(block)), str(BLOCK_BYTES))]
        return piece
    values = segment.LAYOUT.unpack_from(block)
    piece.fields = {name: _text(value) for name, value in zip(_SEGMENT, values, strict=True)}
    piece.fields["kind name"] = segment.KIND_NAMES.get(values[2], "unknown")
    piece.fields["number"], piece.fields["salt"], piece.fields["file bytes"] = _hex(values[6]), _hex(values[7]), size
    stored = int.from_bytes(block[-8:], "big")
    name = os.path.basename(path).removesuffix(segment.SUFFIX)
    piece.checks = [
        Check("magic", bytes(values[0]).hex(), segment.MAGIC.hex()),
        Check("header checksum", _hex(stored), _hex(xxh3_64_intdigest(block[:-8]))),
        Check("number is the file's name", _hex(values[6]), name),
    ]
    return piece


def salt_of(files: Files, path: str) -> int:
    """Salt of a segment, from its header whether that holds or not."""
    fd = files.open(path, os.O_RDONLY)
    try:
        return int.from_bytes(read_at(files, fd, 8, 40), "big")
    finally:
        files.close(fd)


def dissect(files: Files, path: str, offset: int) -> list[Piece]:
    """What lies at an offset: the header of the segment, and a batch with its records, a record or an extent. Raises OSError."""
    head = dissect_segment(files, path)
    if offset == 0:
        return [head]
    salt = salt_of(files, path)
    fd = files.open(path, os.O_RDONLY)
    try:
        start = bytes(read_at(files, fd, 128, offset))
        if start[:4] == batch.MAGIC:
            return [head, *_batch(files, fd, path, offset, salt)]
        if start[:4] == extent.MAGIC:
            return [head, *_extent(files, fd, path, offset, salt)]
        if len(start) >= record.HEADER_BYTES and start[72:80] == offset.to_bytes(8, "big"):
            return [head, _record(files, fd, path, offset, salt)]
    finally:
        files.close(fd)
    first = start[:16].hex()
    return [
        head,
        Piece(
            "unknown",
            path,
            offset,
            {"first bytes": first},
            [Check("batch, record or extent", first or "end of file", "a magic, or the own offset")],
        ),
    ]


def _batch(files: Files, fd: int, path: str, offset: int, salt: int) -> list[Piece]:
    raw = bytes(read_at(files, fd, batch.HEADER_BYTES, offset))
    values = batch.LAYOUT.unpack_from(raw)
    piece = Piece("batch", path, offset, {name: _text(value) for name, value in zip(_BATCH, values, strict=True)})
    piece.fields["previous segment"] = _hex(values[9])
    piece.checks = [
        Check("header checksum", raw[56:64].hex(), _hex(xxh3_64_intdigest(raw[:56], salt))),
        Check("own offset", str(values[10]), str(offset)),
    ]
    header = batch.parse_header(memoryview(raw), salt, offset)
    if header is None:
        return [piece]
    view = memoryview(read_at(files, fd, header.length, offset))
    if len(view) < header.length:
        piece.checks.append(Check("length of the batch", str(len(view)), str(header.length)))
        return [piece]
    table = view[batch.HEADER_BYTES : batch.HEADER_BYTES + header.digests * 16]
    end = batch.HEADER_BYTES + header.digests * 16
    found = batch.parse_batch(view, header, salt, offset)
    footer = batch.FOOTER_LAYOUT.unpack_from(view, len(view) - batch.FOOTER_BYTES)
    piece.fields["digest"] = {} if found.digest is None else {str(gid): list(value) for gid, value in found.digest.items()}
    piece.fields["records that hold"] = len(found.records)
    marks = [bytes(view[: batch.HEADER_BYTES]), bytes(view[end : end + 8])]
    marks += [bytes(view[at - offset : at - offset + 8]) for _, at in found.records]
    piece.checks += [
        Check("digest checksum", bytes(view[end : end + 8]).hex(), _hex(xxh3_64_intdigest(table, salt))),
        Check("records", str(len(found.records)), str(header.records)),
        Check("footer magic", bytes(footer[0]).hex(), batch.FOOTER_MAGIC.hex()),
        Check("footer checksum", _hex(footer[5]), _hex(xxh3_64_intdigest(b"".join(marks), salt))),
    ]
    return [piece, *(_record(files, fd, path, at, salt) for _, at in found.records)]


def _record(files: Files, fd: int, path: str, offset: int, salt: int) -> Piece:
    raw = bytes(read_at(files, fd, record.HEADER_BYTES, offset))
    values = record.LAYOUT.unpack_from(raw)
    piece = Piece("record", path, offset, {name: _text(value) for name, value in zip(_RECORD, values, strict=True)})
    fields = piece.fields
    fields["kind name"] = RECORD_KINDS.get(values[1], "unknown")
    fields["checksum"], fields["body checksum"] = _hex(values[0]), _hex(values[10])
    start, length = offset + record.HEADER_BYTES + values[8], values[9]
    if values[8] + length > 32 * MIB:  # no batch is as large: the lengths themselves are damaged
        piece.checks = [Check("lengths", str(values[8] + length), f"at most {32 * MIB}")]
        return piece
    command = bytes(read_at(files, fd, values[8], offset + record.HEADER_BYTES))
    body = read_at(files, fd, length, start)
    piece.checks = [
        Check("record checksum", _hex(values[0]), _hex(xxh3_64_intdigest(raw[8:] + command, salt))),
        Check("own offset", str(values[12]), str(offset)),
        Check("body checksum", _hex(values[10]), _hex(xxh3_64_intdigest(body))),
    ]
    if length:
        piece.body = (start, length)
    if values[1] == record.ENTRY and piece.checks[0].holds:
        try:
            fields["command"] = shown_command(decode_command(command))
        except (LookupError, msgspec.MsgspecError) as error:
            fields["command"] = f"not known to this build: {error}"
    elif piece.checks[0].holds:
        fields["command"] = command.hex()
    return piece


def _extent(files: Files, fd: int, path: str, offset: int, salt: int) -> list[Piece]:
    block = bytes(read_at(files, fd, BLOCK_BYTES, offset))
    values = extent.LAYOUT.unpack_from(block)
    piece = Piece("extent", path, offset, {name: _text(value) for name, value in zip(_EXTENT, values, strict=True)})
    size = extent.header_size(block)
    if not size:
        piece.checks = [Check("header bytes", str(values[17]), "a multiple of 4096 up to 262144")]
        return [piece]
    head = bytes(read_at(files, fd, size, offset))
    piece.checks = [
        Check("header checksum", head[-8:].hex(), _hex(xxh3_64_intdigest(head[:-8], salt))),
        Check("own offset", str(values[19]), str(offset)),
    ]
    parsed = extent.parse_header(head, salt=salt, offset=offset)
    if parsed is None:
        return [piece]
    piece.fields["key"] = parsed.ident.key.decode("utf-8", "backslashreplace")
    piece.fields["blob"] = named(msgspec.msgpack.decode(parsed.ident.blob)) if parsed.ident.blob else {}
    return [piece, _trailer(files, fd, path, offset, parsed, salt, piece)]


def _trailer(files: Files, fd: int, path: str, offset: int, header: extent.ExtentHeader, salt: int, head: Piece) -> Piece:
    guess = extent.trailer_guess(header.granted)
    view = bytes(read_at(files, fd, guess, offset + header.granted - guess))
    at = offset + header.granted - extent.TRAILER_BYTES
    piece = Piece("trailer", path, at)
    if len(view) < extent.TRAILER_BYTES:
        piece.checks = [Check("length of the trailer", str(len(view)), str(extent.TRAILER_BYTES))]
        return piece
    start = len(view) - extent.TRAILER_BYTES
    values = extent.TRAILER_LAYOUT.unpack_from(view, start)
    piece.fields = {name: _text(value) for name, value in zip(_TRAILER, values, strict=True)}
    piece.fields["root checksum"] = _hex(values[7])
    whole = start - values[4] - values[3] * 8
    if bytes(values[0]) != extent.TRAILER_MAGIC or whole < 0:
        piece.checks = [Check("magic: never finished, or damaged", bytes(values[0]).hex(), extent.TRAILER_MAGIC.hex())]
        return piece
    table = view[whole : whole + values[3] * 8]
    granules, left, position = Granules(), values[2], offset + header.header_bytes
    while left:
        data = read_at(files, fd, min(left, MIB), position)
        if not data:
            break
        granules.update(memoryview(data))
        left -= len(data)
        position += len(data)
    found = granules.finish()
    bad = [n for n in range(values[3]) if found[n * 8 : n * 8 + 8] != table[n * 8 : n * 8 + 8]]
    piece.fields["damaged granules"] = bad[:100]
    piece.checks = [
        Check("trailer checksum", view[-8:].hex(), _hex(xxh3_64_intdigest(view[whole:-8], salt))),
        Check("root checksum", _hex(values[7]), _hex(xxh3_64_intdigest(table))),
        Check("data id is the header's", bytes(values[8]).hex(), header.ident.data_id.hex()),
        Check("granules that match", str(values[3] - len(bad)), str(values[3])),
    ]
    head.body = (offset + header.header_bytes, values[2])
    return piece


class Entry(msgspec.Struct, frozen=True):
    """A line of a segment's table of contents."""

    offset: int
    kind: str
    length: int
    what: str


def contents(files: Files, path: str) -> list[Entry]:
    """Every batch with its records, or every extent, that holds. Raises OSError."""
    header = read_header(files, path)
    if header is None:
        return []
    if header.kind == segment.DATA:
        return [
            Entry(
                found.offset, "extent", found.header.granted,
                f"bucket id {found.header.ident.bucket}, key {found.header.ident.key!r}" + ("" if found.is_whole else ", not whole"),
            )
            for found in walk_extents(files, path, header)
        ]  # fmt: skip
    return [
        Entry(at, RECORD_KINDS.get(found.kind, "?"), found.stored_bytes, f"group {found.gid}, index {found.index}, {_name(found)}")
        for _, found, at in records_of(files, path)
    ]


def _name(found: record.Record) -> str:
    if found.kind != record.ENTRY:
        return RECORD_KINDS.get(found.kind, "?")
    try:
        command = type(decode_command(found.command)).__name__
    except (LookupError, msgspec.MsgspecError):
        command = "unknown command"
    bucket, key = name_of(found.command)
    name = f", bucket id {bucket}" + (f", key {key!r}" if key else "") if bucket >= 0 else ""
    return command + name + ("" if record.body_matches(found) else ", BODY DAMAGED")


def save_body(files: Files, pieces: list[Piece], target: str) -> int:
    """Write the body that ``pieces`` carry into a new file, 0600 and synced; its bytes. Raises FileExistsError, OSError."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    written = 0
    try:
        for piece in pieces:
            if piece.body is None:
                continue
            source = files.open(piece.path, os.O_RDONLY)
            try:
                offset, left = piece.body
                while left and (data := read_at(files, source, min(left, MIB), offset)):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
                    offset, left, written = offset + len(data), left - len(data), written + len(data)
            finally:
                files.close(source)
        os.fsync(fd)
    finally:
        os.close(fd)
    return written
