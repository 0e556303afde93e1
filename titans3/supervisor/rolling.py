"""A rolling restart: every worker's process is replaced by one with fresh code, one after the other, without a failed request.

Invariants
* Steps of one worker: successor loaded; old one drained, checkpointed, closed; volumes opened by the successor; it serves; next worker.
* Siblings are told who is moving before it closes its volumes, and told again when they are open.
* Nothing here waits for ever: an old process that dies on the way is succeeded at once; a successor that dies leaves the old one
  serving, or the usual restart if that is gone already. Either way the rolling restart ends then, and says so.
* Volumes are where they were assigned before the first worker is replaced, so that large bodies have another owner to go to; one that is
  busy for longer than HOME_SECONDS_MAX stays where it is.
* Code below the feature level in force is turned away before anything is drained: it could not open the volumes.
* A worker that was started after the signal has fresh code and is left alone; one that is down is waited for.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from titans3.rpc import supervision as say
from titans3.supervisor.process import Phase, WorkerProcess

if TYPE_CHECKING:
    from titans3.supervisor.supervisor import Supervisor

CLOSE_SECONDS_MAX = 60.0
HOME_SECONDS_MAX = 10.0


class Rolling:
    """See the module. ``step`` goes as far as things are; the supervisor calls it after every report and every tick."""

    def __init__(self, supervisor: Supervisor, workers: int) -> None:
        self._supervisor = supervisor
        self._todo = deque(range(workers))
        self._started = time.monotonic()
        self.standby: WorkerProcess | None = None  # of the worker that is being replaced; between two there is none
        self._old: WorkerProcess | None = None
        self._step = "next"

    def takes_over(self, process: WorkerProcess) -> bool:
        """Whether a process that ended is succeeded by the one that is ready for it, so that nobody else starts one."""
        if process is not self._old or self._step not in ("loading", "draining", "checkpoint", "closing"):
            return False
        standby = self.standby
        if standby is None or standby.phase == Phase.GONE:
            return False
        self._supervisor.tell_moving((process.worker,))
        self._step = "closing"
        return True

    def step(self) -> None:
        """Go on."""
        while self._advance():
            pass

    def _advance(self) -> bool:
        if self._step == "next":
            return self._next()
        assert self.standby is not None
        assert self._old is not None
        if self.standby.phase == Phase.GONE:
            self._abandon(f"the new process of worker {self.standby.worker} ended")
            return False
        if self._step == "loading" and self.standby.phase == Phase.LOADED and self._is_older(self.standby):
            self._abandon(
                f"the code that is installed knows feature level {self.standby.level}, the workers that serve know {self._old.level}"
            )
            return False
        return self._move(self.standby, self._old)

    def _next(self) -> bool:
        supervisor = self._supervisor
        while self._todo and supervisor.processes[self._todo[0]].started > self._started:
            self._todo.popleft()
        if not self._todo:
            supervisor.rolled()
            return False
        old = supervisor.processes[self._todo[0]]
        if old.phase != Phase.SERVING or supervisor.moves.is_moving:
            return False
        if not supervisor.moves.is_home and time.monotonic() < self._started + HOME_SECONDS_MAX:
            return False
        self._todo.popleft()
        try:
            self.standby = supervisor.start(old.worker, standby=True)
        except OSError as error:
            supervisor.rolled(failed=f"worker {old.worker} cannot be started: {error}")
            return False
        self._old = old
        self._step = "loading"
        return True

    def _is_older(self, standby: WorkerProcess) -> bool:
        """Whether its code knows less than everybody who serves: that feature level is in force, and it would not start on this data."""
        serving = [process.level for process in self._supervisor.processes.values() if process.phase != Phase.GONE]
        known = min(serving, default=0)
        return 0 < standby.level < known

    def _move(self, standby: WorkerProcess, old: WorkerProcess) -> bool:
        supervisor = self._supervisor
        if self._step == "loading" and standby.phase == Phase.LOADED:
            old.phase = Phase.DRAINING
            old.tell(say.Drain(supervisor.config.node.drain_seconds, hand_over=True))
            self._step = "draining"
        elif self._step == "draining" and old.phase == Phase.DRAINED:
            old.checkpointed = False
            old.tell(say.Checkpoint())
            self._step = "checkpoint"
        elif self._step == "checkpoint" and old.checkpointed:
            supervisor.tell_moving((old.worker,))
            old.phase = Phase.CLOSING
            old.end_by(time.monotonic() + CLOSE_SECONDS_MAX)
            old.tell(say.Close())
            self._step = "closing"
        elif self._step == "closing" and old.phase == Phase.GONE and standby.phase == Phase.LOADED:
            supervisor.replace(old, standby)
            supervisor.open_volumes(standby)
            self._step = "opening"
        elif self._step == "opening" and standby.phase in (Phase.OPENED, Phase.SERVING):
            supervisor.tell_moving(())
            self._step = "serving"
        elif self._step == "serving" and standby.phase == Phase.SERVING:
            self.standby = self._old = None
            self._step = "next"
        else:
            return False
        return True

    def _abandon(self, why: str) -> None:
        supervisor, old = self._supervisor, self._old
        assert old is not None
        if old.phase in (Phase.DRAINING, Phase.DRAINED):
            old.phase = Phase.OPENED
            supervisor.serve(old)
        supervisor.rolled(failed=why)
        if old.phase == Phase.GONE and supervisor.processes[old.worker] is old:
            supervisor.restart(old.worker)
