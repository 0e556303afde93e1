"""The body of a request while it is being received. Hot: guarded by ``bench/micro/connection.py``.

Invariants
* A body that came with its head is a ``WholeBody``: ``next`` and ``read_all`` never suspend, and the connection has nothing to do with it.
* A known length up to BODY_COPY_BYTES_MAX gets a buffer of its size; anything else goes into pooled ones of BODY_BUFFER_BYTES, only after
  a handler asked for it: what a stranger can make the worker hold without being authenticated is the shared receive buffer's worth.
* At most ``share`` buffers are filling, queued or out; then the connection stops reading: that is the backpressure.
* A buffer is handed on when it is full, or half full if the handler has nothing else and more will come: it need not wait for what it can
  work on already, and one that is busy gets larger pieces.
* Fixed-length bodies are received straight into their buffer, never past their end; chunked ones are copied out of the receive buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import msgspec

from titans3.errors import ClientError, Reason
from titans3.http.chunked import ChunkedDecoder
from titans3.limits import BODY_BUFFER_BYTES, BODY_BUFFERS_PER_CONNECTION, BODY_COPY_BYTES_MAX, KIB
from titans3.worker.buffers import BufferPool

_HALF_BYTES = BODY_BUFFER_BYTES // 2
_HALF_LEFT_BYTES = 64 * KIB  # behind it: for no more it is not worth another piece


class EmptyBody:
    """The body of a request that has none; one instance serves all."""

    __slots__ = ()
    length = 0

    async def read_all(self, limit: int) -> bytes:
        return b""

    async def next(self) -> memoryview | None:
        return None

    def release(self, piece: memoryview) -> None:
        raise AssertionError("an empty body hands out no piece")


EMPTY_BODY = EmptyBody()


class WholeBody(msgspec.Struct, eq=False, gc=False):
    """Implements :class:`titans3.http.message.Body` for one that came with its head, ``data``, of ``length`` bytes on the wire."""

    data: bytes | None
    length: int

    def __repr__(self) -> str:
        return f"WholeBody({self.length})"

    async def read_all(self, limit: int) -> bytes:
        """Whole body. Raises ClientError(TOO_LARGE) past ``limit`` bytes."""
        if self.length > limit:
            raise ClientError(Reason.TOO_LARGE, limit=limit, length=self.length)
        data, self.data = self.data, None
        return data or b""

    async def next(self) -> memoryview | None:
        """All of it, once."""
        data, self.data = self.data, None
        return None if data is None else memoryview(data)

    def release(self, piece: memoryview) -> None:
        """Nothing to give back."""


class BodyOwner(Protocol):
    """What a body asks of its connection."""

    def on_body_wanted(self) -> None:
        """First read: send 100 Continue if it is due, and start reading."""

    def on_body_room(self) -> None:
        """There is room again: feed what is pending, and read on."""

    def on_body_wait(self, waiting: bool) -> None:
        """A reader starts or stops waiting for bytes: the progress timeout applies between."""


class IncomingBody:
    """Implements :class:`titans3.http.message.Body`. The connection calls window/filled/take/fail/discard; loop thread only."""

    __slots__ = (
        "_admitted",
        "_buffer",
        "_chunks",
        "_discarding",
        "_error",
        "_filled",
        "_held",
        "_length",
        "_loop",
        "_owner",
        "_pool",
        "_queue",
        "_remaining",
        "_waiter",
        "complete",
        "received",
        "share",
        "started",
    )

    def __init__(
        self,
        owner: BodyOwner,
        loop: asyncio.AbstractEventLoop,
        pool: BufferPool,
        length: int | None,
    ) -> None:
        """``length=None`` is chunked."""
        self._owner = owner
        self._loop = loop
        self._pool = pool
        self._length = length
        self._queue: deque[memoryview] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: ClientError | None = None
        self._chunks = ChunkedDecoder() if length is None else None
        self._remaining = 0 if length is None else length
        self._buffer: memoryview | None = None
        self._filled = 0
        self._held: dict[int, bytearray] = {}
        self._admitted = False
        self._discarding = False
        self.complete = False
        self.received = 0
        self.share = BODY_BUFFERS_PER_CONNECTION
        if length is not None:
            self.share = max(1, min(self.share, -(-(length - _HALF_LEFT_BYTES) // _HALF_BYTES)))
        self.started = False
        if length is not None and length <= BODY_COPY_BYTES_MAX:
            self._buffer = memoryview(bytearray(length))

    # the handler's side

    @property
    def length(self) -> int | None:
        return self._length

    async def read_all(self, limit: int) -> bytes:
        """Whole body. Raises ClientError: TOO_LARGE past ``limit`` bytes, BODY_SHORT, BODY_SLOW, BODY_FRAMING."""
        if self._length is not None and self._length > limit:
            raise ClientError(Reason.TOO_LARGE, limit=limit, length=self._length)
        first = await self.next()
        if first is None:
            return b""
        if len(first) == self._length:
            data = bytes(first)
            self.release(first)
            return data
        gathered = bytearray()
        piece: memoryview | None = first
        while piece is not None:
            if len(gathered) + len(piece) > limit:
                self.release(piece)
                raise ClientError(Reason.TOO_LARGE, limit=limit)
            gathered += piece
            self.release(piece)
            piece = await self.next()
        return bytes(gathered)

    async def next(self) -> memoryview | None:
        """Next piece, ``None`` at the end. Raises ClientError: BODY_SHORT, BODY_SLOW, BODY_FRAMING."""
        if not self.started:
            self.started = True
            if not self.complete:
                self._start()
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self.complete:
                return None
            assert self._waiter is None, "a body has one reader"
            self._waiter = self._loop.create_future()
            self._owner.on_body_wait(True)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._owner.on_body_wait(False)
        return self._queue.popleft()

    def release(self, piece: memoryview) -> None:
        """Hand a piece (or a slice of it) back; pieces of small bodies are simply dropped."""
        buffer = self._held.pop(id(piece.obj), None)
        if buffer is not None:
            self._pool.give(buffer)
            if not self.complete and self._error is None:
                self._owner.on_body_room()

    # the connection's side

    @property
    def is_small(self) -> bool:
        """Received without being asked for."""
        return self._length is not None and self._length <= BODY_COPY_BYTES_MAX

    @property
    def remaining(self) -> int | None:
        """Bytes still to come, ``None`` if nobody knows."""
        return None if self._chunks is not None and not self.complete else self._remaining

    @property
    def has_room(self) -> bool:
        """Whether bytes can be taken now."""
        if self._discarding or self._error is not None:
            return self._discarding
        return self._buffer is not None or (self._admitted and len(self._held) < self.share)

    def window(self) -> memoryview | None:
        """Where to receive the next bytes; ``None``: receive elsewhere and call ``take``."""
        if self._chunks is not None or self._discarding or not self.has_room:
            return None
        buffer = self._buffer if self._buffer is not None else self._new_buffer()
        filled = self._filled
        end = filled + self._remaining
        if filled < _HALF_BYTES < end - _HALF_LEFT_BYTES:
            end = _HALF_BYTES
        return buffer[filled:end]

    def filled(self, count: int) -> None:
        """``count`` bytes were received into the window."""
        assert 0 < count <= self._remaining
        buffer = self._buffer
        assert buffer is not None
        self.received += count
        self._filled += count
        self._remaining -= count
        if self._remaining == 0:
            self.complete = True
        if self.complete or self._filled == len(buffer) or (
            self._filled == _HALF_BYTES and len(self._held) == 1 and self._remaining > _HALF_LEFT_BYTES
        ):
            self._hand_on()

    def take(self, source: memoryview) -> int:
        """Copy from ``source`` what there is room for; returns bytes used. Raises ClientError(BODY_FRAMING)."""
        used = 0
        while used < len(source) and not self.complete and self.has_room:
            if self._discarding:
                used += self._discard(source[used:])
                continue
            buffer = self._buffer if self._buffer is not None else self._new_buffer()
            target = buffer[self._filled :]
            if self._chunks is None:
                count = min(len(target), len(source) - used, self._remaining)
                target[:count] = source[used : used + count]
                used += count
                self.filled(count)
                continue
            consumed, made = self._chunks.decode(source[used:], target)
            used += consumed
            self.received += consumed
            self._filled += made
            self.complete = self._chunks.done
            if self.complete or self._filled == len(buffer):
                self._hand_on()
        return used

    def fail(self, error: ClientError) -> None:
        """No more bytes will come; readers see ``error`` after the pieces already queued."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def discard(self) -> None:
        """Nobody reads any more: throw away what comes until the end of the body."""
        self._discarding = True
        self._buffer = None
        self._queue.clear()

    def close(self) -> None:
        """The request is over: give back what is ours alone."""
        if self._admitted:
            self._admitted = False
            self._pool.leave(self)
        elif self.started and not self.complete:
            self._pool.give_up(self)
        self._buffer = None
        self._queue.clear()
        self._held.clear()

    def on_admitted(self) -> None:
        """The pool has room for us now."""
        self._admitted = True
        self._owner.on_body_room()

    def _start(self) -> None:
        if not self.is_small and not self._admitted:
            self._admitted = self._pool.admit(self)
        self._owner.on_body_wanted()

    def _new_buffer(self) -> memoryview:
        buffer = self._pool.take()
        assert len(buffer) == BODY_BUFFER_BYTES
        self._held[id(buffer)] = buffer
        self._buffer = memoryview(buffer)
        self._filled = 0
        return self._buffer

    def _hand_on(self) -> None:
        buffer = self._buffer
        assert buffer is not None
        self._buffer = None
        if self._filled:
            self._queue.append(buffer[: self._filled])
        else:
            self.release(buffer)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _discard(self, source: memoryview) -> int:
        if self._chunks is not None:
            count, _ = self._chunks.decode(source, None)
            self.complete = self._chunks.done
        else:
            count = min(len(source), self._remaining)
            self._remaining -= count
            self.complete = self._remaining == 0
        self.received += count
        return count
