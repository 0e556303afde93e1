"""What the operating system says of processes and this machine, from ``/proc``: read when somebody asks, never in between.

Invariants
* ``read_process`` takes well under a millisecond but for the count of descriptors, which is linear in them; no file of a disk is read.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Collection

import msgspec

from titans3.limits import KIB

_PAGE_BYTES = resource.getpagesize()
_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessStatistics(msgspec.Struct, frozen=True):
    """Seconds, bytes and counts since the process started. ``started``: seconds of the machine's uptime."""

    cpu_user: float
    cpu_system: float
    resident: int
    virtual: int
    descriptors: int
    descriptors_max: int
    threads: int
    started: float
    switches_voluntary: int
    switches_forced: int
    faults_minor: int
    faults_major: int
    read: int
    written: int


class MachineStatistics(msgspec.Struct, frozen=True):
    """CPUs, bytes of memory, the load of the last minute, and seconds since it started."""

    cpus: int
    memory: int
    available: int
    load: float
    uptime: float


class ProcessorSeconds(msgspec.Struct, frozen=True):
    """Since the machine started, of some processors together: in use by anybody, and all there were, waiting for disks among them."""

    used: float
    all: float


class Collections:
    """Pauses of the garbage collector in this process, from ``start`` on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def start(self) -> None:
        """Watch."""
        gc.callbacks.append(self._told)

    def stop(self) -> None:
        """Watch no more."""
        gc.callbacks.remove(self._told)

    def _told(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begin = time.monotonic()
        elif self._begin:
            self.seconds += time.monotonic() - self._begin


def read_process() -> ProcessStatistics:
    """This process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    virtual, resident = (int(word) * _PAGE_BYTES for word in _read("/proc/self/statm").split()[:2])
    fields = _read("/proc/self/stat").rpartition(")")[2].split()  # the name may hold anything, so count from behind it
    read = written = 0
    for line in _read("/proc/self/io").splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            read = int(value)
        elif name == "write_bytes":
            written = int(value)
    return ProcessStatistics(
        usage.ru_utime, usage.ru_stime, resident, virtual, len(os.listdir("/proc/self/fd")) - 1,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0], int(fields[17]), int(fields[19]) / _TICKS, usage.ru_nvcsw, usage.ru_nivcsw,
        usage.ru_minflt, usage.ru_majflt, read, written,
    )  # fmt: skip


def read_machine() -> MachineStatistics:
    """This machine."""
    memory: dict[str, int] = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            memory[name] = int(value.split()[0]) * KIB
    uptime = float(_read("/proc/uptime").split()[0])
    return MachineStatistics(
        len(os.sched_getaffinity(0)), memory.get("MemTotal", 0), memory.get("MemAvailable", 0), os.getloadavg()[0], uptime
    )


def read_processors(processors: Collection[int]) -> ProcessorSeconds:
    """These processors, to a tick of some 10 ms."""
    used = ticks = 0
    for line in _read("/proc/stat").splitlines():
        name, *words = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, idle, waiting, interrupt, soft, stolen = map(int, words[:8])
            used += user + nice + system + interrupt + soft + stolen
            ticks += user + nice + system + interrupt + soft + stolen + idle + waiting
    return ProcessorSeconds(used / _TICKS, ticks / _TICKS)


def read_quota() -> float | None:
    """Processors' worth of time that this process's control group may use (cgroup v2), by its own limit; ``None`` without one."""
    group = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "")
    quota, _, period = _read(f"/sys/fs/cgroup{group}/cpu.max".replace("//", "/")).strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def read_cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all its threads; 0 if it is not there."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _read(path: str) -> str:
    """Empty if this kernel does not show it."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
