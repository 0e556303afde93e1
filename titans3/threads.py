"""Threads that do the processor's long work, bodies' digests above all, and let the event loop go first.

Invariants
* A thread here is nicer by ``NICE``, so that a loop that has something to do is not kept waiting by hashes on a machine whose
  processors are all busy. That asks for no privilege and is done for the thread alone (Linux keeps the nice value of a thread).
* Two threads are one for each digest of an upload in signed chunks. A worker has one processor's share of the machine; more threads
  only take turns on it.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

BODY_THREADS = 2
NICE = 10


def background_threads(name: str, count: int = BODY_THREADS) -> ThreadPoolExecutor:
    """A pool whose threads step back. Its owner shuts it down."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_step_back)


def _step_back() -> None:
    mine = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, mine, min(os.getpriority(os.PRIO_PROCESS, mine) + NICE, 19))
    except OSError:
        return  # a sandbox without the call: they do the same work, only not behind the loop
