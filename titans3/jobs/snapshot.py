"""Snapshots: the metadata of a node in one file. Layout: docs/formats/snapshot.md.

Invariants
* A file under its name is whole: it is written under another one, synced, renamed, and the folder synced. 0600: it tells all names.
* Rows are logical: no offset, no segment, no layer. So a snapshot fits the volumes whatever compaction moved since.
* Nothing is used before the whole file was read and every checksum held.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from titans3.errors import ConfigError, DiskError, FormatError
from titans3.limits import MIB
from titans3.meta.environment import GroupState, Position

MAGIC = b"TS3SNAPS"
FORMAT = 1
HEAD, VOLUME, ROWS, END = 1, 2, 3, 4
_FRAME = struct.Struct(">IBBH")  # payload bytes, kind, compression, zero
_ZLIB = 1
_FRAME_BYTES_MAX = 64 * MIB
_CHUNK_BYTES = MIB
T = TypeVar("T")


class VolumeName(msgspec.Struct, array_like=True, frozen=True):
    """A volume of the node."""

    index: int
    uuid: bytes


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What the snapshot is of. ``version``: the build that wrote it."""

    format: int
    cluster: bytes
    created_ms: int
    version: str
    root_key: str
    volumes: tuple[VolumeName, ...]


class VolumeHead(msgspec.Struct, array_like=True, frozen=True):
    """Before a volume's rows. ``position``: where its log ended; ``groups``: their states with everything up to there applied."""

    index: int
    position: Position
    groups: dict[int, GroupState]


class End(msgspec.Struct, array_like=True, frozen=True):
    """The last frame: rows in all, and SHA-256 of every byte before it."""

    rows: int
    sha256: bytes


class VolumeRows(msgspec.Struct):
    """A volume to be written."""

    head: VolumeHead
    rows: Iterable[tuple[bytes, bytes]]


class Written(msgspec.Struct, frozen=True):
    """What was written."""

    path: str
    bytes: int
    rows: int
    sha256: str


class Summary(msgspec.Struct, frozen=True):
    """A snapshot that was read to its end and held."""

    head: Head
    volumes: tuple[VolumeHead, ...]
    rows: int
    bytes: int


def write_snapshot(path: str, head: Head, volumes: Iterable[VolumeRows], *, replace: bool = False) -> Written:
    """Write a snapshot. Raises ConfigError if the file is there (without ``replace``) or its folder is not, OSError, DiskError of rows."""
    path = os.path.abspath(path)
    if os.path.exists(path) and not replace:
        raise ConfigError(f"{path} is there already; give another name, or --replace")
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
        with open(fd, "wb", closefd=False) as file:
            writer = _Writer(file)
            writer.write(HEAD, msgspec.msgpack.encode(head))
            for volume in volumes:
                writer.write(VOLUME, msgspec.msgpack.encode(volume.head))
                writer.write_rows(volume.rows)
            digest = writer.sha256.digest()
            writer.write(END, msgspec.msgpack.encode(End(writer.rows, digest)))
            size = file.tell()
        os.fsync(fd)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)
    _sync_folder(os.path.dirname(path))
    return Written(path, size, writer.rows, digest.hex())


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.rows = file, hashlib.sha256(), 0
        self._put(MAGIC + FORMAT.to_bytes(2, "big"))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)

    def write(self, kind: int, payload: bytes) -> None:
        packed = zlib.compress(payload, 1)
        frame = _FRAME.pack(len(packed), kind, _ZLIB, 0)
        self._put(frame + xxh3_64_intdigest(frame + packed).to_bytes(8, "big"))
        self._put(packed)

    def write_rows(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        chunk: list[tuple[bytes, bytes]] = []
        size = 0
        for row in rows:
            chunk.append(row)
            size += len(row[0]) + len(row[1])
            self.rows += 1
            if size >= _CHUNK_BYTES:
                self.write(ROWS, msgspec.msgpack.encode(chunk))
                chunk, size = [], 0
        if chunk:
            self.write(ROWS, msgspec.msgpack.encode(chunk))


def check_snapshot(path: str) -> Summary:
    """Read a snapshot to its end. Raises FormatError for one that is not whole, not ours or newer; OSError."""
    head: Head | None = None
    volumes: list[VolumeHead] = []
    rows = 0
    for kind, payload in _frames(path):
        if kind == HEAD:
            head = _decoded(path, payload, Head)
        elif kind == VOLUME:
            volumes.append(_decoded(path, payload, VolumeHead))
        elif kind == ROWS:
            rows += len(_decoded(path, payload, list[tuple[bytes, bytes]]))
        elif kind == END and _decoded(path, payload, End).rows != rows:
            raise FormatError(f"{path} holds {rows} rows and says {_decoded(path, payload, End).rows}")
    if head is None or {volume.index for volume in volumes} != {name.index for name in head.volumes}:
        raise FormatError(f"{path} does not hold every volume it names")
    return Summary(head, tuple(volumes), rows, os.path.getsize(path))


def rows_of_volume(path: str, index: int) -> Iterator[tuple[bytes, bytes]]:
    """Rows of one volume of a snapshot. Raises as ``check_snapshot``, which comes first."""
    is_ours = False
    for kind, payload in _frames(path):
        if kind == VOLUME:
            is_ours = _decoded(path, payload, VolumeHead).index == index
        elif kind == ROWS and is_ours:
            yield from _decoded(path, payload, list[tuple[bytes, bytes]])


def _decoded(path: str, payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path} is not readable: {error}") from error


def _frames(path: str) -> Iterator[tuple[int, bytes]]:
    """(kind, payload) of every frame, each checked; at the end the digest of the file."""
    broken = FormatError(f"{path} is no whole snapshot: it was cut or changed; take another one")
    with open(path, "rb") as file:
        start = file.read(len(MAGIC) + 2)
        if start[: len(MAGIC)] != MAGIC:
            raise FormatError(f"{path} is no snapshot of metadata")
        if int.from_bytes(start[len(MAGIC) :], "big") > FORMAT:
            raise FormatError(
                f"{path} has format {int.from_bytes(start[len(MAGIC) :], 'big')}, which is newer than this build reads ({FORMAT})"
            )
        sha256 = hashlib.sha256(start)
        while True:
            before = sha256.digest()
            raw = file.read(_FRAME.size + 8)
            if len(raw) < _FRAME.size + 8:
                raise broken
            length, kind, compression, _ = _FRAME.unpack_from(raw)
            packed = file.read(length) if length <= _FRAME_BYTES_MAX else b""
            mark = xxh3_64_intdigest(raw[: _FRAME.size] + packed).to_bytes(8, "big")
            if len(packed) < length or compression != _ZLIB or mark != raw[_FRAME.size :]:
                raise broken
            sha256.update(raw)
            sha256.update(packed)
            try:
                payload = zlib.decompress(packed)
            except zlib.error:
                raise broken from None
            yield kind, payload
            if kind == END:
                if msgspec.msgpack.decode(payload, type=End).sha256 != before or file.read(1):
                    raise broken
                return


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise DiskError(f"{path} cannot be synced: {error}") from error
    finally:
        os.close(fd)
