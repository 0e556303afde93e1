"""The parent of all workers: starts them, watches them, restarts them, moves their volumes to new code, ends them.

Invariants
* One thread, no event loop: one ``select`` over the channels and the signal pipe. Nothing here can wait for a disk.
* There is at most one process per worker number that owns volumes; a standby opens nothing before the old one is gone.
* A worker that dies is started again with back-off; one whose loop stands still for LIVENESS_SECONDS is killed first.
* Siblings are told who is moving before it closes its volumes and told again when they are open.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from setproctitle import setproctitle

from titans3.config.schema import Config
from titans3.observe.board import BEAT, DOWN, STATE, Board, VolumeSlot
from titans3.observe.logs import set_up
from titans3.ring.ownership import SYSTEM_VOLUME, assign
from titans3.rpc import supervision as say
from titans3.supervisor.folder import Credentials, DataFolder
from titans3.supervisor.notify import notify
from titans3.supervisor.process import Phase, WorkerProcess

LIVENESS_SECONDS = 60.0
BACKOFF_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_SECONDS = 60.0
CLOSE_SECONDS_MAX = 60.0
START_ATTEMPTS_MAX = 5
_TICK_SECONDS = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
_logger = logging.getLogger("titans3.supervisor")


class Supervisor:
    """Workers of one data folder. ``run`` returns the exit code."""

    def __init__(
        self,
        folder: DataFolder,
        config: Config,
        credentials: Credentials,
        listeners: list[socket.socket],
        workers: int,
        *,
        on_ready: Callable[[Board], None],
        reload: Callable[[], Config],
        liveness_seconds: float = LIVENESS_SECONDS,
    ) -> None:
        """``on_ready`` is called once, when every worker serves; ``reload`` reads the configuration again or raises ConfigError."""
        self.folder, self.config, self.credentials, self.listeners = folder, config, credentials, listeners
        self.count = workers
        self.owners = tuple(assign(len(folder.cluster.volumes), workers))
        self.board = Board.make(workers, len(folder.cluster.volumes))
        self.processes: dict[int, WorkerProcess] = {}
        self.exit_code = 0
        self._on_ready, self._reload, self._liveness = on_ready, reload, liveness_seconds
        self._mailboxes = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) for _ in range(workers)]
        self._selector = selectors.DefaultSelector()
        self._restart_at: dict[int, float] = {}
        self._deaths: dict[int, int] = dict.fromkeys(range(workers), 0)
        self._signals: deque[int] = deque()
        self._ready = False
        self._stopping = False
        self._rolling: Rolling | None = None

    # the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until stopped. The exit code: 0 after a clean stop."""
        setproctitle(f"titans3: supervisor {self.folder.path}")
        wakeup, _writer = self._catch_signals()
        self._selector.register(wakeup, selectors.EVENT_READ)
        try:
            for worker in range(self.count):
                self.processes[worker] = self.start(worker)
            while not self._finished():
                events = self._selector.select(_TICK_SECONDS)
                for key, _ in events:
                    if key.fileobj is wakeup:
                        self._signals.extend(wakeup.recv(4096))
                    else:
                        self._read(key.data)
                self._handle_signals()
                self._look_after()
        finally:
            for process in [*self.processes.values(), *self._standbys()]:
                process.kill()
        return self.exit_code

    def _catch_signals(self) -> tuple[socket.socket, socket.socket]:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        return reader, writer

    def _finished(self) -> bool:
        return self._stopping and not any(process.phase != Phase.GONE for process in self.processes.values())

    def _standbys(self) -> list[WorkerProcess]:
        return [] if self._rolling is None or self._rolling.standby is None else [self._rolling.standby]

    # starting ------------------------------------------------------------------------------------------------------

    def start(self, worker: int, *, standby: bool = False) -> WorkerProcess:
        """A new process for a worker number."""
        listeners = tuple(sock.fileno() for sock in self.listeners)
        outboxes = tuple(outbox.fileno() for _, outbox in self._mailboxes)
        inbox = self._mailboxes[worker][0].fileno()
        cluster = self.folder.cluster
        start = say.Start(
            worker, self.count, self.config, cluster.cluster, self.folder.volumes, cluster.group_volume, self.owners,
            self.credentials.access_key, self.credentials.secret_key, listeners, self.folder.run_fd, self.board.fd, inbox,
            outboxes, standby,
        )
        inherited = (*listeners, *outboxes, inbox, self.folder.run_fd, self.board.fd)
        process = WorkerProcess(start, inherited, time.monotonic())
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        return process

    def _read(self, process: WorkerProcess) -> None:
        for report in process.reports():
            self._take(process, report)

    def _take(self, process: WorkerProcess, report: say.ToSupervisor) -> None:
        if self._stopping and isinstance(report, (say.Loaded, say.Opened, say.Serving)):
            return  # on its way up when the stop came: what it was told since counts
        match report:
            case say.Loaded():
                process.phase = Phase.LOADED
                if not process.standby:
                    self.open_volumes(process)
            case say.Opened(seconds=seconds):
                process.phase = Phase.OPENED
                _logger.debug("worker %d opened its volumes in %.2f s", process.worker, seconds)
                self._opened()
            case say.Serving():
                process.phase = Phase.SERVING
                self._check_ready()
            case say.Checkpointed():
                process.checkpointed = True
            case say.Drained(cut=cut):
                process.phase = Phase.DRAINED
                if cut:
                    _logger.warning("worker %d cut %d requests that did not finish in time", process.worker, cut)
            case say.Failed(message=message, refused=refused):
                process.failure, process.refused = message, refused
                _logger.error("worker %d: %s", process.worker, message)
        if self._rolling is not None:
            self._rolling.step()

    def open_volumes(self, process: WorkerProcess) -> None:
        """Let a process open what its number owns."""
        process.phase = Phase.OPENING
        process.tell(say.OpenVolumes())

    def _opened(self) -> None:
        """At the first start nobody serves before all volumes are open."""
        if not self._ready and not all(process.phase in (Phase.OPENED, Phase.SERVING) for process in self.processes.values()):
            return
        for process in self.processes.values():
            if process.phase == Phase.OPENED:
                self.serve(process)

    def serve(self, process: WorkerProcess) -> None:
        """Let a process accept connections."""
        first = not self._ready and process.worker == self.owners[SYSTEM_VOLUME]
        process.tell(say.Serve(tuple(self.config.s3.buckets) if first else ()))

    def _check_ready(self) -> None:
        if not self._ready and all(process.phase == Phase.SERVING for process in self.processes.values()):
            self._ready = True
            self._on_ready(self.board)
            notify(f"READY=1\nMAINPID={os.getpid()}")

    # watching ------------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        now = time.monotonic()
        for process in [*self.processes.values(), *self._standbys()]:
            if process.phase == Phase.GONE:
                continue
            code = process.reap()
            if code is not None:
                self._gone(process, code, now)
            elif process.deadline and now > process.deadline:
                _logger.error("worker %d does not come to an end: killed", process.worker)
                process.kill()
            elif process in self.processes.values():
                self._check_beat(process, now)
        if not self._stopping:
            self._restart(now)
        elif all(process.phase in (Phase.DRAINED, Phase.GONE, Phase.CLOSING) for process in self.processes.values()):
            self._close_all(now)
        if self._rolling is not None:
            self._rolling.step()

    def _check_beat(self, process: WorkerProcess, now: float) -> None:
        beat = self.board.get(process.worker, BEAT)
        if beat != process.last_beat or process.phase == Phase.STARTING:
            process.last_beat, process.beat_at = beat, now
        elif now - process.beat_at > self._liveness:
            _logger.error("worker %d stands still since %.0f s: killed", process.worker, now - process.beat_at)
            process.beat_at = now
            process.kill()

    def _gone(self, process: WorkerProcess, code: int, now: float) -> None:
        self._read(process)  # its last words
        self._selector.unregister(process.channel)
        process.close()
        if process is not self.processes.get(process.worker):
            return  # a standby; the rolling restart notices
        self.board.clear(process.worker)
        self.board.put(process.worker, STATE, DOWN)
        for volume, owner in enumerate(self.owners):
            if owner == process.worker:
                self.board.put_volume(volume, VolumeSlot("closed", 0, 0, 0, 0, 0))
        if self._stopping:
            if code:
                _logger.error("worker %d ended with %s", process.worker, _exit_word(code))
                self.exit_code = 1
            return
        if self._rolling is not None and self._rolling.expects_end(process):
            return
        self._count_death(process, code, now)

    def _count_death(self, process: WorkerProcess, code: int, now: float) -> None:
        worker = process.worker
        if now - process.started > STABLE_SECONDS:
            self._deaths[worker] = 0
        delay = BACKOFF_SECONDS[min(self._deaths[worker], len(BACKOFF_SECONDS) - 1)]
        self._deaths[worker] += 1
        if not self._ready and (process.refused or self._deaths[worker] >= START_ATTEMPTS_MAX):
            self.exit_code = 1
            self.stop(give_up=True)
            return
        delay = max(delay, BACKOFF_SECONDS[-1]) if process.refused else delay
        _logger.error("worker %d ended with %s; its keys answer 503 until it is back, in %.1f s", worker, _exit_word(code), delay)
        self._restart_at[worker] = now + delay

    def _restart(self, now: float) -> None:
        for worker, when in list(self._restart_at.items()):
            if now >= when:
                del self._restart_at[worker]
                self.processes[worker] = self.start(worker)

    # signals -------------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop(give_up=self._stopping)
            elif number == signal.SIGHUP and not self._stopping:
                self.reload()
            elif number == signal.SIGUSR2 and not self._stopping:
                self.roll()

    def stop(self, *, give_up: bool = False) -> None:
        """Drain and end; ``give_up``: without waiting for requests."""
        if not self._stopping:
            notify("STOPPING=1")
            _logger.info("stopping: requests in flight have %.0f s", 0 if give_up else self.config.node.drain_seconds)
        self._stopping = True
        self._restart_at.clear()
        for standby in self._standbys():
            standby.kill()
        for process in self.processes.values():
            if process.phase == Phase.GONE:
                continue
            seconds = 0.0 if give_up else self.config.node.drain_seconds
            if process.phase in (Phase.SERVING, Phase.DRAINING):
                process.tell(say.Drain(seconds))
                process.phase = Phase.DRAINING
            else:
                process.phase = Phase.DRAINED
            process.deadline = time.monotonic() + seconds + CLOSE_SECONDS_MAX

    def _close_all(self, now: float) -> None:
        """Every worker drained: nobody asks a sibling any more."""
        for process in self.processes.values():
            if process.phase == Phase.DRAINED:
                process.phase = Phase.CLOSING
                process.deadline = now + CLOSE_SECONDS_MAX
                process.tell(say.Close())

    def reload(self) -> None:
        """Read the configuration again; what can change while running does."""
        notify("RELOADING=1")
        try:
            self.config = self._reload()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with new configuration, the old one goes on
            _logger.error("configuration not reloaded, the old one stays: %s", error)
        else:
            set_up("supervisor", self.config.log.level, self.config.log.format)
            _logger.info("configuration reloaded")
            for process in [*self.processes.values(), *self._standbys()]:
                if process.phase != Phase.GONE:
                    process.tell(say.Reload(self.config))
        notify("READY=1")

    def roll(self) -> None:
        """Replace every worker by new code, one after the other, without a failed request."""
        if self._rolling is not None or not self._ready:
            _logger.warning("a rolling restart is already under way" if self._rolling else "not ready yet: no rolling restart")
            return
        _logger.info("rolling restart of %d workers", self.count)
        self._rolling = Rolling(self, deque(range(self.count)))
        self._rolling.step()

    def rolled(self, *, failed: str = "") -> None:
        """The rolling restart is over."""
        self._rolling = None
        self.tell_moving(())
        if failed:
            _logger.error("rolling restart ended early: %s", failed)
        else:
            _logger.info("rolling restart done")

    def tell_moving(self, workers: tuple[int, ...]) -> None:
        """Tell everybody whose volumes are between two processes."""
        for process in [*self.processes.values(), *self._standbys()]:
            if process.phase != Phase.GONE:
                process.tell(say.Moving(workers))

    def replace(self, old: WorkerProcess, new: WorkerProcess) -> None:
        """The standby becomes the worker."""
        assert old.phase == Phase.GONE
        new.standby = False
        new.beat_at = time.monotonic()
        self.processes[new.worker] = new


