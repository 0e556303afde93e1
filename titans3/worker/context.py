"""What all connections of a worker share: handler, timeouts, buffers, counters, and the registry of those that are open.

Invariants
* Built once per worker, used by the loop thread only. Connections hold no limit, clock or counter of their own.
* ``statistics`` reads plain integers; counting on the hot path is one addition.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from titans3.clock import Clock, SystemClock
from titans3.cluster.turns import Turns
from titans3.http.head import HeadParser
from titans3.http.message import Request, Response
from titans3.http.reply import ReplyHeads, RequestIds
from titans3.limits import (
    BODY_SECONDS_MAX,
    CONNECTIONS_PER_WORKER_MAX,
    DRAIN_SECONDS_MAX,
    HEAD_SECONDS_MAX,
    IDLE_SECONDS_MAX,
    RECEIVE_BUFFER_BYTES,
    WRITE_SECONDS_MAX,
)
from titans3.worker.buffers import BufferPool
from titans3.worker.connection import Connection
from titans3.worker.wheel import TimerWheel

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. ``head`` counts from the first byte; body and write count from the last byte that moved."""

    head: float = HEAD_SECONDS_MAX
    idle: float = IDLE_SECONDS_MAX
    body: float = BODY_SECONDS_MAX
    write: float = WRITE_SECONDS_MAX
    drain: float = DRAIN_SECONDS_MAX


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """Counters since start; ``open`` is the number of connections now."""

    open: int
    accepted: int
    requests: int
    bytes_in: int
    bytes_out: int
    continues: int
    timeouts: int
    protocol_errors: int
    handler_errors: int
    aborted: int


class Counters:
    """Plain integers that all connections of a worker add to."""

    __slots__ = (
        "aborted",
        "accepted",
        "bytes_in",
        "bytes_out",
        "continues",
        "handler_errors",
        "protocol_errors",
        "requests",
        "timeouts",
    )

    def __init__(self) -> None:
        self.accepted = self.requests = self.bytes_in = self.bytes_out = self.continues = 0
        self.timeouts = self.protocol_errors = self.handler_errors = self.aborted = 0


def _nothing() -> None:
    pass


def _not_counted(request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
    pass


class ConnectionContext:
    """What all connections of a worker share. Build one, ``start`` it on the loop, hand ``protocol`` to the server."""

    def __init__(
        self,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        *,
        host_id: str = "titans3",
        timeouts: Timeouts | None = None,
        clock: Clock | None = None,
        pool: BufferPool | None = None,
        id_seed: int | None = None,
        tick_seconds: float = 0.5,
        connections_max: int = CONNECTIONS_PER_WORKER_MAX,
    ) -> None:
        """``clock`` and ``id_seed`` are for tests; past ``connections_max`` a connection is told 503 and closed."""
        self.handler = handler
        self.loop = loop
        self.timeouts = timeouts or Timeouts()
        self.clock: Clock = clock or SystemClock()
        self.monotonic, self.wall_ms = self.clock.monotonic, self.clock.wall_ms
        self.pool = pool or BufferPool()
        self.wheel = TimerWheel(self.clock.monotonic, tick_seconds)
        self.replies = ReplyHeads(host_id)
        self.request_ids = RequestIds(int.from_bytes(os.urandom(8)) if id_seed is None else id_seed)
        self.heads = HeadParser()
        self.receive = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.connections_max = connections_max
        self.draining = False
        self.sheds = False  # a connection that has become idle goes to ``on_idle``: so it is while draining
        # Called with an idle connection (it may hand_over(), and while draining close(), which is the default).
        self.on_idle: Callable[[Connection], object] | None = None
        # Called when a connection was made or lost.
        self.on_count: Callable[[], None] = _nothing
        # Called after each answer: request, status, body bytes received and sent, seconds, and seconds to the first byte of an answer
        # that went piece by piece (else 0). For metrics.
        self.turns = Turns()  # pieces of long answers
        self.on_answered: Callable[[Request, int, int, int, float, float], None] = _not_counted

    def protocol(self) -> Connection:
        """Protocol factory for ``create_server`` and ``connect_accepted_socket``."""
        return Connection(self)

    def start(self) -> None:
        self.wheel.start(self.loop)

    def stop(self) -> None:
        """Abort what is left and stop the timer."""
        self.wheel.stop()
        for connection in list(self.connections):
            connection.abort()

    def closing_head(self, status: int, media_type: bytes, length: int, request_id: str) -> bytes:
        """The head of an answer that no handler made and that ends its connection."""
        now = self.clock.wall_ms() / 1000
        headers = [(b"content-type", media_type)]
        return self.replies.build(status, headers, length=length, request_id=request_id, now=now, connection=b"close")

    def begin_drain(self) -> None:
        """Finish current requests with ``Connection: close``; idle connections go to ``on_idle`` or are closed."""
        self.draining = self.sheds = True
        for connection in list(self.connections):
            connection.begin_drain()

    def shed(self, on_idle: Callable[[Connection], object] | None) -> None:
        """From now on a connection goes to ``on_idle`` after its answer, if nothing of a next request is here; ``None``: not any more."""
        self.draining, self.on_idle, self.sheds = False, on_idle, on_idle is not None

    def statistics(self) -> ConnectionStatistics:
        names = Counters.__slots__
        return ConnectionStatistics(
            open=len(self.connections), **{name: getattr(self.counters, name) for name in names}
        )
