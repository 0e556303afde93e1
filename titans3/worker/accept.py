"""Accepting connections, and handing them to the worker that has the fewest.

Invariants
* Every worker listens on the same sockets; whoever is woken takes the connection, and if a sibling has fewer (those on their way to it
  counted, see the board) hands it over by descriptor. So no worker holds more than its fair share plus one per simultaneous accept.
* A connection is in exactly one process: one that cannot be handed over stays here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence

from titans3.observe.board import CONNECTIONS, SERVING, STATE, Board
from titans3.worker.connection import Connection
from titans3.worker.context import ConnectionContext

_ACCEPTS_PER_TURN = 32
_TLS_SECONDS_MAX = 20.0
_RETRY_SECONDS = 0.1
_logger = logging.getLogger("titans3.accept")


class Acceptor:
    """Listeners, mailbox and connections of one worker."""

    def __init__(
        self,
        context: ConnectionContext,
        board: Board,
        me: int,
        listeners: Sequence[socket.socket],
        inbox: socket.socket,
        outboxes: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._context, self._board, self._me = context, board, me
        self._listeners, self._inbox, self._outboxes = listeners, inbox, outboxes
        self.tls = tls
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[None]] = set()
        self.is_open = False
        self.handed = self.failures = 0
        context.on_count = self._count

    def start(self) -> None:
        """Accept, and take what siblings hand over."""
        if self.is_open:
            return
        self.is_open = True
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)
        self._loop.add_reader(self._inbox.fileno(), self._take)

    def stop(self) -> None:
        """Accept no more; what is queued in the kernel waits for siblings or a successor."""
        if not self.is_open:
            return
        self.is_open = False
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        self._loop.remove_reader(self._inbox.fileno())

    def hand_over(self, connection: Connection) -> None:
        """Give an idle connection away, if that can be; one with TLS stays until its next answer."""
        target = self._fewest(others_only=True)
        descriptor = connection.hand_over()
        if descriptor is None:
            return
        with socket.socket(fileno=descriptor) as sock:
            if not self._send(sock, self._me if target is None else target):
                self.failures += 1

    def _count(self) -> None:
        self._board.put(self._me, CONNECTIONS, len(self._context.connections) + len(self._making))

    def _fewest(self, *, others_only: bool = False) -> int | None:
        """The serving worker with the fewest connections; this one if it is among them."""
        board, me = self._board, self._me
        best, least = (None, 0) if others_only else (me, board.load(me))
        for worker in range(board.workers):
            if worker != me and board.get(worker, STATE) == SERVING:
                load = board.load(worker)
                if best is None or load < least:
                    best, least = worker, load
        return best

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: breathe, do not spin
                self.failures += 1
                _logger.error("cannot accept: %s", error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_RETRY_SECONDS, self._resume, listener)
                return
            target = self._fewest()
            if target == self._me or target is None or not self._send(sock, target):
                self._adopt(sock)
            else:
                sock.close()

    def _resume(self, listener: socket.socket) -> None:
        if self.is_open:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _send(self, sock: socket.socket, target: int) -> bool:
        self._board.sent(self._me, target)
        try:
            socket.send_fds(self._outboxes[target], [self._me.to_bytes(2, "big")], [sock.fileno()], socket.MSG_DONTWAIT)
        except OSError:
            self._board.sent(self._me, target, -1)
            return False
        self.handed += 1
        return True

    def _take(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._inbox, 2, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            if len(data) == 2 and descriptors:
                self._adopt(socket.socket(fileno=descriptors[0]))
                self._board.taken(self._me, int.from_bytes(data, "big"))

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        task = self._loop.create_task(self._connect(sock))
        self._making.add(task)
        task.add_done_callback(self._made)
        self._count()

    async def _connect(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self.tls
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(self._context.protocol, sock)
            else:
                await self._loop.connect_accepted_socket(
                    self._context.protocol, sock, ssl=tls, ssl_handshake_timeout=_TLS_SECONDS_MAX
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.failures += 1
            _logger.debug("a connection was not made: %s", error)
            sock.close()

    def _made(self, task: asyncio.Task[None]) -> None:
        self._making.discard(task)
        self._count()
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a connection was not made", exc_info=task.exception())
