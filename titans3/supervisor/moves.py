"""Volumes follow the workers that are active: one at a time, from one live worker to another, without a failed request.

Invariants
* Steps of a move: everybody is told that the new owner is moving, so requests for it are held; the old owner closes the volume; the
  owner table changes, everybody is told; the new owner opens it; the holding ends.
* Who closed a volume for somebody who died before the table changed is told to open it again.
* Until the old owner said that it closed the volume, the table names it, then the new one: whoever of them dies on the way opens it
  again when it is back, and nobody else. Either way the move is over then.
* The system volume stays where it is. Nothing moves before everybody serves, nor while a worker is replaced or after a stop began.
* A volume that nobody served for longer than HELD_SECONDS_MAX moves back to where it was assigned and stays there: STAY_SECONDS, and
  twice as long with each time that it happens again, a day at most.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from titans3.ring.ownership import assign, gathered
from titans3.rpc import supervision as say
from titans3.supervisor.process import Phase, WorkerProcess

if TYPE_CHECKING:
    from titans3.supervisor.supervisor import Supervisor

REST_SECONDS, REST_SECONDS_MAX = 3.0, 60.0  # between two moves of a volume, doubled with each that follows another soon
CALM_SECONDS = 300.0  # after so long the next move is the first again
HELD_SECONDS_MAX = 0.5
STAY_SECONDS, STAY_SECONDS_MAX = 300.0, 86_400.0
MOVE_SECONDS_MAX = 30.0  # a worker that does not answer for so long is killed: requests for the volume wait
_logger = logging.getLogger("titans3.supervisor")


class Slow:
    """Volumes whose moves took too long."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._seconds: dict[int, float] = {}

    def stays(self, volume: int, now: float) -> bool:
        """Whether it is to be where it was assigned."""
        return now < self._until.get(volume, 0.0)

    def moved(self, volume: int, held: float, now: float) -> float:
        """Note for how long nobody served it; for how long it stays therefore, 0 if it does not or does already."""
        if held <= HELD_SECONDS_MAX or self.stays(volume, now):
            return 0.0
        seconds = self._seconds[volume] = min(2 * self._seconds.get(volume, STAY_SECONDS / 2), STAY_SECONDS_MAX)
        self._until[volume] = now + seconds
        return seconds


class Moves:
    """See the module. The supervisor calls ``watch`` with every tick, and ``step`` when a move may begin."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._assigned = assign(len(supervisor.owners), supervisor.count)
        self._moved_at = [-CALM_SECONDS] * len(supervisor.owners)
        self._rest = [0.0] * len(supervisor.owners)
        self._volume = self._source = self._target = -1
        self._held = self._begun = 0.0
        self._slow = Slow()

    @property
    def is_moving(self) -> bool:
        """Whether a volume is on its way."""
        return self._volume >= 0

    @property
    def is_home(self) -> bool:
        """Whether every volume is where it was assigned."""
        return list(self._supervisor.owners) == self._assigned

    def watch(self) -> None:
        """A move that hangs ends with who has not answered."""
        if self.is_moving and time.monotonic() > self._begun + MOVE_SECONDS_MAX:
            supervisor = self._supervisor
            late = supervisor.processes[self._target if supervisor.owners[self._volume] == self._target else self._source]
            _logger.error("volume %d does not move on: worker %d is killed", self._volume, late.worker)
            late.kill()
            self._end()

    def step(self) -> None:
        """Begin the next move that is due."""
        supervisor, now = self._supervisor, time.monotonic()
        everybody = supervisor.processes.values()
        if self.is_moving or not all(process.phase == Phase.SERVING and process.moves for process in everybody):
            return
        wanted = gathered(self._assigned, supervisor.board.active)
        for volume, owner in enumerate(supervisor.owners):
            to = self._assigned[volume] if self._slow.stays(volume, now) else wanted[volume]
            if to != owner and (now >= self._moved_at[volume] + self._rest[volume] or supervisor.is_rolling):
                self._volume, self._source, self._target, self._begun = volume, owner, to, now
                _logger.debug("volume %d is to move from worker %d to %d", volume, owner, to)
                supervisor.tell_moving((to,))
                supervisor.processes[owner].tell(say.Release(volume, to))
                return

    def released(self, process: WorkerProcess, report: say.Released) -> None:
        """The old owner's answer."""
        if not self.is_moving or (process.worker, report.volume) != (self._source, self._volume):
            if report.done:  # the new owner died meanwhile, so the table still names this one
                process.tell(say.Adopt(report.volume, report.closed_at))
            return
        if not report.done:
            self._end()
            return
        self._held = report.seconds
        self._supervisor.own(self._volume, self._target)
        self._supervisor.processes[self._target].tell(say.Adopt(self._volume, report.closed_at))

    def adopted(self, process: WorkerProcess, report: say.Adopted) -> None:
        """The new owner's answer."""
        if not self.is_moving or (process.worker, report.volume) != (self._target, self._volume):
            return
        held = self._held + report.seconds
        _logger.debug("volume %d moved from worker %d to %d: held for %.3f s", self._volume, self._source, self._target, held)
        if stays := self._slow.moved(self._volume, held, time.monotonic()):
            _logger.info("volume %d stays home for %.0f s: its requests waited %.1f s for a move", self._volume, stays, held)
        self._end(is_done=True)

    def gone(self, process: WorkerProcess) -> None:
        """A worker died: whoever the table names opens the volume when it is back."""
        if self.is_moving and process.worker in (self._source, self._target):
            self._end()

    def _end(self, *, is_done: bool = False) -> None:
        now, volume = time.monotonic(), self._volume
        if not is_done or now > self._moved_at[volume] + CALM_SECONDS:
            self._rest[volume] = REST_SECONDS
        else:
            self._rest[volume] = min(2 * self._rest[volume], REST_SECONDS_MAX)
        self._moved_at[volume] = now
        self._volume = self._source = self._target = -1
        self._supervisor.tell_moving(())
