"""The curve of idle connections: the memory of the whole server with so many open, and what GET gives beside them.

Each of them has had an answer and waits. They end with the point; one that the server closed earlier makes it unsound.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator, Sequence
from typing import ClassVar

from bench.peers.matrix import Cell
from bench.peers.outcome import Outcome
from bench.peers.replayed import Player
from bench.peers.served import Served
from bench.scale.session import Session
from bench.scale.visit import Visits

SECONDS_MAX = 40.0  # of a phase, for the server closes what is idle for 90 s
PER_ADDRESS = 20_000  # connections from one loopback address: ports are 28,000
_AT_ONCE = 100
_SPARE_FILES = 500
_OPEN_SECONDS = 30.0


class Waiting(asyncio.Protocol):
    """Asks once."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answered = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            if data[9:12] == b"200":
                self.answered.set_result(None)
            else:
                self.answered.set_exception(ConnectionError(f"an idle connection was answered {data[:60]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("a connection was closed without an answer"))


class Idle(Visits):
    """Connections are the points."""

    curve, unit = "idle", "idle"
    operations: ClassVar[tuple[str, ...]] = ("get",)

    def visit(self, server: Served, at: int, missing: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """GET beside them."""
        cell = Cell("get", "4k", self.lanes, self.seconds)
        with Session(server, self.setting.client_cpus) as session:
            player = Player(cell, server)
            session.run(player.fill())
            requests, once = player.requests()
            before = session.weight()["server_bytes"]
            waiting = session.run(_open(server.port, at, session.sign().head("HEAD", player.bench.key(0))))
            held = session.weight()["server_bytes"]
            outcome = session.phase("get", requests, lanes=self.lanes, seconds=self.seconds, once=once)
            closed = sum(each.is_closed for each in waiting)
            session.run(_close(waiting))
        if closed:
            outcome.trouble = f"{closed} of {at} idle connections were closed before the end"
        outcome.figures |= {"before_bytes": before, "with_bytes": held}
        yield "get", outcome


def allow_files(wanted: int) -> None:
    """Descriptors for this process and what it starts; SystemExit if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += _SPARE_FILES
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{wanted:,} open files are not allowed here ({error}): ulimit -Hn {wanted}") from None


async def _open(port: int, count: int, request: bytes) -> list[Waiting]:
    loop, opened = asyncio.get_running_loop(), []
    for first in range(0, count, _AT_ONCE):
        together = [
            loop.create_connection(lambda: Waiting(request), "127.0.0.1", port, local_addr=(f"127.0.0.{2 + number // PER_ADDRESS}", 0))
            for number in range(first, min(first + _AT_ONCE, count))
        ]
        made = [protocol for _, protocol in await asyncio.wait_for(asyncio.gather(*together), _OPEN_SECONDS)]
        await asyncio.wait_for(asyncio.gather(*(each.answered for each in made)), _OPEN_SECONDS)
        opened += made
    return opened


async def _close(waiting: list[Waiting]) -> None:
    for each in waiting:
        assert each.transport is not None
        each.transport.close()
    await asyncio.sleep(0)
