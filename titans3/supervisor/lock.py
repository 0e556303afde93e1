"""Who has a data folder and its volumes: locks of the kernel, which are free when their process is gone.

Invariants
* A lock file is never removed, so a lock is always on the file that everybody sees.
* ``run/lock`` holds the number of the process that serves, from the start until a clean end: whoever finds one there knows that the
  last server was killed, and that its workers may still be on their way out.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import time
from collections.abc import Iterable

from titans3.errors import ConfigError
from titans3.rpc.supervision import VolumePlace

_POLL_SECONDS = 0.1
_logger = logging.getLogger("titans3.supervisor")


def lock_folder(path: str) -> int:
    """Take the folder for this process; the descriptor to close at the end. Raises ConfigError naming who has it."""
    os.makedirs(os.path.join(path, "run"), mode=0o700, exist_ok=True)
    name = os.path.join(path, "run", "lock")
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(f"{path} is in use by another server ({holder_of(name)}); one folder has one server") from None
    return fd


def lock_stopped(path: str) -> int:
    """``lock_folder`` for a tool that may write. Raises ConfigError also for root where another user's server has to read it."""
    owner = os.stat(path).st_uid
    if os.geteuid() == 0 and owner != 0:
        name = user_name(owner)
        raise ConfigError(f"{path} belongs to {name}, whose server could not read what root writes: runuser -u {name} -- …")
    return lock_folder(path)


def user_name(uid: int) -> str:
    """The name of a user, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def was_unclean(fd: int) -> bool:
    """Whether the last server did not come to a clean end."""
    return bool(os.pread(fd, 32, 0))


def begin(fd: int) -> None:
    """Write down that this process serves."""
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its number
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)


def end(fd: int) -> None:
    """A clean end."""
    os.ftruncate(fd, 0)


def wait_volumes(places: Iterable[VolumePlace], seconds: float) -> None:
    """Until no process holds a volume. Raises ConfigError naming volume and process when that takes longer."""
    deadline = time.monotonic() + seconds
    told = False
    for place in places:
        name = os.path.join(place.path, "lock")
        while is_held(name):
            if time.monotonic() >= deadline:
                raise ConfigError(f"volume {place.index} at {place.path} is in use by {holder_of(name)}; one volume has one owner")
            if not told:
                told = True
                _logger.warning("%s is still held by %s of a server that was killed; waiting for it to let go", place.path, holder_of(name))
            time.sleep(_POLL_SECONDS)


def is_held(name: str) -> bool:
    """Whether a process has a lock file locked; false if there is none."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def holder_of(name: str) -> str:
    """``process 123``, or ``another process`` if the kernel does not tell."""
    try:
        stat = os.stat(name)
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return "another process"
    wanted = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == wanted and fields[4].isdigit() and fields[4] != "0":
            return f"process {fields[4]}"
    return "another process"
