"""The access log: one line a request, in files of their own, as JSON or in the format of S3's server access logs.

Invariants
* A request pays for an append to a list. Lines are made and written by a thread, every WRITE_SECONDS; what a crash takes is at most that.
* Nothing grows without bound: past WAITING_MAX requests that wait (the disk is slow or full), further ones are counted instead of kept;
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
from typing import Any
from urllib.parse import quote

import msgspec

from titans3.clock import Clock
from titans3.http.message import Request

WRITE_SECONDS = 0.5
WAITING_MAX = 20_000
_HIDDEN = re.compile(rb"(?i)((?:x-amz-(?:signature|security-token|credential)|signature|awsaccesskeyid)=)[^&]*")
_QUOTED = re.compile(r'["\\]')
_METHODS = {"GET": "GET", "HEAD": "HEAD", "PUT": "PUT", "POST": "POST", "DELETE": "DELETE"}
_KINDS = (("Tagging", "OBJECT_TAGGING"), ("Acl", "ACL"), ("Policy", "BUCKETPOLICY"), ("Upload", "UPLOAD"), ("Object", "OBJECT"))
_logger = logging.getLogger("titans3.access")
_json = msgspec.json.Encoder().encode
Note = tuple[int, Request, int, int, int, float, float]


class AccessLogStatistics(msgspec.Struct, frozen=True):
    """Since start. ``dropped``: requests that are in no file; ``failures``: writes that failed."""

    lines: int
    dropped: int
    failures: int


class AccessLog:
    """Of one worker. ``client``: the address behind trusted proxies; ``owner``: the canonical id of a bucket's owner."""

    def __init__(
        self, folder: str, worker: int, clock: Clock, *, form: str, file_bytes: int, files_max: int, client: Callable[[Request], str],
        owner: Callable[[str], str], host_id: str = "",
    ) -> None:  # fmt: skip
        self._folder, self._name, self._worker = folder, os.path.join(folder, f"access.{worker}.log"), worker
        self._clock, self._client, self._owner, self._host_id = clock, client, owner, host_id
        self._line = self._json_line if form == "json" else self._s3_line
        self._file_bytes, self._files_max = file_bytes, files_max
        self._waiting: list[Note] = []
        self._lines = self._dropped = self._failures = 0
        self._said = 0.0

    def answered(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        """An answer is given."""
        if len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        self._waiting.append((self._clock.wall_ms(), request, status, received, sent, seconds, first))

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
        if not self._waiting:
            return
        notes, self._waiting = self._waiting, []
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write, notes)
            self._lines += len(notes)
        except OSError as error:
            self._failures += 1
            self._dropped += len(notes)
            if time.monotonic() - self._said > 60:
                self._said = time.monotonic()
                _logger.error("%s cannot be written, %d requests are in no access log so far: %s", self._name, self._dropped, error)

    # in a thread ---------------------------------------------------------------------------------------------------

    def _write(self, notes: list[Note]) -> None:
        os.makedirs(self._folder, mode=0o750, exist_ok=True)
        data = b"".join([self._line(*note) for note in notes])
        fd = os.open(self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            view = memoryview(data)
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

    def _json_line(self, wall_ms: int, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> bytes:
        caller = request.caller
        line: dict[str, Any] = {
            "time": _iso(wall_ms), "request_id": request.request_id, "client": self._client(request),
            "requester": caller.arn if caller is not None else "", "access_key": caller.access_key if caller is not None else "",
            "operation": request.operation, "method": request.method, "bucket": request.bucket,
            "target": hidden(request.target).decode("latin-1"), "status": status, "error": request.error, "received": received,
            "sent": sent, "seconds": round(seconds, 6), "first_byte_seconds": round(first or seconds, 6), "host": request.host,
            "user_agent": _text(request, b"user-agent"), "referer": _text(request, b"referer"), "tls": request.tls, "worker": self._worker,
        }  # fmt: skip
        return _json(line) + b"\n"

    def _s3_line(self, wall_ms: int, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> bytes:
        caller = request.caller
        key = _key(request)
        signed, kind = _authentication(request)
        fields = (
            self._owner(request.bucket) if request.bucket else "-", request.bucket or "-",
            time.strftime("[%d/%b/%Y:%H:%M:%S +0000]", time.gmtime(wall_ms // 1000)), self._client(request),
            (caller.arn if caller is not None else "") or "-", request.request_id, _operation(request), key,
            f'"{request.method} {_safe(hidden(request.target).decode("latin-1"))} HTTP/1.1"', str(status), request.error or "-",
            str(sent) if sent else "-", str(received or sent) if received or sent else "-", str(int(seconds * 1000)),
            str(int((first or seconds) * 1000)), f'"{_safe(_text(request, b"referer")) or "-"}"',
            f'"{_safe(_text(request, b"user-agent")) or "-"}"', _version(request), self._host_id or "-", signed, "-", kind,
            _safe(request.host) or "-", f"TLSv{request.tls}" if request.tls else "-", "-", "-",
        )  # fmt: skip
        return " ".join(fields).encode("utf-8", "replace") + b"\n"


def hidden(target: bytes) -> bytes:
    """A request's target without what signs it."""
    return _HIDDEN.sub(rb"\1...", target) if b"?" in target else target


def _iso(wall_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_ms // 1000)) + f".{wall_ms % 1000:03d}Z"


def _text(request: Request, name: bytes) -> str:
    return request.fields.get(name, b"").decode("latin-1")


def _safe(text: str) -> str:
    """Printable, without a quote or a backslash that could end a field."""
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


def _operation(request: Request) -> str:
    """``REST.GET.OBJECT`` and its like."""
    method = _METHODS.get(request.method, "OTHER")
    name = request.operation
    for word, kind in _KINDS:
        if word in name:
            return f"REST.{method}.{kind}"
    return f"REST.{method}.{'BUCKET' if request.bucket else 'SERVICE'}"


def _authentication(request: Request) -> tuple[str, str]:
    authorization = request.fields.get(b"authorization", b"")
    if authorization.startswith(b"AWS4"):
        return "SigV4", "AuthHeader"
    if authorization:
        return "SigV2", "AuthHeader"
    if b"X-Amz-Signature=" in request.query:
        return "SigV4", "QueryString"
    return ("SigV2", "QueryString") if b"Signature=" in request.query else ("-", "-")
