"""The audit trail: who administrated what, and whom the server refused; append-only files whose lines are chained.

Invariants
* A line holds the hash of the line before it, and its own over both, keyed by the root key: whoever changes, removes or inserts a line
  without that key breaks the chain from there on. The end of a chain is kept in the control plane, so that a cut tail is seen, too.
* What the APIs of administration did is on the disk before their answer; refusals and S3's own bucket settings follow within
  WRITE_SECONDS.
* Refusals are bounded: past REFUSALS_MAX a second they are counted, and the count is a line.
* A file has one writer: each worker has a chain of its own, and one write at a time, which nobody who waits for it can cut short: a
  line follows the last one that is in the file. No secret is in a line.
* A line has at most LINE_BYTES_MAX; the details of a larger event are left out, and the line says so.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from titans3.clock import Clock
from titans3.tasks import to_the_end

WRITE_SECONDS = 0.5
REFUSALS_MAX = 50
FIRST = "0" * 64
LINE_BYTES_MAX = 64 * 1024
_EVENT_BYTES_MAX = LINE_BYTES_MAX - 1024  # before its hash
_logger = logging.getLogger("titans3.audit")
_encode = msgspec.json.Encoder(order="deterministic").encode


class AuditStatistics(msgspec.Struct, frozen=True):
    """Since start. ``suppressed``: refusals that were counted instead of written; ``failures``: writes that failed; ``waiting``: events
    that are not written yet."""

    lines: int
    suppressed: int
    failures: int
    waiting: int


class Head(msgspec.Struct, frozen=True):
    """The end of a chain: how many lines it has, and the last one's hash."""

    number: int
    hash: str


class Broken(Exception):
    """A chain that is not whole; the argument says where."""


def hash_of(key: bytes, event: dict[str, Any]) -> str:
    """Of a line without its own hash."""
    return hmac.digest(key, _encode({name: value for name, value in event.items() if name != "hash"}), "sha256").hex()


def anchor_key(worker: int) -> str:
    """Where the control plane keeps the end of a worker's chain: msgpack ``(format, number, hash)``."""
    return f"/audit/{worker}"


def verify(folder: str, worker: int, key: bytes, anchor: Head | None = None) -> Head:
    """Read a chain and check it; ``anchor`` is an end that it had. Raises Broken, OSError."""
    head = Head(0, FIRST)
    for path in files_of(folder, worker):
        for at, line in enumerate(_lines(path), 1):
            where = f"{path}, line {at}"
            try:
                event = msgspec.json.decode(line)
            except msgspec.MsgspecError:
                raise Broken(f"{where} is no JSON") from None
            if not isinstance(event, dict) or event.get("number") != head.number + 1 or event.get("before") != head.hash:
                raise Broken(f"{where} does not follow line {head.number} of the chain")
            if not hmac.compare_digest(str(event.get("hash", "")), hash_of(key, event)):
                raise Broken(f"{where} was changed")
            head = Head(head.number + 1, event["hash"])
            if anchor is not None and head.number == anchor.number and head.hash != anchor.hash:
                raise Broken(f"{where} is not the line that was there: the chain was made anew")
    if anchor is not None and head.number < anchor.number:
        raise Broken(f"the chain of worker {worker} ends with line {head.number}, line {anchor.number} was there")
    return head


def events(folder: str, workers: list[int], since_ms: int, limit: int) -> list[dict[str, Any]]:
    """The last ``limit`` events since a moment, oldest first. Raises OSError."""
    found: list[dict[str, Any]] = []
    for worker in workers:
        mine: list[dict[str, Any]] = []
        for path in reversed(files_of(folder, worker)):
            page = [event for line in _lines(path) if isinstance(event := _event(line), dict)]
            mine[:0] = [event for event in page if event.get("time_ms", 0) >= since_ms]
            if len(mine) >= limit or (page and page[0].get("time_ms", 0) < since_ms):
                break
        found += mine[-limit:]
    found.sort(key=lambda event: (event.get("time_ms", 0), event.get("worker", 0), event.get("number", 0)))
    return found[-limit:]


def _event(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return None


def files_of(folder: str, worker: int) -> list[str]:
    """The files of a worker's chain, oldest first."""
    prefix = f"audit.{worker}."
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(prefix) and entry.name.endswith(".jsonl")]
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in sorted(names)]


def workers_of(folder: str) -> list[int]:
    """Workers that have a chain."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    return sorted({int(name.split(".")[1]) for name in names if name.startswith("audit.") and name.endswith(".jsonl")})


def _lines(path: str) -> Iterator[bytes]:
    """Whole lines; what a crash cut off at the end is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def head_of(folder: str, worker: int) -> Head:
    """The end of a chain that nobody writes. Raises OSError."""
    last = next((found for path in reversed(files_of(folder, worker)) if (found := _last_line(path)) is not None), None)
    if last is None:
        return Head(0, FIRST)
    event = msgspec.json.decode(last)
    return Head(event["number"], event["hash"])


