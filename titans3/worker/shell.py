"""A worker's life: orders of the supervisor in, reports out; what happens between is the node's business.

Invariants
* Orders are done one after the other, in the order they came; only what is waited for is cut short by an order that comes meanwhile.
* When the supervisor is gone (end of file) the worker drains for a moment, closes its volumes and exits by itself. It accepts nothing
  from then on, and a volume that it still waits for is no longer wanted.
* While a successor waits, connections are handed over or answered with ``Connection: close``; only one that was idle for
  LINGER_SECONDS since its last answer and cannot be handed over (TLS) is closed without a word, and not with bytes of a request unread.
* An InvariantError anywhere ends the process at once, without a checkpoint: what is in the log is right, what is in memory may not be.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import socket
from typing import Any

from setproctitle import setproctitle

from titans3.cluster.messages import FEATURE_LEVEL
from titans3.config.schema import Config
from titans3.errors import InvariantError, PeerError
from titans3.observe.board import (
    CLIENT_ERRORS,
    CONNECTIONS,
    DRAINING,
    OPEN,
    PID,
    REQUESTS,
    SERVER_ERRORS,
    SERVING,
    STARTING,
    STATE,
    Board,
)
from titans3.observe.logs import set_up
from titans3.rpc import supervision as say
from titans3.worker.connection import Connection
from titans3.worker.node import FAILURES, REFUSALS, Node

BEAT_SECONDS = 0.25
ORPHAN_DRAIN_SECONDS = 2.0
LINGER_SECONDS = 2.0  # how long a drain waits for the next request of an idle connection that it cannot hand over
SINK_SECONDS_MAX = 10.0  # how long it waits for the next piece of a body that a sibling streams here
_DRAIN_POLL_SECONDS = 0.02
_CUT_TURNS = 8
EXIT_FAILED, EXIT_INVARIANT = 1, 70
_logger = logging.getLogger("titans3.worker")


class Shell:
    """One worker process. ``run`` returns the exit code."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._orders: asyncio.Queue[say.ToWorker | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._node: Node
        self._board: Board
        self._start: say.Start
        self._beater: asyncio.TimerHandle | None = None
        self._moving: set[int] = set()
        self._owners: tuple[int, ...] = ()
        self._cut_at = math.inf  # when a drain ends, whatever is in flight
        self._serves = 0  # orders to serve that wait: a drain before them is not wanted any more
        self._unwanted = asyncio.Event()  # nor is a volume that is still waited for

    async def run(self) -> int:
        """Until told to close, or left alone."""
        self._loop.set_exception_handler(_on_exception)
        self._loop.add_reader(self._channel.fileno(), self._read)
        start = await self._orders.get()
        if not isinstance(start, say.Start):
            return EXIT_FAILED
        try:
            self._prepare(start)
        except REFUSALS as error:
            self._report(say.Failed(str(error), refused=True))
            return EXIT_FAILED
        self._report(say.Loaded(FEATURE_LEVEL, moves=True))
        while True:
            order = await self._orders.get()
            if order is None:
                return await self._leave()
            if isinstance(order, say.Close):
                return await self._close()
            if not await self._do(order):
                return EXIT_FAILED

    def _read(self) -> None:
        while True:
            try:
                order = say.receive_order(self._channel)
            except BlockingIOError:
                return
            if isinstance(order, say.Moving):  # at once: what is being done may wait for just this
                self._moving.clear()
                self._moving.update(order.workers)
                continue
            if isinstance(order, say.Owners):
                self._owners = order.owners
                self._place()
                continue
            self._hurry(order)
            self._orders.put_nowait(order)
            if order is None:
                self._loop.remove_reader(self._channel.fileno())
                return

    def _place(self) -> None:
        """Take up who owns which volume, as the supervisor last said."""
        if self._owners and hasattr(self, "_node"):
            self._node.ownership.owners[:] = self._owners

    def _hurry(self, order: say.ToWorker | None) -> None:
        """What is being waited for when an order comes."""
        now = self._loop.time()
        if order is None or isinstance(order, (say.Drain, say.Close)):
            self._unwanted.set()
        if isinstance(order, say.Serve):
            self._serves += 1
        elif isinstance(order, say.Drain):
            self._cut_at = min(self._cut_at, now + order.seconds)
        elif order is None:
            self._cut_at = min(self._cut_at, now + ORPHAN_DRAIN_SECONDS)

    def _report(self, report: say.ToSupervisor) -> None:
        try:
            say.send(self._channel, report)
        except PeerError:
            _logger.debug("the supervisor is gone")

    def _prepare(self, start: say.Start) -> None:
        self._start = start
        set_up(f"worker {start.worker}", start.config.log.level, start.config.log.format)
        setproctitle(f"titans3: worker {start.worker}{' (standby)' if start.standby else ''}")
        self._board = Board(start.board_fd, start.workers, len(start.volumes))
        self._node = Node(start, self._board, self._moving, lambda order: self._report(say.Wanted(order)))
        self._place()
        gc.collect()
        gc.freeze()

    # orders --------------------------------------------------------------------------------------------------------

    async def _do(self, order: say.ToWorker) -> bool:
        """Carry out an order; false when the worker cannot go on."""
        try:
            match order:
                case say.OpenVolumes():
                    await self._open()
                case say.Serve(buckets=buckets):
                    self._serves -= 1
                    await self._node.serve(buckets)
                    self._report(say.Serving())
                case say.Drain(seconds=seconds, hand_over=hand_over):
                    self._report(say.Drained(await self._drain(seconds, hand_over=hand_over)))
                case say.Release(volume=volume, to=to):
                    self._report(await self._node.release(volume, to, self._unwanted))
                case say.Adopt(volume=volume, closed_at=closed_at):
                    self._report(say.Adopted(volume, await self._node.adopt(volume, closed_at, self._unwanted)))
                case say.Checkpoint():
                    await self._node.checkpoint()
                    self._report(say.Checkpointed())
                case say.Reload(config=config):
                    self._reload(config)
        except REFUSALS as error:
            self._report(say.Failed(str(error), refused=True))
            return False
        except FAILURES as error:
            self._report(say.Failed(str(error) or repr(error), refused=False))
            return False
        except InvariantError as error:
            _on_exception(self._loop, {"message": f"{type(order).__name__} failed", "exception": error})
            return False
        return True

    async def _open(self) -> None:
        worker = self._start.worker
        setproctitle(f"titans3: worker {worker}")
        self._board.clear(worker)
        self._board.put(worker, PID, os.getpid())
        self._board.put(worker, STATE, STARTING)
        self._beat()
        seconds = await self._node.open_volumes(self._unwanted)
        self._board.put(worker, STATE, OPEN)
        self._report(say.Opened(seconds))

    def _beat(self) -> None:
        """Say that the loop turns, and show the numbers."""
        board, worker, node = self._board, self._start.worker, self._node
        board.beat(worker)
        statistics = node.gateway.statistics()
        board.put(worker, REQUESTS, node.context.counters.requests)
        board.put(worker, CLIENT_ERRORS, statistics.client_errors)
        board.put(worker, SERVER_ERRORS, statistics.server_errors)
        node.show()
        node.requests.fold()
        node.acceptor.balance()
        self._beater = self._loop.call_later(BEAT_SECONDS, self._beat)

    async def _drain(self, seconds: float, *, hand_over: bool) -> int:
        """Accept no more, finish what is in flight; how many requests were cut."""
        node, acceptor, context = self._node, self._node.acceptor, self._node.context
        self._board.put(self._start.worker, STATE, DRAINING)
        begin = self._loop.time()
        self._cut_at = min(self._cut_at, begin + seconds)
        acceptor.stop(finally_=not hand_over)
        node.owner.draining = hand_over
        context.on_idle = acceptor.hand_over if hand_over else None
        context.begin_drain()
        busy: list[Connection] = []
        while not self._serves:
            now = self._loop.time()
            busy = [connection for connection in context.connections if not connection.is_idle]
            if now >= self._cut_at:
                await self._cut(busy)
                break
            if hand_over:
                acceptor.forward()
            self._finish_idle(hand_over=hand_over, closing=now >= begin + LINGER_SECONDS)
            sinks = hand_over and now - max(begin, node.owner.sink_at) < SINK_SECONDS_MAX and node.owner.has_sinks
            if not context.connections and not acceptor.making and not sinks:
                busy = []
                break
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        self._cut_at = math.inf
        return 0 if self._serves else len(busy)

    async def _cut(self, connections: list[Connection]) -> None:
        """Drop connections; their handlers have heard of it, a few turns of the loop later, before anybody closes what they use."""
        for connection in connections:
            connection.abort()
        for _ in range(_CUT_TURNS):
            await asyncio.sleep(0)

    def _finish_idle(self, *, hand_over: bool, closing: bool) -> None:
        """Idle connections that are still here: their descriptors go when there is room; the others get a moment for a last request."""
        for connection in list(self._node.context.connections):
            if connection.is_idle and not (hand_over and self._node.acceptor.hand_over(connection)) and closing:
                connection.close_idle(LINGER_SECONDS)

    def _reload(self, config: Config) -> None:
        set_up(f"worker {self._start.worker}", config.log.level, config.log.format)
        try:
            self._node.reload(config)
        except REFUSALS as error:
            _logger.error("certificate not reloaded, the old one stays: %s", error)

    async def _close(self) -> int:
        """Checkpoint and close the volumes; the exit code."""
        node = self._node
        node.acceptor.stop()
        node.context.stop()
        failures = await node.close_volumes()
        for failure in failures:
            self._report(say.Failed(failure, refused=False))
        if self._beater is not None:
            self._beater.cancel()
        self._board.put(self._start.worker, CONNECTIONS, 0)
        return EXIT_FAILED if failures else 0

    async def _leave(self) -> int:
        """Nobody gives orders any more."""
        _logger.info("leaving: the supervisor is gone")
        if self._board.get(self._start.worker, STATE) == SERVING:
            await self._drain(ORPHAN_DRAIN_SECONDS, hand_over=False)
        return await self._close()


def _on_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    _logger.error("%s", context.get("message", "unhandled"), exc_info=error)
    if isinstance(error, InvariantError):
        _logger.critical("an invariant does not hold: this process stops, the supervisor starts a fresh one")
        logging.shutdown()
        os._exit(EXIT_INVARIANT)
