"""When and how the overlay goes into LMDB: freeze on the loop, commit in a thread, drop on the loop.

Invariants
* ``begin`` runs on the loop right before the freeze and returns position and group states of exactly that moment.
* One checkpoint is under way at most. A failed one is fatal for the volume: ``on_failed``, and none is tried again.
* Writers are paced, not stopped: ``delay_seconds`` grows with the active overlay's excess over its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from titans3.errors import DiskError
from titans3.limits import CHECKPOINT_SECONDS, OVERLAY_BYTES, OVERLAY_ROWS
from titans3.meta.environment import Checkpoint, Environment
from titans3.meta.view import View
from titans3.observe.histogram import Counts, Histogram

_TICK_SECONDS = 0.25
_FULL_EXCESS = 3.0  # active overlay at (1 + this) times its limit: the longest delay
_DELAY_SECONDS_MAX = 0.2


class CheckpointOptions(msgspec.Struct, frozen=True):
    """Triggers."""

    rows: int = OVERLAY_ROWS
    bytes_max: int = OVERLAY_BYTES
    seconds: float = CHECKPOINT_SECONDS


class CheckpointStatistics(msgspec.Struct, frozen=True):
    """Counters since the volume was opened; seconds are of the last checkpoint."""

    checkpoints: int
    rows: int
    last_rows: int
    last_seconds: float
    active_rows: int
    frozen_rows: int
    active_bytes: int
    age_seconds: float  # since the last one, 0 while there is nothing to write
    delay_seconds: float
    seconds: Counts


class Checkpointer:
    """Checkpoints of one volume. Loop thread."""

    def __init__(
        self,
        view: View,
        environment: Environment,
        *,
        begin: Callable[[], Checkpoint],
        ended: Callable[[], None],
        on_failed: Callable[[DiskError], None],
        options: CheckpointOptions | None = None,
    ) -> None:
        self._view, self._environment = view, environment
        self._begin, self._ended, self._on_failed = begin, ended, on_failed
        self._options = options or CheckpointOptions()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._failed = False
        self._count = self._rows = self._last_rows = 0
        self._last_seconds = 0.0
        self._seconds = Histogram()
        self._wanted = False

    def start(self) -> None:
        """Begin to watch the overlay."""
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
        if self._loop.time() - self._last >= self._options.seconds and (self._view.rows or self._wanted):
            self.checkpoint_nowait()

    def want(self) -> None:
        """Something waits for the next checkpoint even if no row is put until then."""
        self._wanted = True

    def check(self) -> None:
        """Called after applies: start a checkpoint if the overlay is over its limit."""
        active = self._view.active
        if self._running is None and (active.bytes > self._options.bytes_max or active.rows > self._options.rows):
            self.checkpoint_nowait()

    @property
    def options(self) -> CheckpointOptions:
        """What starts a checkpoint."""
        return self._options

    @property
    def delay_seconds(self) -> float:
        """What a proposal should wait, 0 while the overlay is within its limit."""
        active, options = self._view.active, self._options
        if active.bytes <= options.bytes_max and len(active.kv) + len(active.loc) + len(active.seg) <= options.rows:
            return 0.0
        excess = (max(active.rows / options.rows, active.bytes / options.bytes_max) - 1.0) / _FULL_EXCESS
        return min(1.0, excess) * _DELAY_SECONDS_MAX

    def checkpoint_nowait(self) -> asyncio.Future[None] | None:
        """Start one unless one is running; the running one."""
        if self._running is not None or self._failed:
            return self._running
        checkpoint = self._begin()
        frozen = self._view.freeze()
        assert frozen is not None
        self._wanted = False
        self._last_rows = frozen.rows
        started = self._loop.time()
        done = self._running = self._loop.create_future()
        work = self._loop.run_in_executor(self._pool, self._environment.commit, frozen, checkpoint)
        work.add_done_callback(lambda future: self._committed(future, started, done))
        return done

    def _committed(self, work: asyncio.Future[None], started: float, done: asyncio.Future[None]) -> None:
        self._running = None
        error = work.exception()
        if error is not None:
            self._failed = True
            fatal = error if isinstance(error, DiskError) else DiskError(f"checkpoint failed: {error!r}")
            self._on_failed(fatal)
            done.set_result(None)
            if not isinstance(error, DiskError):
                raise error
            return
        self._view.thaw()
        self._count += 1
        self._rows += self._last_rows
        self._last = self._loop.time()
        self._last_seconds = self._last - started
        self._seconds.add(self._last_seconds)
        self._ended()
        done.set_result(None)
        self.check()

    async def checkpoint(self) -> None:
        """Wait until everything put so far is in LMDB (or the volume failed)."""
        if self._running is not None:
            await asyncio.shield(self._running)
        if (running := self.checkpoint_nowait()) is not None:
            await asyncio.shield(running)

    async def close(self, *, checkpoint: bool) -> None:
        """Stop; with ``checkpoint`` the last rows go in first."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            await asyncio.shield(self._running)
        if checkpoint:
            await self.checkpoint()
        self._failed = True
        self._pool.shutdown(wait=True)

    def statistics(self) -> CheckpointStatistics:
        """Counters."""
        view = self._view
        age = self._loop.time() - self._last if view.rows else 0.0
        return CheckpointStatistics(
            self._count, self._rows, self._last_rows, self._last_seconds, view.rows, 0 if view.frozen is None else view.frozen.rows,
            view.active.bytes, age, self.delay_seconds, self._seconds.read(),
        )  # fmt: skip