class AuditTrail:
    """The chain of one worker. ``open`` before ``record``."""

    def __init__(self, folder: str, worker: int, key: bytes, clock: Clock, *, file_bytes: int) -> None:
        self.folder, self.worker, self._key, self._clock, self._file_bytes = folder, worker, key, clock, file_bytes
        self.head = Head(0, FIRST)
        self._fd = -1
        self._size = 0
        self._waiting: list[dict[str, Any]] = []
        self._writing: asyncio.Lock | None = None
        self._is_closed = False
        self._lines_written = self._suppressed = self._failures = 0
        self._second, self._in_second, self._held_back = 0, 0, 0
        self._said = 0.0

    def statistics(self) -> AuditStatistics:
        """Counters."""
        return AuditStatistics(self._lines_written, self._suppressed, self._failures, len(self._waiting))

    def open(self) -> None:
        """Go on where the chain ended; a line that a crash cut off is cut away. Raises OSError."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        files = files_of(self.folder, self.worker)
        if files:
            self._cut(files[-1])
            self.head = head_of(self.folder, self.worker)
            self._open_file(files[-1])
            os.fdatasync(self._fd)  # a killed process may have left lines that are not on the disk yet: nobody builds on those
        self._writing = asyncio.Lock()

    @staticmethod
    def _cut(path: str) -> None:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - 2 * LINE_BYTES_MAX)
            file.seek(start)
            whole = file.read().rfind(b"\n") + 1
            if start + whole < size:
                file.truncate(start + whole)

    def _open_file(self, path: str) -> None:
        fd, before = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), self._fd
        self._fd, self._size = fd, os.fstat(fd).st_size
        if before >= 0:
            os.close(before)

    # recording -----------------------------------------------------------------------------------------------------

    def record(self, event: dict[str, Any]) -> None:
        """To be written soon."""
        self._waiting.append({"time_ms": self._clock.wall_ms(), "worker": self.worker, **event})

    def refused(self, event: dict[str, Any]) -> None:
        """A refusal: written soon, or only counted when there are too many."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
            if self._held_back:
                self.record({"event": "refusals that were not written", "count": self._held_back})
                self._held_back = 0
        if self._in_second >= REFUSALS_MAX:
            self._held_back += 1
            self._suppressed += 1
            return
        self._in_second += 1
        self.record(event)

    async def record_now(self, event: dict[str, Any]) -> None:
        """On the disk when this returns. Raises OSError."""
        self.record(event)
        await self.write()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            if not self._waiting:
                continue
            try:
                await self.write()
            except OSError as error:
                if time.monotonic() - self._said > 60:
                    self._said = time.monotonic()
                    _logger.error("the audit trail cannot be written, %d events wait: %s", len(self._waiting), error)

    async def write(self) -> None:
        """What waits, with a sync. Raises OSError: then it waits on. Who is cancelled here does not end what is being written."""
        await to_the_end(self._write_waiting())

    async def _write_waiting(self) -> None:
        assert self._writing is not None, "open comes first"
        async with self._writing:
            if not self._waiting:
                return
            if self._is_closed:
                raise OSError(errno.EBADF, "the audit trail is closed")
            events, self._waiting = self._waiting, []
            try:
                self.head = await asyncio.get_running_loop().run_in_executor(None, self._write, events, self.head)
            except OSError:
                self._failures += 1
                self._waiting[:0] = events[-10_000:]
                raise
            self._lines_written += len(events)

    def _write(self, events: list[dict[str, Any]], head: Head) -> Head:
        if self._fd < 0 or self._size >= self._file_bytes:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._clock.wall_ms() / 1000))
            self._open_file(os.path.join(self.folder, f"audit.{self.worker}.{head.number + 1:012d}.{stamp}.jsonl"))
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        lines = []
        for event in events:
            event = {"number": head.number + 1, "before": head.hash, **event}
            size = len(_encode(event))
            if size > _EVENT_BYTES_MAX:
                event["details"] = {"left out": f"{size} bytes"}
            event["hash"] = hash_of(self._key, event)
            lines.append(_encode(event) + b"\n")
            head = Head(event["number"], event["hash"])
        data = b"".join(lines)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        return head

    async def close(self) -> None:
        """Write the last and let go; what is being written comes first."""
        if self._writing is not None:
            try:
                await self.write()
            except OSError as error:
                _logger.error("%d events of the audit trail are lost: %s", len(self._waiting), error)
            async with self._writing:  # behind whoever came meanwhile
                self._is_closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _last_line(path: str) -> bytes | None:
    """The last whole one."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * LINE_BYTES_MAX))
        lines = [line for line in file.read().rpartition(b"\n")[0].split(b"\n") if line]
    return lines[-1] if lines else None
