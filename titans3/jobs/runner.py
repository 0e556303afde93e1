"""The jobs of one worker: a task each, started when it serves, stopped before its volumes close.

Invariant: a job that ends by an error is logged and started again later; it never ends the worker, and never silently.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

RESTART_SECONDS = 30.0
_logger = logging.getLogger("titans3.jobs")


class Jobs:
    """Named jobs; ``add`` before ``start``."""

    def __init__(self) -> None:
        self._jobs: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A job that runs until it is cancelled, or until it is done."""
        assert name not in self._jobs
        self._jobs[name] = job

    def start(self) -> None:
        """Start what does not run yet."""
        for name in self._jobs:
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(self._keep(name))

    async def _keep(self, name: str) -> None:
        while True:
            try:
                await self._jobs[name]()
                return
            except Exception:
                _logger.exception("job %s ended by an error; again in %.0f s", name, RESTART_SECONDS)
            await asyncio.sleep(RESTART_SECONDS)

    async def stop(self) -> None:
        """Cancel all and wait for their end."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
