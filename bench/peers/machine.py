"""The machine of a run: what of it defines a result, and what is only told beside it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

MEMORY_ONLY = ("tmpfs", "ramfs")


def describe(folder: Path, cpus: frozenset[int], client_cpus: frozenset[int]) -> dict[str, str]:
    """Processor, kernel, file system: part of a result's key. SystemExit when the folder is in memory, where a sync costs nothing."""
    if not folder.is_dir():
        raise SystemExit(f"--folder {folder}: there is no such folder")
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    device, kind = _file_system(folder)
    if kind in MEMORY_ONLY:
        raise SystemExit(f"{folder} is in memory ({kind}), where a sync costs nothing; name a folder of a disk with --folder")
    every = os.sched_getaffinity(0)
    absent = (cpus | client_cpus) - every
    if absent:
        raise SystemExit(f"there is no processor {_listed(absent)} here, only {_listed(every)}")
    return {
        "cpu": model.group(1) if model else platform.machine(), "kernel": platform.release(), "disk": f"{device} ({kind})",
        "server_cpus": _listed(cpus or every), "client_cpus": _listed(client_cpus or every),
    }  # fmt: skip


def moment() -> dict[str, str]:
    """When, and how busy the machine is: to be read beside a result."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _file_system(folder: Path) -> tuple[str, str]:
    shown = subprocess.run(["df", "--output=source,fstype", str(folder)], capture_output=True, text=True, check=True).stdout
    device, kind = shown.splitlines()[1].split()
    return device, kind


def _listed(cpus: frozenset[int] | set[int]) -> str:
    return ",".join(str(cpu) for cpu in sorted(cpus))
