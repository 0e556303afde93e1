"""Delivers the audit trail to a receiver over HTTP: at least once, each chain in its order.

Invariants
* What is sent is read from the files; what was delivered is a cursor beside them. Whatever dies or is down, nothing is left out. What was
  answered just before a crash is sent again: a line's worker and number tell the receiver.
* A chain has one that delivers it: worker w has its own and those of workers that are no more, by their number modulo the workers. A lock
  on the chain holds even if processes of two servers overlap.
* Any status 2xx is taken as "I have it"; everything else is a failure, and the same lines come again later, each time later up to
  AGAIN_SECONDS_MAX. No line is given up.
* No request of a client waits for any of this. Neither the token nor what a receiver answers is ever in a log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from titans3 import __version__
from titans3.clock import Clock
from titans3.config.schema import AuditConfig
from titans3.limits import WEBHOOK_BYTES_MAX, WEBHOOK_LINES_MAX
from titans3.observe.audit import AuditTrail, Head, head_of, workers_of
from titans3.observe.delivery import Batch, Cursor, keep_cursor, lock_chain, next_lines, read_cursor

if TYPE_CHECKING:
    import aiohttp

POLL_SECONDS = 1.0
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 1.0, 60.0
SAID_SECONDS = 600.0  # how often a failure that goes on is said
_ANSWER_BYTES_MAX = 64 * 1024  # read so that the connection can be used again
_TOO_LARGE = 413
_logger = logging.getLogger("titans3.audit")


class WebhookStatistics(msgspec.Struct, frozen=True):
    """``lines``, ``failures``: since start. The rest is as of now: what is written but not delivered, the age of its oldest line."""

    lines: int
    failures: int
    waiting_lines: int
    waiting_bytes: int
    lag_seconds: float


class _Chain:
    """A chain that this worker delivers. ``lock``: -1 while another process has it."""

    def __init__(self, worker: int) -> None:
        self.worker, self.lock = worker, -1
        self.cursor, self.end = Cursor(), Head(0, "")
        self.waiting_bytes = self.oldest_ms = 0
        self.said: tuple[str, ...] = ()


class Failed(Exception):
    """The receiver does not have the lines; the argument says why, without secrets."""

    def __init__(self, cause: str, status: int = 0) -> None:
        super().__init__(cause)
        self.status = status


class AuditWebhook:
    """Of one worker. ``take`` may be called at any time; ``run`` is the job."""

    def __init__(self, config: AuditConfig, trail: AuditTrail, workers: int, cluster: str, clock: Clock) -> None:
        """``workers``: how many there are; ``cluster`` is told to the receiver."""
        self._config, self._trail, self._workers, self._cluster, self._clock = config, trail, workers, cluster, clock
        self._chains: list[_Chain] = []
        self._session: aiohttp.ClientSession | None = None
        self._keeping: asyncio.Future[None] | None = None  # the last cursor on its way to the disk
        self._changed = asyncio.Event()
        self._lines_max = WEBHOOK_LINES_MAX
        self._lines = self._failures = 0
        self._failing_since = self._said = 0.0

    def take(self, config: AuditConfig) -> None:
        """What of the configuration changes while running; what failed is tried at once."""
        self._config = config
        self._changed.set()

    def statistics(self) -> WebhookStatistics:
        """Of all its chains."""
        lines = sum(max(0, self._end(chain).number - chain.cursor.number) for chain in self._chains if chain.lock >= 0)
        oldest = [chain.oldest_ms for chain in self._chains if chain.oldest_ms]
        lag = max(0.0, (self._clock.wall_ms() - min(oldest)) / 1000) if oldest and lines else 0.0
        return WebhookStatistics(self._lines, self._failures, lines, sum(chain.waiting_bytes for chain in self._chains), lag)

    def _end(self, chain: _Chain) -> Head:
        """The last line that is on the disk."""
        return self._trail.head if chain.worker == self._trail.worker else chain.end

    # the job -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises OSError when the trail's folder cannot be read or written."""
        mine = {worker for worker in workers_of(self._trail.folder) if worker % self._workers == self._trail.worker} | {self._trail.worker}
        self._chains = [_Chain(worker) for worker in sorted(mine)]
        wait = AGAIN_SECONDS
        try:
            while True:
                try:
                    found = [await self._deliver(chain) for chain in self._chains]
                except Failed as failed:
                    await self._failed(str(failed))
                    await self._pause(wait * random.uniform(0.75, 1.25))  # workers do not come all at the same time
                    wait = min(2 * wait, AGAIN_SECONDS_MAX)
                    continue
                wait = AGAIN_SECONDS
                if not any(found):
                    await self._pause(POLL_SECONDS)
        finally:
            await self._close()
            if self._keeping is not None and not self._keeping.done():
                await asyncio.wait({self._keeping})  # nobody else writes it before
            for chain in self._chains:
                if chain.lock >= 0:
                    os.close(chain.lock)
                    chain.lock = -1

    async def _pause(self, seconds: float) -> None:
        """Less when the configuration changes."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return
        self._changed.clear()
        await self._close()

    async def _deliver(self, chain: _Chain) -> bool:
        """A batch, if there is one; whether there was. Raises Failed, OSError."""
        if chain.lock < 0 and not self._begin(chain):
            return False
        end = self._end(chain)
        if chain.cursor.number == end.number and chain.cursor.hash == end.hash:
            chain.waiting_bytes = chain.oldest_ms = 0
            return False
        batch = await asyncio.get_running_loop().run_in_executor(None, self._read, chain, end)
        self._say_problems(chain, batch.problems)
        chain.waiting_bytes, chain.oldest_ms = batch.waiting_bytes, batch.oldest_ms
        if not batch.count:
            return False
        try:
            await self._post(chain, batch)
        except Failed as failed:
            if failed.status == _TOO_LARGE and batch.count > 1:
                self._lines_max = max(1, batch.count // 2)
                return True
            raise
        self._keeping = asyncio.get_running_loop().run_in_executor(None, keep_cursor, self._trail.folder, chain.worker, batch.after)
        await asyncio.shield(self._keeping)
        chain.cursor = batch.after
        self._lines += batch.count
        self._lines_max = min(WEBHOOK_LINES_MAX, 2 * self._lines_max)
        self._delivered()
        return True

    def _begin(self, chain: _Chain) -> bool:
        """Be its only deliverer, and find where to go on; false when another process has it still."""
        folder = self._trail.folder
        try:
            chain.lock = lock_chain(folder, chain.worker)
        except BlockingIOError:
            return False
        try:
            chain.cursor = read_cursor(folder, chain.worker)
        except ValueError as error:
            _logger.error("the webhook's cursor of audit chain %d is damaged, all of the chain is delivered again: %s", chain.worker, error)
        if chain.worker != self._trail.worker:
            try:
                chain.end = head_of(folder, chain.worker)
            except (msgspec.MsgspecError, KeyError) as error:
                _logger.error("audit chain %d ends with a line that is none, it is not delivered: %s", chain.worker, error)
                chain.end = Head(chain.cursor.number, chain.cursor.hash)
        return True

    def _read(self, chain: _Chain, end: Head) -> Batch:
        return next_lines(
            self._trail.folder, chain.worker, chain.cursor, end, lines_max=self._lines_max, bytes_max=WEBHOOK_BYTES_MAX
        )  # fmt: skip

    # the receiver --------------------------------------------------------------------------------------------------

    async def _post(self, chain: _Chain, batch: Batch) -> None:
        """The receiver has it when this returns. Raises Failed."""
        import aiohttp

        headers = {
            "Content-Type": "application/x-ndjson", "User-Agent": f"TitanS3/{__version__}", "Titans3-Cluster": self._cluster,
            "Titans3-Audit-Chain": str(chain.worker), "Titans3-Audit-Lines": f"{batch.first}-{batch.after.number}",
        }  # fmt: skip
        if self._config.webhook_token:
            headers["Authorization"] = f"Bearer {self._config.webhook_token}"
        try:
            session = self._session = self._session or self._open()
            async with session.post(self._config.webhook_url, data=batch.data, headers=headers, allow_redirects=False) as answer:
                if not 200 <= answer.status < 300:
                    raise Failed(f"it answers {answer.status}", answer.status)
                await answer.content.read(_ANSWER_BYTES_MAX)
        except TimeoutError:
            raise Failed(f"no answer within {self._config.webhook_seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ssl's errors are both
            raise Failed(str(error) or type(error).__name__) from error

    def _open(self) -> aiohttp.ClientSession:
        """Connections of its own: no proxy, cookie or key of the environment. Raises OSError for authorities that do not load."""
        import aiohttp

        trust: Any = True
        if self._config.webhook_ca:
            trust = ssl.create_default_context(cafile=self._config.webhook_ca)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=1), cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._config.webhook_seconds),
        )  # fmt: skip

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # what is said --------------------------------------------------------------------------------------------------

    async def _failed(self, cause: str) -> None:
        await self._close()
        self._failures += 1
        now = time.monotonic()
        if not self._failing_since:
            self._failing_since = now
        elif now - self._said < SAID_SECONDS:
            return
        self._said = now
        _logger.error(
            "audit lines are not delivered to %s, %d wait and are tried again: %s",
            shown(self._config.webhook_url), self.statistics().waiting_lines, cause,
        )  # fmt: skip

    def _delivered(self) -> None:
        if self._failing_since:
            seconds = time.monotonic() - self._failing_since
            self._failing_since = 0.0
            _logger.warning(
                "audit lines are delivered to %s again, after %.0f s; %d wait",
                shown(self._config.webhook_url), seconds, self.statistics().waiting_lines,
            )  # fmt: skip

    @staticmethod
    def _say_problems(chain: _Chain, problems: tuple[str, ...]) -> None:
        if problems != chain.said:
            for problem in problems:
                _logger.error("audit chain %d %s", chain.worker, problem)
        chain.said = problems


def shown(url: str) -> str:
    """Who is meant, without the path, in which receivers keep secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
