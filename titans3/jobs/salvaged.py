"""What salvage found and the folder it is written to: bodies as runs of segments, checked while they are copied.

Invariants
* A name in the folder is percent-encoded; ``#`` never comes from a bucket or key, so marked names meet no others. No name is ``.``, ``..``,
  empty, or longer than file systems take.
* A file is in the folder only if every byte matched its checksum.
* The folder is on the medium when ``Folder`` is left.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from xxhash import xxh3_64

from titans3.engine.extent import ExtentIdent, Granules
from titans3.engine.files import Files, read_at
from titans3.limits import MIB

MANIFEST = "manifest.jsonl"
_OTHERS = "#others"
_NAME_BYTES_MAX = 200


class Run(msgspec.Struct):
    """Bytes of a body in a segment. Without ``table`` they are of a record and ``checksum`` is theirs, else the table's."""

    path: str
    at: int
    length: int
    checksum: int
    table: bytes = b""


class Body(msgspec.Struct):
    """A body: when it was made (ms; index of its entry if that is known), its size and runs; ``runs`` ``None``: a delete.

    ``is_good``: nothing wrong was seen yet.
    """

    time: int
    size: int
    runs: tuple[Run, ...] | None
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    certain: bool = False
    is_good: bool = True
    version_id: str = ""
    index: int = 0


class Extents(msgspec.Struct):
    """Extents of one large body or part, by ordinal; ``last`` once the extent that says so was seen."""

    first: ExtentIdent
    runs: dict[int, Run] = {}
    last: int = -1
    certain: bool = False

    @property
    def is_whole(self) -> bool:
        return self.last >= 0 and len(self.runs) == self.last + 1

    def joined(self) -> tuple[Run, ...]:
        return tuple(self.runs[ordinal] for ordinal in sorted(self.runs))


class Salvaged(msgspec.Struct):
    """Counts; ``others``: bodies beside the latest ones. ``failed``: what could not be written, ``problems``: what could not be read."""

    objects: int = 0
    others: int = 0
    bytes: int = 0
    failed: list[str] = []
    problems: list[str] = []


class Folder:
    """The output: a context that ends with everything synced."""

    def __init__(self, path: str, files: Files) -> None:
        self._path, self._files = path, files
        self.done = Salvaged()

    def __enter__(self) -> Folder:
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        self._manifest = open(os.path.join(self._path, MANIFEST), "xb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manifest.close()
        os.sync()

    def write(self, folder: str, bucket: str, key: bytes, number: int, body: Body) -> bool:
        """A body of a key, the latest if ``number`` is 0; whether it was whole. Raises OSError when the output cannot be written."""
        place = (_folder_name(folder), file_name(key)) if not number else (_OTHERS, _folder_name(folder), f"{file_name(key)}#{number}")
        name = os.path.join(*place)
        path = os.path.join(self._path, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        problem = "" if body.is_good else "not whole, or its bytes do not match their checksum"
        if not problem:
            with open(path, "xb") as file:
                problem = self._copy(body, file)
            if problem:
                os.unlink(path)
        if problem:
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))
        self._tell(folder, bucket, key, name, number, body, problem)
        return not problem

    def _copy(self, body: Body, file: BinaryIO) -> str:
        """What is wrong with the body, empty if nothing is."""
        for run in body.runs or ():
            try:
                fd = self._files.open(run.path, os.O_RDONLY)
            except OSError as error:
                return str(error)
            granules, whole, left, at = Granules(), xxh3_64(), run.length, run.at
            try:
                while left:
                    try:
                        piece = memoryview(read_at(self._files, fd, min(left, MIB), at))
                    except OSError as error:
                        return str(error)
                    if not len(piece):
                        return f"{run.path} ends too early"
                    (granules if run.table else whole).update(piece)
                    file.write(piece)
                    left -= len(piece)
                    at += len(piece)
            finally:
                self._files.close(fd)
            if granules.finish() != run.table if run.table else whole.intdigest() != run.checksum:
                return "its bytes do not match their checksum"
        return ""

    def _tell(self, folder: str, bucket: str, key: bytes, name: str, number: int, body: Body, problem: str) -> None:
        done = self.done
        if problem:
            done.failed.append(f"{folder}/{key!r}: {problem}")
        elif number:
            done.others += 1
        else:
            done.objects += 1
            done.bytes += body.size
        line: dict[str, object] = {
            "bucket": bucket or folder, "key": key.decode("utf-8", "replace"), "file": None if problem else name, "size": body.size,
            "headers": body.headers, "metadata": body.metadata, "certain": body.certain, "latest": not number,
        }
        if problem:
            line["error"] = problem
        self._manifest.write(msgspec.json.encode(line) + b"\n")


def file_name(key: bytes) -> str:
    """A file name for a key: its characters percent-encoded, or a hash of it if that is too long. Never ``.`` or ``..``."""
    name = quote(key, safe="")
    if not key.strip(b"."):
        name = name.replace(".", "%2E") or "#empty"
    return name if len(name) <= _NAME_BYTES_MAX else "#sha256-" + hashlib.sha256(key).hexdigest()


def _folder_name(folder: str) -> str:
    """Of a bucket; marks stay as they are."""
    head, mark, tail = folder.partition("#")
    name = file_name(head.encode()) if head else ""
    return f"{MANIFEST}#" if name + mark == MANIFEST else f"{name}{mark}{tail}"
