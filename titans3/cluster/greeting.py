"""The first call on a link: who is there, of which cluster, and which commands its code knows.

Invariants
* Nothing else goes over a link before both ends have said that they speak one protocol and are of one cluster. Otherwise the link is
  refused by whoever sees it, and a log line says why.
* What a sibling's code knows counts while a connection from it is up: its next process has to say so itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from titans3.cluster import messages as m
from titans3.errors import ClientError, PeerError, Reason
from titans3.rpc.link import Answer, Link, LinkServer

_encode = msgspec.msgpack.Encoder().encode
_hello = msgspec.msgpack.Decoder(m.Hello).decode
_welcome = msgspec.msgpack.Decoder(m.Welcome).decode
_logger = logging.getLogger("titans3.greeting")


class Greeting:
    """Says hello, answers hello. ``level``: the highest feature level that this code knows.

    ``applied`` gives the applied index of each group here; ``on_heard`` is called when a sibling came or went.
    """

    def __init__(self, server: LinkServer, cluster: str, me: int, workers: int, level: int = m.FEATURE_LEVEL) -> None:
        self.cluster, self.me, self.workers, self.level = cluster, me, workers, level
        self.applied: Callable[[], dict[int, int]] = dict
        self.on_heard: Callable[[], None] = lambda: None
        self._server = server
        self._heard: dict[object, tuple[int, int]] = {}  # worker and level, by connection
        self._refused: dict[int, str] = {}  # last word about a sibling, so that it is logged once
        server.greeting = m.HELLO
        server.handlers[m.HELLO] = self._on_hello
        server.on_lost.append(self._lost)

    async def greet(self, worker: int, link: Link) -> m.Welcome:
        """Greet a sibling on a fresh link. Raises PeerError, ClientError: UNAVAILABLE when the two do not match, or what it answers."""
        meta, _ = await link.call(m.HELLO, _encode(m.Hello(m.PROTOCOL, self.me, self.level, self.cluster)))
        try:
            welcome = _welcome(meta)
        except msgspec.MsgspecError as error:
            raise PeerError(f"worker {worker} answers a greeting with nonsense: {error}") from error
        self._check(worker, welcome.protocol, welcome.cluster)
        link.takes_whose = welcome.takes_whose
        return welcome

    def known_by_all(self) -> int:
        """The highest feature level that this worker and every sibling know; 0 while one of them is not connected."""
        levels: dict[int, int] = {self.me: self.level}
        for worker, level in self._heard.values():
            levels[worker] = min(level, levels.get(worker, level))
        return min(levels.values()) if len(levels) == self.workers else 0

    def _on_hello(self, meta: bytes, body: bytes) -> Answer:
        try:
            hello = _hello(meta)
        except msgspec.MsgspecError as error:
            raise ClientError(Reason.UNAVAILABLE, f"no greeting: {error}") from error
        if not 0 <= hello.worker < self.workers or hello.worker == self.me:
            raise ClientError(Reason.UNAVAILABLE, f"worker {hello.worker} is not among the siblings of worker {self.me}")
        self._check(hello.worker, hello.protocol, hello.cluster)
        assert self._server.caller is not None
        self._server.admit()
        self._heard[self._server.caller] = hello.worker, hello.feature_level
        self.on_heard()
        return _encode(m.Welcome(m.PROTOCOL, self.level, self.applied(), self.cluster, takes_whose=True)), b""

    def _lost(self, connection: object) -> None:
        if self._heard.pop(connection, None) is not None:
            self.on_heard()

    def _check(self, worker: int, protocol: int, cluster: str) -> None:
        """Raises ClientError(UNAVAILABLE), logged, for a sibling that does not match."""
        cause = ""
        if protocol != m.PROTOCOL:
            cause = f"it speaks protocol {protocol}, this worker {m.PROTOCOL}"
        elif cluster != self.cluster:
            cause = f"it is of cluster {cluster!r}, this worker of {self.cluster!r}"
        if cause and self._refused.get(worker) != cause:
            _logger.error("link with worker %d refused: %s", worker, cause)
        self._refused[worker] = cause
        if cause:
            raise ClientError(Reason.UNAVAILABLE, f"link with worker {worker} refused: {cause}")
