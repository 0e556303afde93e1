"""The access log: one line a request, in files of their own, as JSON or in the format of S3's server access logs.

Invariants
* Lines are made of NOTED_MAX requests at a time, or of what there is every TICK_SECONDS, and written at once (``observe/line_file.py`` has
  the bounds): a crash of the worker takes at most that.
* No secret is in a line: of what signs a request the query shows the names.
* A file has one writer: each worker has files of its own.

Source of the format: https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from titans3.clock import Clock
from titans3.http.message import Request, trace_id_of
from titans3.http.shape import Shape
from titans3.http.target import hidden
from titans3.observe.line_file import TICK_SECONDS, LineFile, LineFileStatistics

NOTED_MAX = 64
_KEPT_MAX = 1024
_QUOTED = re.compile(r'["\\]')
_METHODS = {"GET": "GET", "HEAD": "HEAD", "PUT": "PUT", "POST": "POST", "DELETE": "DELETE"}
_KINDS = (("Tagging", "OBJECT_TAGGING"), ("Acl", "ACL"), ("Policy", "BUCKETPOLICY"), ("Upload", "UPLOAD"), ("Object", "OBJECT"))
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


class AccessLog:
    """Of one worker. ``client``: the address behind trusted proxies; ``owner``: the canonical id of a bucket's owner."""

    def __init__(
        self, folder: str, worker: int, clock: Clock, *, form: str, file_bytes: int, files_max: int, client: Callable[[Request], str],
        owner: Callable[[str], str], host_id: str = "", traced: bool = False,
    ) -> None:  # fmt: skip
        self._file, self._worker = LineFile(folder, f"access.{worker}", clock, file_bytes=file_bytes, files_max=files_max), worker
        self._clock, self._client, self._owner, self._host_id = clock, client, owner, host_id
        self._is_json = form == "json"
        self._traced = traced  # some requests are
        self._second, self._stamp = -1, ""
        self._ms, self._text = -1, ""
        self._s3_second, self._s3_time = -1, ""
        self._noted: list[Note] = []
        self._clients: dict[str, str] = {}  # by what the connection came from

    def answered(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        """An answer is given."""
        noted = self._noted
        noted.append((self._clock.wall_ms(), request, status, received, sent, seconds, first))
        if len(noted) >= NOTED_MAX:
            self._make_lines()

    def _make_lines(self) -> None:
        """Lines of what was noted; together they cost half of what they cost one by one between other work."""
        noted, self._noted = self._noted, []
        if self._file.is_behind:
            self._file.drop(len(noted))
            return
        lines: list[Line] = []
        add, clients, worker = lines.append, self._clients, self._worker
        if len(clients) > _KEPT_MAX:
            clients.clear()
        for wall_ms, request, status, received, sent, seconds, first in noted:
            target, caller, shape = request.target, request.caller, request.shape
            arn, key = ("", "") if caller is None else (caller.arn, caller.access_key)
            agent, referer, forwarded = _constants(request) if shape is None else shape.told or _kept(shape, request)
            if forwarded:
                client = self._client(request)
            elif (client := clients.get(request.peer, "")) == "":
                client = clients[request.peer] = self._client(request)
            taken = int(seconds * 1e6) / 1e6
            add(
                Line(
                    self._text if wall_ms == self._ms else self._time(wall_ms), request.request_id, client, arn, key,
                    request.operation, request.method, request.bucket,
                    (hidden(target) if b"?" in target else target).decode("latin-1"),
                    status, request.error, received, sent,
                    taken, int(first * 1e6) / 1e6 if first else taken, request.host, agent, referer, request.tls, worker,
                )
            )  # fmt: skip
        if self._traced:
            for at, note in enumerate(noted):
                if trace_id := trace_id_of(note[1]):
                    lines[at] = TracedLine(**msgspec.structs.asdict(lines[at]), trace_id=trace_id)
        if self._is_json:
            data = _encode_lines(lines)
        else:
            data = b"".join([self._s3_line(line, note) for line, note in zip(lines, noted, strict=True)])
        self._file.append(data, len(noted))

    def _time(self, wall_ms: int) -> str:
        """``2026-01-31T23:59:59.123Z``; the last one is kept."""
        second = wall_ms // 1000
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        self._ms, self._text = wall_ms, f"{self._stamp}{wall_ms % 1000:03d}Z"
        return self._text

    def statistics(self) -> LineFileStatistics:
        """Counters."""
        return self._file.statistics()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what was noted."""
        if self._noted:
            self._make_lines()
        await self._file.tick()

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


def _constants(request: Request) -> tuple[str, str, bool]:
    """What does not vary between requests of a shape: user agent, referer, and whether somebody forwarded it."""
    fields = request.fields
    referer = fields.get(b"referer")
    return (
        fields.get(b"user-agent", b"").decode("latin-1"), "" if referer is None else hidden(referer).decode("latin-1"),
        b"x-forwarded-for" in fields,
    )  # fmt: skip


def _kept(shape: Shape, request: Request) -> tuple[str, str, bool]:
    shape.told = _constants(request)
    return shape.told


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
