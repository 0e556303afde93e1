"""The links of one worker to its siblings, kept up.

Invariants
* A link is made when it is first needed and again after it was lost, with back-off; a sibling that is not there costs only its own keys.
* ``link`` waits for a sibling that is moving (rolling restart) at most HOLD_SECONDS_MAX, for any other a third of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from titans3.errors import ClientError, Reason
from titans3.limits import HOLD_SECONDS_MAX
from titans3.rpc.link import Answer, Link, PeerGone, connect, socket_path

_BACKOFF_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2)


class Siblings:
    """Links by worker number; this worker itself is not among them."""

    def __init__(self, run_fd: int, me: int, count: int) -> None:
        self._run_fd, self.me, self.count = run_fd, me, count
        self._links: dict[int, Link] = {}
        self._making: dict[int, asyncio.Task[Link]] = {}
        self.moving: set[int] = set()
        self.on_connected: Callable[[int, Link], None] = lambda worker, link: None
        self.hops = 0

    def link_nowait(self, worker: int) -> Link | None:
        """The link if it is up."""
        link = self._links.get(worker)
        return link if link is not None and link.is_open else None

    async def link(self, worker: int) -> Link:
        """The link, made if need be. Raises ClientError(SLOW_DOWN) when the sibling is not there."""
        found = self.link_nowait(worker)
        if found is not None:
            return found
        task = self._making.get(worker)
        if task is None:
            task = self._making[worker] = asyncio.ensure_future(self._make(worker))
            task.add_done_callback(lambda done: self._made(worker, done))
        try:
            return await asyncio.shield(task)
        except OSError as error:
            raise ClientError(Reason.SLOW_DOWN, f"worker {worker} is not there") from error
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise ClientError(Reason.SLOW_DOWN, "this worker is closing") from None

    async def link_once(self, worker: int) -> Link | None:
        """The link, tried once; ``None`` when nobody listens there."""
        found = self.link_nowait(worker)
        if found is not None:
            return found
        try:
            link = await connect(socket_path(self._run_fd, worker), lambda: None)
        except OSError:
            return None
        other = self.link_nowait(worker)
        if other is not None:
            link.abort()
            return other
        self._keep(worker, link)
        return link

    def _keep(self, worker: int, link: Link) -> None:
        self._links[worker] = link
        self.on_connected(worker, link)

    def _made(self, worker: int, done: asyncio.Task[Link]) -> None:
        self._making.pop(worker, None)
        if not done.cancelled():
            done.exception()  # whoever waits has it

    async def _make(self, worker: int) -> Link:
        deadline = asyncio.get_running_loop().time() + HOLD_SECONDS_MAX
        attempt = 0
        while True:
            try:
                link = await connect(socket_path(self._run_fd, worker), lambda: None)
            except OSError:
                late = asyncio.get_running_loop().time() > deadline
                if late or (worker not in self.moving and attempt >= len(_BACKOFF_SECONDS)):
                    raise
                await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
                attempt += 1
            else:
                other = self.link_nowait(worker)
                if other is not None:
                    link.abort()
                    return other
                self._keep(worker, link)
                return link

    async def call(self, worker: int, kind: int, meta: bytes, body: bytes | memoryview = b"") -> Answer:
        """A call to a sibling. Raises ClientError, PeerLost (its outcome is unknown), PeerGone (nothing was sent)."""
        self.hops += 1
        link = self.link_nowait(worker)
        if link is None:
            link = await self.link(worker)
        try:
            return await link.call(kind, meta, body)
        except PeerGone:
            link = await self.link(worker)
            return await link.call(kind, meta, body)

    async def close(self) -> None:
        """Drop all links."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        for link in self._links.values():
            link.abort()
