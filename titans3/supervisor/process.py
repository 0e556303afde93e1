"""One worker process as the supervisor sees it: made by fork and exec of a fresh interpreter, told what to do over its channel.

Invariants
* A child inherits exactly the descriptors it is told of; nothing of the supervisor's memory reaches it, and its environment holds
  no secret: what it needs to know comes over the channel.
* A child's code comes from where the supervisor's came from, never from the folder the server was started in.
* Signals for the supervisor that also reach the child (a terminal's Ctrl-C, a unit's stop) are blocked in it until it ignores them.
* A process is reaped once, by its pid, and only its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import site
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from enum import StrEnum

import titans3
from titans3.config.keys import keys
from titans3.errors import PeerError
from titans3.limits import MIB
from titans3.rpc.supervision import Start, ToSupervisor, ToWorker, pair, receive_report, send

# Buffers of some 100 KiB to 4 MiB come from the heap, and up to 16 MiB at its end are kept: given back after each answer, as is glibc's
# way, they cost a page fault for every 4 KiB of the next.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": 4 * MIB, "MALLOC_TRIM_THRESHOLD_": 16 * MIB}
_SECRETS = frozenset(("TITANS3_ROOT_ACCESS_KEY", "TITANS3_ROOT_SECRET_KEY", "TITANS3_KMS_PASSPHRASE")) | {
    key.variable for key in keys() if key.secret
}


class Phase(StrEnum):
    """How far a worker process is."""

    STARTING = "starting"
    LOADED = "loaded"
    OPENING = "opening"
    OPENED = "opened"
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"
    CLOSING = "closing"
    GONE = "gone"


class WorkerProcess:
    """A running worker: number, pid, channel, phase. Making one raises OSError when this machine has no room for a process."""

    def __init__(self, start: Start, inherited: Sequence[int], now: float) -> None:
        self.worker = start.worker
        self.standby = start.standby
        self.started = now
        self.phase = Phase.STARTING
        self.failure = ""
        self.refused = False
        self.level = 0  # the feature level that its code knows
        self.moves = False  # whether it knows active workers
        self.last_beat = -1
        self.beat_at = now
        self.deadline = 0.0
        self.checkpointed = False
        self.is_admitted = False  # it was told to serve
        self.is_killed = False
        self.is_silent = False  # it closed its end of the channel: it is on its way out
        ours, theirs = pair()
        try:
            with theirs, _signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", *_interpreter_flags(), "-m", "titans3.worker", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(), *inherited), stdin=subprocess.DEVNULL, close_fds=True, env=_environment(),
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self.channel: socket.socket = ours
        self.tell(start)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def tell(self, message: ToWorker) -> None:
        """Send a message; a worker that is gone is noticed by its end, not here."""
        with contextlib.suppress(PeerError):
            send(self.channel, message)

    def reports(self) -> list[ToSupervisor]:
        """What it said since the last time."""
        found: list[ToSupervisor] = []
        while not self.is_silent:
            try:
                report = receive_report(self.channel)
            except BlockingIOError:
                break
            if report is None:
                self.is_silent = True
            else:
                found.append(report)
        return found

    def end_by(self, deadline: float) -> None:
        """It is killed if it is still there at ``deadline``, or at an earlier one that was set before."""
        self.deadline = min(self.deadline or deadline, deadline)

    def reap(self) -> int | None:
        """Exit code if it is gone (negative: signal)."""
        code = self._process.poll()
        if code is not None and self.phase != Phase.GONE:
            self.phase = Phase.GONE
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self.is_killed = True
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the channel."""
        self.channel.close()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interpreter_flags() -> list[str]:
    """What this interpreter was started with and the child must be too: warnings and development mode."""
    flags = [f"-W{option}" for option in sys.warnoptions]
    return [*flags, "-X", "dev"] if sys.flags.dev_mode else flags


def _environment() -> dict[str, str]:
    """Ours without secrets, with what glibc's allocator is told; with the folder of our own code, if that is not an installed package."""
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    root = os.path.dirname(os.path.dirname(os.path.abspath(titans3.__file__)))
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    if root not in installed:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH", ""))))
    for name, size in _ALLOCATOR.items():
        environment.setdefault(name, str(size))
    return environment
