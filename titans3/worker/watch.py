"""Live views of the whole server: requests as they are answered, log lines as they come. Any worker streams them for all.

Invariants
* Free when nobody watches: a worker makes events while a session of somebody polls it, and forgets a session SESSION_SECONDS after its
  last poll, whatever became of who asked.
* Bounded: EVENTS_MAX events wait for a poll in each worker; what comes beyond is counted, and the count is told.
* Filters are applied where a request was answered.
* Events of all workers come in the order of their moments: workers are asked one after another, so what happened since the asking began
  waits for the next time, when all of them have told it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from operator import itemgetter
from typing import Any

import msgspec

from titans3.clock import Clock
from titans3.cluster import messages as m
from titans3.cluster.siblings import Siblings
from titans3.errors import ClientError, PeerError
from titans3.http.message import Request, trace_id_of
from titans3.http.target import hidden
from titans3.observe.recent import Recent
from titans3.rpc.link import Answer, LinkServer
from titans3.worker.observers import Observers

POLL_SECONDS = 0.25
QUIET_SECONDS = 10.0  # then an empty line says that the stream lives
STREAM_SECONDS_MAX = 3600.0
SESSION_SECONDS = 5.0
EVENTS_MAX = 5000
SESSIONS_MAX = 16
TRACE, LOGS = "trace", "logs"
_LEVELS = ("debug", "info", "warning", "error", "critical")
Told = list[tuple[int, bytes]]  # events as JSON with their moments, milliseconds
_encode = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class Filter(msgspec.Struct, array_like=True, frozen=True):
    """What is wanted of requests, or of log lines (``level``). Empty means everything. ``status``: ``404`` or ``5xx``."""

    operations: tuple[str, ...] = ()
    status: str = ""
    path: str = ""
    least_seconds: float = 0.0
    errors: bool = False
    level: str = ""
    last: int = 0


class _Poll(msgspec.Struct, array_like=True):
    session: bytes
    kind: str
    wanted: Filter


class _Events(msgspec.Struct, array_like=True):
    """Events with their moments; ``lost``: those that did not wait."""

    events: Told
    lost: int


def in_order(waited: Told, told: Told, began_ms: int) -> tuple[Told, Told]:
    """What to show now, by moment, and what waits for the next time: those of ``told`` that are not from before ``began_ms``.

    What waited once is shown whatever the clock says by now.
    """
    shown = waited + [event for event in told if event[0] < began_ms]
    shown.sort(key=itemgetter(0))
    return shown, [event for event in told if event[0] >= began_ms]


class _Session:
    """What somebody wants of this worker."""

    def __init__(self, watch: Watch, kind: str, wanted: Filter) -> None:
        self._watch, self.kind, self.wanted = watch, kind, wanted
        self.events: deque[tuple[int, bytes]] = deque()
        self.lost = 0
        self.timer: asyncio.TimerHandle | None = None
        operations = {name.lower() for name in wanted.operations}
        self._operations, self._path = operations, wanted.path.encode("latin-1", "replace")

    def answered(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        wanted = self.wanted
        if (
            (self._operations and request.operation.lower() not in self._operations)
            or seconds < wanted.least_seconds
            or (wanted.errors and 0 < status < 400)
            or (wanted.status and not _fits(wanted.status, status))
            or (self._path and self._path not in request.path)
        ):
            return
        self.add(self._watch.event_of(request, status, received, sent, seconds, first))

    def line(self, line: dict[str, Any]) -> None:
        if not self.wanted.level or _LEVELS.index(line["level"]) >= _LEVELS.index(self.wanted.level):
            self.add(line)

    def add(self, event: dict[str, Any]) -> None:
        if len(self.events) >= EVENTS_MAX:
            self.lost += 1
        else:
            self.events.append((event["time_ms"], _json(event)))


def _fits(wanted: str, status: int) -> bool:
    return str(status) == wanted or (wanted.endswith("xx") and str(status)[:1] == wanted[:1] and bool(status))


class Watch:
    """Of one worker."""

    def __init__(
        self, siblings: Siblings, links: LinkServer, observers: Observers, clock: Clock, worker: int
    ) -> None:
        self._siblings, self._observers, self._clock, self._worker = siblings, observers, clock, worker
        self._sessions: dict[bytes, _Session] = {}
        self.recent = Recent(worker)
        logging.getLogger().addHandler(self.recent)
        links.handlers[m.WATCH] = self._on_watch

    def event_of(self, request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> dict[str, Any]:
        """A request as the live trace shows it."""
        caller = request.caller
        return {
            "time_ms": self._clock.wall_ms(), "worker": self._worker, "request_id": request.request_id,
            "client": self._observers.client_of(request), "requester": "" if caller is None else caller.arn,
            "operation": request.operation, "method": request.method, "target": hidden(request.target).decode("latin-1"), "status": status,
            "error": request.error, "received": received, "sent": sent, "milliseconds": round(seconds * 1000, 3),
            "first_byte_milliseconds": round((first or seconds) * 1000, 3),
            "user_agent": request.fields.get(b"user-agent", b"").decode("latin-1"),
            **({"trace_id": trace_id} if (trace_id := trace_id_of(request)) else {}),
        }  # fmt: skip

    # sessions of this worker ---------------------------------------------------------------------------------------

    def _poll(self, poll: _Poll) -> _Events:
        session = self._sessions.get(poll.session)
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                return _Events([], 0)
            session = self._begin(poll)
        if session.timer is not None:
            session.timer.cancel()
        session.timer = asyncio.get_running_loop().call_later(SESSION_SECONDS, self._end, poll.session)
        found = _Events(list(session.events), session.lost)
        session.events.clear()
        session.lost = 0
        return found

    def _begin(self, poll: _Poll) -> _Session:
        session = self._sessions[poll.session] = _Session(self, poll.kind, poll.wanted)
        if poll.kind == TRACE:
            self._observers.watch(session.answered)
        else:
            for line in list(self.recent.lines)[-poll.wanted.last :] if poll.wanted.last else ():
                session.line(line)
            self.recent.on_line.append(session.line)
        return session

    def _end(self, name: bytes) -> None:
        session = self._sessions.pop(name)
        if session.kind == TRACE:
            self._observers.unwatch(session.answered)
        else:
            self.recent.on_line.remove(session.line)

    def _on_watch(self, meta: bytes, body: bytes) -> Answer:
        return _encode(self._poll(msgspec.msgpack.decode(meta, type=_Poll))), b""

    # the whole server ----------------------------------------------------------------------------------------------

    def stream(self, kind: str, wanted: Filter) -> Stream:
        """JSON lines of all workers, as a body."""
        return Stream(self, _Poll(os.urandom(8), kind, wanted))

    def trace(self, operations: tuple[str, ...], status: str, path: str, least_seconds: float, *, errors: bool) -> Stream:
        """Requests as they are answered."""
        return self.stream(TRACE, Filter(operations, status, path, least_seconds, errors))

    def logs(self, level: str, last: int) -> Stream:
        """Log lines as they come."""
        return self.stream(LOGS, Filter(level=level, last=last))

    async def collect(self, poll: _Poll, waited: Told) -> tuple[Told, Told, int]:
        """What came since the last time, in the order it happened; what waits for the next time; how many were lost."""
        began_ms = self._clock.wall_ms()
        meta = _encode(poll)
        others = [worker for worker in range(self._siblings.count) if worker != self._siblings.me]
        answers = [self._poll(poll), *await asyncio.gather(*(asyncio.ensure_future(self._ask(worker, meta)) for worker in others))]
        shown, waited = in_order(waited, [event for answer in answers for event in answer.events], began_ms)
        return shown, waited, sum(answer.lost for answer in answers)

    async def _ask(self, worker: int, meta: bytes) -> _Events:
        try:
            link = self._siblings.link_nowait(worker) or await self._siblings.link_once(worker)
            if link is not None:
                answer, _ = await link.call(m.WATCH, meta)
                return msgspec.msgpack.decode(answer, type=_Events)
        except (ClientError, PeerError) as error:
            logging.getLogger("titans3.watch").debug("worker %d tells nothing: %s", worker, error)
        return _Events([], 0)

    def close(self) -> None:
        """No log line comes here any more."""
        logging.getLogger().removeHandler(self.recent)


class Stream:
    """A response body that goes on until the client leaves, or for STREAM_SECONDS_MAX."""

    length = -1

    def __init__(self, watch: Watch, poll: _Poll) -> None:
        self._watch, self._poll = watch, poll
        self._loop = asyncio.get_running_loop()
        self._begin = self._spoke = self._loop.time()
        self._first = True
        self._waited: Told = []

    async def next(self) -> bytes | None:
        """Lines that came, or an empty one when nothing does."""
        while self._loop.time() - self._begin < STREAM_SECONDS_MAX:
            if not self._first:
                await asyncio.sleep(POLL_SECONDS)
            shown, self._waited, lost = await self._watch.collect(self._poll, self._waited)
            lines = [data for _, data in shown]
            if lost:
                lines.append(_json({"lost": lost}))
            if lines or self._first or self._loop.time() - self._spoke > QUIET_SECONDS:
                self._first = False
                self._spoke = self._loop.time()
                return b"\n".join(lines) + b"\n"
        return None

    def next_nowait(self) -> None:
        """It always waits."""

    def close(self) -> None:
        """The workers forget by themselves."""
