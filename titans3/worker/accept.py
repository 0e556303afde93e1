"""Accepting connections, and handing them to the worker that has the fewest of those that take connections.

Invariants
* Every worker listens on the same sockets; whoever is woken takes the connection, and if a sibling has fewer (those on their way to it
  counted, see the board) hands it over by descriptor. So no worker holds more than its fair share plus one per simultaneous accept.
* When connections end or a worker comes back, ``balance`` gives idle ones away until the share is fair again. One with TLS cannot move.
* The board says how many workers take connections (``supervisor/gather.py``). The others give theirs away, each while it is idle or after
  an answer; nobody waits for it. From thousands of connections on everybody takes them.
* A sibling whose loop has not turned for some beats gets no connection: they would hang in its mailbox.
* A connection is in exactly one process: one that cannot be handed over stays here.
* What lies in the mailbox of a worker that is gone or draining is neither lost nor forgotten: a sibling or the successor takes it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence

from titans3.observe.board import BEAT, CONNECTIONS, SERVING, STATE, Board
from titans3.worker.connection import Connection
from titans3.worker.context import ConnectionContext

BACKLOG_MAX = 4096
_ACCEPTS_PER_TURN = 32
_SURPLUS = 1  # connections above the fair share that are not worth a move
_MISSED_MAX = 4  # beats
_GIVEN_MAX = 256  # connections that are given away in one beat, for others wait meanwhile
_GATHERED_MAX = 1_000  # connections of a worker that takes those of others, too
_TLS_SECONDS_MAX = 20.0
_SHUTDOWN_SECONDS_MAX = 86_400.0  # the connection watches its own end: the loop would also cut answers that are on their way
_RETRY_SECONDS = 0.1
NEAR_BYTES = 512 * 1024  # the kernel takes its `net.core.wmem_max` if that is less
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
        self._listeners: Sequence[socket.socket] = listeners
        self._inbox, self._outboxes = inbox, outboxes
        self.tls = tls
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[None]] = set()
        self._beats = [0] * board.workers
        self._missed = [0] * board.workers
        self.is_open = False
        self.handed = self.failures = 0
        self._share = 0  # of all connections, as of the last beat; 0: not active
        context.on_count = self._count

    def start(self) -> None:
        """Accept, and take what siblings hand over."""
        if self.is_open:
            return
        self.is_open = True
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)
        self._loop.add_reader(self._inbox.fileno(), self._take)

    def stop(self, *, finally_: bool = False) -> None:
        """Accept no more; what is queued in the kernel waits for siblings or a successor.

        ``finally_``: nobody comes after this; take what is queued, then let new ones be refused.
        """
        if self.is_open:
            self.is_open = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.fileno())
            self._loop.remove_reader(self._inbox.fileno())
            if finally_:
                self._last_call()
        if finally_:
            for listener in self._listeners:
                listener.close()
            self._listeners = ()

    @property
    def making(self) -> int:
        """Connections that are accepted but not made: TLS shakes hands."""
        return len(self._making)

    def hand_over(self, connection: Connection) -> bool:
        """Give an idle connection away, to a sibling or else to the successor; false if it has to stay."""
        target = self._fewest(others_only=True)
        return connection.hand_over(lambda descriptor: self._send(descriptor, self._me if target is None else target))

    def forward(self) -> None:
        """While draining: what siblings handed over before they knew goes on to a sibling that serves. Without one it waits."""
        target = self._fewest(others_only=True)
        while target is not None:
            handed = self._receive()
            if handed is None:
                return
            sender, sock = handed
            self._board.taken(self._me, sender)
            if sock is not None:
                self._place(sock, target)
            target = self._fewest(others_only=True)

    def balance(self) -> None:
        """While this worker has more than its fair share and one, give connections away: idle ones now, others after their next answer.

        A worker that is not active has no share. To be called with every beat: it also sees whose loop turns.
        """
        self._look()
        if not self.is_open:
            return
        board, me, active = self._board, self._me, self._active()
        self._share = -(-sum(map(board.load, self._serving())) // len(active)) if me in active else 0
        mine = board.load(me)
        sheds = self._has_too_many(mine) and self.tls is None
        if sheds != self._context.sheds:
            self._context.shed(self._shed if sheds else None)
        given = 0
        for connection in list(self._context.connections):
            if not self._has_too_many(mine - given) or given >= _GIVEN_MAX or (target := self._taker()) is None:
                return
            given += connection.is_idle and self._give(connection, target)

    def _has_too_many(self, mine: int) -> bool:
        return mine > self._share + _SURPLUS if self._share else mine > 0

    def _taker(self) -> int | None:
        """Who takes a connection of this worker: an active sibling that has less than its share."""
        target = self._fewest(others_only=True)
        return None if target is None or (self._share and self._board.load(target) >= self._share) else target

    def _give(self, connection: Connection, target: int) -> bool:
        return connection.hand_over(lambda descriptor: self._send(descriptor, target))

    def _shed(self, connection: Connection) -> None:
        """After an answer while this worker has too many."""
        if self._has_too_many(self._board.load(self._me)) and (target := self._taker()) is not None:
            self._give(connection, target)
        else:
            self._context.shed(None)

    def _look(self) -> None:
        for worker in range(self._board.workers):
            beat = self._board.get(worker, BEAT)
            self._missed[worker] = self._missed[worker] + 1 if beat == self._beats[worker] else 0
            self._beats[worker] = beat

    def _count(self) -> None:
        self._board.put(self._me, CONNECTIONS, len(self._context.connections) + len(self._making))

    def _serving(self) -> list[int]:
        """This worker, if it is open, and those whose loops turn."""
        board, me = self._board, self._me
        return [
            worker for worker in range(board.workers)
            if (self.is_open if worker == me else board.get(worker, STATE) == SERVING and self._missed[worker] < _MISSED_MAX)
        ]  # fmt: skip

    def _active(self) -> list[int]:
        """Of these the ones that take connections."""
        board, serving = self._board, self._serving()
        active = serving[: board.active]
        if len(active) < len(serving) and sum(map(board.load, serving)) > _GATHERED_MAX * len(active):
            return serving
        return active

    def _fewest(self, *, others_only: bool = False) -> int | None:
        """Of those that take connections the one that has the fewest; this one if it is among them."""
        board, me = self._board, self._me
        active = self._active()
        if others_only:
            active = [worker for worker in active if worker != me]
        elif me in active:
            active.insert(0, me)  # the first of equals
        return min(active, key=board.load, default=None)

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
            self._place(sock, self._me if target is None else target)

    def _last_call(self) -> None:
        """What the kernel took for us before anybody could know that we stop."""
        for listener in self._listeners:
            for _ in range(BACKLOG_MAX):
                try:
                    sock, _ = listener.accept()
                except OSError:
                    break
                self._adopt(sock)

    def _place(self, sock: socket.socket, target: int) -> None:
        """A connection that is not made yet: to a sibling, or here."""
        if target != self._me and self._send(sock.fileno(), target):
            sock.close()
        else:
            self._adopt(sock)

    def _resume(self, listener: socket.socket) -> None:
        if self.is_open:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _send(self, descriptor: int, target: int) -> bool:
        self._board.sent(self._me, target)
        try:
            socket.send_fds(self._outboxes[target], [self._me.to_bytes(2, "big")], [descriptor], socket.MSG_DONTWAIT)
        except OSError:
            self._board.sent(self._me, target, -1)
            return False
        self.handed += 1
        return True

    def _take(self) -> None:
        while (handed := self._receive()) is not None:
            sender, sock = handed
            if sock is not None:
                self._adopt(sock)
            self._board.taken(self._me, sender)

    def _receive(self) -> tuple[int, socket.socket | None] | None:
        """Sender and connection from the mailbox, ``None`` when it is empty. No connection: this process had no descriptor left for it."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._inbox, 2, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        if len(data) != 2:  # the other end is gone, and with it the supervisor
            self._loop.remove_reader(self._inbox.fileno())
            return None
        if not descriptors:
            self.failures += 1
            _logger.error("a connection was lost: no descriptor is left for it")
            return int.from_bytes(data, "big"), None
        return int.from_bytes(data, "big"), socket.socket(fileno=descriptors[0])

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        task = self._loop.create_task(self._connect(sock))
        self._making.add(task)
        task.add_done_callback(self._made)
        self._count()

    async def _connect(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_near(sock)
        tls = self.tls
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(self._context.protocol, sock)
            else:
                await self._loop.connect_accepted_socket(
                    self._context.protocol, sock, ssl=tls, ssl_handshake_timeout=_TLS_SECONDS_MAX,
                    ssl_shutdown_timeout=_SHUTDOWN_SECONDS_MAX,
                )  # fmt: skip
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.failures += 1
            _logger.debug("a connection was not made: %s", error)
            sock.close()

    def _made(self, task: asyncio.Task[None]) -> None:
        self._making.discard(task)
        self._count()
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a connection was not made", exc_info=task.exception())


def keep_near(sock: socket.socket) -> None:
    """To a client on this machine no more is on its way than a cache holds until the client reads it.

    Otherwise the kernel lets megabytes of a large body wait, and they are cold when they are copied out again. A distance needs
    these megabytes; here there is none. docs/internals/hot-path.md has the figures.
    """
    try:
        if sock.getsockname()[0] == sock.getpeername()[0]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_BYTES)
    except OSError:  # it has ended already, and the loop will find out
        return
