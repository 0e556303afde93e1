"""One worker process as the supervisor sees it: made by fork and exec of a fresh interpreter, told what to do over its channel.

Invariants
* A child inherits exactly the descriptors it is told of; nothing of the supervisor's memory reaches it.
* A process is reaped once, by its pid, and only its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum

from titans3.errors import PeerError
from titans3.rpc.supervision import Start, ToSupervisor, ToWorker, pair, receive_report, send


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
    """A running worker: number, pid, channel, phase."""

    def __init__(self, start: Start, inherited: Sequence[int], now: float) -> None:
        self.worker = start.worker
        self.standby = start.standby
        self.started = now
        self.phase = Phase.STARTING
        self.failure = ""
        self.refused = False
        self.last_beat = -1
        self.beat_at = now
        self.deadline = 0.0
        self.checkpointed = False
        ours, theirs = pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-m", "titans3.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *inherited), stdin=subprocess.DEVNULL, close_fds=True,
            )
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
        while True:
            try:
                report = receive_report(self.channel)
            except BlockingIOError:
                return found
            if report is None:
                return found
            found.append(report)

    def reap(self) -> int | None:
        """Exit code if it is gone (negative: signal)."""
        code = self._process.poll()
        if code is not None and self.phase != Phase.GONE:
            self.phase = Phase.GONE
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the channel."""
        self.channel.close()


def _interpreter_flags() -> list[str]:
    """What this interpreter was started with and the child must be too: warnings and development mode."""
    flags = [f"-W{option}" for option in sys.warnoptions]
    return [*flags, "-X", "dev"] if sys.flags.dev_mode else flags
