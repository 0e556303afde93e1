"""The links of one worker to its siblings, kept up, and calls that wait for a sibling that is about to be back. Hot.

Invariants
* A link is made when it is first needed and again after it was lost, with back-off; a sibling that is not there costs only its own keys.
* A link is used by nobody before ``greet`` returned; one that is refused is dropped.
* ``link`` waits for a sibling that is moving (rolling restart) at most HOLD_SECONDS_MAX, for any other a third of a second.
* ``ask`` holds a call while its owner moves, at most MOVE_SECONDS_MAX, and after that, or after a connection broke under a call that was
  sent, at most HOLD_SECONDS_MAX. Such a call goes out again as ``again``, which must be safe to do twice. A dead sibling is
  refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from titans3.errors import ClientError, PeerError, Reason
from titans3.limits import HOLD_SECONDS_MAX, MOVE_SECONDS_MAX
from titans3.rpc.link import Answer, Link, PeerGone, PeerLost, connect, socket_path

Send = Callable[[Link, int, bytes, "bytes | memoryview"], Awaitable[Answer]]

_BACKOFF_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2)
_POLL_SECONDS = 0.02


class Here(Exception):
    """What was asked for is on this worker now. ``repeat``: an earlier try went to a sibling and may have been done."""

    def __init__(self, repeat: bool) -> None:
        super().__init__("here")
        self.repeat = repeat


class SiblingStatistics(msgspec.Struct, frozen=True):
    """``links`` that are up and ``waiting`` calls now; calls made and held since the start."""

    links: int
    waiting: int
    calls: int
    held: int


class Siblings:
    """Links by worker number; this worker itself is not among them."""

    def __init__(self, run_fd: int, me: int, count: int) -> None:
        self._run_fd, self.me, self.count = run_fd, me, count
        self._links: dict[int, Link] = {}
        self._making: dict[int, asyncio.Task[Link]] = {}
        self.moving: set[int] = set()
        self.greet: Callable[[int, Link], Awaitable[None]] = _nothing_to_say
        self.hops = 0
        self.held = 0

    def statistics(self) -> SiblingStatistics:
        """Links as of now, and counters."""
        up = [link for link in self._links.values() if link.is_open]
        return SiblingStatistics(len(up), sum(link.waiting for link in up), self.hops, self.held)

    def link_nowait(self, worker: int) -> Link | None:
        """The link if it is up."""
        link = self._links.get(worker)
        return link if link is not None and link.is_open else None

    async def link(self, worker: int) -> Link:
        """The link, made if need be. Raises ClientError: SLOW_DOWN when the sibling is not there, UNAVAILABLE when the two do not match."""
        found = self.link_nowait(worker)
        if found is not None:
            return found
        task = self._making.get(worker)
        if task is None:
            task = self._making[worker] = asyncio.ensure_future(self._make(worker))
            task.add_done_callback(lambda done: self._made(worker, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise ClientError(Reason.SLOW_DOWN, "this worker is closing") from None

    async def link_once(self, worker: int) -> Link | None:
        """The link, tried once; ``None`` when nobody listens there, or the two do not match."""
        found = self.link_nowait(worker)
        if found is not None:
            return found
        try:
            return await self._connect(worker)
        except (OSError, ClientError, PeerError):
            return None

    def _made(self, worker: int, done: asyncio.Task[Link]) -> None:
        self._making.pop(worker, None)
        if not done.cancelled():
            done.exception()  # whoever waits has it

    async def _make(self, worker: int) -> Link:
        deadline = asyncio.get_running_loop().time() + HOLD_SECONDS_MAX
        attempt = 0
        while True:
            try:
                return await self._connect(worker)
            except (OSError, PeerError) as error:
                late = asyncio.get_running_loop().time() > deadline
                if late or (worker not in self.moving and attempt >= len(_BACKOFF_SECONDS)):
                    raise ClientError(Reason.SLOW_DOWN, f"worker {worker} is not there") from error
                await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
                attempt += 1

    async def _connect(self, worker: int) -> Link:
        """A link that was greeted; of several the first, whoever made it. Raises OSError, PeerError, ClientError."""
        link = await connect(socket_path(self._run_fd, worker), lambda: None)
        try:
            await self.greet(worker, link)
        except BaseException:
            link.abort()
            raise
        other = self.link_nowait(worker)
        if other is not None:
            link.abort()
            return other
        self._links[worker] = link
        return link

    async def call(self, worker: int, kind: int, meta: bytes, body: bytes | memoryview = b"", send: Send = Link.call) -> Answer:
        """A call to a sibling, not held. Raises ClientError, PeerLost (its outcome is unknown), PeerGone (nothing was sent)."""
        self.hops += 1
        link = self.link_nowait(worker)
        if link is None:
            link = await self.link(worker)
        try:
            return await send(link, kind, meta, body)
        except PeerGone:
            link = await self.link(worker)
            return await send(link, kind, meta, body)

    async def ask(
        self,
        owner: Callable[[], int],
        is_here: Callable[[], bool],
        kind: int,
        meta: bytes,
        body: bytes | memoryview = b"",
        *,
        again: Callable[[], bytes] | None = None,
    ) -> Answer:
        """A call to whoever ``owner()`` names, held while that changes.

        ``again`` makes the meta of a repeat (none: a read, the same meta does). Raises Here, ClientError: what the owner answered,
        SLOW_DOWN when nothing was done, UNKNOWN_OUTCOME when a change may have been done and nobody could be asked.
        """
        deadline = move_deadline = 0.0
        lost = False
        while True:
            worker = owner()
            moving = worker in self.moving
            error: Exception
            if worker == self.me:
                if is_here():
                    raise Here(lost)
                error = ClientError(Reason.SLOW_DOWN, "the volume is being opened")
            elif moving:
                error = ClientError(Reason.SLOW_DOWN, f"worker {worker} is moving")
            else:
                try:
                    return await self.call(worker, kind, meta if not lost or again is None else again(), body)
                except PeerLost as broken:
                    lost, error = True, broken
                except PeerError as gone:
                    error = gone
                except ClientError as refused:
                    if refused.reason is not Reason.SLOW_DOWN:
                        raise
                    moving = "moving" in refused.fields
                    error = refused
            now = asyncio.get_running_loop().time()
            if not deadline:
                deadline, move_deadline = now + HOLD_SECONDS_MAX, now + MOVE_SECONDS_MAX
                self.held += 1
            if worker in self.moving:  # however long its disks take, the supervisor sees it through, or says that it ended
                deadline = min(now + HOLD_SECONDS_MAX, move_deadline)
            if now > deadline or not (moving or lost or worker in self.moving or worker != owner()):
                if lost and again is not None:
                    raise ClientError(Reason.UNKNOWN_OUTCOME, str(error)) from error
                raise ClientError(Reason.SLOW_DOWN, str(error)) from error
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Drop all links."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        for link in self._links.values():
            link.abort()


async def _nothing_to_say(worker: int, link: Link) -> None:
    pass
