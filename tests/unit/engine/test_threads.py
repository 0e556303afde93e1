"""Threads for long work step back behind the loop."""

from __future__ import annotations

import os
import threading

from titans3.threads import NICE, background_threads


def nice_here() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_threads_of_the_pool_are_nicer() -> None:
    before = nice_here()
    with background_threads("test") as pool:
        there = pool.submit(nice_here).result()
    assert there == min(before + NICE, 19)
    assert nice_here() == before