class Rolling:
    """A rolling restart, step by step: standby loaded, old one checkpointed, drained, closed; volumes opened, serving; next."""

    def __init__(self, supervisor: Supervisor, todo: deque[int]) -> None:
        self._supervisor, self._todo = supervisor, todo
        self.standby: WorkerProcess | None = None
        self._old: WorkerProcess | None = None
        self._step = "next"

    def expects_end(self, process: WorkerProcess) -> bool:
        """Whether the end of this process is part of the plan."""
        return process is self._old and self._step == "closing"

    def step(self) -> None:
        """Go as far as things are."""
        while self._advance():
            pass

    def _advance(self) -> bool:
        supervisor, standby, old = self._supervisor, self.standby, self._old
        if self._step == "next":
            return self._next()
        assert standby is not None
        assert old is not None
        if standby.phase == Phase.GONE:
            self._abandon("the new process ended")
            return False
        if old.phase == Phase.GONE and self._step != "closing" and self._step != "opening" and self._step != "serving":
            standby.kill()
            supervisor.rolled(failed=f"worker {old.worker} ended by itself")
            return False
        return self._move(standby, old)

    def _next(self) -> bool:
        if not self._todo:
            self._supervisor.rolled()
            return False
        worker = self._todo.popleft()
        self._old = self._supervisor.processes[worker]
        self.standby = self._supervisor.start(worker, standby=True)
        self._step = "loading"
        return True

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
            old.deadline = time.monotonic() + CLOSE_SECONDS_MAX
            old.tell(say.Close())
            self._step = "closing"
        elif self._step == "closing" and old.phase == Phase.GONE:
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
        """The old process goes on if it still can, else the usual restart does."""
        supervisor, old = self._supervisor, self._old
        assert old is not None
        if old.phase in (Phase.DRAINING, Phase.DRAINED):
            old.phase = Phase.OPENED
            old.tell(say.Serve())
        supervisor.rolled(failed=why)


def _exit_word(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

