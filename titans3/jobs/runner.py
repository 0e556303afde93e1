"""The jobs of one worker: a task each, started when it serves, stopped before its volumes close.

Invariants
* A job that ends by an error is logged and started again later, each time later up to RESTART_SECONDS_MAX; it never ends the worker, and
  never silently.
* An InvariantError is no such error: it goes to the loop's exception handler, which ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from titans3.errors import InvariantError

RESTART_SECONDS = 30.0
RESTART_SECONDS_MAX = 600.0
_logger = logging.getLogger("titans3.jobs")
Job = Callable[[], Coroutine[Any, Any, None]]


class JobStatistics(msgspec.Struct, frozen=True):
    """A job as of now. ``failures``: how often it ended by an error; ``cause``: of the last one, empty once it ended well."""

    name: str
    running: bool
    failures: int
    cause: str


class _State(msgspec.Struct):
    job: Job
    running: bool = False
    failures: int = 0
    cause: str = ""


class Jobs:
    """Named jobs; ``add`` before ``start``."""

    def __init__(self, *, restart_seconds: float = RESTART_SECONDS) -> None:
        self._restart_seconds = restart_seconds
        self._jobs: dict[str, _State] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, job: Job) -> None:
        """A job that runs until it is cancelled, or until it is done."""
        assert name not in self._jobs
        self._jobs[name] = _State(job)

    def start(self) -> None:
        """Start what does not run yet."""
        for name, state in self._jobs.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(self._keep(name, state), name=f"job {name}")

    async def _keep(self, name: str, state: _State) -> None:
        seconds = self._restart_seconds
        while True:
            state.running = True
            try:
                await state.job()
            except InvariantError as error:
                state.failures, state.cause = state.failures + 1, str(error)
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"job {name} found an invariant broken", "exception": error}
                )
                return
            except Exception as error:
                state.failures, state.cause = state.failures + 1, repr(error)
                _logger.exception("job %s ended by an error; again in %.0f s", name, seconds)
            else:
                state.cause = ""
                return
            finally:
                state.running = False
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, RESTART_SECONDS_MAX)

    async def stop(self, *names: str) -> None:
        """Cancel those of these names, without names all, and wait for their end."""
        tasks = [self._tasks.pop(name) for name in names or list(self._tasks) if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def statistics(self) -> tuple[JobStatistics, ...]:
        """Every job, in the order they were added."""
        return tuple(JobStatistics(name, state.running, state.failures, state.cause) for name, state in self._jobs.items())
