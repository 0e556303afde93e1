"""Large bodies that siblings without a volume write to volumes of this worker, a call per piece.

Invariants
* A sink lives as long as the connection that opened it, and not longer than SINK_IDLE_SECONDS without a call; then its bytes are dead.
* What was finished belongs to the sibling: it commits the extents or frees them.
* A sink whose write failed is gone: the body cannot be whole any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from titans3.cluster import messages as m
from titans3.engine.sink import BodySink
from titans3.errors import ClientError, DiskError, Reason, VolumeFull
from titans3.limits import BODY_SECONDS_MAX
from titans3.rpc.link import Answer, LinkServer

SINKS_MAX = 4096
SINK_IDLE_SECONDS = 2 * BODY_SECONDS_MAX  # the client's own time-out comes first
_SWEEP_SECONDS = 10.0
_logger = logging.getLogger("titans3.sinks")
_encode = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(m.SinkOpen).decode
_ref = msgspec.msgpack.Decoder(m.SinkRef).decode


class _Open(msgspec.Struct, gc=False):
    """An open sink, who opened it, and the loop's time of the last call; 0 while one is being worked on."""

    sink: BodySink
    caller: object
    last: float


class ServedSinks:
    """Sinks by number. ``make`` opens one on a volume of this worker: raises ClientError."""

    def __init__(self, server: LinkServer, make: Callable[[m.SinkOpen], BodySink]) -> None:
        self._server, self._make = server, make
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self.abandoned = 0
        self.last = 0.0  # when a piece last came, in time of the loop
        server.on_lost.append(self._lost)
        server.handlers.update(
            {
                m.SINK_OPEN: self._on_open, m.SINK_WRITE: self._on_write, m.SINK_FINISH: self._on_finish,
                m.SINK_ABANDON: self._on_abandon,
            }
        )

    def __len__(self) -> int:
        return len(self._open)

    def _on_open(self, meta: bytes, body: bytes) -> Answer:
        if len(self._open) >= SINKS_MAX:
            raise ClientError(Reason.SLOW_DOWN, "too many large bodies at once")
        sink = self._make(_open(meta))
        loop = asyncio.get_running_loop()
        self._number += 1
        self._open[self._number] = _Open(sink, self._server.caller, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep)
        return self._number.to_bytes(8, "big"), b""

    def _take(self, number: int) -> _Open:
        self.last = asyncio.get_running_loop().time()
        found = self._open.get(number)
        if found is None or not found.last:
            raise ClientError(Reason.SLOW_DOWN, "the body's first part was lost with the process that took it")
        found.last = 0.0
        return found

    async def _on_write(self, meta: bytes, body: bytes) -> Answer:
        number = _ref(meta).sink
        found = self._take(number)
        try:
            await found.sink.write(memoryview(body), ())
        except BaseException as error:
            self._drop(number)
            raise _told(error) from error
        found.last = asyncio.get_running_loop().time()
        return b"", b""

    async def _on_finish(self, meta: bytes, body: bytes) -> Answer:
        ask = _ref(meta)
        found = self._take(ask.sink)
        try:
            extents = await found.sink.finish(ask.md5)
        except BaseException as error:
            self._drop(ask.sink)
            raise _told(error) from error
        self._open.pop(ask.sink, None)
        return _encode(extents), b""

    def _on_abandon(self, meta: bytes, body: bytes) -> Answer:
        self._drop(_ref(meta).sink)
        return b"", b""

    def _drop(self, number: int) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            found.sink.abandon()
            self.abandoned += 1

    def _lost(self, caller: object) -> None:
        numbers = [number for number, found in self._open.items() if found.caller is caller]
        for number in numbers:
            self._drop(number)
        if numbers:
            _logger.info("%d large bodies of a lost sibling abandoned", len(numbers))

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - SINK_IDLE_SECONDS
        for number in [number for number, found in self._open.items() if 0.0 < found.last < late]:
            self._drop(number)
        self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._open else None


def _told(error: BaseException) -> BaseException:
    """What the sibling is told."""
    return told(error) if isinstance(error, DiskError) else error


def told(error: DiskError) -> ClientError:
    """What a client is told when a large body cannot be written."""
    return ClientError(Reason.VOLUME_FULL if isinstance(error, VolumeFull) else Reason.UNAVAILABLE, str(error))
