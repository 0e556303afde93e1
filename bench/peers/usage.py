"""What a tree of processes uses, from /proc: CPU time now, CPU time between two moments that are told later, memory.

Invariants
* CPU time counts a process that has ended as well: its parent has it once it is reaped.
* Times are the wall clock's in nanoseconds, as the client's records have them, so a phase can be cut out afterwards.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
import time

import msgspec

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.025
REFRESH = 40  # samples between two looks for new processes


class Tree:
    """A process and all below it."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.pids = [root]
        self.refresh()

    def refresh(self) -> None:
        """Look for new processes."""
        found, left = [], [self.root]
        while left:
            pid = left.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                        left += [int(child) for child in file.read().split()]
        self.pids = found

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        ticks = 0
        for pid in self.pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
        return ticks / TICKS

    def memory(self) -> tuple[int, int]:
        """(resident bytes now, the sum of each process's most)."""
        now = most = 0
        for pid in self.pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                for line in file:
                    if line.startswith("VmRSS:"):
                        now += int(line.split()[1]) << 10
                    elif line.startswith("VmHWM:"):
                        most += int(line.split()[1]) << 10
        return now, most


class Memory(msgspec.Struct, frozen=True):
    """Of a process, in bytes: what is its own (``anonymous``), pages of files that it maps (``files``: page cache, which the kernel takes
    back when it needs room), the most that was resident, and its share of what is resident (pages of several processes divided by them).
    """

    pid: int
    anonymous: int
    files: int
    peak: int
    share: int


def memory_of(pid: int) -> Memory:
    """Raises OSError when it has ended."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        status = dict(line.split(":", 1) for line in file)
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        share = next(line.split()[1] for line in file if line.startswith("Pss:"))
    anonymous, shared, files, peak = (int(status[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem", "RssFile", "VmHWM"))
    return Memory(pid, anonymous + shared, files, peak, int(share) << 10)


class Sampler:
    """Reads the CPU time of trees all the while, in a thread; ``with`` around what is measured."""

    def __init__(self, *trees: Tree) -> None:
        self.trees = trees
        self.times: list[int] = []
        self.spent: list[list[float]] = [[] for _ in trees]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while True:
            if number % REFRESH == 0:
                for tree in self.trees:
                    tree.refresh()
            number += 1
            self._sample()
            if self._over.wait(SAMPLE_SECONDS):
                self._sample()  # what ended a moment ago may have been asked for until then
                return

    def _sample(self) -> None:
        """What has ended keeps what it had."""
        before = time.time_ns()
        values = [tree.cpu_seconds() for tree in self.trees]
        self.times.append((before + time.time_ns()) // 2)
        for spent, value in zip(self.spent, values, strict=True):
            spent.append(max(value, spent[-1] if spent else 0.0))

    def between(self, begin_ns: int, end_ns: int) -> list[float]:
        """CPU seconds of each tree in a time that was sampled; ValueError if it was not."""
        if not self.times or begin_ns < self.times[0] or end_ns > self.times[-1]:
            raise ValueError("the time that is asked for was not sampled")
        return [self._at(spent, end_ns) - self._at(spent, begin_ns) for spent in self.spent]

    def _at(self, spent: list[float], when: int) -> float:
        """Between two samples as if it were spent evenly."""
        after = min(max(1, bisect.bisect_left(self.times, when)), len(self.times) - 1)
        before = after - 1
        share = (when - self.times[before]) / max(1, self.times[after] - self.times[before])
        return spent[before] + (spent[after] - spent[before]) * share


def disk_bytes(folder: str) -> int:
    """Bytes on the disk under a folder, holes left out."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total
