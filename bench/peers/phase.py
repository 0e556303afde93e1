"""What the server's own counters gained in the timed phase, without filling, the client's arithmetic and cleaning up.

A look costs the server some milliseconds, so there is none in the phase but one as it ends. Others come while the server is idle: warp
pauses for three seconds before the phase.
"""

from __future__ import annotations

import http.client
import threading
import time

from bench.peers.served import Served
from bench.peers.usage import Sampler

_STEP_SECONDS = 0.05
_LOOK_SECONDS = 0.4  # between looks while the server is idle
_IDLE_WINDOW = 0.5
_IDLE_SHARE = 0.1  # of a processor: less is what a server does by itself, and looks
_BUSY_WINDOW = 0.1
_BUSY_SHARE = 0.3
_EARLY_SECONDS = 0.5  # before the phase ends


class Phase:
    """``with`` around the client; ``gained`` afterwards. ``seconds``: of the timed phase."""

    def __init__(self, server: Served, sampler: Sampler, seconds: float) -> None:
        """``sampler``: its first tree is the server's."""
        self._server, self._sampler, self._seconds = server, sampler, seconds
        self._found: list[tuple[int, int, dict[str, float]]] = []  # two looks' times, what was counted between them
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Phase:
        if self._server.recipe.watch:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def gained(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """What was counted in this phase, but for the ends of it; empty if it was missed."""
        for before, after, counted in self._found:
            if before <= begin_ns + 1e9 * _BUSY_WINDOW and begin_ns < after <= end_ns:
                return counted
        return {}

    def _run(self) -> None:
        before: tuple[int, dict[str, float]] | None = None
        looked = 0.0
        while not self._over.wait(_STEP_SECONDS):
            now = time.monotonic()
            if self._share(_IDLE_WINDOW) < _IDLE_SHARE:
                if now - looked >= _LOOK_SECONDS:
                    before, looked = self._look(), now
            elif before is not None and self._share(_BUSY_WINDOW) > _BUSY_SHARE:
                if self._over.wait(self._seconds - _EARLY_SECONDS - (time.monotonic() - now)):
                    return
                after = self._look()
                if after is None:
                    return
                grown = {name: value - before[1].get(name, 0.0) for name, value in after[1].items()}
                self._found.append((before[0], after[0], grown))
                before = None

    def _look(self) -> tuple[int, dict[str, float]] | None:
        """``None`` from a server that has just ended or does not answer: what it counted until then is nobody's loss."""
        try:
            counters = self._server.counters()
        except (OSError, RuntimeError, http.client.HTTPException):
            return None
        return time.time_ns(), counters

    def _share(self, window: float) -> float:
        """Of a processor, in the last so many seconds; all of one if nobody knows yet."""
        times, spent = self._sampler.times, self._sampler.spent[0]
        last = len(spent) - 1
        first = last
        while first > 0 and times[last] - times[first] < window * 1e9:
            first -= 1
        if first == last or times[last] - times[first] < window * 1e9:
            return 1.0
        return (spent[last] - spent[first]) / ((times[last] - times[first]) / 1e9)
