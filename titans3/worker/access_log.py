"""The access log: one line a request, in files of their own, as JSON or in the format of S3's server access logs.

Invariants
* Lines are made of NOTED_MAX requests at a time: thousands that wait would cost the garbage collector and the caches more than their lines
  do. They are written by a thread, every WRITE_SECONDS; a crash takes at most that.
* Nothing grows without bound: past WAITING_BYTES_MAX that wait (the disk is slow or full), further lines are counted instead of kept;
  files are turned at ``file_bytes``, and the oldest goes past ``files_max``.
* No secret is in a line: of what signs a request the query shows the names.
* A file has one writer: each worker has files of its own.

Source of the format: https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from titans3.clock import Clock
from titans3.http.message import Request, trace_id_of
from titans3.http.target import hidden
from titans3.limits import MIB

WRITE_SECONDS = 0.5
NOTED_MAX = 64
WAITING_BYTES_MAX = 8 * MIB
_QUOTED = re.compile(r'["\\]')
_METHODS = {"GET": "GET", "HEAD": "HEAD", "PUT": "PUT", "POST": "POST", "DELETE": "DELETE"}
_KINDS = (("Tagging", "OBJECT_TAGGING"), ("Acl", "ACL"), ("Policy", "BUCKETPOLICY"), ("Upload", "UPLOAD"), ("Object", "OBJECT"))
_logger = logging.getLogger("titans3.access")
_NOBODY = ("", "")
_encode_lines = msgspec.json.Encoder().encode_lines


Note = tuple[int, Request, int, int, int, float, float]


class Line(msgspec.Struct, gc=False):
    """One request as JSON shows it, field by field."""

    time: str
    request_id: str
    client: str
    requester: str
    access_key: str
    operation: str
    method: str
    bucket: str
    target: str
    status: int
    error: str
    received: int
    sent: int
    seconds: float
    first_byte_seconds: float
    host: str
    user_agent: str
    referer: str
    tls: str
    worker: int


class TracedLine(Line, gc=False):
    """Of a request that is traced (see ``tracer``)."""

    trace_id: str


class AccessLogStatistics(msgspec.Struct, frozen=True):
    """Since start. ``dropped``: requests that are in no file; ``failures``: writes that failed."""

    lines: int
    dropped: int
    failures: int


class AccessLog:
    """Of one worker. ``client``: the address behind trusted proxies; ``owner``: the canonical id of a bucket's owner."""

    def __init__(
        self, folder: str, worker: int, clock: Clock, *, form: str, file_bytes: int, files_max: int, client: Callable[[Request], str],
        owner: Callable[[str], str], host_id: str = "", traced: bool = False,
    ) -> None:  # fmt: skip
        self._folder, self._name, self._worker = folder, os.path.join(folder, f"access.{worker}.log"), worker
        self._clock, self._client, self._owner, self._host_id = clock, client, owner, host_id
        self._is_json = form == "json"
        self._traced = traced  # some requests are
        self._second, self._stamp = -1, ""
        self._ms, self._text = -1, ""
        self._s3_second, self._s3_time = -1, ""
        self._file_bytes, self._files_max = file_bytes, files_max
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._count = 0
        self._noted: list[Note] = []
        self._lines = self._dropped = self._failures = 0
        self._said = 0.0

    def answered(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        """An answer is given."""
        noted = self._noted
        noted.append((self._clock.wall_ms(), request, status, received, sent, seconds, first))
        if len(noted) >= NOTED_MAX:
            self._make_lines()

    def _make_lines(self) -> None:
        """Lines of what was noted; together they cost half of what they cost one by one between other work."""
        noted, self._noted = self._noted, []
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self._dropped += len(noted)
            return
        lines = [
            Line(
                self._time(wall_ms), request.request_id, self._client(request),
                *(_NOBODY if (caller := request.caller) is None else (caller.arn, caller.access_key)),
                request.operation, request.method, request.bucket,
                (hidden(target) if b"?" in (target := request.target) else target).decode("latin-1"),
                status, request.error, received, sent,
                int(seconds * 1e6) / 1e6, int((first or seconds) * 1e6) / 1e6, request.host,
                (fields := request.fields).get(b"user-agent", b"").decode("latin-1"),
                "" if (referer := fields.get(b"referer")) is None else hidden(referer).decode("latin-1"), request.tls, self._worker,
            )
            for wall_ms, request, status, received, sent, seconds, first in noted
        ]  # fmt: skip
        if self._traced:
            for at, note in enumerate(noted):
                if trace_id := trace_id_of(note[1]):
                    lines[at] = TracedLine(**msgspec.structs.asdict(lines[at]), trace_id=trace_id)
        if self._is_json:
            data = _encode_lines(lines)
        else:
            data = b"".join([self._s3_line(line, note) for line, note in zip(lines, noted, strict=True)])
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._count += len(noted)

    def _time(self, wall_ms: int) -> str:
        """``2026-01-31T23:59:59.123Z``; the last one is kept."""
        if wall_ms != self._ms:
            second = wall_ms // 1000
            if second != self._second:
                self._second = second
                self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._ms, self._text = wall_ms, f"{self._stamp}{wall_ms % 1000:03d}Z"
        return self._text

    def statistics(self) -> AccessLogStatistics:
        """Counters."""
        return AccessLogStatistics(self._lines, self._dropped, self._failures)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what waits."""
        self._make_lines()
        if not self._waiting:
            return
        data, count = self._waiting, self._count
        self._waiting, self._waiting_bytes, self._count = [], 0, 0
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write, data)
            self._lines += count
        except OSError as error:
            self._failures += 1
            self._dropped += count
            if time.monotonic() - self._said > 60:
                self._said = time.monotonic()
                _logger.error("%s cannot be written, %d requests are in no access log so far: %s", self._name, self._dropped, error)

    # in a thread ---------------------------------------------------------------------------------------------------

    def _write(self, data: list[bytes]) -> None:
        os.makedirs(self._folder, mode=0o750, exist_ok=True)
        fd = os.open(self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            view = memoryview(b"".join(data))  # one call: each would wait for the loop to let go of the GIL
            while view:
                view = view[os.write(fd, view) :]
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size >= self._file_bytes:
            self._turn()

    def _turn(self) -> None:
        """A new file; the oldest goes."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._clock.wall_ms() / 1000))
        target = os.path.join(self._folder, f"access.{self._worker}.{stamp}.log")
        number = 1
        while os.path.exists(target):
            number += 1
            target = os.path.join(self._folder, f"access.{self._worker}.{stamp}.{number}.log")
        os.rename(self._name, target)
        prefix = f"access.{self._worker}."
        old = sorted(
            (entry.stat().st_mtime_ns, entry.path)
            for entry in os.scandir(self._folder)
            if entry.name.startswith(prefix) and entry.name != os.path.basename(self._name)
        )
        for _, path in old[: max(0, len(old) - self._files_max + 1)]:
            os.unlink(path)

    def _s3_line(self, line: Line, note: Note) -> bytes:
        request, second = note[1], note[0] // 1000
        signed, kind = _authentication(request)
        if self._s3_second != second:
            self._s3_second, self._s3_time = second, time.strftime("[%d/%b/%Y:%H:%M:%S +0000]", time.gmtime(second))
        fields = (
            self._owner(line.bucket) if line.bucket else "-", line.bucket or "-", self._s3_time, line.client,
            line.requester or "-", line.request_id, _operation(line), _key(request),
            f'"{line.method} {_safe(line.target)} HTTP/1.1"', str(line.status), line.error or "-",
            str(line.sent) if line.sent else "-", str(line.received or line.sent) if line.received or line.sent else "-",
            str(int(line.seconds * 1000)), str(int(line.first_byte_seconds * 1000)), f'"{_safe(line.referer) or "-"}"',
            f'"{_safe(line.user_agent) or "-"}"', _version(request), self._host_id or "-", signed, "-", kind,
            _safe(line.host) or "-", f"TLSv{line.tls}" if line.tls else "-", "-", "-",
        )  # fmt: skip
        return (" ".join(fields) + "\n").encode("utf-8", "replace")


def _safe(text: str) -> str:
    """Printable, without a quote or a backslash that could end a field."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return _QUOTED.sub("_", "".join(char if char.isprintable() else "?" for char in text))


def _key(request: Request) -> str:
    path = request.path.decode("latin-1")
    if not request.bucket:
        return "-"
    key = path[len(request.bucket) + 2 :] if path.startswith(f"/{request.bucket}/") else "" if path == f"/{request.bucket}" else path[1:]
    return quote(key, safe="/%-._~()!*'") or "-"


def _version(request: Request) -> str:
    found = re.search(rb"(?:^|&)versionId=([0-9A-Za-z]+)", request.query)
    return found[1].decode() if found else "-"


def _operation(line: Line) -> str:
    """``REST.GET.OBJECT`` and its like."""
    method = _METHODS.get(line.method, "OTHER")
    name = line.operation
    for word, kind in _KINDS:
        if word in name:
            return f"REST.{method}.{kind}"
    return f"REST.{method}.{'BUCKET' if line.bucket else 'SERVICE'}"


def _authentication(request: Request) -> tuple[str, str]:
    authorization = request.fields.get(b"authorization", b"")
    if authorization.startswith(b"AWS4"):
        return "SigV4", "AuthHeader"
    if authorization:
        return "SigV2", "AuthHeader"
    if b"X-Amz-Signature=" in request.query:
        return "SigV4", "QueryString"
    return ("SigV2", "QueryString") if b"Signature=" in request.query else ("-", "-")
