"""The server's counters are looked at before the timed phase and as it ends, and nothing of what comes before and after is counted."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from bench.peers.phase import Phase
from bench.peers.served import Served
from bench.peers.usage import Sampler, Tree

SECONDS = 2.0


class Counting:
    """A server that counts a thing a millisecond."""

    class Recipe:
        watch = "things"

    recipe = Recipe()

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.looks: list[float] = []

    def counters(self) -> dict[str, float]:
        self.looks.append(time.monotonic())
        return {"things": (time.monotonic() - self.begin) * 1e3}


def busy(seconds: float) -> tuple[int, int]:
    """Begin and end, in nanoseconds of the wall clock."""
    begin, until = time.time_ns(), time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
    return begin, time.time_ns()


def test_only_the_phase_is_counted() -> None:
    server: Any = Counting()
    sampler = Sampler(Tree(os.getpid()))
    with sampler, Phase(cast(Served, server), sampler, SECONDS) as phase:
        filled = busy(1.0)
        time.sleep(2.0)
        timed = busy(SECONDS + 1.0)
        time.sleep(0.2)
    counted = phase.gained(*timed)["things"]
    assert (SECONDS - 1.0) * 1e3 < counted < (SECONDS + 1.5) * 1e3
    inside = [look for look in server.looks if timed[0] < time.time_ns() - (time.monotonic() - look) * 1e9 < timed[1]]
    assert len(inside) <= 3, "a look costs the server time"
    assert phase.gained(*filled) == {}
