"""How far a chain of the audit trail was delivered to somebody, and the lines that come next.

Invariants
* A line is delivered when a cursor behind it is durable. A crash between the receiver's answer and the cursor repeats a batch, never
  skips one: at least once, in the chain's order.
* Only whole lines are taken, and of a chain that is being written only those that are on the disk.
* A chain that does not go on where the cursor stands (files were moved away, or the chain was made anew) is said, and delivered from
  where it is.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator

import msgspec

from titans3.observe.audit import FIRST, Head, files_of

_FORMAT = 1


class Cursor(msgspec.Struct, frozen=True):
    """``number``, ``hash``: of the last line that was delivered; ``file``, ``offset``: where it ends."""

    number: int = 0
    hash: str = FIRST
    file: str = ""
    offset: int = 0
    format: int = _FORMAT


class Batch(msgspec.Struct, frozen=True):
    """Lines as they are in the file, each with its end of line; ``after`` is the cursor behind them.

    ``oldest_ms`` is the time of the first one, 0 without lines; ``waiting_bytes`` what the files hold from the cursor on, the lines among
    it. ``problems`` are for the log.
    """

    data: bytes
    count: int
    first: int
    after: Cursor
    oldest_ms: int
    waiting_bytes: int
    problems: tuple[str, ...] = ()


class _Line(msgspec.Struct):
    """What is asked of a line."""

    number: int
    before: str
    hash: str
    time_ms: int = 0


_decode = msgspec.json.Decoder(_Line).decode
_decode_cursor = msgspec.json.Decoder(Cursor).decode


def cursor_name(folder: str, worker: int) -> str:
    """The file that keeps it."""
    return os.path.join(folder, f"webhook.{worker}.json")


def lock_chain(folder: str, worker: int) -> int:
    """Be the only one who delivers a chain, as long as the descriptor is open. Raises BlockingIOError when another process is, OSError."""
    fd = os.open(os.path.join(folder, f"webhook.{worker}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_cursor(folder: str, worker: int) -> Cursor:
    """The one that was kept; the beginning if there is none. Raises ValueError for one that cannot be read, OSError."""
    try:
        with open(cursor_name(folder, worker), "rb") as file:
            cursor = _decode_cursor(file.read(64 * 1024))
    except FileNotFoundError:
        return Cursor()
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if cursor.format != _FORMAT or cursor.number < 0 or cursor.offset < 0:
        raise ValueError(f"format {cursor.format}, line {cursor.number}, offset {cursor.offset}")
    return cursor


def keep_cursor(folder: str, worker: int, cursor: Cursor) -> None:
    """Durably. Raises OSError."""
    name = cursor_name(folder, worker)
    with open(os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(cursor) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{name}.new", name)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def next_lines(folder: str, worker: int, cursor: Cursor, end: Head, *, lines_max: int, bytes_max: int) -> Batch:
    """The lines behind the cursor up to ``end``, at least one if there is one. Raises OSError."""
    if cursor.number > end.number or (cursor.number == end.number and cursor.hash != end.hash):
        text = f"ends with line {end.number}, but line {cursor.number} was delivered: it was made anew, and is delivered from its beginning"
        return _read(folder, worker, Cursor(), end, lines_max, bytes_max, [text])
    return _read(folder, worker, cursor, end, lines_max, bytes_max, [])


def _read(folder: str, worker: int, cursor: Cursor, end: Head, lines_max: int, bytes_max: int, problems: list[str]) -> Batch:
    files = files_of(folder, worker)
    at, offset = _start(files, cursor)
    waiting = sum(os.stat(path).st_size for path in files[at:]) - offset
    data = bytearray()
    count = first = oldest_ms = 0
    is_there = not cursor.file or any(os.path.basename(path) == cursor.file for path in files)
    for path, text, after in _lines(files[at:], offset):
        try:
            line = _decode(text)
        except msgspec.MsgspecError:
            problems.append(f"has a line that is none, in {path} before byte {after}: it is left out; see `titanctl audit verify`")
            continue
        if line.number <= cursor.number:  # the file begins before the cursor
            continue
        if line.number > end.number or (count and (count >= lines_max or len(data) + len(text) > bytes_max)):
            break
        if line.number != cursor.number + 1 or line.before != cursor.hash:
            problem = f"goes on with line {line.number} in {path}, which does not follow line {cursor.number} that was delivered"
            if not is_there and line.number == cursor.number + 1:
                return _read(folder, worker, Cursor(), end, lines_max, bytes_max, [f"{problem}: it is delivered from its beginning"])
            problems.append(problem)
        if not count:
            first, oldest_ms = line.number, line.time_ms
        data += text
        count += 1
        cursor = Cursor(line.number, line.hash, os.path.basename(path), after)
    return Batch(bytes(data), count, first, cursor, oldest_ms, waiting, tuple(problems))


def lines_after(folder: str, worker: int, number: int, end: Head, *, lines_max: int, bytes_max: int) -> list[bytes]:
    """The lines behind a number up to ``end``, at least one if there is one; those that are none are left out. Raises OSError."""
    files = files_of(folder, worker)
    found: list[bytes] = []
    size = 0
    for _, text, _ in _lines(files[_start(files, Cursor(number))[0] :], 0):
        try:
            line = _decode(text)
        except msgspec.MsgspecError:
            continue
        if line.number <= number:
            continue
        size += len(text)
        if line.number > end.number or len(found) >= lines_max or (found and size > bytes_max):
            break
        found.append(text)
    return found


def number_before(folder: str, worker: int, since_ms: int) -> int:
    """A number behind which every line since a moment is, as the names of the files tell it."""
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(since_ms / 1000))
    parts = [os.path.basename(path).split(".") for path in files_of(folder, worker)]
    return max([int(first) for _, _, first, stamp, _ in parts if stamp < moment], default=1) - 1


def _lines(files: list[str], offset: int) -> Iterator[tuple[str, bytes, int]]:
    """File, whole line, and the offset behind it."""
    for path in files:
        with open(path, "rb") as file:
            offset = file.seek(offset)
            for text in file:
                offset += len(text)
                if text.endswith(b"\n"):
                    yield path, text, offset
        offset = 0


def _start(files: list[str], cursor: Cursor) -> tuple[int, int]:
    """Index of the file where the next line is to be looked for, and the offset there."""
    for at, path in enumerate(files):
        if os.path.basename(path) == cursor.file and os.stat(path).st_size >= cursor.offset:
            return at, cursor.offset
    begins = [int(os.path.basename(path).split(".")[2]) for path in files]
    return max((at for at, number in enumerate(begins) if number <= cursor.number + 1), default=0), 0
